"""The results table as Markdown, CSV, HTML and terminal text, from plain data and nothing else.

A value that was not measured is printed as the word that says why, never as a number: "missing", "failed",
"running" or "not run", the reason in a footnote. Scores are fractions on the way in and percent on the way out.
"""

from __future__ import annotations

import csv
import io
import math
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from adg import sections as sections_
from adg.errors import BadInput, BadMeasurement
from adg.sections import Section
from adg.store import write_atomic

CATEGORIES = {"reasoning": "Reasoning", "knowledge": "Knowledge", "coding": "Coding", "avg": "Average"}
TASKS = {
    "bbh": "BBH",
    "gsm8k": "GSM8K",
    "mmlu": "MMLU",
    "truthfulqa_mc2": "TruthfulQA",
    "mbpp": "MBPP",
    "humaneval": "HumanEval",
    "cmmlu": "CMMLU",
    "ceval-valid": "C-Eval",
}
PAPER = ("bbh", "gsm8k", "mmlu", "truthfulqa_mc2", "mbpp", "humaneval")  # columns while nothing has been measured
SHORT = {"truthfulqa_mc2": "TQA", "humaneval": "HEval", "reasoning": "Reason", "knowledge": "Know", "avg": "Avg"}
WORDS = {
    "missing": "missing",
    "partial": "missing",
    "running": "running",
    "failed": "failed",
    "upstream-failed": "failed",
    "not-run": "not run",
}
BASELINE = "random"
WIDTH = 120  # columns of a terminal
REASON = 400  # characters of a reason that are printed; all of it is in the cell's record


@dataclass(frozen=True)
class Row:
    """One cell of the study.

    ``results`` is the ``results.json`` of its evaluation (fractions), ``paper`` the published percentages of the same
    cell, ``facts`` what is worth knowing about its subset. ``state`` is "done", or a key of ``WORDS``. ``interval`` is
    that of the average, (low, high) as fractions; ``overlap`` says of each task how many of its items have text in
    common with the subset, by kind of split ("test", "train").
    """

    backbone: str
    pool: str
    selector: str
    variant: str = ""
    state: str = "missing"
    reason: str = ""
    results: Mapping[str, Any] | None = None
    paper: Mapping[str, float] | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)
    seeds: Mapping[str, int] = field(default_factory=dict)
    interval: tuple[float, float] | None = None
    overlap: Mapping[str, Mapping[str, int]] | None = None

    def __post_init__(self) -> None:
        if self.state != "done" and self.state not in WORDS:
            raise BadInput(f"the state of {self.label} is {self.state!r}; expected done, {', '.join(WORDS)}")
        if (self.results is not None) != (self.state == "done"):
            raise BadInput(
                f"{self.label} is {self.state} but has {'' if self.results else 'no '}results; "
                f"a row has results exactly when it is done"
            )

    @property
    def label(self) -> str:
        return f"{self.backbone} / {self.pool} / {self.name}"

    @property
    def name(self) -> str:
        return f"{self.selector}, {self.variant}" if self.variant else self.selector


@dataclass(frozen=True)
class Deviation:
    """A point where paper, released code or this project differ; ``keys`` are the config keys that decide it."""

    question: str
    paper: str
    released: str
    ours: str
    keys: tuple[str, ...] = ()


@dataclass(frozen=True)
class Table:
    """Everything a report is made from. ``statement`` says what the profile's numbers are worth."""

    title: str
    profile: str
    statement: str
    rows: Sequence[Row]
    notes: Sequence[str] = ()
    ledger: Sequence[Deviation] = ()
    source: str = ""  # where the published figures come from
    sections: Sequence[Section] = ()  # analyses that stand after the scores

    @property
    def has_scores(self) -> bool:
        """False where only analyses are reported."""
        return bool(self.rows) or not self.sections


@dataclass(frozen=True)
class Value:
    """One place of the table: a percentage, or the ``word`` that stands there instead."""

    percent: float | None = None
    stderr: float | None = None
    n: int | None = None
    word: str = ""
    note: str = ""
    partial: bool = False
    paper: float | None = None
    beside: tuple[tuple[str, float], ...] = ()
    best: bool = False
    interval: tuple[float, float] | None = None  # percent
    overlap: tuple[tuple[str, int], ...] = ()

    def text(self, digits: int = 2) -> str:
        return self.word if self.percent is None else f"{self.percent:.{digits}f}{'*' * self.partial}"

    @property
    def overlapping(self) -> str:
        """ "overlap 3 test, 120 train", or "" where pool and benchmark were not compared."""
        return "overlap " + ", ".join(f"{count:,} {kind}" for kind, count in self.overlap) if self.overlap else ""


