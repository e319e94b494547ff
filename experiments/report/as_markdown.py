"""The table as Markdown. Text that others wrote (reasons, names, answers) stays text, whatever markup it holds."""

from __future__ import annotations

from collections.abc import Sequence

from experiments.report.heldout import LossValue
from experiments.report.layout import Column, TableLayout, Value, layout
from experiments.report.legend import (
    BENCHMARK_HEAD,
    LEDGER_HEAD,
    benchmark_rows,
    facts,
    gap,
    held_out_differences,
    legend,
    opening,
)
from experiments.report.sections import Section
from experiments.report.table import Table
from experiments.report.text import REPORT, markup


def markdown(table: Table) -> str:
    """The table for a README or an issue."""
    computed = layout(table)
    parts = [f"# {markup(table.title)}", f"> **{markup(table.statement)}**", markup(opening(table))]
    parts += ["\n".join("- " + REPORT.sub(r"[\g<0>](\g<0>)", markup(note)) for note in table.remarks)]
    if table.has_scores:
        parts.append(_scores(computed))
        parts.append("\n".join(f"- {markup(line)}".replace("- *", "- \\*") for line in legend(computed)))
        parts.append("\n".join(f"- [{i}] {markup(note)}" for i, note in enumerate(computed.notes, 1)))
    for section in table.sections:
        parts += _section(section)
    benchmarks = benchmark_rows(computed)
    parts += ["## Benchmarks", _pipes(BENCHMARK_HEAD, benchmarks)] if benchmarks else []
    head, details = facts(computed)
    parts += ["## Cells in detail", _pipes(head, details)] if details else []
    if table.ledger:
        entries = [
            [d.question, d.paper, d.released, d.ours, ", ".join(f"`{key}`" for key in d.keys) or "–"]
            for d in table.ledger
        ]
        parts += ["## Where paper, released code and this project differ", _pipes(LEDGER_HEAD, entries)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _scores(computed: TableLayout) -> str:
    head = ["backbone", "pool", "selector", *(c.label + (f" (n={c.n})" if c.n else "") for c in computed.columns)]
    head += [f"vs {to}" for to in computed.compared]
    head += ["held-out loss"] if computed.has_heldout else []
    body = []
    for line in computed.lines:
        cells = [line.row.backbone, line.row.pool, line.row.name]
        for position, column in enumerate(computed.columns):
            cells.append(_value(computed, line.values[column.key], column, first=position == 0))
        cells += [gap(line.gaps.get(to)) for to in computed.compared]
        cells += [_held_out(computed, line.heldout)] if computed.has_heldout else []
        body.append(cells)
    return _pipes(head, body, numbers_from=3)


def _value(computed: TableLayout, value: Value, column: Column, first: bool) -> str:
    shown = value.text()
    if value.percent is None:
        # the reason itself stands once in a row that failed, the other cells point to it
        shown = value.note if first and value.word == "failed" and value.note else shown + computed.mark(value)
    else:
        shown = f"**{shown}**" if value.best else shown
        shown += f" [{value.interval[0]:.2f}, {value.interval[1]:.2f}]" if value.interval else ""
        shown += f" (n={value.n})" if value.n is not None and column.n is None else ""
        shown += f" ({value.overlapping})" if value.overlap else ""
    return shown + (f" (paper {value.paper:.2f})" if value.paper is not None else "")


def _held_out(computed: TableLayout, loss: LossValue | None) -> str:
    if loss is None or loss.by_row is None:
        return loss.word + computed.mark(loss) if loss else ""
    return "; ".join([f"{loss.by_row:.4f}{_between(loss.interval)}", *held_out_differences(loss)])


def _between(interval: tuple[float, float] | None) -> str:
    return f" [{interval[0]:.4f}, {interval[1]:.4f}]" if interval else ""


def _section(section: Section) -> list[str]:
    parts = [f"## {markup(section.title)}", *map(markup, section.text)]
    if section.svg:
        parts.append(f"![{markup(section.title)}]({section.name}.svg)")
    if section.body:
        parts.append(_pipes(section.head, section.body))
    return parts


def _pipes(head: Sequence[str], body: Sequence[Sequence[str]], numbers_from: int | None = None) -> str:
    def cell(content: str) -> str:
        return " ".join(markup(str(content).replace("\\", "\\\\").replace("|", "\\|").replace("\n", " ")).split())

    rule = ["---:" if numbers_from is not None and i >= numbers_from else "---" for i in range(len(head))]
    return "\n".join("| " + " | ".join(cell(c) for c in row) + " |" for row in (head, rule, *body))
