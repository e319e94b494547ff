"""The results table as data: rows, columns, averages, differences, footnotes; written by the ``as_*`` modules.

A value that was not measured is printed as the word that says why, never as a number: "missing", "failed",
"running" or "not run", the reason in a footnote. Scores are fractions on the way in and percent on the way out.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from adg.errors import BadInput, BadMeasurement
from experiments.report.sections import Section

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
        note = f"{word}: {shorten(row.reason)}" if row.reason else ""
        return {key: Value(word=word, note=note, paper=(row.paper or {}).get(key)) for key in (*tasks, *categories)}
    found = {}
    for task in tasks:
        entry = row.results["tasks"].get(task)
        if entry is None or (entry.get("value") is None and entry["status"] == "done"):
            found[task] = Value(word="missing")
        elif entry.get("value") is None:
            word = WORDS.get(entry["status"], "missing")
            found[task] = Value(
                word=word, note=f"{TASKS.get(task, task)} {word}: {shorten(entry.get('reason') or '?')}"
            )
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


def shorten(text: str) -> str:
    """A reason as one line, without the traceback that may follow it."""
    line = " ".join(text.split("Traceback (most recent call last)")[0].split())
    return line if len(line) <= REASON else line[: REASON - 1] + "…"
