"""The table as text of a fixed width."""

from __future__ import annotations

import textwrap

from experiments.report import sections as sections_
from experiments.report.legend import counts, legend, signed
from experiments.report.table import Layout, Line, Table, layout

WIDTH = 120  # columns of a terminal


def terminal(table: Table) -> str:
    """A fixed-width table of at most 120 columns (as long as there are no more than six tasks)."""
    if not table.has_scores:
        shown = "\n\n".join(sections_.terminal(section) for section in table.sections)
        return f"{table.title}\n{table.statement}\nprofile {table.profile}\n\n{shown}"
    found = layout(table)
    extra = ["vs rand"] * found.has_random + ["paper"] * found.has_paper
    width = 8
    longest = max((len(row.name) for row in table.rows), default=0) + 3
    first = max(12, min(max(26, longest), WIDTH - width * (len(found.columns) + len(extra))))
    head = " " * first + "".join(f"{c.short:>{width}}" for c in found.columns) + "".join(f"{e:>{width}}" for e in extra)
    items = "  items".ljust(first) + "".join(f"{c.n or '':>{width}}" for c in found.columns)
    out = [table.title, table.statement, f"profile {table.profile}, {counts(table.rows)}", "", head, items.rstrip()]
    for backbone, pool, lines in found.blocks():
        out += [f"{backbone} / {pool}"]
        for line in lines:
            out.append(_terminal_line(found, line, first, width))
    numbered = (f"[{i}] {note}" for i, note in enumerate(found.notes, 1))
    out += ["", *legend(found, brief=True), *overlaps(found), *table.notes, *numbered]
    return "\n".join(wrapped for text in out for wrapped in _wrap(text))


def overlaps(found: Layout) -> list[str]:
    """One line a cell whose subset has text in common with a benchmark."""
    lines = []
    for line in found.lines:
        parts = [
            f"{column.label} {line.values[column.key].overlapping.removeprefix('overlap ')}"
            for column in found.columns
            if any(count for _, count in line.values[column.key].overlap)
        ]
        lines += [f"overlap of {line.row.label}: {'; '.join(parts)}"] if parts else []
    return lines


def _terminal_line(found: Layout, line: Line, first: int, width: int) -> str:
    text = f"  {line.row.name}"
    if len(text) >= first:  # variants differ in their last words
        text = f"{text[: first // 2]}…{text[first // 2 + 2 - first :]} "
    if line.row.results is None:
        value = line.values["avg"]
        return f"{text:<{first}} {value.text()}{found.mark(value)}"
    text = f"{text:<{first}}" + "".join(f"{line.values[column.key].text():>{width}}" for column in found.columns)
    if found.has_random:
        text += f"{signed(line.to_random):>{width}}"
    if found.has_paper:
        paper = line.values["avg"].paper
        text += f"{'–' if paper is None else f'{paper:.2f}':>{width}}"
    return text


def _wrap(text: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, subsequent_indent="    ", drop_whitespace=True) if len(text) > WIDTH else [text]
