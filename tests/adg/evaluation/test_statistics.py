"""Intervals cover what they say, tests agree with worked and with library values, and one generator draws it all."""

from __future__ import annotations

import math
from collections.abc import Iterator
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adg import seeds
from adg.errors import BadInput, BadMeasurement
from adg.evaluation import aggregate, statistics
from adg.evaluation.statistics import Against

SIX = ("bbh", "gsm8k", "mmlu", "truthfulqa_mc2", "humaneval", "mbpp")


def draw(*names: str | int) -> np.random.Generator:
    return seeds.generator(0, "test", "statistics", *names)


def zero_one(n: int, share: float, name: str = "scores") -> np.ndarray:
    return (draw(name).random((1, n)) < share).astype(float)


def of(parts: statistics.Parts, draw: np.random.Generator, resamples: int = 10_000) -> statistics.Interval | None:
    """The interval of one task, which is all of its suite."""
    return statistics.bootstrap_average({"own": parts}, draw, resamples)


def covers(parts: statistics.Parts, truth: float, draw: np.random.Generator) -> bool:
    found = of(parts, draw, 400)
    return found is not None and found.low <= truth <= found.high


def test_the_interval_of_a_proportion_is_the_normal_one() -> None:
    scores = zero_one(2000, 0.3)
    found = of([scores], draw(1))
    error = aggregate.standard_error(scores[0].tolist())
    assert error is not None
    centre, reach = float(scores.mean()), NormalDist().inv_cdf(0.975) * error
    assert (found.low, found.high) == pytest.approx((centre - reach, centre + reach), abs=0.1 * error)


def test_scores_with_many_values_are_resampled_alike() -> None:
    scores = draw("many").random((1, 500))
    found = of([scores], draw(2))
    error = aggregate.standard_error(scores[0].tolist())
    assert error is not None and len(np.unique(scores)) > statistics.FEW
    reach = NormalDist().inv_cdf(0.975) * error
    assert (found.low, found.high) == pytest.approx((scores.mean() - reach, scores.mean() + reach), abs=0.15 * error)


def test_many_values_are_drawn_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    scores = [draw("blocks").random((1, 100))]
    whole = statistics.resample({"own": scores}, draw(14), 1000)["own"].replicates
    monkeypatch.setattr(statistics, "BLOCK", 30_000)
    parted = statistics.resample({"own": scores}, draw(14), 1000)["own"].replicates
    assert whole is not None and parted is not None and parted.tolist() == whole.tolist()


@pytest.mark.parametrize(
    "parts",
    [[[0, 1], [1, 0]], [[0, 1, 1], [0, 0, 1]], [[0.1, 0.5, 0.6, 0.7], [0, 1, 0, 0], [1, 0, 0, 1]]],
    ids=len,
)
def test_replicates_vary_by_the_pooled_standard_error(parts: list[list[float]]) -> None:
    """Parts of one size, where lm-eval's pooled variance is the stratified one."""
    expected = aggregate.pooled_standard_error([aggregate.standard_error(p) for p in parts], [len(p) for p in parts])
    found = statistics.resample({"own": [np.array([part], float) for part in parts]}, draw(15), 50_000)["own"]
    assert found.replicates is not None and found.replicates.std() == pytest.approx(expected, rel=0.02)
    assert found.replicates.mean() == pytest.approx(found.value, abs=0.01)


def test_intervals_cover_the_truth_as_often_as_they_say() -> None:
    scores = draw("coverage").random((300, 200)) < 0.4
    hits = sum(covers([row[None].astype(float)], 0.4, draw("coverage", i)) for i, row in enumerate(scores))
    assert 0.90 <= hits / 300 <= 0.99


def test_many_subtasks_of_two_items_are_covered_too() -> None:
    scores = draw("pairs").random((300, 57, 1, 2)) < 0.4
    hits = sum(covers(list(parts.astype(float)), 0.4, draw("pairs", i)) for i, parts in enumerate(scores))
    assert 0.90 <= hits / 300 <= 0.99


def seeded(n: int, seeds: int) -> Iterator[np.ndarray]:
    """``n`` sets of (seeds, 100) scores with mean 0, whose seeds differ by more than the choice of items does."""
    values = draw("seeded", seeds)
    for _ in range(n):
        items = values.normal(0, 0.2, (1, 100)) + values.normal(0, 0.2, (seeds, 100))
        yield items + values.normal(0, 0.2, (seeds, 1))


