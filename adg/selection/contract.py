"""The contract of selectors: what they read, what they return, and the checks that none can skip.

Identity: a selector's name, version and options.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from adg.artifacts.artifact import Artifact, Node
from adg.errors import BadInput, BadMeasurement, nearest
from adg.pools import records as records_
from adg.pools.records import Record
from adg.selection.quotas import top


@dataclass(frozen=True)
class SelectorData:
    """What a selector may read. Row i of every array a selector returns belongs to ``records[i]``.

    ``records`` are in canonical id order whatever the order of the file. ``features`` holds the artifacts that
    ``Selector.inputs`` names; ``pool`` is the artifact of the records themselves, for selectors that read further
    fields of the original rows (``records.load_original``).
    """

    records: Sequence[Record]
    features: Mapping[str, Artifact] = field(default_factory=dict)
    pool: Artifact | None = None

    @property
    def keys(self) -> list[str]:
        """The records' ids as they stand in every table on disk."""
        return [records_.key(r.id) for r in self.records]


@dataclass
class ScoreTable:
    """One row a record: ``score`` (n,) float, further ``parts`` (n,) each, and why a record has no score.

    ``invalid`` maps a row to its reason; such rows are never selected and their score must be NaN, so that a
    failed measurement cannot be mistaken for a number. ``notes`` is what a reader of the manifest must know.
    """

    score: np.ndarray
    parts: dict[str, np.ndarray] = field(default_factory=dict)
    invalid: dict[int, str] = field(default_factory=dict)
    notes: dict[str, Any] = field(default_factory=dict)

    @property
    def valid(self) -> np.ndarray:
        mask = np.ones(len(self.score), dtype=bool)
        mask[list(self.invalid)] = False
        return mask

    def check(self, n: int) -> None:
        """Refuse a table of the wrong length, or a missing score without a reason, or a reason with a score."""
        self.score = np.asarray(self.score, dtype=np.float64)
        for name, column in {"score": self.score, **self.parts}.items():
            if np.shape(column) != (n,):
                raise BadMeasurement(f"column '{name}' has shape {np.shape(column)}; expected ({n},)")
        finite = np.isfinite(self.score)
        wrong = np.flatnonzero(finite != self.valid)
        if len(wrong):
            row = int(wrong[0])
            raise BadMeasurement(
                f"row {row} has score {self.score[row]} and reason {self.invalid.get(row)!r}: a record has either "
                f"a finite score or a reason why it has none ({len(wrong)} such rows)"
            )


class Selector(ABC):
    """A way of choosing instruction data. Subclasses say what they read, how they score and how they choose.

    ``Config`` is a frozen dataclass of options (the keys of ``conf/selector/<name>.yaml`` besides ``name``).
    ``version`` is bumped by hand when results change. Randomness comes from ``config.seed`` through ``adg.seeds``.
    """

    name: ClassVar[str]
    version: ClassVar[int] = 1
    Config: ClassVar[type]
    whole_pool: ClassVar[bool] = False  # takes every record, whatever the budget
    trains: ClassVar[bool] = True  # False: the backbone is evaluated as it is, and nothing is selected
    reads_logprobs: ClassVar[bool] = False  # True: the answers of its cells are sampled with sampling.logprobs on

    def __init__(self, config: Any) -> None:
        self.config = config

    def inputs(self, cell: Mapping[str, Node]) -> dict[str, Node]:
        """The artifacts that this configuration reads beside the pool, by the name under which ``features`` has them.

        ``cell`` holds those that every cell can make ("pool", "backbone", "answers", "grams", "bins"); a selector
        hands some of them on, or makes nodes of its own from them. Default: none. Nothing is built or fetched here.
        Raises ``BadInput`` where the settings of what it would read do not serve it.
        """
        return {}

    def note(self, backbone: Node) -> str:
        """One sentence that stands above every table with this selector; default none ("")."""
        return ""

    @abstractmethod
    def scores(self, data: SelectorData) -> ScoreTable:
        """One row a record; higher is better unless ``choose`` says otherwise."""

    def choose(self, data: SelectorData, table: ScoreTable, budget: int) -> np.ndarray:
        """Row indices in output order, exactly ``budget`` of them, distinct. Default: the highest scores."""
        return top(table.score, table.valid, budget)

    def may_return_fewer(self) -> bool:
        """True only for the released quota rule, whose shortfall is recorded and never padded."""
        return False


def make(types: Mapping[str, type[Selector]], options: Mapping[str, Any]) -> Selector:
    """The selector a config describes; unknown names and options are refused with the nearest known one."""
    options = dict(options)
    name = options.pop("name", None)
    if name not in types:
        raise BadInput(f"selector.name is {name!r}{nearest(str(name), list(types))}; known: {', '.join(sorted(types))}")
    cls = types[name]
    known = [f.name for f in dataclasses.fields(cls.Config)]
    for key in options:
        if key not in known:
            raise BadInput(
                f"selector '{name}' has no option '{key}'{nearest(key, known)}; it has {', '.join(known) or 'none'}"
            )
    return cls(cls.Config(**options))


def check_budget(budget: int, n: int) -> None:
    """Refuse a budget that a pool of ``n`` records cannot give."""
    if budget < 1 or budget > n:
        raise BadInput(f"budget is {budget:,} but the pool holds {n:,} records; set budget between 1 and {n}")


def select(selector: Selector, data: SelectorData, table: ScoreTable, budget: int) -> np.ndarray:
    """Row indices chosen by ``selector``, checked: the exact budget, distinct, all of them valid rows.

    Raises ``BadInput`` when the budget exceeds the records that have a score, ``BadMeasurement`` when the selector
    breaks the contract.
    """
    n = len(data.records)
    table.check(n)
    if selector.whole_pool:
        budget = n
    check_budget(budget, n)
    usable = int(table.valid.sum())
    if budget > usable:
        reasons = counted(table.invalid.values())
        raise BadInput(
            f"budget is {budget:,} but only {usable:,} of {n:,} records have a score ({reasons}); "
            f"lower the budget or repair those records"
        )
    rows = np.asarray(selector.choose(data, table, budget), dtype=np.int64)
    if len(np.unique(rows)) != len(rows):
        raise BadMeasurement(f"selector '{selector.name}' returned {len(rows)} rows, {len(np.unique(rows))} distinct")
    if len(rows) and (rows.min() < 0 or rows.max() >= n or not table.valid[rows].all()):
        raise BadMeasurement(f"selector '{selector.name}' returned a row outside the pool or one without a score")
    if len(rows) != budget and not (selector.may_return_fewer() and len(rows) < budget):
        raise BadMeasurement(f"selector '{selector.name}' returned {len(rows):,} of {budget:,} rows")
    return rows


def counted(reasons: Any) -> str:
    counts: dict[str, int] = {}
    for reason in reasons:
        counts[reason] = counts.get(reason, 0) + 1
    return "; ".join(f"{count:,} x {reason}" for reason, count in sorted(counts.items(), key=lambda e: -e[1]))
