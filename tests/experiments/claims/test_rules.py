"""The rule on hand-made effects, and what its words may say at which scale."""

from __future__ import annotations

import pytest

from adg.errors import BadInput
from experiments.claims import rules
from experiments.claims.rules import INCONCLUSIVE, NOT_REPRODUCED, NOT_RUN, REPRODUCED, Claim, Effect, judge

RULE, CLAIMS, DIGEST = rules.load()


def effect(value: float, low: float, high: float, lower: float, published: float | None = 2.0) -> Effect:
    return Effect("a", value, low, high, lower, published, smallest=1.0, seeds=(3, 3), items=100)


@pytest.mark.parametrize(
    ("found", "verdict"),
    [
        (effect(2.0, 0.5, 3.5, 0.7), REPRODUCED),
        (effect(0.9, 0.3, 1.5, 0.4), INCONCLUSIVE),  # above 0 but less than half of what was published
        (effect(0.9, 0.3, 1.5, 0.4, published=None), REPRODUCED),
        (effect(0.2, -0.1, 0.49, 0.0), NOT_REPRODUCED),
        (effect(0.2, -0.1, 0.51, 0.0), INCONCLUSIVE),
        (effect(1.5, -0.1, 3.1, 0.0), INCONCLUSIVE),
        (effect(-3.0, -4.0, -2.0, -3.9), NOT_REPRODUCED),
        (Effect("a", missing="x is missing at pool"), NOT_RUN),
        (Effect("a", 3.0, published=1.0), INCONCLUSIVE),  # no interval: nothing is known of the spread
    ],
)
def test_better(found: Effect, verdict: str) -> None:
    assert judge(found, RULE) == verdict


@pytest.mark.parametrize(
    ("low", "high", "lower", "verdict"),
    [
        (-0.4, 0.4, -0.3, REPRODUCED),
        (-0.9, 0.4, -0.8, REPRODUCED),
        (-1.5, 0.4, -1.2, INCONCLUSIVE),
        (-3, -1.1, -2.9, NOT_REPRODUCED),
    ],
)
def test_no_worse(low: float, high: float, lower: float, verdict: str) -> None:
    assert judge(effect((low + high) / 2, low, high, lower), RULE, "no_worse") == verdict


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [(-0.4, 0.4, REPRODUCED), (-0.6, 0.4, INCONCLUSIVE), (0.6, 2, NOT_REPRODUCED), (-2, -0.6, NOT_REPRODUCED)],
)
def test_flat(low: float, high: float, verdict: str) -> None:
    assert judge(effect((low + high) / 2, low, high, low), RULE, "flat") == verdict


def test_every_part_must_hold() -> None:
    assert rules.together([REPRODUCED, REPRODUCED]) == REPRODUCED
    assert rules.together([REPRODUCED, INCONCLUSIVE]) == INCONCLUSIVE
    assert rules.together([REPRODUCED, NOT_RUN, INCONCLUSIVE]) == NOT_RUN
    assert rules.together([NOT_RUN, NOT_REPRODUCED]) == NOT_REPRODUCED, "one that fails settles it"
    assert rules.together([]) == NOT_RUN


def test_a_scaled_down_study_reproduces_nothing() -> None:
    small = {"scaled down": ["budget 12"], "deviation": ["LoRA"]}
    for verdict in (REPRODUCED, NOT_REPRODUCED):
        assert "reproduced" not in rules.in_words(verdict, small)
        assert rules.in_words(verdict, {"deviation": ["LoRA"]}) == f"{verdict} under a declared deviation"
        assert rules.in_words(verdict, {}) == verdict
    for verdict in (INCONCLUSIVE, NOT_RUN):
        assert rules.in_words(verdict, small) == verdict


def test_the_file_of_claims_is_whole() -> None:
    assert [claim.id for claim in CLAIMS] == [*(f"C{i}" for i in range(1, 8)), "C7b", *(f"C{i}" for i in range(8, 13))]
    assert len(DIGEST) == 64 and 0 < RULE.delta < 0.81, "below the smallest published margin"
    with pytest.raises(BadInput, match="expected one of better"):
        Claim("C0", "x", "y", "main", (({}, {}),), kind="worse")
    with pytest.raises(BadInput, match="one of pairs of cells, shares of task types, what is to be measured"):
        Claim("C0", "x", "y", "main")
