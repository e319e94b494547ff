"""What a report is made from: rows of results, notes, analyses and the ledger, as plain data.

A row has results, or a state that says why it has none; scores are fractions. ``layout`` computes what is printed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from adg.errors import BadInput
from adg.evaluation.statistics import Comparison
from experiments.report.sections import Section

WORDS = {
    "missing": "missing",
    "partial": "missing",
    "running": "running",
    "failed": "failed",
    "upstream-failed": "failed",
    "not-run": "not run",
}
RESAMPLES = 2_000  # of an interval in a table
BASELINE = "random"
UNTRAINED = "untrained"


@dataclass(frozen=True)
class HeldOut:
    """The loss of each held-out row of a cell's pool, or why there is none (``state``, a key of ``WORDS``).

    ``loss`` is (seeds, rows), nats per token, ``tokens`` (rows,); ``truncated`` rows were cut at the greatest length.
    """

    state: str = "done"
    reason: str = ""
    ids: tuple[str, ...] = ()
    loss: np.ndarray = field(default_factory=lambda: np.zeros((1, 0)))
    tokens: np.ndarray = field(default_factory=lambda: np.zeros(0))
    truncated: int = 0


@dataclass(frozen=True)
class Row:
    """One cell of the study.

    ``results`` is the ``results.json`` of its evaluation (fractions), ``paper`` the published percentages of the same
    cell, ``facts`` what is worth knowing about its subset. ``state`` is "done", or a key of ``WORDS``. ``interval`` is
    that of the average, (low, high) as fractions; ``overlap`` says of each task how many of its items have text in
    common with the subset, by kind of split ("test", "train").

    Of several seeds: ``repeats`` is how many are done and how many there are, values are means over the done ones,
    ``intervals`` those of tasks and of the average (fractions). ``differences`` of the average (fractions) by what it
    is held against, ``BASELINE`` or ``UNTRAINED``.
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
    seeds: Mapping[str, Any] = field(default_factory=dict)
    interval: tuple[float, float] | None = None
    overlap: Mapping[str, Mapping[str, int]] | None = None
    heldout: HeldOut | None = None  # None: no rows of its pool are held out
    repeats: tuple[int, int] | None = None
    intervals: Mapping[str, tuple[float, float] | None] | None = None
    differences: Mapping[str, Comparison] = field(default_factory=dict)
    pages: Sequence[tuple[str, str]] = ()  # what is behind it: (seed, address from the report's folder) of each cell

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
        name = f"{self.selector}, {self.variant}" if self.variant else self.selector
        if self.repeats is None:
            return name
        done, planned = self.repeats
        return f"{name} ({f'{done} of ' * (done < planned)}{planned} seeds)"

    def beside(self, selector: str, rows: Sequence[Row]) -> list[Row]:
        """The rows of another selector that this one is held against: of its backbone, pool and variant, or where that
        has none, without one."""
        if self.selector == selector:
            return []
        near = [o for o in rows if (o.backbone, o.pool, o.selector) == (self.backbone, self.pool, selector)]
        return [o for o in near if o.variant == self.variant] or [o for o in near if not o.variant]

    @property
    def entries(self) -> Mapping[str, Mapping[str, Any]]:
        """The entries of its tasks in ``results.json``; {} without results."""
        return self.results["tasks"] if self.results else {}

    @property
    def partial(self) -> bool:
        return bool(self.results and self.results.get("partial"))


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
    cells: Sequence[Row] = ()  # what the rows are made of, where rows hold several seeds
    controls: str = ""  # what the controls of the study say, where they stand in a report of their own
    figures: Sequence[Section] = ()  # what only a page has room for
    made: Sequence[tuple[str, str]] = ()  # when, by what and where the report and its results were made
    places: Mapping[str, tuple[str, str]] = field(default_factory=dict)  # name or first digits -> name, page

    @property
    def remarks(self) -> list[str]:
        """Notes, and what the controls say."""
        return [*self.notes, *([self.controls] if self.controls else [])]

    @property
    def has_scores(self) -> bool:
        """False where only analyses are reported."""
        return bool(self.rows) or not self.sections
