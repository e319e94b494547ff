"""Random within ADG's bins: the quota of each instruction cluster filled by a draw instead of by divergence.

A control of this project, in neither paper nor released code: what the bins alone are worth.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from adg import seeds
from adg.artifacts.artifact import Node
from adg.errors import BadInput
from adg.selection import bins as bins_stage
from adg.selection.contract import ScoreTable, Selector, SelectorData
from adg.selection.quotas import RULES, binwise
from adg.selection.strata import MatchOptions, answer_lengths, strata


@dataclass(frozen=True)
class ClusterRandomConfig(MatchOptions):
    """The seed of the draw, and the quota rule and the matching, which should be ADG's."""

    seed: int = 42
    rule: str = "largest_remainder"  # "released" may return fewer than the budget

    def __post_init__(self) -> None:
        if self.rule not in RULES:
            raise BadInput(f"selector.rule is {self.rule!r}; expected one of {', '.join(RULES)}")
        self.check_match(self.rule)


class ClusterRandom(Selector):
    """Each record draws a uniform number from its own id and the seed; the highest of each bin fill its quota.

    Bins, quotas and output order are ADG's, so the difference to ADG is the score alone and the difference to Random
    the bins alone.
    """

    name = "cluster_random"
    Config = ClusterRandomConfig

    def inputs(self, cell: Mapping[str, Node]) -> dict[str, Node]:
        return {name: cell[name] for name in ("bins", *["answers"] * self.config.matched)}

    def scores(self, data: SelectorData) -> ScoreTable:
        labels = bins_stage.load(data.features["bins"])
        bins = np.array([labels.get(key, -1) for key in data.keys], dtype=np.int64)
        draws = [seeds.child(self.config.seed, "cluster_random", key) for key in data.keys]
        score = np.array(draws, dtype=np.float64) / (2**31 - 1)
        missing = np.flatnonzero(bins < 0).tolist()
        score[missing] = np.nan
        parts = {"bin": bins}
        if self.config.matched:
            lengths = answer_lengths(data.features["answers"], data.keys)
            lengths[missing] = np.nan
            parts |= {"answer_length": lengths, "stratum": strata(lengths, self.config.strata)}
        return ScoreTable(score, parts, dict.fromkeys(missing, "it has no bin: it could not be embedded"))

    def choose(self, data: SelectorData, table: ScoreTable, budget: int) -> np.ndarray:
        rows = np.flatnonzero(table.valid)
        layers = table.parts["stratum"][rows] if self.config.matched else None
        return rows[binwise(table.score[rows], table.parts["bin"][rows], budget, self.config.rule, strata=layers)]

    def may_return_fewer(self) -> bool:
        return self.config.rule == "released"