@dataclass(frozen=True)
class Line:
    """A row with its values by column, and the average's distance to random and to the paper (points)."""

    row: Row
    values: dict[str, Value]
    to_random: float | None = None
    to_paper: float | None = None

    @property
    def partial(self) -> bool:
        return bool(self.row.results and self.row.results.get("partial"))


@dataclass(frozen=True)
class Column:
    """A task or a category; ``n`` when every value of the column rests on as many items."""

    key: str
    label: str
    short: str
    n: int | None = None


@dataclass(frozen=True)
class Layout:
    """The table computed once for all renderings."""

    table: Table
    columns: Sequence[Column]
    lines: Sequence[Line]
    notes: Sequence[str]  # footnotes; their number is the position counted from 1
    partial: Sequence[str]

    def blocks(self) -> Iterator[tuple[str, str, list[Line]]]:
        """(backbone, pool, lines) in order of first appearance."""
        groups: dict[tuple[str, str], list[Line]] = {}
        for line in self.lines:
            groups.setdefault((line.row.backbone, line.row.pool), []).append(line)
        for (backbone, pool), lines in groups.items():
            yield backbone, pool, lines

    def mark(self, value: Value) -> str:
        return f" [{self.notes.index(value.note) + 1}]" if value.note else ""

    @property
    def has_random(self) -> bool:
        return any(line.to_random is not None for line in self.lines)

    @property
    def has_paper(self) -> bool:
        return any(line.row.paper for line in self.lines)


# -- from rows to values -------------------------------------------------------------------------------------


def layout(table: Table) -> Layout:
    """Values, differences and footnotes of a table.

    Raises ``BadInput`` when results of two backends meet in it and ``BadMeasurement`` when a score is no fraction.
    """
    backends = {row.results["backend"]: row.label for row in table.rows if row.results}
    if len(backends) > 1:
        raise BadInput(
            "one table cannot mix evaluation backends: "
            + "; ".join(f"{b} in {c}" for b, c in backends.items())
            + "; evaluate all cells with one suite.backend"
        )
    tasks = list(dict.fromkeys(task for row in table.rows if row.results for task in row.results["tasks"])) or [*PAPER]
    tasks.sort(key=lambda task: [*TASKS].index(task) if task in TASKS else len(TASKS))
    measured = {key for row in table.rows if row.results for key in row.results["categories"]}
    categories = [key for key in CATEGORIES if not measured or key in measured]
    lines = [Line(row, _values(row, tasks, categories)) for row in table.rows]
    lines = [_compared(line, lines) for line in lines]
    groups: dict[tuple[str, str], list[Line]] = {}
    for line in lines:
        groups.setdefault((line.row.backbone, line.row.pool), []).append(line)
    for group in groups.values():
        _mark_best(group)
    columns = []
    for key in (*tasks, *categories):
        label = TASKS.get(key) or CATEGORIES.get(key) or key
        sizes = {line.values[key].n for line in lines if line.values[key].percent is not None}
        columns.append(Column(key, label, SHORT.get(key, label)[:8], sizes.pop() if len(sizes) == 1 else None))
    notes = dict.fromkeys(v.note for line in lines for v in line.values.values() if v.note)
    return Layout(table, columns, lines, list(notes), _partial_reasons(table.rows))


def _values(row: Row, tasks: Sequence[str], categories: Sequence[str]) -> dict[str, Value]:
    if row.results is None:
        word = WORDS[row.state]
        note = f"{word}: {_short(row.reason)}" if row.reason else ""
        return {key: Value(word=word, note=note, paper=(row.paper or {}).get(key)) for key in (*tasks, *categories)}
    found = {}
    for task in tasks:
        entry = row.results["tasks"].get(task)
        if entry is None or (entry.get("value") is None and entry["status"] == "done"):
            found[task] = Value(word="missing")
        elif entry.get("value") is None:
            word = WORDS.get(entry["status"], "missing")
            found[task] = Value(word=word, note=f"{TASKS.get(task, task)} {word}: {_short(entry.get('reason') or '?')}")
        else:
            error = entry.get("stderr")
            found[task] = Value(
                _percent(entry["value"], row, task),
                None if error is None else _percent(error, row, f"{task} error"),
                entry["n"],
                partial=bool(entry.get("partial")),
                beside=tuple(
                    (name, _percent(other["value"], row, f"{task} {name}"))
                    for name, other in (entry.get("beside") or {}).items()
                    if other["value"] is not None
                ),
                overlap=tuple((row.overlap or {}).get(task, {}).items()),
            )
    for key in categories:
        value, paper = row.results["categories"].get(key), (row.paper or {}).get(key)
        if value is None:
            found[key] = Value(word="missing", note="missing: a task that belongs to it has no score", paper=paper)
        else:
            ends = None
            if key == "avg" and row.interval is not None:
                ends = _percent(row.interval[0], row, "low end"), _percent(row.interval[1], row, "high end")
            found[key] = Value(
                _percent(value, row, key), partial=bool(row.results.get("partial")), paper=paper, interval=ends
            )
    return found


