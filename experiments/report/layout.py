"""The results table computed once for all forms: values by column, averages, intervals, differences, footnotes.

A value that was not measured is printed as the word that says why, never as a number: "missing", "failed",
"running" or "not run", the reason in a footnote. Scores are fractions on the way in and percent on the way out.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from adg.errors import BadInput, BadMeasurement
from adg.evaluation import benchmarks, statistics
from adg.evaluation.benchmarks import BENCHMARKS, CATEGORIES
from adg.evaluation.statistics import Comparison
from experiments.report import heldout
from experiments.report.heldout import LossValue
from experiments.report.table import BASELINE, UNTRAINED, WORDS, Row, Table

PAPER = "paper"
REASON = 400  # characters of a reason that are printed; all of it is in the cell's record


@dataclass(frozen=True)
class Value:
    """One place of the table: a percentage, or the ``word`` that stands there instead."""

    percent: float | None = None
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
class Gap:
    """How far a row's average lies above another figure, in points; ``holm`` is p after Holm's correction over the
    ``over`` rows of a backbone and pool that are held against the same."""

    value: float
    interval: tuple[float, float] | None = None
    p: float | None = None
    holm: float | None = None
    over: int = 0


@dataclass(frozen=True)
class Line:
    """A row with its values by column, and the average's distance to ``BASELINE``, ``UNTRAINED`` and ``PAPER``."""

    row: Row
    values: dict[str, Value]
    gaps: Mapping[str, Gap] = field(default_factory=dict)
    heldout: LossValue | None = None

    def to(self, other: str) -> float | None:
        """The distance in points, None where there is none."""
        return self.gaps[other].value if other in self.gaps else None


@dataclass(frozen=True)
class Column:
    """A task or a category; ``n`` when every value of the column rests on as many items."""

    key: str
    label: str
    short: str
    n: int | None = None

    @property
    def is_category(self) -> bool:
        return self.key in CATEGORIES


@dataclass(frozen=True)
class TableLayout:
    """The table with everything that is computed."""

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

    def mark(self, value: Value | LossValue) -> str:
        return f" [{self.notes.index(value.note) + 1}]" if value.note else ""

    @property
    def compared(self) -> list[str]:
        """What rows are held against: ``BASELINE``, ``UNTRAINED`` where there is such a row, ``PAPER``."""
        found = [to for to in (BASELINE, UNTRAINED) if any(to in line.gaps for line in self.lines)]
        return found + [PAPER] * self.has_paper

    @property
    def has_heldout(self) -> bool:
        return any(line.heldout is not None for line in self.lines)

    @property
    def has_paper(self) -> bool:
        return any(line.row.paper for line in self.lines)


def layout(table: Table) -> TableLayout:
    """Values, differences and footnotes of a table.

    Raises ``BadInput`` when results of two backends meet in it and ``BadMeasurement`` when a score is no fraction.
    """
    _refuse_two_backends(table.rows)
    tasks, categories = _keys(table.rows)
    lines = [Line(row, _values(row, tasks, categories)) for row in table.rows]
    losses = [loss and replace(loss, note=shorten(loss.note)) for loss in heldout.values(table.rows)]
    lines = _corrected([_compared(line, lines) for line in lines])
    lines = [replace(line, heldout=loss) for line, loss in zip(lines, losses, strict=True)]
    columns = []
    for key in (*tasks, *categories):
        sizes = {line.values[key].n for line in lines if line.values[key].percent is not None}
        n = sizes.pop() if len(sizes) == 1 else None
        columns.append(Column(key, benchmarks.title(key), benchmarks.short(key), n))
    notes = dict.fromkeys(v.note for line in lines for v in line.values.values() if v.note)
    notes |= dict.fromkeys(loss.note for loss in losses if loss is not None and loss.note)
    computed = TableLayout(table, columns, lines, list(notes), _partial_reasons(table.rows))
    for _, _, block in computed.blocks():
        _mark_best(block)
    return computed


def shorten(text: str) -> str:
    """A reason as one line, without the traceback that may follow it."""
    line = " ".join(text.split("Traceback (most recent call last)")[0].split())
    return line if len(line) <= REASON else line[: REASON - 1] + "…"


def _refuse_two_backends(rows: Sequence[Row]) -> None:
    backends = {row.results["backend"]: row.label for row in rows if row.results}
    if len(backends) > 1:
        raise BadInput(
            "one table cannot mix evaluation backends: "
            + "; ".join(f"{b} in {c}" for b, c in backends.items())
            + "; evaluate all cells with one suite.backend"
        )


def _keys(rows: Sequence[Row]) -> tuple[list[str], list[str]]:
    """(tasks, categories) that have a column; those of the paper's average while nothing has been measured."""
    tasks = list(dict.fromkeys(task for row in rows for task in row.entries))
    if not tasks:
        tasks = [task for task, benchmark in BENCHMARKS.items() if benchmark.category]
    order = list(BENCHMARKS)
    tasks.sort(key=lambda task: order.index(task) if task in order else len(order))
    measured = {key for row in rows if row.results for key in row.results["categories"]}
    return tasks, [key for key in CATEGORIES if not measured or key in measured]


def _values(row: Row, tasks: Sequence[str], categories: Sequence[str]) -> dict[str, Value]:
    if row.results is None:
        word = WORDS[row.state]
        note = f"{word}: {shorten(row.reason)}" if row.reason else ""
        return {key: Value(word=word, note=note, paper=(row.paper or {}).get(key)) for key in (*tasks, *categories)}
    return {task: _task_value(row, task) for task in tasks} | {key: _category_value(row, key) for key in categories}


