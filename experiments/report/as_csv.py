"""The table and the analyses as CSV."""

from __future__ import annotations

from typing import Any

from experiments.report import text
from experiments.report.heldout import LossValue
from experiments.report.layout import PAPER, Gap, Line, TableLayout, Value, layout, shorten
from experiments.report.legend import plain_text
from experiments.report.sections import Section
from experiments.report.table import BASELINE, UNTRAINED, Table

COMPARED = (BASELINE, UNTRAINED)  # each with a difference, its interval, p, p after Holm and over how many
ENDS = ("", "_low", "_high", "_p", "_p_holm", "_holm_over")
HELD_OUT = [
    *(f"heldout{end}" for end in ("", "_low", "_high", "_by_token", "_rows", "_tokens", "_truncated")),
    *(f"heldout_to_{to}{end}" for to in ("random", "untrained") for end in ("", "_low", "_high", "_p", "_p_holm")),
]


def comma_separated(table: Table) -> str:
    """One line a cell. A score column holds a percentage or a word; interval, items and differences may be empty."""
    computed = layout(table)
    kinds = list(dict.fromkeys(k for line in computed.lines for v in line.values.values() for k, _ in v.overlap))
    facts = list(dict.fromkeys(key for line in computed.lines for key in line.row.facts))
    return text.comma_separated(
        [_head(computed, kinds, facts), *(_line(computed, line, kinds, facts) for line in computed.lines)]
    )


def section(part: Section) -> str:
    """An analysis's table."""
    return text.comma_separated([part.head, *part.body])


def _head(computed: TableLayout, kinds: list[str], facts: list[str]) -> list[str]:
    head = [
        "profile",
        "backbone",
        "pool",
        "selector",
        "variant",
        "seeds",
        "seeds_done",
        "seeds_of",
        "state",
        "reason",
        "partial",
    ]
    for column in computed.columns:
        if column.is_category:
            head += [column.key, f"{column.key}_paper"]
        else:
            head += [f"{column.key}{end}" for end in ("", "_low", "_high", "_items", "_note")]
            head += [f"{column.key}_overlap_{kind}" for kind in kinds]
    head += ["avg_low", "avg_high", *(f"to_{to}{end}" for to in COMPARED for end in ENDS)]
    head += [f"to_{PAPER}{end}" for end in ENDS[:3]]
    return [*head, *(HELD_OUT if computed.has_heldout else ()), *(f"subset_{key}" for key in facts)]


def _line(computed: TableLayout, line: Line, kinds: list[str], facts: list[str]) -> list[Any]:
    row = line.row
    cells: list[Any] = [computed.table.profile, row.backbone, row.pool, row.selector, row.variant]
    cells += [plain_text(row.seeds) if row.seeds else "", *(row.repeats or ("", "")), row.state, shorten(row.reason)]
    cells.append("yes" if row.partial else "no" if row.state == "done" else "")
    for column in computed.columns:
        value = line.values[column.key]
        cells.append(value.word if value.percent is None else _digits(value.percent))
        if column.is_category:
            cells.append(_digits(value.paper))
        else:
            cells += [*_ends(value), value.n, value.note if row.state == "done" else ""]
            cells += [dict(value.overlap).get(kind, "") for kind in kinds]
    cells += _ends(line.values["avg"])
    for to in COMPARED:
        gap = line.gaps.get(to)
        cells += [""] * len(ENDS) if gap is None else [*_gap(gap), _digits(gap.p), _digits(gap.holm), gap.over or ""]
    cells += _gap(line.gaps.get(PAPER))
    cells += _held_out(line.heldout) if computed.has_heldout else []
    return [*cells, *("" if row.facts.get(key) is None else plain_text(row.facts[key]) for key in facts)]


def _held_out(loss: LossValue | None) -> list[Any]:
    """Loss, its interval, what it rests on, and the differences with interval, p and corrected p."""
    if loss is None or loss.by_row is None:
        return [loss.word if loss else "", *[""] * (len(HELD_OUT) - 1)]
    cells: list[Any] = [_digits(loss.by_row), *map(_digits, loss.interval or (None, None)), _digits(loss.by_token)]
    cells += [loss.rows, loss.tokens, loss.truncated]
    for _, entry, holm in loss.differences:
        figures = (None,) * 4 if entry is None else (entry.difference, *(entry.interval or (None, None)), entry.p)
        cells += [_digits(figure) for figure in (*figures, holm)]
    return cells


def _gap(gap: Gap | None) -> list[str]:
    return ["", "", ""] if gap is None else [_digits(gap.value), *map(_digits, gap.interval or (None, None))]


def _ends(value: Value) -> list[str]:
    return [_digits(end) for end in value.interval or (None, None)]


def _digits(value: float | None) -> str:
    return "" if value is None else f"{round(value, 4) + 0.0:.4f}"  # no "-0.0000"
