"""Perplexity of the response given its instruction: the lowest, the middle or the highest.

No repository is the official one for instruction data, so it is defined here: the conditioned perplexity of
SuperFiltering, whose losses it shares when both name the same scorer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from adg.artifacts.artifact import Node
from adg.errors import BadInput
from adg.selection.contract import ScoreTable, Selector, SelectorData
from baselines.shared import loss_texts
from baselines.shared import losses as losses_stage
from baselines.shared.loss_texts import LossesConfig
from baselines.shared.scorer_stage import ScorerOptions

PARTS = ("lowest", "middle", "highest")


@dataclass(frozen=True)
class PerplexityConfig(ScorerOptions):
    """Options."""

    part: str = "middle"  # lowest | middle | highest
    prompt: str = "none"  # none (SuperFiltering's) | alpaca, wiz, vicuna (IFD's)
    max_tokens: int = 1024  # of prompt and response together

    def __post_init__(self) -> None:
        for name, allowed in (("part", PARTS), ("prompt", ("none", "alpaca", "wiz", "vicuna"))):
            if getattr(self, name) not in allowed:
                raise BadInput(f"selector.{name} is {getattr(self, name)!r}; expected one of {', '.join(allowed)}")


class Perplexity(Selector):
    """exp(mean loss of the response after its prompt).

    ``lowest`` and ``highest`` begin with the most extreme. ``middle`` ranks from the lowest, ties to the lowest id,
    and takes the window that leaves floor((usable - budget) / 2) records below it.
    """

    name = "perplexity"
    Config = PerplexityConfig

    def inputs(self, cell: Mapping[str, Node]) -> dict[str, Node]:
        c = self.config
        slack = loss_texts.PROMPTS["none"].slack if c.prompt == "none" else None
        text = LossesConfig(c.prompt, c.max_tokens, slack)
        return {"losses": losses_stage.by_scorer(cell["pool"], cell["backbone"], text, c)}

    def scores(self, data: SelectorData) -> ScoreTable:
        losses = losses_stage.load(data.features["losses"], data.keys)
        invalid = {row: reason for row, reason in enumerate(losses.invalid_conditioned) if reason}
        with np.errstate(over="ignore"):
            score = np.exp(losses.nll_conditioned)
        for row in map(int, np.flatnonzero(np.isinf(score))):
            invalid[row] = "its perplexity exceeds the largest number"
            score[row] = np.nan
        parts = {"nll_conditioned": losses.nll_conditioned, "tokens_conditioned": losses.tokens_conditioned}
        return ScoreTable(score, parts, invalid)

    def choose(self, data: SelectorData, table: ScoreTable, budget: int) -> np.ndarray:
        rows = np.flatnonzero(table.valid)
        sign = -1 if self.config.part == "highest" else 1
        ranked = rows[np.argsort(sign * table.score[rows], kind="stable")]
        start = (len(ranked) - budget) // 2 if self.config.part == "middle" else 0
        return ranked[start : start + budget]