@pytest.mark.parametrize("count", [2, 3, 5])
def test_few_seeds_are_covered_and_claim_no_difference(count: int) -> None:
    hits = wrong = 0
    for i, scores in enumerate(seeded(300, count)):
        entry = statistics.compare({"own": [scores]}, draw("seeded", count, i), 400)["own"]
        assert entry.interval is not None and entry.p is not None
        hits += entry.interval.low <= 0 <= entry.interval.high
        wrong += entry.p <= 0.05
    assert hits / 300 >= 0.92 and wrong / 300 <= 0.07


def test_the_average_over_tasks_is_covered_with_few_seeds() -> None:
    """The models differ in all tasks at once, so that tasks do not average it out."""
    hits = 0
    for i, scores in enumerate(seeded(300, 3)):
        tasks = {task: [part] for task, part in zip(SIX, np.split(scores[:, :96], 6, axis=1), strict=True)}
        found = statistics.bootstrap_average(tasks, draw("average", i), 400)
        hits += found is not None and found.low <= 0 <= found.high
    assert hits / 300 >= 0.92


def test_several_seeds_widen_the_interval_by_what_they_differ() -> None:
    items = zero_one(400, 0.5)
    same = of([np.repeat(items, 3, axis=0)], draw(3))
    apart = np.concatenate([items, np.clip(items + 0.3, 0, 1), np.clip(items - 0.3, 0, 1)])
    wide = of([apart], draw(3))
    one = of([items], draw(3))
    assert same.high - same.low == pytest.approx(one.high - one.low, rel=0.1)
    assert wide.high - wide.low > 1.5 * (one.high - one.low)


@pytest.mark.parametrize(("count", "t"), [(2, 12.706), (3, 4.303), (5, 2.776)])
def test_the_part_of_the_seeds_is_a_t_interval(count: int, t: float) -> None:
    """Seeds with constant scores: the items add nothing."""
    values = np.arange(count, dtype=float)
    found = of([np.repeat(values[:, None], 5, axis=1)], draw(4), 100_000)
    centre, reach = values.mean(), t * values.std(ddof=1) / math.sqrt(count)
    assert found == pytest.approx((centre - reach, centre + reach), abs=0.1 * reach)


def test_the_seeds_of_an_average_are_those_of_the_weighted_sum() -> None:
    """One seed is better at half of the tasks and the other at the other half: the average does not depend on it."""
    better, worse = np.repeat([[1.0], [0.0]], 5, axis=1), np.repeat([[0.0], [1.0]], 5, axis=1)
    tasks = {task: [better if i % 2 else worse] for i, task in enumerate(SIX)}
    found = statistics.compare(tasks, draw(16))
    assert found["bbh"].interval is not None and found["bbh"].interval.low < 0
    assert found["avg"].interval is None and found["avg"].difference == 0.5


def test_subtasks_are_fixed_and_weigh_by_their_items() -> None:
    parts = [np.ones((1, 30)), np.zeros((1, 10))]
    found = statistics.resample({"own": parts}, draw(6), 100)["own"]
    assert found.value == 0.75 and found.replicates == pytest.approx(np.full(100, 0.75))
    assert found.interval is None, "nothing varies within a subtask"
    assert of([np.concatenate(parts, axis=1)], draw(6)).low < 0.7


def test_the_average_is_the_suites() -> None:
    tasks = {task: [zero_one(400, 0.1 * (i + 2), task)] for i, task in enumerate(SIX)}
    found = statistics.bootstrap_average(tasks, draw(7))
    centre = aggregate.categories({task: float(parts[0].mean()) for task, parts in tasks.items()})["avg"]
    errors = [aggregate.standard_error(parts[0][0].tolist()) or 0 for parts in tasks.values()]
    reach = NormalDist().inv_cdf(0.975) * math.sqrt(sum(e * e for e in errors)) / 6
    assert found is not None and centre is not None
    assert (found.low, found.high) == pytest.approx((centre - reach, centre + reach), abs=0.1 * reach)
    assert statistics.bootstrap_average({"bbh": tasks["bbh"]}, draw(7)) is None


def test_a_task_outside_the_categories_has_no_part_in_the_average() -> None:
    tasks = {task: [zero_one(50, 0.5, task)] for task in SIX}
    more = {"arc": [np.ones((1, 1))], **tasks}
    assert statistics.bootstrap_average(more, draw(17)) == statistics.bootstrap_average(tasks, draw(17)) is not None
    found = statistics.compare(more, draw(17))
    assert found["arc"].interval is None and found["avg"].interval is not None and found["avg"].n == 300


def test_a_single_item_gives_no_interval_and_no_p_value() -> None:
    alone = [np.ones((1, 5)), np.ones((1, 1))]
    assert of(alone, draw(12)) is None
    entry = statistics.compare({"cmmlu": alone}, draw(12))
    assert (entry["cmmlu"].interval, entry["cmmlu"].p, entry["avg"].p) == (None, None, None)
    assert entry["cmmlu"].difference == 1.0 and entry["cmmlu"].p_exact == pytest.approx(2 / 2**6)


