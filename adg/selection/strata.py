"""Strata of answer length: records whose answers are about as long, so that length cannot explain a choice among them.

A control of this project, in neither paper nor released code. Identity: the options, in the selector's own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from adg.answers import stage as answers_stage
from adg.artifacts.artifact import UNLESS_DEFAULT, Artifact
from adg.errors import BadInput, nearest

MATCHES = ("none", "length")
STRATA = 5  # remove nine tenths of what one covariate explains (Cochran 1968, Biometrics 24:295)


@dataclass(frozen=True)
class MatchOptions:
    """Options of a selector that chooses within strata; its config inherits them and calls ``check_match``."""

    match: str = field(default="none", metadata={"identity": UNLESS_DEFAULT})  # none | length
    strata: int = field(default=STRATA, metadata={"identity": UNLESS_DEFAULT})  # quantiles of the answers' length

    def check_match(self, rule: str) -> None:
        """Raise ``BadInput`` for options that do not fit together."""
        if self.match not in MATCHES:
            near = nearest(str(self.match), MATCHES)
            raise BadInput(f"selector.match is {self.match!r}{near}; expected one of {', '.join(MATCHES)}")
        if self.strata < 2:
            raise BadInput(f"selector.strata is {self.strata}; expected 2 or more")
        if self.match == "none" and self.strata != STRATA:
            raise BadInput("selector.strata is of selector.match=length alone; leave it out")
        if self.match != "none" and rule == "released":
            raise BadInput(
                "selector.rule=released knows no strata; with selector.match=length use selector.rule=largest_remainder"
            )

    @property
    def matched(self) -> bool:
        """Whether the choice is made within strata."""
        return self.match != "none"


def answer_lengths(answers: Artifact, keys: Sequence[str], count: int | None = None) -> np.ndarray:
    """Mean characters of the first ``count`` answers (None: of all) of each record, (n,); NaN where it has none.

    Characters, not tokens: the unit of the outputs and instructions that they are compared with, and different also
    where sampling stopped every answer at the same number of tokens.
    """
    sampled = answers_stage.load(answers)
    return np.array([_mean(sampled.get(key, [])[:count]) for key in keys], dtype=np.float64)


def _mean(texts: Sequence[str]) -> float:
    return float(np.mean([len(text) for text in texts])) if texts else float("nan")


def strata(lengths: np.ndarray, count: int) -> np.ndarray:
    """The stratum of each record, (n,) int64 from 0 (shortest): between the ``count``-quantiles of ``lengths`` (n,).

    A record at an edge belongs to the lower stratum, so that equal lengths share one; with many equal ones some strata
    stay empty. A record without a length (NaN) has -1.
    """
    known = np.isfinite(lengths)
    result = np.full(len(lengths), -1, dtype=np.int64)
    if known.any():
        edges = np.quantile(lengths[known], np.arange(1, count) / count)
        result[known] = np.searchsorted(edges, lengths[known], side="left")
    return result
