"""All data: the whole pool. The one row of the paper's table without the budget."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from adg.selection.contract import ScoreTable, Selector, SelectorData


@dataclass(frozen=True)
class AllConfig:
    """No options."""


class All(Selector):
    """Every record, in canonical id order, whatever the budget."""

    name = "all"
    Config = AllConfig
    whole_pool = True

    def scores(self, data: SelectorData) -> ScoreTable:
        return ScoreTable(np.ones(len(data.records)))
