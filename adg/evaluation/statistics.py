"""How sure a score or a difference of scores is: bootstrap intervals, paired tests, correction for many comparisons.

Everything is computed from the items' scores; every draw comes from the ``Generator`` that is passed in. Scores are
fractions, arrays are (seeds, items): row s holds the scores of the same items by the model of seed s.

Resampling a subtask with a single item changes nothing, and would make anything look certain: then there is no
interval and no p-value, as there is no standard error.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from adg.errors import BadInput, BadMeasurement
from adg.evaluation import aggregate

LEVEL = 0.95
RESAMPLES = 10_000
FEW = 64  # distinct columns up to which whole resamples are drawn as counts of these
ONE_SEED = "one seed: training variance is left out"
BLOCK = 4_000_000  # draws held in memory at a time

Parts = Sequence[np.ndarray]  # the subtasks of a task, (seeds, items) each; resampled one by one, since they are fixed


@dataclass(frozen=True)
class Interval:
    """A percentile interval. ``seeds``: how many trained models it rests on; with one it covers the choice of items
    only and leaves out what another training seed would change."""

    low: float
    high: float
    seeds: int
    level: float = LEVEL

    @property
    def caveat(self) -> str:
        """What the interval does not cover, or ""."""
        return ONE_SEED if self.seeds == 1 else ""


@dataclass(frozen=True)
class Comparison:
    """Two cells on the same items: ``difference`` of their means, its interval and two-sided p-values.

    ``p`` is that of the paired bootstrap (None, like the interval, where a subtask has a single item), ``p_exact``
    McNemar's exact one (None unless scores are 0 or 1 and there is one seed), ``n`` the number of items.
    """

    difference: float
    interval: Interval | None
    p: float | None
    p_exact: float | None
    n: int


def check(parts: Parts) -> int:
    """The number of seeds of (seeds, items) arrays. Raises ``BadMeasurement`` where a score is not finite and
    ``BadInput`` where shapes do not fit."""
    for part in parts:
        if part.ndim != 2 or 0 in part.shape or part.shape[0] != parts[0].shape[0]:
            raise BadInput(f"scores have the shapes {[p.shape for p in parts]}; expected (seeds, items) each, with the "
                           f"same number of seeds and at least one item")  # fmt: skip
        if not np.isfinite(part).all():
            raise BadMeasurement("a score is not finite; evaluate that cell again")
    if not parts:
        raise BadInput("there are no scores to resample")
    return int(parts[0].shape[0])


def enough(parts: Parts) -> bool:
    """Whether every part has the two items without which resampling it says nothing."""
    return all(part.shape[1] > 1 for part in parts)


def mean(parts: Parts) -> float:
    """The mean over seeds of the mean over all items."""
    check(parts)
    return math.fsum(float(part.sum()) for part in parts) / sum(part.size for part in parts)


def seed_weights(seeds: int, draw: np.random.Generator, resamples: int = RESAMPLES) -> np.ndarray:
    """How much each seed weighs in each resample, (resamples, seeds), rows summing to 1; all 1 for one seed.

    Drawn once and used for all tasks, since it is the same models that are drawn.
    """
    if seeds == 1:
        return np.ones((resamples, 1))
    return draw.multinomial(seeds, [1 / seeds] * seeds, size=resamples) / seeds


def replicates(parts: Parts, weights: np.ndarray, draw: np.random.Generator) -> np.ndarray:
    """Bootstrap replicates of the mean, (resamples,): items drawn with replacement within each part, seeds weighted by
    ``weights`` (resamples, seeds).

    Items and seeds are crossed, so an item that is drawn is drawn for every seed (Owen 2007, the pigeonhole
    bootstrap). With few seeds this understates the variance between seeds by (S - 1) / S.
    """
    check(parts)
    total = np.zeros(len(weights))
    for part in parts:
        n = part.shape[1]
        columns, counts = np.unique(part, axis=1, return_counts=True)
        if columns.shape[1] <= FEW:  # drawing n items is drawing how often each distinct column comes up
            drawn = draw.multinomial(n, counts / n, size=len(weights))
            total += np.einsum("rs,sc,rc->r", weights, columns, drawn, optimize=True)
            continue
        step = max(1, BLOCK // n)
        for start in range(0, len(weights), step):
            block = weights[start : start + step]
            chosen = draw.integers(n, size=(len(block), n))
            total[start : start + step] += sum(block[:, s] * part[s][chosen].sum(axis=1) for s in range(len(part)))
    return total / sum(part.shape[1] for part in parts)


def interval(values: np.ndarray, seeds: int, level: float = LEVEL) -> Interval:
    """The percentile interval of bootstrap replicates (resamples,)."""
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(low), float(high), seeds, level)


def bootstrap(
    parts: Parts, draw: np.random.Generator, resamples: int = RESAMPLES, level: float = LEVEL
) -> Interval | None:  # fmt: skip
    """Interval of a task's score; over items, and over seeds too where there are several. None where a part has a
    single item."""
    seeds = check(parts)
    if not enough(parts):
        return None
    return interval(replicates(parts, seed_weights(seeds, draw, resamples), draw), seeds, level)


def bootstrap_average(
    tasks: Mapping[str, Parts], draw: np.random.Generator, resamples: int = RESAMPLES, level: float = LEVEL
) -> Interval | None:
    """Interval of the suite's average (``aggregate.categories``); None where a task that belongs to it is missing or a
    part of one has a single item."""
    if aggregate.weights(list(tasks)) is None:
        return None
    every = [part for parts in tasks.values() for part in parts]
    seeds = check(every)
    if not enough(every):
        return None
    weights = seed_weights(seeds, draw, resamples)
    values = _average({task: replicates(parts, weights, draw) for task, parts in tasks.items()})
    assert values is not None
    return interval(values, seeds, level)


def compare(
    tasks: Mapping[str, Parts], draw: np.random.Generator, resamples: int = RESAMPLES, level: float = LEVEL
) -> dict[str, Comparison]:
    """Each task's comparison, and that of the average under "avg" where it is defined. ``tasks`` hold differences of
    scores, item by item and seed by seed (ours minus theirs).

    The paired bootstrap recentres: p is the share of replicates at least as far from the difference as the difference
    is from 0 (Efron and Tibshirani 1993, section 16.4), counting the data itself as one. With few items that differ
    it would claim too much, so it is never below 2 / 2^m, what a sign test of m such items gives at best.
    """
    found: dict[str, Comparison] = {}
    if not tasks:
        return found
    every = [part for parts in tasks.values() for part in parts]
    weights = seed_weights(check(every), draw, resamples)
    values = {task: replicates(parts, weights, draw) for task, parts in tasks.items()}
    for task, parts in tasks.items():
        found[task] = _comparison(mean(parts), values[task], parts, level, mcnemar(parts))
    average = _average(values)
    if average is not None:
        centre = _average({task: np.array([found[task].difference]) for task in tasks})
        assert centre is not None
        found["avg"] = _comparison(float(centre[0]), average, every, level, None)
    return found


def _comparison(difference: float, values: np.ndarray, parts: Parts, level: float, p_exact: float | None) -> Comparison:
    n = sum(part.shape[1] for part in parts)
    if not enough(parts):
        return Comparison(difference, None, None, p_exact, n)
    further = int((np.abs(values - difference) >= abs(difference) - 1e-12).sum())
    differing = sum(int(part.any(axis=0).sum()) for part in parts)
    p = max((1 + further) / (1 + len(values)), min(1.0, 2.0 ** (1 - differing)))
    return Comparison(difference, interval(values, len(parts[0]), level), p, p_exact, n)


def mcnemar(parts: Parts) -> float | None:
    """McNemar's exact two-sided p-value (binomial) of differences of 0/1 scores; None with other scores, or with
    several seeds, whose answers to one item are not independent."""
    seeds = check(parts)
    every = np.concatenate([part.ravel() for part in parts])
    if seeds > 1 or not np.isin(every, (-1.0, 0.0, 1.0)).all():
        return None
    better, worse = int((every > 0).sum()), int((every < 0).sum())
    if better + worse == 0:
        return 1.0
    from scipy.stats import binomtest

    return float(binomtest(better, better + worse, 0.5).pvalue)


def holm(values: Sequence[float]) -> list[float]:
    """p-values adjusted for their number, in their order (Holm 1979): each holds for the whole family at once."""
    order = sorted(range(len(values)), key=lambda i: values[i])
    adjusted, highest = [0.0] * len(values), 0.0
    for rank, i in enumerate(order):
        highest = max(highest, min(1.0, (len(values) - rank) * values[i]))
        adjusted[i] = highest
    return adjusted


def _average(tasks: Mapping[str, np.ndarray]) -> np.ndarray | None:
    """The suite's average of tasks' values, (k,) each, element by element; None where a task is missing."""
    weights = aggregate.weights(list(tasks))
    return None if weights is None else sum((w * tasks[task] for task, w in weights.items()), np.zeros(1))
