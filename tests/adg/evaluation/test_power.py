"""Power: the reference's figures, simulation, and refusals."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from adg import seeds
from adg.errors import BadInput
from adg.evaluation import power
from adg.evaluation.power import Noise

ITEMS = {"bbh": 6511, "gsm8k": 1319, "mmlu": 14042, "truthfulqa_mc2": 817, "mbpp": 500, "humaneval": 164}
WEIGHTS = dict.fromkeys(ITEMS, 1 / 6)
HALF = dict.fromkeys(ITEMS, 0.5)


def test_the_error_of_a_difference_by_hand() -> None:
    one = power.item_error({"a": 100}, {"a": 0.5}, {"a": 1.0}, 0.0)
    assert one == pytest.approx(100 * math.sqrt(2 * 0.25 / 100))
    assert power.item_error({"a": 100}, {"a": 0.5}, {"a": 1.0}, 0.75) == pytest.approx(one / 2)
    share = power.item_error({"humaneval": 164}, HALF, {"humaneval": 1 / 6}, 0.0) ** 2
    assert 0.5 < share / power.item_error(ITEMS, HALF, WEIGHTS, 0.0) ** 2 < 0.7, "HumanEval makes most of it"


def test_the_error_is_that_of_simulated_models() -> None:
    """Two models on the same items, correlated through a shared part of each item's score."""
    draw, n, r, p = seeds.generator(0, "power"), 400, 0.6, 0.5
    differences = []
    for _ in range(4000):
        common = draw.random(n) < p
        own = draw.random((2, n)) < p
        shared = draw.random((2, n)) < math.sqrt(r)
        scores = np.where(shared, common, own)
        differences.append(100 * (scores[0].mean() - scores[1].mean()))
    assert np.std(differences) == pytest.approx(power.item_error({"a": n}, {"a": p}, {"a": 1.0}, r), rel=0.05)


@pytest.mark.parametrize("seeds_", [2, 3, 5, 12])
def test_how_often_an_effect_is_seen_is_simulated(seeds_: int) -> None:
    draw = seeds.generator(1, "seen", seeds_)
    effect, spread = 1.2, 0.8
    arms = draw.normal(0, spread, (2, 20_000, seeds_))
    arms[0] += effect
    rejected = stats.ttest_rel(arms[0], arms[1], axis=1).pvalue < 0.05
    assert rejected.mean() == pytest.approx(power.seen(effect, spread, seeds_), rel=0.1)


@pytest.mark.parametrize("count", [1, 2, 3, 5, 12])
@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_the_smallest_difference_is_that_of_simulated_studies(count: int, share: float) -> None:
    """Studies whose intervals are a part of the items and one of the seeds, stretched together, as ``statistics`` makes
    them: the effect that 80 % of them show. ``share`` is that of the items in the variance."""
    items, between = 2 * math.sqrt(share), 2 * math.sqrt(1 - share)
    if count == 1:
        between = 0.0
    found = power.smallest_difference(Noise(items, between, count))
    draw, n = seeds.generator(2, "smallest", count, int(10 * share)), 4000
    away = draw.normal(0, items, n) if items else np.zeros(n)
    reach = np.full(n, 1.959964 * items)
    if between:
        arms = draw.normal(0, between * math.sqrt(count), (n, count))
        away, error = away + arms.mean(axis=1), arms.std(axis=1, ddof=1) / math.sqrt(count)
        known = power.freedom(items, error, count)[:, None]
        replicates = draw.normal(0, 1, (n, 1000)) * error[:, None] + draw.normal(0, 1, (n, 1000)) * items
        replicates *= np.sqrt(known / draw.chisquare(known, (n, 1000)))
        reach = np.quantile(replicates, 0.975, axis=1)
    if found == 0:
        assert (items, between) == (0, 0)
        return
    assert (np.abs(found + away) > reach).mean() == pytest.approx(power.POWER, abs=0.03)
    for factor in (0.9, 1.1):
        often = (np.abs(factor * found + away) > reach).mean()
        assert (often < power.POWER) == (factor < 1), "the simulated figure lies within 10 %"


@pytest.mark.parametrize(
    ("trainings", "least", "most"), [(2, 0.93, 0.985), (3, 0.94, 0.965), (5, 0.945, 0.965), (12, 0.945, 0.96)]
)
def test_whatever_share_the_seeds_have_an_interval_covers_what_it_says(
    trainings: int, least: float, most: float
) -> None:
    """Integrated over what a study takes the spread between seeds for. With f degrees of freedom whatever the items
    add, 99 % would be covered at two seeds, and with Welch and Satterthwaite's 92 % at three."""
    middles, f = (np.arange(400) + 0.5) / 400, trainings - 1
    for share in (0.0, 0.02, 0.1, 0.25, 0.5, 0.75, 0.9, 0.98):
        items, seeds_ = math.sqrt(share), math.sqrt(1 - share)
        estimated = seeds_ * np.sqrt(stats.chi2.ppf(middles, f) / f)
        reach = stats.t.ppf(0.975, power.freedom(items, estimated, trainings)) * np.hypot(items, estimated)
        assert least <= (2 * stats.norm.cdf(reach) - 1).mean() <= most, share
    assert power.freedom(0.0, 1.0, trainings) == f and power.freedom(1.0, 0.0, trainings) == math.inf


@pytest.mark.parametrize(("spread", "normal"), [(0.5, 4), (0.8, 11), (1.2, 23)])
def test_seeds_for_a_point(spread: float, normal: int) -> None:
    """15.7 sigma^2 by the normal distribution; Student's t of pairs needs two or three more."""
    needed = power.seeds_needed(1.0, spread)
    assert normal <= needed <= normal + 3
    assert power.seen(1.0, spread, needed) >= power.POWER > power.seen(1.0, spread, needed - 1)


def test_one_seed_shows_nothing_and_nonsense_is_refused() -> None:
    assert power.seen(100.0, 0.1, 1) == 0.0
    for effect, spread in ((0.0, 1.0), (1.0, 0.0), (-1.0, 1.0), (float("nan"), 1.0)):
        with pytest.raises(BadInput, match="above 0"):
            power.seeds_needed(effect, spread)
    with pytest.raises(BadInput, match="more than 10,000"):
        power.seeds_needed(0.001, 5.0)
    with pytest.raises(BadInput, match="correlation"):
        power.item_error({"a": 1}, {"a": 0.5}, {"a": 1.0}, 1.0)
    with pytest.raises(BadInput, match="accuracy"):
        power.item_error({"a": 1}, {"a": 50.0}, {"a": 1.0}, 0.5)


def test_a_large_effect_at_few_seeds_has_a_power_too() -> None:
    known = [power.seen(effect, 1.0, seeds) for seeds in (2, 3, 12) for effect in (1, 3, 5, 8, 20, 1000)]
    assert all(0 < one <= 1 for one in known), "scipy's noncentral t is NaN for some of these"
    assert power.seeds_needed(8.0, 1.0) == 3, "0.47 at two seeds"
