"""The table as CSV."""

from __future__ import annotations

import csv
import io
from typing import Any

from experiments.report.legend import plain_text
from experiments.report.table import CATEGORIES, Table, Value, layout, shorten


def comma_separated(table: Table) -> str:
    """One line a cell. A score column holds a percentage or a word; error, items and differences may be empty."""
    found = layout(table)
    tasks = [c.key for c in found.columns if c.key not in CATEGORIES]
    categories = [c.key for c in found.columns if c.key in CATEGORIES]
    kinds = list(
        dict.fromkeys(kind for line in found.lines for value in line.values.values() for kind, _ in value.overlap)
    )
    known = list(dict.fromkeys(key for line in found.lines for key in line.row.facts))
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    head = ["profile", "backbone", "pool", "selector", "variant", "seeds", "state", "reason", "partial"]
    for task in tasks:
        head += [task, f"{task}_stderr", f"{task}_items", f"{task}_note"]
        head += [f"{task}_overlap_{kind}" for kind in kinds]
    for key in categories:
        head += [key, f"{key}_paper"]
    head += ["avg_low", "avg_high"]
    writer.writerow([*head, "to_random", "to_paper", *(f"subset_{key}" for key in known)])
    for line in found.lines:
        row = line.row
        cells: list[Any] = [
            table.profile,
            row.backbone,
            row.pool,
            row.selector,
            row.variant,
            plain_text(row.seeds) if row.seeds else "",
            row.state,
            shorten(row.reason),
            "yes" if line.partial else "no" if row.state == "done" else "",
        ]
        for task in tasks:
            value = line.values[task]
            cells += [_csv_number(value), _digits(value.stderr), value.n, value.note if row.state == "done" else ""]
            cells += [dict(value.overlap).get(kind, "") for kind in kinds]
        for key in categories:
            cells += [_csv_number(line.values[key]), _digits(line.values[key].paper)]
        cells += [_digits(end) for end in line.values["avg"].interval or (None, None)]
        cells += [_digits(line.to_random), _digits(line.to_paper)]
        writer.writerow([*cells, *("" if row.facts.get(key) is None else plain_text(row.facts[key]) for key in known)])
    return out.getvalue()


def _csv_number(value: Value) -> str:
    return value.word if value.percent is None else _digits(value.percent)


def _digits(value: float | None) -> str:
    return "" if value is None else f"{round(value, 4) + 0.0:.4f}"  # no "-0.0000"
