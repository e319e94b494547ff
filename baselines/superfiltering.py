"""SuperFiltering: IFD by a small model, as a ratio of perplexities (arXiv 2402.00530).

Follows tianyi-lab/Superfiltering at f0764af: gpt2, no template, 1,024 tokens, strictly below 1, the largest first.
Ours where it differs: the budget is a number and not a rate of 52,002, and a failed record is no score instead of 0.
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


@dataclass(frozen=True)
class SuperfilteringConfig(ScorerOptions):
    """Options; the text has no template, so there is none to choose."""

    scorer: str = "auto"  # gpt2, but an embedded backbone scores for itself
    max_tokens: int = 1024  # M
    threshold: float = 1.0  # records must lie strictly below

    def __post_init__(self) -> None:
        if not self.threshold > 0:
            raise BadInput(f"selector.threshold is {self.threshold}; expected a ratio above 0 (official: 1)")


class Superfiltering(Selector):
    """Perplexity of the response after its instruction / perplexity of the response alone; highest below 1 first.

    With a tokenizer that adds no BOS (gpt2) the alone text has no loss for its first token, so a response of one
    token has no score; with one that does, both cover the same tokens (both as in the official code).
    """

    name = "superfiltering"
    Config = SuperfilteringConfig

    def inputs(self, cell: Mapping[str, Node]) -> dict[str, Node]:
        text = layout(self.config.max_tokens)
        return {"losses": losses_stage.by_scorer(cell["pool"], cell["backbone"], text, self.config)}

    def note(self, backbone: Node) -> str:
        return self.config.note(self.name, backbone, "gpt2")

    def scores(self, data: SelectorData) -> ScoreTable:
        losses = losses_stage.load(data.features["losses"], data.keys)
        invalid = losses.invalid()
        with np.errstate(over="ignore"):
            conditioned, alone = np.exp(losses.nll_conditioned), np.exp(losses.nll_alone)
            ratio = np.exp(losses.nll_conditioned - losses.nll_alone)
        ratio[list(invalid)] = np.nan
        limit = self.config.threshold
        invalid |= {int(row): f"IFD not below {limit:g}" for row in np.flatnonzero(ratio >= limit)}
        score = ratio.copy()
        score[list(invalid)] = np.nan
        parts = {
            "ifd_ppl": ratio,
            "ppl_conditioned": conditioned,
            "ppl_alone": alone,
            "tokens_conditioned": losses.tokens_conditioned,
            "tokens_alone": losses.tokens_alone,
        }
        return ScoreTable(score, parts, invalid)


def layout(max_tokens: int = 1024) -> LossesConfig:
    """The text of SuperFiltering: instruction, input and response, a line each."""
    return LossesConfig("none", max_tokens, loss_texts.PROMPTS["none"].slack)
