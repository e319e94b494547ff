"""The rule that turns an estimated effect into a verdict, and the file of claims that it stands in.

A verdict depends on numbers and on ``claims.yaml`` alone, whose hash every report prints.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from adg.artifacts.files import sha256_file
from adg.errors import BadInput
from adg.tasktypes.labels import TYPES

FILE = Path(__file__).with_name("claims.yaml")
KINDS = ("better", "no_worse", "flat")
REPRODUCED, NOT_REPRODUCED, INCONCLUSIVE, NOT_RUN = "reproduced", "not reproduced", "inconclusive", "not run"
SCALED = {REPRODUCED: "supports at this scale", NOT_REPRODUCED: "contradicts at this scale"}
DEVIATION = " under a declared deviation"


@dataclass(frozen=True)
class Rule:
    """``level`` and ``one_sided`` are probabilities, ``share``, ``probes`` and ``floor`` fractions, ``delta`` and
    ``transfer`` points."""

    level: float
    one_sided: float
    share: float
    delta: float
    transfer: float
    probes: float
    floor: float
    power: float


@dataclass(frozen=True)
class Claim:
    """One claim. ``pairs`` of filters are what is compared, or ``shares`` of task types (see ``claims.yaml``);
    ``measured`` names what is needed instead where no comparison of cells can judge it."""

    id: str
    says: str
    where: str
    experiment: str = ""
    pairs: tuple[tuple[Any, Any], ...] = ()
    averages: tuple[str, ...] = ("avg",)
    kind: str = "better"
    shares: Mapping[str, str] = field(default_factory=dict)
    measured: str = ""

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise BadInput(f"{FILE.name}: {self.id} has kind {self.kind!r}; expected one of {', '.join(KINDS)}")
        if sum(map(bool, (self.pairs, self.shares, self.measured))) != 1:
            raise BadInput(
                f"{FILE.name}: {self.id} needs one of pairs of cells, shares of task types, what is to be measured"
            )
        if not (set(self.shares) <= set(TYPES) and set(self.shares.values()) <= {"up", "down"}):
            raise BadInput(f"{FILE.name}: {self.id} has shares {dict(self.shares)}; expected task types, up or down")


@dataclass(frozen=True)
class Effect:
    """One difference, in points: estimate, two-sided interval, one-sided lower bound; None where a cell is missing.

    ``published`` is the same difference in the paper's figures. ``missing`` says what is not there, ``unseen`` why
    nothing can be said of what is.
    """

    label: str
    value: float | None = None
    low: float | None = None
    high: float | None = None
    lower: float | None = None
    published: float | None = None
    smallest: float | None = None  # difference that as noisy a comparison shows in ``power`` of studies
    seeds: tuple[int, int] = (0, 0)  # of either side
    items: int = 0
    missing: str = ""
    unseen: str = ""
    cells: tuple[str, ...] = ()  # fingerprints


@functools.cache
def load() -> tuple[Rule, tuple[Claim, ...], str]:
    """The rule, the claims in order, and the SHA-256 of the file that holds them."""
    content = yaml.safe_load(FILE.read_text(encoding="utf-8"))
    claims = []
    for name, entry in content["claims"].items():
        pairs = tuple((ours, theirs) for ours, theirs in entry.pop("pairs", ()))
        averages = tuple(entry.pop("averages", ("avg",)))
        claims.append(Claim(id=name, pairs=pairs, averages=averages, **entry))
    return Rule(**content["rule"]), tuple(claims), sha256_file(FILE)


def judge(effect: Effect, rule: Rule, kind: str = "better") -> str:
    """The verdict on one effect.

    ``better``: reproduced where the one-sided lower bound is above 0 and the effect is at least ``share`` of the
    published one (where one was published); not reproduced where the interval's upper end is below ``delta``.
    ``no_worse``: reproduced where the lower bound is above ``-transfer``, not reproduced where the upper end is below
    it. ``flat``: reproduced where the whole interval lies within ``delta`` of 0, not reproduced where all of it lies
    outside. Anything else is inconclusive, and without an interval nothing can be said.
    """
    if effect.missing:
        return NOT_RUN
    if effect.value is None or effect.low is None or effect.high is None or effect.lower is None:
        return INCONCLUSIVE
    if kind == "flat":
        if -rule.delta < effect.low and effect.high < rule.delta:
            return REPRODUCED
        return NOT_REPRODUCED if effect.low > rule.delta or effect.high < -rule.delta else INCONCLUSIVE
    if kind == "no_worse":
        if effect.lower > -rule.transfer:
            return REPRODUCED
        return NOT_REPRODUCED if effect.high < -rule.transfer else INCONCLUSIVE
    enough = effect.published is None or effect.value >= rule.share * effect.published
    if effect.lower > 0 and enough:
        return REPRODUCED
    return NOT_REPRODUCED if effect.high < rule.delta else INCONCLUSIVE


def together(verdicts: Sequence[str]) -> str:
    """The verdict on a claim of which every part must hold (intersection-union: no correction is needed)."""
    for verdict in (NOT_REPRODUCED, NOT_RUN, INCONCLUSIVE):
        if verdict in verdicts:
            return verdict
    return REPRODUCED if verdicts else NOT_RUN


def in_words(verdict: str, fidelity: Mapping[str, Sequence[str]]) -> str:
    """The verdict as a report says it: only the paper's own study, undeviated, reproduces anything."""
    if fidelity.get("scaled down"):
        return SCALED.get(verdict, verdict)
    if fidelity.get("deviation") and verdict in (REPRODUCED, NOT_REPRODUCED):
        return verdict + DEVIATION
    return verdict
