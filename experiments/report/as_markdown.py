"""The table as Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from experiments.report.legend import BENCHMARK_HEAD, benchmarks, facts, legend, opening, signed
from experiments.report.table import Column, Layout, Table, Value, layout


def markdown(table: Table) -> str:
    """The table for a README or an issue."""
    found = layout(table)
    head = ["backbone", "pool", "selector", *(c.label + (f" (n={c.n})" if c.n else "") for c in found.columns)]
    head += ["vs random"] * found.has_random + ["vs paper"] * found.has_paper
    body = []
    for line in found.lines:
        cells = [line.row.backbone, line.row.pool, line.row.name]
        for position, column in enumerate(found.columns):
            cells.append(_markdown_value(found, line.values[column.key], column, first=position == 0))
        cells += [signed(line.to_random)] * found.has_random + [signed(line.to_paper)] * found.has_paper
        body.append(cells)
    parts = [f"# {table.title}", f"> **{table.statement}**", opening(table)]
    parts += ["\n".join(f"- {note}" for note in table.notes)] * bool(table.notes)
    parts += [_pipes(head, body, numbers_from=3)] * table.has_scores
    parts += ["\n".join(f"- {line}".replace("- *", "- \\*") for line in legend(found))] * table.has_scores
    parts += ["\n".join(f"- [{i}] {note}" for i, note in enumerate(found.notes, 1))] * bool(found.notes)
    for section in table.sections:
        parts += [f"## {section.title}", *section.text]
        parts += [f"![{section.title}]({section.name}.svg)"] * bool(section.svg)
        parts += [_pipes(section.head, section.body)] * bool(section.body)
    tasks = benchmarks(found)
    parts += ["## Benchmarks", _pipes(BENCHMARK_HEAD, tasks)] if tasks else []
    subset_head, subsets = facts(found)
    parts += ["## Cells in detail", _pipes(subset_head, subsets)] if subsets else []
    if table.ledger:
        parts += [
            "## Where paper, released code and this project differ",
            _pipes(
                ("question", "paper", "released code", "here", "config"),
                [
                    [d.question, d.paper, d.released, d.ours, ", ".join(f"`{k}`" for k in d.keys) or "–"]
                    for d in table.ledger
                ],
            ),
        ]
    return "\n\n".join(parts) + "\n"


def _markdown_value(found: Layout, value: Value, column: Column, first: bool) -> str:
    text = value.text()
    if value.percent is None:
        # the reason itself stands once in a row that failed, the other cells point to it
        text = value.note if first and value.word == "failed" and value.note else text + found.mark(value)
    else:
        text = f"**{text}**" if value.best else text
        text += f" ± {value.stderr:.2f}" if value.stderr is not None else ""
        text += f" (n={value.n})" if value.n is not None and column.n is None else ""
        text += f" [{value.interval[0]:.2f}, {value.interval[1]:.2f}]" if value.interval else ""
        text += f" ({value.overlapping})" if value.overlap else ""
    return text + (f" (paper {value.paper:.2f})" if value.paper is not None else "")


def _pipes(head: Sequence[str], body: Sequence[Sequence[str]], numbers_from: int | None = None) -> str:
    def cell(text: str) -> str:
        return " ".join(str(text).replace("\\", "\\\\").replace("|", "\\|").split())

    rule = ["---:" if numbers_from is not None and i >= numbers_from else "---" for i in range(len(head))]
    return "\n".join("| " + " | ".join(cell(c) for c in row) + " |" for row in (head, rule, *body))
