"""Shifts of task types: interval, p and correction by hand, and how often the interval holds what it must."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
from scipy import stats

from adg import seeds
from adg.errors import BadInput
from adg.evaluation.statistics import difference_interval
from adg.tasktypes.shifts import shifts


def test_the_interval_of_a_difference_is_newcombes() -> None:
    """Newcombe 1998, table II, method 10: 56/70 against 48/80, 9/10 against 3/10, 10/10 against 0/10."""
    assert difference_interval(56, 70, 48, 80) == pytest.approx((0.0524, 0.3339), abs=5e-5)
    assert difference_interval(9, 10, 3, 10) == pytest.approx((0.1705, 0.8090), abs=5e-5)
    assert difference_interval(10, 10, 0, 10) == pytest.approx((0.6075, 1.0), abs=5e-5)
    for wrong in ((1, 0, 1, 2), (3, 2, 1, 2), (1, 2, -1, 2)):
        with pytest.raises(BadInput, match="parts of two groups"):
            difference_interval(*wrong)


def test_a_shift_by_hand() -> None:
    # 10 of 40 chosen: math 6 of them and 6 of the 30 others, writing 4 and 24
    found = shifts({"math": 12, "writing": 28, "coding": 0}, {"math": 6, "writing": 4})
    math_, writing = found["math"], found["writing"]
    assert (math_.pool, math_.chosen, math_.value) == (12, 6, pytest.approx(0.6 - 0.3))
    z = stats.norm.ppf(0.975)

    def wilson(k: int, n: int) -> tuple[float, float]:
        centre, half = k + z**2 / 2, z * math.sqrt(k * (n - k) / n + z**2 / 4)
        return (centre - half) / (n + z**2), (centre + half) / (n + z**2)

    (a, b), (c, d) = wilson(6, 10), wilson(6, 30)
    low = 0.4 - math.sqrt((0.6 - a) ** 2 + (d - 0.2) ** 2)
    high = 0.4 + math.sqrt((b - 0.6) ** 2 + (0.2 - c) ** 2)
    assert math_.interval == pytest.approx((0.75 * low, 0.75 * high)), "a quarter of the pool was chosen"
    assert writing.interval == pytest.approx((-0.75 * high, -0.75 * low)), "the other way round"
    assert math_.lower is not None and math_.interval is not None
    assert math_.interval.low < math_.lower < math_.value < math_.upper < math_.interval.high  # type: ignore[operator]
    exact = sum(stats.hypergeom.pmf(k, 40, 12, 10) for k in range(11) if stats.hypergeom.pmf(k, 40, 12, 10) <= 0.0260)
    assert math_.p == pytest.approx(exact) and stats.hypergeom.pmf(6, 40, 12, 10) < 0.0260
    assert math_.corrected == pytest.approx(3 * exact), "Holm's, of three types"
    assert found["coding"].value == 0 and found["coding"].p == pytest.approx(1.0)


def test_of_the_whole_pool_nothing_is_shifted_and_of_nothing_nothing_is_said() -> None:
    whole = shifts({"math": 3, "writing": 5}, {"math": 3, "writing": 5})
    assert [shift.value for shift in whole.values()] == [0, 0] and whole["math"].interval is None
    with pytest.raises(BadInput, match="0 of 8 records"):
        shifts({"math": 3, "writing": 5}, {})
    with pytest.raises(BadInput, match="more than there are of type math"):
        shifts({"math": 3, "writing": 5}, {"math": 4})


@pytest.mark.parametrize(("n", "taken", "p", "q"), [(200, 50, 0.3, 0.3), (400, 60, 0.35, 0.2), (1000, 300, 0.08, 0.12)])
def test_the_interval_holds_the_true_shift_as_often_as_it_says(n: int, taken: int, p: float, q: float) -> None:
    """Pools drawn 4,000 times: of the chosen a share p has the type, of the others q."""
    draw = seeds.generator(0, "shifts", n)
    drawn = Counter(
        zip(draw.binomial(taken, p, 4000).tolist(), draw.binomial(n - taken, q, 4000).tolist(), strict=True)
    )
    held = 0
    for (one, other), times in drawn.items():
        found = shifts({"it": one + other, "else": n - one - other}, {"it": one, "else": taken - one})["it"].interval
        held += times * (found is not None and found.low <= (1 - taken / n) * (p - q) <= found.high)
    assert 0.93 <= held / 4000 <= 0.97


def test_a_random_choice_is_rarely_called_shifted() -> None:
    """Fisher's p, corrected: of random choices 1 in 20 at most have any type below 0.05."""
    draw = seeds.generator(1, "shifts")
    kinds = np.repeat([f"type {i}" for i in range(10)], [40, 30, 30, 25, 20, 15, 15, 10, 10, 5])
    pool = {name: int(count) for name, count in zip(*np.unique(kinds, return_counts=True), strict=True)}
    called = 0
    for _ in range(60):
        names, counts = np.unique(draw.choice(kinds, 50, replace=False), return_counts=True)
        found = shifts(pool, {str(name): int(count) for name, count in zip(names, counts, strict=True)})
        called += min(shift.corrected for shift in found.values() if shift.corrected is not None) < 0.05
    assert called <= 6  # 3 are to be expected, and 7 or more with a chance of 3 %
