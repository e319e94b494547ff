"""What a study can see: the smallest difference of averages, and how many seeds a difference needs.

Points of percent, unless a function names none. Nothing here bears identity: it is arithmetic on numbers of items,
accuracies and spreads.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np

from adg.errors import BadInput

LEVEL, POWER = 0.95, 0.8  # two-sided level of the test, and how often the effect is to be seen
MOST_SEEDS = 10_000
QUANTILES = 200  # of a distribution that is averaged over
MANY = 1e6  # degrees of freedom from which t is taken for normal
STEPS = 50  # halvings of a bracket


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


class Noise(NamedTuple):
    """The standard errors of a difference, in any unit: what the choice of items causes, and what that of the seeds of
    so many ``trainings`` does."""

    items: float
    seeds: float
    trainings: int


def freedom(items: float, seeds: Any, trainings: int) -> Any:
    """Degrees of freedom of a difference with these standard errors (``seeds`` may be an array); inf where seeds add
    nothing.

    f (V / S)^p with f = ``trainings`` - 1, the whole variance V and that of the seeds S: f where items add nothing.
    Welch and Satterthwaite take p = 2, with which 95 % intervals cover 92 to 95 % at three seeds and 87 to 95 % at two,
    since S is estimated from so few. p = 1 covers 94 to 96 % from three seeds on, and p = 1/2 at two 93 to 98 %,
    whatever the share of the items (by numerical integration, held by a test).
    """
    variance = np.square(seeds)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        share = np.where(variance > 0, (items**2 + variance) / variance, np.inf)
    return np.maximum(trainings - 1, 1) * share ** (1.0 if trainings > 2 else 0.5)


def smallest_difference(noise: Noise, level: float = LEVEL, power: float = POWER) -> float:
    """The smallest difference, in the unit of ``noise``, that a study shows with ``power`` at two-sided ``level`` where
    its intervals are made as in ``statistics``.

    Such an interval reaches as far as Student's t with ``freedom`` degrees of freedom times both errors together, the
    second as the study estimates it, which varies with chi-squared. With one seed it is left out.
    """
    items, seeds, trainings = noise
    if trainings < 2 or seeds == 0:
        return smallest_effect(items, level, power)
    from scipy import special  # scipy.stats takes a plan half a second to import

    middles = (np.arange(QUANTILES) + 0.5) / QUANTILES
    estimated = seeds * np.sqrt(2 * special.gammaincinv((trainings - 1) / 2, middles) / (trainings - 1))  # chi-squared
    known = freedom(items, estimated, trainings)
    reach = special.stdtrit(known, (1 + level) / 2) * np.hypot(items, estimated)
    total = math.hypot(items, seeds)

    def shown(effect: np.ndarray) -> np.ndarray:
        often = special.ndtr((effect[:, None] - reach) / total) + special.ndtr((-effect[:, None] - reach) / total)
        return often.mean(axis=1) >= power

    return float(_bisect(shown, np.zeros(1), np.array([reach.max() + 3 * total]))[0])


def _bisect(enough: Callable[[np.ndarray], np.ndarray], low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Where ``enough`` turns true between ``low`` and ``high``, place by place."""
    for _ in range(STEPS):
        middle = (low + high) / 2
        reached = enough(middle)
        low, high = np.where(reached, low, middle), np.where(reached, middle, high)
    return high


def seen(effect: float, spread: float, seeds: int, level: float = LEVEL) -> float:
    """How often Student's test of ``seeds`` pairs of trainings shows ``effect``, where the average varies by ``spread``
    (standard deviation between seeds); the same items in both arms, so items add nothing."""
    from scipy import special  # scipy.stats takes a plan half a second to import

    if seeds < 2:
        return 0.0  # one training says nothing of how much trainings vary
    freedom = seeds - 1
    limit = special.stdtrit(freedom, (1 + level) / 2)
    away = effect / (spread * math.sqrt(2 / seeds))
    # the square of Student's t is an F; scipy's noncentral t itself gives NaN for large effects at few seeds
    return float(1 - special.ncfdtr(1, freedom, away**2, limit**2))


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
