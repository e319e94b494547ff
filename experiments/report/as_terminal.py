"""The table and the analyses as text of a fixed width."""

from __future__ import annotations

import textwrap

from adg.printable import printable
from experiments.report.layout import Line, TableLayout, layout
from experiments.report.legend import counts, legend, signed
from experiments.report.legend import gap as gap_
from experiments.report.sections import Section
from experiments.report.table import BASELINE, Table

WIDTH = 120  # columns of a terminal
COLUMN = 8  # of them for a number


def terminal(table: Table) -> str:
    """A fixed-width table of at most 120 columns (as long as there are no more than six tasks)."""
    if not table.has_scores:
        shown = "\n\n".join(section(part) for part in table.sections)
        return printable(f"{table.title}\n{table.statement}\nprofile {table.profile}\n\n{shown}")
    computed = layout(table)
    extra = ["vs rand"] * (BASELINE in computed.compared) + ["paper"] * computed.has_paper
    extra += ["heldout"] if computed.has_heldout else []
    longest = max((len(row.name) for row in table.rows), default=0) + 3
    first = max(12, min(max(26, longest), WIDTH - COLUMN * (len(computed.columns) + len(extra))))
    head = " " * first + "".join(f"{name:>{COLUMN}}" for name in (*(c.short for c in computed.columns), *extra))
    items = "  items".ljust(first) + "".join(f"{c.n or '':>{COLUMN}}" for c in computed.columns)
    out = [
        table.title,
        table.statement,
        f"profile {table.profile}, {counts(table.cells or table.rows)}",
        "",
        head,
        items.rstrip(),
    ]
    for backbone, pool, lines in computed.blocks():
        out += [f"{backbone} / {pool}", *(_line(computed, line, first) for line in lines)]
    out += differences(computed, first)
    numbered = (f"[{i}] {note}" for i, note in enumerate(computed.notes, 1))
    brief = [sentence for part in table.sections for sentence in part.brief]
    out += ["", *brief] if brief else []
    out += ["", *legend(computed, brief=True), *overlaps(computed), *table.remarks, *numbered]
    return "\n".join(wrapped for text in out for wrapped in _wrap(printable(text)))


def section(part: Section, width: int = WIDTH) -> str:
    """An analysis's title and table in fixed columns; what is wider than ``width`` is cut with an ellipsis."""
    lines = [printable(part.title)]
    rows = [[printable(cell) for cell in row] for row in (part.head, *part.body)] if part.head else []
    sizes = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        line = "  " + "  ".join(f"{cell:<{size}}" for cell, size in zip(row, sizes, strict=True)).rstrip()
        lines.append(line if len(line) <= width else line[: width - 1] + "…")
    return "\n".join(lines)


def differences(computed: TableLayout, first: int) -> list[str]:
    """Each row's differences of the average with interval and corrected p, one line a row; [] where none has any."""
    if not any(gap.interval for line in computed.lines for gap in line.gaps.values()):
        return []
    width = 30
    out = ["", "Average against".ljust(first) + "".join(f"  {to:<{width}}" for to in computed.compared).rstrip()]
    for backbone, pool, lines in computed.blocks():
        of = [line for line in lines if line.gaps]
        out += [f"{backbone} / {pool}"] if of else []
        for line in of:
            shown = "".join(f"  {gap_(line.gaps.get(to)):<{width}}" for to in computed.compared)
            out.append(f"{_name(line, first)}{shown}".rstrip())
    return out


def overlaps(computed: TableLayout) -> list[str]:
    """One line a cell whose subset has text in common with a benchmark."""
    lines = []
    for line in computed.lines:
        parts = [
            f"{column.label} {line.values[column.key].overlapping.removeprefix('overlap ')}"
            for column in computed.columns
            if any(count for _, count in line.values[column.key].overlap)
        ]
        lines += [f"overlap of {line.row.label}: {'; '.join(parts)}"] if parts else []
    return lines


def _name(line: Line, first: int) -> str:
    text = f"  {printable(line.row.name)}"
    if len(text) >= first:  # variants differ in their last words
        text = f"{text[: first // 2]}…{text[first // 2 + 2 - first :]} "
    return f"{text:<{first}}"


def _line(computed: TableLayout, line: Line, first: int) -> str:
    text = _name(line, first)
    if line.row.results is None:
        value = line.values["avg"]
        return f"{text} {value.text()}{computed.mark(value)}"
    text = text + "".join(f"{line.values[c.key].text():>{COLUMN}}" for c in computed.columns)
    if BASELINE in computed.compared:
        text += f"{signed(line.to(BASELINE)):>{COLUMN}}"
    if computed.has_paper:
        paper = line.values["avg"].paper
        text += f"{'–' if paper is None else f'{paper:.2f}':>{COLUMN}}"
    if line.heldout is not None:
        loss = line.heldout
        text += f"{loss.word + computed.mark(loss) if loss.by_row is None else f'{loss.by_row:.4f}':>{COLUMN}}"
    return text


def _wrap(text: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, subsequent_indent="    ", drop_whitespace=True) if len(text) > WIDTH else [text]
