"""The table and its analyses as one JSON document, for other programs.

Percentages and points are unrounded. What was not measured is null, with the word that stands in its place beside it.
"""

from __future__ import annotations

import dataclasses
import json
from typing import Any

from experiments.report.layout import Gap, Line, TableLayout, Value, layout
from experiments.report.table import Table


def document(table: Table) -> str:
    """``table.json``, in ASCII. Raises ``ValueError`` for a figure that is no number."""
    computed = layout(table)
    facts = {
        "title": table.title,
        "profile": table.profile,
        "statement": table.statement,
        "notes": table.remarks,
        "footnotes": list(computed.notes),
        "published": table.source,
        "columns": [{"key": column.key, "label": column.label} for column in computed.columns],
        "rows": [_row(computed, line) for line in computed.lines],
        "sections": [
            {"name": s.name, "title": s.title, "text": list(s.text), "head": list(s.head), "rows": list(s.body)}
            for s in table.sections
        ],
        "deviations": [dataclasses.asdict(deviation) for deviation in table.ledger],
    }
    return json.dumps(facts, indent=1, allow_nan=False) + "\n"


def _row(computed: TableLayout, line: Line) -> dict[str, Any]:
    row, loss = line.row, line.heldout
    done, planned = row.repeats or (None, None)
    return {
        **{name: getattr(row, name) for name in ("backbone", "pool", "selector", "variant", "state")},
        "reason": row.reason or None,
        "partial": row.partial,
        "seeds": None if row.repeats is None else {"done": done, "of": planned},
        "scores": {column.key: _score(line.values[column.key]) for column in computed.columns},
        "average_against": {to: _gap(gap) for to, gap in line.gaps.items()},
        "heldout": None
        if loss is None
        else {"loss": loss.by_row, "interval": loss.interval, "by_token": loss.by_token, "word": loss.word or None},
    }


def _score(value: Value) -> dict[str, Any]:
    return {
        "percent": value.percent,
        "word": value.word or None,
        "interval": value.interval,
        "items": value.n,
        "partial": value.partial,
        "note": value.note or None,
        "published": value.paper,
        "overlap": dict(value.overlap),
    }


def _gap(gap: Gap) -> dict[str, Any]:
    return {
        "points": gap.value,
        "interval": gap.interval,
        "p": gap.p,
        "p_holm": gap.holm,
        "holm_over": gap.over or None,
    }
