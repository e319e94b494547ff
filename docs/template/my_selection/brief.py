"""Brief answers first: the fewest words, from a least number on."""

from dataclasses import dataclass

import numpy as np

from adg import BadInput
from adg.selection.contract import ScoreTable, Selector, SelectorData


@dataclass(frozen=True)
class BriefConfig:
    least: int = 1  # words that an answer must have

    def __post_init__(self) -> None:
        if self.least < 1:
            raise BadInput(f"selector.least is {self.least}; expected a number of words from 1 on")


class Brief(Selector):
    """The answers with the fewest words; ties to the lowest id."""

    name = "brief"
    version = 1  # raise it when the results change
    Config = BriefConfig

    def scores(self, data: SelectorData) -> ScoreTable:
        words = np.array([len(record.output.split()) for record in data.records], dtype=np.float64)
        short = np.flatnonzero(words < self.config.least)
        words[short] = np.nan
        return ScoreTable(-words, invalid={int(row): f"fewer words than {self.config.least}" for row in short})
