"""Random: a draw without replacement. The released repository has no recipe for it, so ours is stated here."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from adg import seeds
from adg.selection.contract import ScoreTable, Selector, SelectorData


@dataclass(frozen=True)
class RandomConfig:
    seed: int = 42


class Random(Selector):
    """Each record draws a uniform number from its own id and the seed; the highest are taken.

    So the draw depends neither on the order of the file nor on the other records, and a smaller budget is a
    subset of a larger one.
    """

    name = "random"
    Config = RandomConfig

    def scores(self, data: SelectorData) -> ScoreTable:
        draws = [seeds.child(self.config.seed, "random", key) for key in data.keys]
        return ScoreTable(np.array(draws, dtype=np.float64) / (2**31 - 1))
