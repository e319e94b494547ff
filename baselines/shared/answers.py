"""What selectors that rank by the sampled answers alone share: ADG's bins or the whole pool, and who has no score.

Identity: none of its own; the options stand in each selector's config.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from adg.artifacts.artifact import Node
from adg.errors import BadInput
from adg.selection import bins as bins_stage
from adg.selection.contract import ScoreTable, Selector, SelectorData
from adg.selection.quotas import RULES, binwise, top


@dataclass(frozen=True)
class AnswerOptions:
    """Whether the best of each of ADG's bins are chosen, as ADG does, and by which quotas."""

    bins: bool = True
    rule: str = "largest_remainder"

    def __post_init__(self) -> None:
        if self.rule not in RULES:
            raise BadInput(f"selector.rule is {self.rule!r}; expected one of {', '.join(RULES)}")
        if not self.bins and self.rule == "released":
            raise BadInput(
                "selector.rule=released is a rule about bins; with selector.bins=false use largest_remainder"
            )


class AnswerSelector(Selector):
    """Reads a cell's answers and, with ``bins``, its bins; the config is an ``AnswerOptions``."""

    def inputs(self, cell: Mapping[str, Node]) -> dict[str, Node]:
        read = {"answers": cell["answers"]}
        return {**read, "bins": cell["bins"]} if self.config.bins else read

    def table(self, data: SelectorData, rows: Sequence[int], values: np.ndarray) -> ScoreTable:
        """``values`` (m,) as the scores of ``rows`` (m,); the others have none, nor have those without a bin."""
        score = np.full(len(data.records), np.nan)
        score[list(rows)] = values
        missing = dict.fromkeys(sorted(set(range(len(data.records))) - set(rows)), "its answers could not be sampled")
        parts = {}
        if self.config.bins:
            labels = bins_stage.load(data.features["bins"])
            parts["bin"] = np.array([labels.get(key, -1) for key in data.keys], dtype=np.int64)
            for row in np.flatnonzero(parts["bin"] < 0).tolist():
                missing.setdefault(row, "it has no bin: it could not be embedded")
                score[row] = np.nan
        return ScoreTable(score, parts, dict(sorted(missing.items())))

    def choose(self, data: SelectorData, table: ScoreTable, budget: int) -> np.ndarray:
        if not self.config.bins:
            return top(table.score, table.valid, budget)
        rows = np.flatnonzero(table.valid)
        return rows[binwise(table.score[rows], table.parts["bin"][rows], budget, self.config.rule)]

    def may_return_fewer(self) -> bool:
        return self.config.rule == "released"
