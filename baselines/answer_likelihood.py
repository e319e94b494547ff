"""How likely the model itself finds the answers that it sampled: is it uncertainty that ADG measures?

A control of this project, in neither paper nor released code. The answers are those that ADG samples; their
log-probabilities are kept while sampling (``sampling.logprobs``), so that no further pass is run.
Identity: the direction and the options of ``AnswerOptions``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from adg.answers import stage as answers_stage
from adg.artifacts.artifact import Node
from adg.errors import BadInput, BadMeasurement, nearest
from adg.selection.contract import ScoreTable, SelectorData
from baselines.shared.answers import AnswerOptions, AnswerSelector

DIRECTIONS = ("low", "high")


@dataclass(frozen=True)
class AnswerLikelihoodConfig(AnswerOptions):
    """``direction``: "low" prefers answers that the model finds unlikely, "high" those that it finds likely.

    ADG prefers answers that lie far apart, and a model whose next token is uncertain samples such answers; so "low" is
    what a plain measure of uncertainty would choose in ADG's place.
    """

    direction: str = "low"  # low | high

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.direction not in DIRECTIONS:
            raise BadInput(
                f"selector.direction is {self.direction!r}{nearest(str(self.direction), list(DIRECTIONS))}; expected "
                f"one of {', '.join(DIRECTIONS)}"
            )


class AnswerLikelihood(AnswerSelector):
    """The records whose K sampled answers have the lowest (or highest) mean log-probability, best of each bin.

    Of an answer: natural log, under the model's own distribution at temperature 1 without top-p or top-k, a mean over
    its sampled tokens (a stop token among them, which was sampled too). Of a record: the mean over its K answers, so
    that a long answer counts as much as a short one. Ties go to the lowest id.
    """

    name = "answer_likelihood"
    Config = AnswerLikelihoodConfig
    reads_logprobs = True

    def inputs(self, cell: Mapping[str, Node]) -> dict[str, Node]:
        if not cell["answers"].config.sampling.logprobs:
            raise BadInput(
                "selector=answer_likelihood reads log-probabilities, which these answers are sampled without; "
                "set sampling.logprobs=true"
            )
        return super().inputs(cell)

    def scores(self, data: SelectorData) -> ScoreTable:
        """Minus the mean log-probability ("low") or that itself ("high"). Raises ``BadMeasurement`` where one is not
        finite."""
        answers = data.features["answers"]
        kept = answers_stage.load_likelihoods(answers)
        rows = [row for row, key in enumerate(data.keys) if key in kept]
        means = np.array([np.mean(kept[data.keys[row]]) for row in rows], dtype=np.float64)
        wrong = [data.keys[row] for row, mean in zip(rows, means, strict=True) if not np.isfinite(mean)]
        if wrong:
            raise BadMeasurement(
                f"{answers.path}/answers.parquet: {len(wrong)} records have a log-probability that is not finite "
                f"(first: record {wrong[0]}); delete the folder and sample again, with another engine.dtype"
            )
        return self.table(data, rows, -means if self.config.direction == "low" else means)
