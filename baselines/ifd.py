"""IFD: how much harder a response is alone than after its instruction (Cherry LLM, arXiv 2308.12032).

Follows tianyi-lab/Cherry_LLM at 01fac8d: the ratio of two mean losses under the backbone itself, records above 1
left out, the largest taken. The authors use the plain base model since LLaMA-2; the paper's pre-experienced model is
an option (``baselines/experience.py``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from adg.artifacts.artifact import Node
from adg.errors import BadInput
from adg.options import elsewhere
from adg.selection.contract import ScoreTable, Selector, SelectorData
from adg.selection.quotas import top
from baselines.shared import experience, loss_texts
from baselines.shared import losses as losses_stage
from baselines.shared.experience import ExperienceConfig
from baselines.shared.loss_texts import LossesConfig
from baselines.shared.scorer_stage import ScorerOptions
from finetune.config import FinetuneConfig

VARIANTS = ("corrected", "released", "released_vic")
EXPERIENCE, TUNED = "in the experience", "in the tuned backbone"  # artifacts that options identify


@dataclass(frozen=True)
class IfdConfig(ScorerOptions):
    """Options. ``variant`` changes results only at ties, in the order and for some tokenizers:

    - ``corrected`` (ours): the alone text keeps the very response tokens that the conditioned text keeps, ties go to
      the lowest id, highest IFD first.
    - ``released``: the first generation of the official scripts. The alone text is cut with the constant of LLaMA-1/2
      (4, vicuna 6), ties go to the highest id, output in pool order. Prompts alpaca only: its wiz prompt drops the
      input in one script and not in the other.
      An input of blanks counts as none, as everywhere here.
    - ``released_vic``: the later ``_vic`` scripts. The constant too, but ties and order as ours.
    """

    prompt: str = "alpaca"  # alpaca | wiz | vicuna
    max_tokens: int = 512  # M
    variant: str = "corrected"
    allow_above_one: bool = False  # admit IFD > 1 after all others, nearest to 1 first, where the budget needs them
    # Score with the backbone after a brief training on a few records of every cluster. What follows says how; it
    # identifies the model that gives the losses, and so nothing while this is off.
    pre_experience: bool = False
    pre_clusters: int = elsewhere(100, EXPERIENCE)
    pre_per_cluster: int = elsewhere(10, EXPERIENCE)
    pre_percentiles: tuple[float, float] = elsewhere((25.0, 75.0), EXPERIENCE)
    pre_epochs: int = elsewhere(1, EXPERIENCE)  # in place of the recipe's
    pre_seed: int = elsewhere(0, EXPERIENCE)  # of the clustering
    pre_finetune: Any = elsewhere(None, TUNED, FinetuneConfig)  # the recipe

    def __post_init__(self) -> None:
        for name, allowed in (("prompt", ("alpaca", "wiz", "vicuna")), ("variant", VARIANTS)):
            if getattr(self, name) not in allowed:
                raise BadInput(f"selector.{name} is {getattr(self, name)!r}; expected one of {', '.join(allowed)}")
        if self.variant == "released" and self.prompt != "alpaca":
            raise BadInput(f"selector.variant=released has prompt alpaca only, not {self.prompt}; use released_vic")
        if self.variant != "corrected" and self.allow_above_one:
            raise BadInput(
                "selector.allow_above_one belongs to selector.variant=corrected; the released code never "
                "takes a record above 1"
            )
        if self.pre_experience and (self.scorer != "backbone" or self.scorer_path is not None):
            raise BadInput(
                "selector.pre_experience is true, but the losses are another model's (selector.scorer, "
                "selector.scorer_path); the backbone is what is trained, so expected selector.scorer=backbone"
            )
        if len(self.pre_percentiles) != 2:
            raise BadInput(f"selector.pre_percentiles is {list(self.pre_percentiles)}; expected two, the lower first")
        if self.pre_experience:
            _ = self.experience, self.recipe  # wrong settings are refused now

    @property
    def experience(self) -> ExperienceConfig:
        """How the records of the brief training are drawn."""
        low, high = self.pre_percentiles
        return ExperienceConfig(self.prompt, self.pre_clusters, self.pre_per_cluster, low, high, self.pre_seed)

    @property
    def recipe(self) -> FinetuneConfig:
        """How the backbone is trained on them."""
        return FinetuneConfig(**{**(self.pre_finetune or {}), "epochs": self.pre_epochs})


class Ifd(Selector):
    """IFD = mean loss of the response after its prompt / mean loss of the response alone; highest first, at most 1."""

    name = "ifd"
    Config = IfdConfig

    def inputs(self, cell: Mapping[str, Node]) -> dict[str, Node]:
        c, pool, model = self.config, cell["pool"], cell["backbone"]
        slack = None if c.variant == "corrected" else loss_texts.PROMPTS[c.prompt].slack
        if c.pre_experience:
            model = experience.experienced(pool, model, c.experience, c.recipe)
        return {"losses": losses_stage.by_scorer(pool, model, LossesConfig(c.prompt, c.max_tokens, slack), c)}

    def note(self, backbone: Node) -> str:
        return self.config.note(self.name, backbone, "the 7B model of the original")

    def scores(self, data: SelectorData) -> ScoreTable:
        losses = losses_stage.load(data.features["losses"], data.keys)
        invalid = losses.invalid()
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            ratio = losses.nll_conditioned / losses.nll_alone
        ratio[list(invalid)] = np.nan
        for row in map(int, np.flatnonzero(~np.isfinite(ratio))):
            invalid.setdefault(row, "the loss of the response alone is 0")
        if not self.config.allow_above_one:
            above = "IFD above 1, read as a response that does not match"
            if self.config.variant == "corrected":
                above += " (selector.allow_above_one=true admits it)"
            invalid |= {int(row): above for row in np.flatnonzero((ratio > 1) & np.isfinite(ratio))}
        score = ratio.copy()
        score[list(invalid)] = np.nan
        parts = {
            "ifd": ratio,
            "nll_conditioned": losses.nll_conditioned,
            "nll_alone": losses.nll_alone,
            "tokens_conditioned": losses.tokens_conditioned,
            "tokens_alone": losses.tokens_alone,
        }
        return ScoreTable(score, parts, invalid)

    def choose(self, data: SelectorData, table: ScoreTable, budget: int) -> np.ndarray:
        rows = np.flatnonzero(table.valid)
        if self.config.variant == "released":
            ranked = rows[np.argsort(table.score[rows], kind="stable")]  # the last are taken: ties to the highest id
            return np.sort(ranked[len(ranked) - budget :])
        if self.config.allow_above_one:
            above = table.score[rows] > 1
            return rows[np.lexsort((np.where(above, 1, -1) * table.score[rows], above))[:budget]]
        return top(table.score, table.valid, budget)