def _percent(fraction: float, row: Row, what: str) -> float:
    if isinstance(fraction, bool) or not isinstance(fraction, (int, float)) or not 0 <= fraction <= 1:
        raise BadMeasurement(f"{what} of {row.label} is {fraction!r}; expected a fraction between 0 and 1")
    return 100 * fraction


def _compared(line: Line, lines: Sequence[Line]) -> Line:
    """``line`` with its differences. Only results of the same suite, both whole or both partial, are compared."""
    row, average = line.row, line.values["avg"]
    if average.percent is None or row.results is None:
        return line

    def comparable(other: Line) -> bool:
        return (
            other.row.results is not None
            and other.row.results["suite"] == row.results["suite"]  # type: ignore[index]
            and other.partial == line.partial
            and other.values["avg"].percent is not None
        )

    to_random = None
    if row.selector != BASELINE:
        near = [o for o in lines if (o.row.backbone, o.row.pool, o.row.selector) == (row.backbone, row.pool, BASELINE)]
        same = [o for o in near if o.row.variant == row.variant] or [o for o in near if not o.row.variant]
        base = [o.values["avg"].percent for o in same if comparable(o)]
        if base:
            to_random = average.percent - math.fsum(b for b in base if b is not None) / len(base)
    to_paper = None if average.paper is None or line.partial else average.percent - average.paper
    return Line(row, line.values, to_random, to_paper)


def _mark_best(lines: Sequence[Line]) -> None:
    """Mark the highest value of each column, if the block is whole: no partial, missing or failed row."""
    done = [line for line in lines if line.row.state == "done"]
    if len(done) < 2 or any(line.partial or line.row.state not in ("done", "not-run") for line in lines):
        return
    for key in done[0].values:
        numbers = [line.values[key].percent for line in done]
        if None in numbers:
            continue
        top = max(n for n in numbers if n is not None)
        for line in done:
            if line.values[key].percent == top:
                line.values[key] = replace(line.values[key], best=True)


def _partial_reasons(rows: Sequence[Row]) -> list[str]:
    """Each reason once, with the tasks it holds for."""
    found: dict[str, dict[str, None]] = {}
    for row in rows:
        for task, entry in (row.results or {"tasks": {}})["tasks"].items():
            for reason in entry.get("partial_reasons") or ():
                found.setdefault(reason, {})[TASKS.get(task, task)] = None
    every = {task for tasks in found.values() for task in tasks}
    return [
        reason + ("" if len(tasks) == 1 else " in all" if len(tasks) == len(every) else f" in {', '.join(tasks)}")
        for reason, tasks in found.items()
    ]


def _short(text: str) -> str:
    """A reason as one line, without the traceback that may follow it."""
    line = " ".join(text.split("Traceback (most recent call last)")[0].split())
    return line if len(line) <= REASON else line[: REASON - 1] + "…"


def signed(value: float | None, digits: int = 2) -> str:
    if value is None:
        return "–"
    rounded = round(value, digits) + 0.0  # no "-0.00"
    return f"{rounded:+.{digits}f}" if rounded else f"{0:.{digits}f}"


def opening(table: Table) -> str:
    """The line below the title: profile and, where cells were evaluated, how many."""
    return f"Profile {table.profile}, {counts(table.rows)}." if table.has_scores else f"Profile {table.profile}."


def counts(rows: Sequence[Row]) -> str:
    states = ["done" if row.state == "done" else WORDS[row.state] for row in rows]
    counted = ", ".join(f"{states.count(s)} {s}" for s in dict.fromkeys(["done", *states]) if s in states)
    return f"{len(rows)} cell{'s' * (len(rows) != 1)}: {counted}" if rows else "no cells"


