"""Intervals cover what they say, tests agree with worked and with library values, and one generator draws it all."""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adg import seeds
from adg.errors import BadInput, BadMeasurement
from adg.evaluation import aggregate, statistics

SIX = ("bbh", "gsm8k", "mmlu", "truthfulqa_mc2", "humaneval", "mbpp")


def draw(*names: str | int) -> np.random.Generator:
    return seeds.generator(0, "test", "statistics", *names)


def zero_one(n: int, share: float, name: str = "scores") -> np.ndarray:
    return (draw(name).random((1, n)) < share).astype(float)


def test_the_interval_of_a_proportion_is_the_normal_one() -> None:
    scores = zero_one(2000, 0.3)
    found = statistics.bootstrap([scores], draw(1))
    error = aggregate.standard_error(scores[0].tolist())
    assert error is not None
    centre, reach = float(scores.mean()), NormalDist().inv_cdf(0.975) * error
    assert (found.low, found.high) == pytest.approx((centre - reach, centre + reach), abs=0.1 * error)


def test_scores_with_many_values_are_resampled_alike() -> None:
    scores = draw("many").random((1, 500))
    found = statistics.bootstrap([scores], draw(2))
    error = aggregate.standard_error(scores[0].tolist())
    assert error is not None and len(np.unique(scores)) > statistics.FEW
    reach = NormalDist().inv_cdf(0.975) * error
    assert (found.low, found.high) == pytest.approx((scores.mean() - reach, scores.mean() + reach), abs=0.15 * error)


def test_intervals_cover_the_truth_as_often_as_they_say() -> None:
    scores = draw("coverage").random((300, 200)) < 0.4
    hits = 0
    for i, row in enumerate(scores):
        found = statistics.bootstrap([row[None].astype(float)], draw("coverage", i), 400)
        hits += found.low <= 0.4 <= found.high
    assert 0.90 <= hits / 300 <= 0.99


def test_several_seeds_widen_the_interval_by_what_they_differ() -> None:
    items = zero_one(400, 0.5)
    same = statistics.bootstrap([np.repeat(items, 3, axis=0)], draw(3))
    apart = np.concatenate([items, np.clip(items + 0.3, 0, 1), np.clip(items - 0.3, 0, 1)])
    wide = statistics.bootstrap([apart], draw(3))
    one = statistics.bootstrap([items], draw(3))
    assert same.high - same.low == pytest.approx(one.high - one.low, rel=0.1)
    assert wide.high - wide.low > 1.5 * (one.high - one.low)
    assert "training variance" in one.caveat and same.caveat == "" and (one.seeds, wide.seeds) == (1, 3)


def test_replicates_of_crossed_seeds_worked_by_hand() -> None:
    """Two seeds with constant scores: a replicate is 0, 1/2 or 1, as often as two fair draws of a seed say."""
    parts = [np.array([[0.0] * 5, [1.0] * 5])]
    weights = statistics.seed_weights(2, draw(4), 20_000)
    values, counts = np.unique(statistics.replicates(parts, weights, draw(5)), return_counts=True)
    assert values == pytest.approx([0, 0.5, 1]) and counts / 20_000 == pytest.approx([0.25, 0.5, 0.25], abs=0.02)


def test_subtasks_are_fixed_and_weigh_by_their_items() -> None:
    parts = [np.ones((1, 30)), np.zeros((1, 10))]
    assert statistics.mean(parts) == 0.75
    assert statistics.bootstrap(parts, draw(6)).low == 0.75 == statistics.bootstrap(parts, draw(6)).high
    pooled = [np.concatenate(parts, axis=1)]
    assert statistics.bootstrap(pooled, draw(6)).low < 0.7


def test_the_average_is_the_suites() -> None:
    tasks = {task: [zero_one(400, 0.1 * (i + 2), task)] for i, task in enumerate(SIX)}
    found = statistics.bootstrap_average(tasks, draw(7))
    centre = aggregate.categories({task: statistics.mean(parts) for task, parts in tasks.items()})["avg"]
    errors = [aggregate.standard_error(parts[0][0].tolist()) or 0 for parts in tasks.values()]
    reach = NormalDist().inv_cdf(0.975) * math.sqrt(sum(e * e for e in errors)) / 6
    assert found is not None and centre is not None
    assert (found.low, found.high) == pytest.approx((centre - reach, centre + reach), abs=0.1 * reach)
    assert statistics.bootstrap_average({"bbh": tasks["bbh"]}, draw(7)) is None


