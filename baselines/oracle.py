"""The control's selector: it knows which rows were corrupted on purpose (``pool.corrupt``), which no other may.

Between the subset without such rows and the one of nothing else lies the largest difference that a choice can make in
this pool. A study that does not see that one would not see a smaller one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from adg import seeds
from adg.artifacts.artifact import Node
from adg.errors import BadInput
from adg.pools import records
from adg.selection.contract import ScoreTable, Selector, SelectorData

KINDS = ("clean", "corrupted")


@dataclass(frozen=True)
class OracleConfig:
    take: str = "clean"  # clean | corrupted
    seed: int = 42  # of the draw among the rows of that kind

    def __post_init__(self) -> None:
        if self.take not in KINDS:
            raise BadInput(f"selector.take is {self.take!r}; expected one of {', '.join(KINDS)}")


class Oracle(Selector):
    """A random draw among the clean rows of a corrupted pool, or among the corrupted ones.

    Rows of the other kind have no score but that reason, so a budget above the rows of its kind is refused. The draw
    of a row depends on its id and the seed alone, as that of ``random``.
    """

    name = "oracle"
    Config = OracleConfig

    def inputs(self, cell: Mapping[str, Node]) -> dict[str, Node]:
        pool = cell["pool"]
        if not pool.config.corrupt:
            raise BadInput(
                f"selector=oracle tells corrupted rows from clean ones, and pool {pool.label} has none; set "
                f"pool.corrupt=0.5, say, or run experiment=controls"
            )
        return {}

    def scores(self, data: SelectorData) -> ScoreTable:
        assert data.pool is not None
        corrupted = records.load_corrupted(data.pool)
        other = {"clean": "its output is another row's", "corrupted": "its output is its own"}[self.config.take]
        wanted = self.config.take == "corrupted"
        invalid = {i: other for i, key in enumerate(data.keys) if (key in corrupted) != wanted}
        score = np.array([seeds.child(self.config.seed, "oracle", key) for key in data.keys], dtype=np.float64)
        score /= 2**31 - 1
        score[list(invalid)] = np.nan
        return ScoreTable(score, {}, invalid)
