"""What a study can see: the smallest difference of averages, and how many seeds a difference needs.

Points of percent throughout. Nothing here bears identity: it is arithmetic on numbers of items, accuracies and spreads.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from statistics import NormalDist

from adg.errors import BadInput

LEVEL, POWER = 0.95, 0.8  # two-sided level of the test, and how often the effect is to be seen
MOST_SEEDS = 10_000


def item_error(
    items: Mapping[str, int], accuracy: Mapping[str, float], weights: Mapping[str, float], correlation: float
) -> float:
    """Standard error (points) of the difference of two models' weighted averages that items alone cause.

    Binomial: each task's difference of means has the variance 2 p (1 - p) (1 - r) / n, with ``accuracy`` p as a
    fraction, n ``items`` and ``correlation`` r of the two models' scores on the same item (0: other items).
    Raises ``BadInput`` for a correlation outside [0, 1) or an accuracy outside [0, 1].
    """
    if not 0 <= correlation < 1:
        raise BadInput(f"the correlation of items is {correlation}; expected 0 or more and below 1")
    for task in weights:
        if not 0 <= accuracy[task] <= 1 or items[task] < 1:
            raise BadInput(f"{task}: accuracy {accuracy[task]} on {items[task]} items; expected a fraction, and items")
    variance = sum(
        weight**2 * 2 * accuracy[task] * (1 - accuracy[task]) * (1 - correlation) / items[task]
        for task, weight in weights.items()
    )
    return 100 * math.sqrt(variance)


def smallest_effect(error: float, level: float = LEVEL, power: float = POWER) -> float:
    """The smallest effect that a normal estimate with this standard error shows with ``power`` at two-sided ``level``,
    in the unit of ``error``."""
    normal = NormalDist()
    return (normal.inv_cdf((1 + level) / 2) + normal.inv_cdf(power)) * error


def seen(effect: float, spread: float, seeds: int, level: float = LEVEL) -> float:
    """How often Student's two-sample test of two arms of ``seeds`` trainings each shows ``effect``, where the average
    varies by ``spread`` (standard deviation between seeds); the same items in both arms, so items add nothing."""
    from scipy import stats

    if seeds < 2:
        return 0.0  # one training says nothing of how much trainings vary
    freedom = 2 * seeds - 2
    limit = stats.t.ppf((1 + level) / 2, freedom)
    away = effect / (spread * math.sqrt(2 / seeds))
    return float(stats.nct.sf(limit, freedom, away) + stats.nct.cdf(-limit, freedom, away))


def seeds_needed(effect: float, spread: float, level: float = LEVEL, power: float = POWER) -> int:
    """The fewest seeds an arm with which ``effect`` is seen with ``power``. Raises ``BadInput`` for an effect or a
    spread that is not above 0, or where more than 10,000 were needed."""
    if not (effect > 0 and spread > 0):
        raise BadInput(f"effect {effect} and spread {spread}; expected both above 0")
    low, high = 2, 2
    while seen(effect, spread, high, level) < power:
        low, high = high + 1, 2 * high
        if high > MOST_SEEDS:
            raise BadInput(f"a difference of {effect:g} at a spread of {spread:g} needs more than {MOST_SEEDS:,} seeds")
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if seen(effect, spread, middle, level) >= power else (middle + 1, high)
    return low