def _task_value(row: Row, task: str) -> Value:
    entry = row.entries.get(task)
    if entry is None or (entry.get("value") is None and entry["status"] == "done"):
        return Value(word="missing")
    if entry.get("value") is None:
        word = WORDS.get(entry["status"], "missing")
        return Value(word=word, note=f"{benchmarks.title(task)} {word}: {shorten(entry.get('reason') or '?')}")
    percent = _percent(entry["value"], row, task)
    if entry.get("stderr") is not None:
        _percent(entry["stderr"], row, f"{task} error")
    spread: tuple[float, float] | None
    if row.intervals is not None:
        spread = row.intervals.get(task)
    else:
        spread = statistics.score_interval(entry["value"], entry.get("stderr"), entry["n"], benchmarks.binary(task))
    return Value(
        percent,
        entry["n"],
        partial=bool(entry.get("partial")),
        beside=tuple(
            (name, _percent(other["value"], row, f"{task} {name}"))
            for name, other in (entry.get("beside") or {}).items()
            if other["value"] is not None
        ),
        interval=None if spread is None else (100 * spread[0], 100 * spread[1]),
        overlap=tuple((row.overlap or {}).get(task, {}).items()),
    )


def _category_value(row: Row, key: str) -> Value:
    assert row.results is not None
    value, paper = row.results["categories"].get(key), (row.paper or {}).get(key)
    if value is None:
        return Value(word="missing", note="missing: a task that belongs to it has no score", paper=paper)
    ends = None
    if key == "avg" and row.interval is not None:
        ends = _percent(row.interval[0], row, "low end"), _percent(row.interval[1], row, "high end")
    return Value(_percent(value, row, key), partial=row.partial, paper=paper, interval=ends)


def _percent(fraction: Any, row: Row, what: str) -> float:
    if isinstance(fraction, bool) or not isinstance(fraction, (int, float)) or not 0 <= fraction <= 1:
        raise BadMeasurement(f"{what} of {row.label} is {fraction!r}; expected a fraction between 0 and 1")
    return 100 * fraction


def _compared(line: Line, lines: Sequence[Line]) -> Line:
    """``line`` with its differences. Only results of the same suite, both whole or both partial, are compared."""
    row, average = line.row, line.values["avg"]
    if average.percent is None or row.results is None:
        return line
    gaps = {}
    for to in (BASELINE, UNTRAINED):
        beside = row.beside(to, [other.row for other in lines])
        same = [other for other in lines if any(other.row is one for one in beside)]
        base = [o.values["avg"].percent for o in same if _comparable(o, row.results["suite"], row.partial)]
        if base:
            value = average.percent - math.fsum(b for b in base if b is not None) / len(base)
            gaps[to] = _gap(value, row.differences.get(to))
    if average.paper is not None and not row.partial:
        ends = average.interval and (average.interval[0] - average.paper, average.interval[1] - average.paper)
        gaps[PAPER] = Gap(average.percent - average.paper, ends)
    return replace(line, gaps=gaps)


def _gap(value: float, found: Comparison | None) -> Gap:
    """Raises ``BadMeasurement`` where the items give another difference than the averages of the two rows."""
    if found is None:
        return Gap(value)
    if abs(100 * found.difference - value) > 1e-6:
        raise BadMeasurement(
            f"the items of two rows differ by {100 * found.difference:.4f} points and their averages by {value:.4f}; "
            f"evaluate both cells again"
        )
    ends = found.interval and (100 * found.interval.low, 100 * found.interval.high)
    return Gap(value, ends, found.p)


def _corrected(lines: Sequence[Line]) -> list[Line]:
    """Holm's correction over the rows of a backbone and pool that are held against the same, each by itself."""
    families: dict[tuple[str, str, str], list[int]] = {}
    for i, line in enumerate(lines):
        for to, gap in line.gaps.items():
            if gap.p is not None:
                families.setdefault((line.row.backbone, line.row.pool, to), []).append(i)
    corrected = list(lines)
    for (_, _, to), members in families.items():
        adjusted = statistics.holm([lines[i].gaps[to].p for i in members])
        for i, p in zip(members, adjusted, strict=True):
            gap = replace(corrected[i].gaps[to], holm=p, over=len(members))
            corrected[i] = replace(corrected[i], gaps={**corrected[i].gaps, to: gap})
    return corrected


def _comparable(line: Line, suite: str, partial: bool) -> bool:
    results: Mapping[str, Any] = line.row.results or {}
    return results.get("suite") == suite and line.row.partial == partial and line.values["avg"].percent is not None


def _mark_best(lines: Sequence[Line]) -> None:
    """Mark the highest value of each column, if the block is whole: no partial, missing or failed row."""
    done = [line for line in lines if line.row.state == "done"]
    if len(done) < 2 or any(line.row.partial or line.row.state not in ("done", "not-run") for line in lines):
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
    reasons: dict[str, dict[str, None]] = {}
    for row in rows:
        for task, entry in row.entries.items():
            for reason in entry.get("partial_reasons") or ():
                reasons.setdefault(reason, {})[benchmarks.title(task)] = None
    every = {task for tasks in reasons.values() for task in tasks}
    return [
        reason + ("" if len(tasks) == 1 else " in all" if len(tasks) == len(every) else f" in {', '.join(tasks)}")
        for reason, tasks in reasons.items()
    ]