@pytest.mark.parametrize("m", [2, 3, 8])
def test_few_items_that_all_differ_alike_claim_no_more_than_a_sign_test(m: int) -> None:
    """Every replicate equals the difference, so that resampling alone would be certain: there is no interval."""
    entry = statistics.compare({"gsm8k": [np.full((1, m), 0.3)]}, draw(13))["gsm8k"]
    assert entry.p == 2 / 2**m and entry.interval is None
    seeds = statistics.compare({"gsm8k": [np.full((3, m), 0.3)]}, draw(13))["gsm8k"]
    assert seeds.p == 2 / 2**m and seeds.interval is None


def test_mcnemar_by_hand() -> None:
    """Five items changed, all for the better: 2 / 2**5."""
    assert statistics.mcnemar([np.array([[1.0] * 5 + [0.0] * 20])]) == pytest.approx(2 / 32)
    assert statistics.mcnemar([np.array([[1.0, -1.0, 0.0]])]) == 1.0
    assert statistics.mcnemar([np.zeros((1, 9))]) == 1.0
    assert statistics.mcnemar([np.array([[0.5, 0.0]])]) is None
    assert statistics.mcnemar([np.zeros((2, 9))]) is None


def test_mcnemar_is_the_binomial_test() -> None:
    from scipy.stats import binomtest

    for better in range(40):
        for worse in range(40):
            moved = np.array([[1.0] * better + [-1.0] * worse + [0.0]])
            expected = binomtest(better, better + worse, 0.5).pvalue if better + worse else 1.0
            assert statistics.mcnemar([moved]) == pytest.approx(expected, rel=1e-12)


def test_mcnemar_takes_no_means_over_seeds() -> None:
    """All seeds agree, so that their means are 0 and 1 too."""
    ours, theirs = {"gsm8k": [np.ones((3, 8))]}, Against({"gsm8k": [np.eye(1, 8)]})
    assert statistics.compare(ours, draw(18), against=theirs)["gsm8k"].p_exact is None
    one = statistics.compare({"gsm8k": [np.ones((1, 8))]}, draw(18), against=theirs)["gsm8k"]
    assert one.p_exact == pytest.approx(2 / 2**7)


def test_paired_tests_find_a_difference_and_no_difference() -> None:
    change = draw("change").choice([-1.0, 0.0, 1.0], p=[0.05, 0.8, 0.15], size=(1, 800))
    found = statistics.compare({"gsm8k": [change]}, draw(8))
    assert set(found) == {"gsm8k"}, "no average without the other tasks"
    entry = found["gsm8k"]
    assert entry.difference == pytest.approx(change.mean()) and entry.n == 800
    assert entry.interval.low > 0 and entry.p < 0.001 and entry.p_exact is not None and entry.p_exact < 0.001
    none = statistics.compare({"gsm8k": [change - change]}, draw(8))["gsm8k"]
    assert (none.difference, none.interval, none.p, none.p_exact) == (0.0, None, 1.0, 1.0)


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
    first, again, other = (of(scores, draw(name)) for name in ("a", "a", "b"))
    assert first == again != other
    assert np.random.get_state()[1].tolist() == state  # noqa: NPY002


@pytest.mark.parametrize(
    "parts", [[], [np.zeros(3)], [np.zeros((1, 0))], [np.zeros((1, 3)), np.zeros((2, 3))]], ids=len
)
def test_scores_that_do_not_fit_are_refused(parts: list[np.ndarray]) -> None:
    with pytest.raises(BadInput):
        of(parts, draw(10))


def test_a_score_that_is_no_number_is_refused() -> None:
    with pytest.raises(BadMeasurement, match="not finite"):
        of([np.array([[0.0, float("nan")]])], draw(11))


def test_wilsons_interval_is_scipys() -> None:
    from scipy.stats import binomtest

    for level in (0.9, statistics.LEVEL):
        for k, n in ((0, 1), (1, 1), (1, 2), (2, 7), (6, 7), (7, 7), (0, 24), (11, 24), (301, 817), (817, 817)):
            ends = binomtest(k, n).proportion_ci(level, method="wilson")
            assert statistics.wilson(k, n, level) == (ends.low, ends.high)


def test_students_interval_is_scipys() -> None:
    from scipy.stats import t

    for n in (2, 5, 24, 300):
        reach = float(t.ppf((1 + statistics.LEVEL) / 2, n - 1)) * 1e-3
        assert statistics.score_interval(0.4, 1e-3, n, binary=False) == (0.4 - reach, 0.4 + reach)