def test_a_single_item_gives_no_interval_and_no_p_value() -> None:
    alone = [np.ones((1, 5)), np.ones((1, 1))]
    assert statistics.bootstrap(alone, draw(12)) is None
    assert statistics.bootstrap_average({"cmmlu": alone}, draw(12)) is None
    entry = statistics.compare({"cmmlu": alone}, draw(12))
    assert (entry["cmmlu"].interval, entry["cmmlu"].p, entry["avg"].p) == (None, None, None)
    assert entry["cmmlu"].difference == 1.0 and entry["cmmlu"].p_exact == pytest.approx(2 / 2**6)


@pytest.mark.parametrize("m", [2, 3, 8])
def test_few_items_that_all_differ_alike_claim_no_more_than_a_sign_test(m: int) -> None:
    """Every replicate equals the difference, so that resampling alone would be certain."""
    entry = statistics.compare({"gsm8k": [np.full((1, m), 0.25)]}, draw(13))["gsm8k"]
    assert entry.p == 2 / 2**m


def test_mcnemar_by_hand() -> None:
    """Five items changed, all for the better: 2 / 2**5."""
    assert statistics.mcnemar([np.array([[1.0] * 5 + [0.0] * 20])]) == pytest.approx(2 / 32)
    assert statistics.mcnemar([np.array([[1.0, -1.0, 0.0]])]) == 1.0
    assert statistics.mcnemar([np.zeros((1, 9))]) == 1.0
    assert statistics.mcnemar([np.array([[0.5, 0.0]])]) is None
    assert statistics.mcnemar([np.zeros((2, 9))]) is None


def test_paired_tests_find_a_difference_and_no_difference() -> None:
    change = draw("change").choice([-1.0, 0.0, 1.0], p=[0.05, 0.8, 0.15], size=(1, 800))
    found = statistics.compare({"gsm8k": [change]}, draw(8))
    assert set(found) == {"gsm8k"}, "no average without the other tasks"
    entry = found["gsm8k"]
    assert entry.difference == pytest.approx(change.mean()) and entry.n == 800
    assert entry.interval.low > 0 and entry.p < 0.001 and entry.p_exact is not None and entry.p_exact < 0.001
    none = statistics.compare({"gsm8k": [change - change]}, draw(8))["gsm8k"]
    assert (none.difference, none.p, none.p_exact) == (0.0, 1.0, 1.0)


def test_p_values_are_uniform_when_nothing_differs() -> None:
    small = 0
    for i in range(200):
        change = draw("null", i).choice([-1.0, 0.0, 1.0], p=[0.15, 0.7, 0.15], size=(1, 150))
        small += statistics.compare({"gsm8k": [change]}, draw("null", i, "test"), 400)["gsm8k"].p <= 0.1
    assert 0.04 <= small / 200 <= 0.17


def test_the_average_is_compared_too() -> None:
    tasks = {task: [np.full((1, 50), 0.0)] for task in SIX} | {"bbh": [np.ones((1, 50))]}
    found = statistics.compare(tasks, draw(9))
    assert found["avg"].difference == pytest.approx(1 / 6) and found["avg"].n == 300
    assert found["avg"].p_exact is None and found["mmlu"].p == 1.0


def test_holm_worked_by_hand() -> None:
    assert statistics.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert statistics.holm([0.5, 0.9]) == [1.0, 1.0]
    assert statistics.holm([]) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_holm_never_lowers_a_value_and_keeps_their_order(values: list[float]) -> None:
    adjusted = statistics.holm(values)
    assert all(value <= new <= 1 for value, new in zip(values, adjusted, strict=True))
    order = sorted(range(len(values)), key=lambda i: values[i])
    assert [adjusted[i] for i in order] == sorted(adjusted)


def test_the_generator_decides_and_no_other_is_touched() -> None:
    state = np.random.get_state()[1].tolist()  # noqa: NPY002
    scores = [zero_one(300, 0.5)]
    first, again, other = (statistics.bootstrap(scores, draw(name)) for name in ("a", "a", "b"))
    assert first == again != other
    assert np.random.get_state()[1].tolist() == state  # noqa: NPY002


@pytest.mark.parametrize(
    "parts", [[], [np.zeros(3)], [np.zeros((1, 0))], [np.zeros((1, 3)), np.zeros((2, 3))]], ids=len
)
def test_scores_that_do_not_fit_are_refused(parts: list[np.ndarray]) -> None:
    with pytest.raises(BadInput):
        statistics.bootstrap(parts, draw(10))


def test_a_score_that_is_no_number_is_refused() -> None:
    with pytest.raises(BadMeasurement, match="not finite"):
        statistics.bootstrap([np.array([[0.0, float("nan")]])], draw(11))