def legend(found: Layout, brief: bool = False) -> list[str]:
    """How to read the numbers; only what applies to this table. ``brief`` leaves out what a terminal does not show."""
    suites = dict.fromkeys(
        f"suite {row.results['suite']}, backend {row.results['backend']}" for row in found.table.rows if row.results
    )
    spread = not brief and any(value.stderr is not None for line in found.lines for value in line.values.values())
    unit = "percent ± standard error over items" if spread else "percent"
    lines = ["; ".join([unit, *suites]) + "."] if suites else []
    shown = [value for line in found.lines for value in line.values.values()]
    if not brief and any(value.interval for value in shown):
        lines.append(
            "[low, high]: 95 % bootstrap interval of the average over items; of one seed each, so that it "
            "leaves training variance out."
        )
    if any(value.overlap for value in shown):
        lines.append(
            "overlap: items of the benchmark, those that are scored (test) and those for training or examples "
            "(train), whose text stands in the cell's subset; nothing was removed."
        )
    if found.has_random:
        lines.append("vs random: points of the average above the random row of the same backbone and pool.")
    if found.has_paper:
        source = f" ({found.table.source})" if found.table.source else ""
        lines.append(f"paper: the published figure of the same cell{source}; vs paper only where nothing is partial.")
    if found.partial:
        lines.append("* partial, not the whole benchmark: " + "; ".join(found.partial) + ".")
    if not brief and any(v.best for line in found.lines for v in line.values.values()):
        lines.append("bold: highest of its backbone and pool.")
    return lines


def benchmarks(found: Layout) -> list[list[str]]:
    """Task, shots, metric, filter, version and items, once for each way in which a task was run."""
    seen: dict[tuple[str, ...], None] = {}
    for line in found.lines:
        for task, entry in (line.row.results or {"tasks": {}})["tasks"].items():
            if entry.get("value") is not None:
                seen[
                    (
                        TASKS.get(task, task),
                        str(entry["num_fewshot"]),
                        str(entry["metric"]),
                        str(entry["filter"]),
                        str(entry["version"]),
                        str(entry["n"]),
                    )
                ] = None
    order = {column.label: i for i, column in enumerate(found.columns)}
    return [list(entry) for entry in sorted(seen, key=lambda entry: order[entry[0]])]


BENCHMARK_HEAD = ("benchmark", "shots", "metric", "filter", "version", "items")


def facts(found: Layout) -> tuple[list[str], list[list[str]]]:
    """Seeds, what is known of each subset and the figures beside the table's; empty when nothing is known."""
    keys = list(dict.fromkeys(key for line in found.lines for key in line.row.facts))
    beside = list(
        dict.fromkeys(
            (c.key, name) for line in found.lines for c in found.columns for name, _ in line.values[c.key].beside
        )
    )
    if not keys and not beside:
        return [], []
    head = [
        "backbone",
        "pool",
        "selector",
        "seeds",
        *(key.replace("_", " ") for key in keys),
        *(f"{TASKS.get(task, task)} {name}" for task, name in beside),
    ]
    body = []
    for line in found.lines:
        row = line.row
        others = [dict(line.values[task].beside).get(name) for task, name in beside]
        body.append(
            [
                row.backbone,
                row.pool,
                row.name,
                _plain(row.seeds),
                *(_plain(row.facts.get(key)) for key in keys),
                *("missing" if other is None else f"{other:.2f}" for other in others),
            ]
        )
    return head, body


def _plain(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{k} {v}" for k, v in value.items()) or "–"
    if isinstance(value, float):
        return f"{value:g}"
    return "–" if value is None else str(value)


# -- Markdown ------------------------------------------------------------------------------------------------


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


# -- CSV -----------------------------------------------------------------------------------------------------


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
            _plain(row.seeds) if row.seeds else "",
            row.state,
            _short(row.reason),
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
        writer.writerow([*cells, *("" if row.facts.get(key) is None else _plain(row.facts[key]) for key in known)])
    return out.getvalue()


def _csv_number(value: Value) -> str:
    return value.word if value.percent is None else _digits(value.percent)


def _digits(value: float | None) -> str:
    return "" if value is None else f"{round(value, 4) + 0.0:.4f}"  # no "-0.0000"


# -- terminal ------------------------------------------------------------------------------------------------


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


# -- files ---------------------------------------------------------------------------------------------------


def write(table: Table, folder: Path) -> list[Path]:
    """Write ``table.md``, ``table.csv`` (where cells were evaluated), ``index.html`` and each section's CSV and SVG.

    The same table gives the same bytes.
    """
    from adg import report_html

    texts = {"table.md": markdown(table)}
    texts |= {"table.csv": comma_separated(table)} if table.has_scores else {}
    texts |= {"index.html": report_html.page(table)}
    for section in table.sections:
        texts |= {f"{section.name}.csv": sections_.comma_separated(section)} if section.body else {}
        texts |= {f"{section.name}.svg": section.svg} if section.svg else {}
    for name, text in texts.items():
        write_atomic(folder / name, text.encode())
    return [folder / name for name in texts]
