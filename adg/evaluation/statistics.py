"""How sure a score or a difference of scores is: bootstrap intervals, paired tests, correction for many comparisons.

Everything is computed from the items' scores; every draw comes from the ``Generator`` that is passed in. Scores are
fractions, arrays are (seeds, items): row s holds the scores of the same items by the model of seed s.

The bootstrap is hierarchical over seeds and items. A replicate of a statistic (a task's mean, or the suite's average)
is the statistic plus two parts, each with the variance of what it stands for, and both stretched together:

- items: within each subtask as many items as it has are drawn with replacement, the same for all seeds, and their mean
  over seeds is taken. How far the subtask's mean moved is stretched by sqrt(n / (n - 1)), since drawing n of n items
  alone understates the variance by (n - 1) / n, by half with two items (Rao and Wu 1988).
- seeds: the standard error of the statistic's S values, one a seed, times a normal draw. The models are the same for
  all tasks, and so is the draw. With one seed this part is missing: what another training would change is left out.
- the stretch makes Student's t of the normal, with S - 1 degrees of freedom where only seeds vary and more the more
  items add (``power.freedom``): from two to five seeds it is little known how much training varies.

How differently the seeds answer the same items is part of how much the seeds vary, so the part of the items is shrunk
by what of its variance that makes up (the residual mean square of a crossed analysis of variance).
Items say little where there are few: with some twenty or fewer in all, intervals are too narrow. With two seeds they
are too wide where both vary (up to 98 % in place of 95 %).

Two cells of other seeds, or of another number of them, are held against each other as two samples: the spread between
seeds is pooled over both (Student's two-sample t), so that a cell of one seed is taken to vary as the other does. One
that was not trained is the same at every seed, and adds nothing.

A subtask with a single item cannot be resampled, and would make anything look certain: then there is no interval and
no p-value, as there is no standard error. Where all replicates are equal there is no interval either.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np

from adg.errors import BadInput, BadMeasurement
from adg.evaluation import aggregate, power

LEVEL = 0.95  # of every interval
RESAMPLES = 10_000
FEW = 64  # distinct scores up to which a resample is drawn as counts of these
ONE_SEED = "one seed: training variance is left out"
BLOCK = 4_000_000  # draws held in memory at a time
ROUNDING = 1e-12  # up to which two replicates are equal

Parts = Sequence[np.ndarray]  # the subtasks of a task, (seeds, items) each; resampled one by one, since they are fixed


class Interval(NamedTuple):
    """The ends of an interval at ``LEVEL``."""

    low: float
    high: float


def score_interval(value: float, stderr: float | None, n: int, binary: bool) -> Interval | None:
    """Interval of a task's score over its ``n`` items, between 0 and 1; ``binary``: an item scores 0 or 1.

    A proportion has Wilson's score interval, which also holds at 0 and 1, where the standard error is 0 and says
    nothing (Wilson 1927; Brown, Cai and DasGupta 2001). Items of several subtasks count as one sample, which is rather
    too wide. Another mean has Student's; None where its items are all alike, or there is only one.
    """
    right = round(value * n)
    if binary and abs(value * n - right) < 1e-6:
        return wilson(right, n, LEVEL)
    if n < 2 or stderr is None or stderr <= ROUNDING:
        return None
    from scipy import special

    reach = float(special.stdtrit(n - 1, (1 + LEVEL) / 2)) * stderr
    return Interval(max(0.0, value - reach), min(1.0, value + reach))


def wilson(k: int, n: int, level: float) -> Interval:
    """Wilson's score interval of the proportion k/n (Wilson 1927), as Newcombe (1998) writes it: the ends that
    ``scipy.stats.binomtest`` gives, without that package, which takes longer to import than all else of a report."""
    from scipy import special

    p, z = k / n, float(special.ndtri(0.5 + 0.5 * level))
    whole = 2 * (n + z**2)
    middle, reach = (2 * n * p + z**2) / whole, z / whole * math.sqrt(4 * n * p * (1 - p) + z**2)
    return Interval(0.0 if k == 0 else middle - reach, 1.0 if k == n else middle + reach)


def difference_interval(one: int, of: int, other: int, of_other: int, level: float = LEVEL) -> Interval:
    """Interval of the difference one/of - other/of_other of two independent proportions: Newcombe's hybrid of Wilson's
    score intervals (Newcombe 1998, Statistics in Medicine 17:873, method 10), between -1 and 1.

    Raises ``BadInput`` for a group of none, or more than all of it.
    """
    if not (0 <= one <= of and 0 <= other <= of_other and of and of_other):
        raise BadInput(f"{one} of {of} and {other} of {of_other}: expected parts of two groups that hold something")
    p, q = one / of, other / of_other
    ends = [wilson(k, n, level) for k, n in ((one, of), (other, of_other))]
    low = p - q - math.hypot(p - ends[0].low, ends[1].high - q)
    return Interval(float(low), float(p - q + math.hypot(ends[0].high - p, q - ends[1].low)))


@dataclass(frozen=True)
class Resampled:
    """A statistic: its ``value``, what it is made of, and its bootstrap replicates, (resamples,); None where a part
    has a single item. ``noise`` is what these are drawn with."""

    value: float
    parts: Parts
    replicates: np.ndarray | None
    noise: power.Noise

    @property
    def interval(self) -> Interval | None:
        """None without replicates, and where they are all equal."""
        if self.replicates is None:
            return None
        low, high = np.quantile(self.replicates, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
        return Interval(float(low), float(high)) if high - low > ROUNDING else None


@dataclass(frozen=True)
class Against:
    """The scores of the cell that another is held against, with seeds of its own; ``fixed``: it was not trained."""

    tasks: Mapping[str, Parts]
    fixed: bool = False


@dataclass(frozen=True)
class Comparison:
    """Two cells on the same items: ``difference`` of their means, its interval and two-sided p-values.

    ``interval`` is None where a subtask has a single item or all replicates are equal (every item changed alike), ``p``
    (of the paired bootstrap) only in the first case. ``p_exact`` is McNemar's exact one (None unless scores are 0 or 1
    and there is one seed), ``n`` the number of items. ``noise`` is what the interval is made of, ``replicates``
    (resamples,) its draws (both None as that).
    """

    difference: float
    interval: Interval | None
    p: float | None
    p_exact: float | None
    n: int
    noise: power.Noise | None = None
    replicates: np.ndarray | None = field(default=None, compare=False, repr=False)

    @property
    def smallest(self) -> float | None:
        """The smallest difference that as noisy a comparison shows in ``power.POWER`` of studies; None as ``noise``."""
        return None if self.noise is None else power.smallest_difference(self.noise, LEVEL)


def check(parts: Parts) -> int:
    """The number of seeds of (seeds, items) arrays. Raises ``BadMeasurement`` where a score is not finite and
    ``BadInput`` where shapes do not fit."""
    for part in parts:
        if part.ndim != 2 or 0 in part.shape or part.shape[0] != parts[0].shape[0]:
            raise BadInput(
                f"scores have the shapes {[p.shape for p in parts]}; expected (seeds, items) each, with the "
                f"same number of seeds and at least one item"
            )
        if not np.isfinite(part).all():
            raise BadMeasurement("a score is not finite; evaluate that cell again")
    if not parts:
        raise BadInput("there are no scores to resample; expected a (seeds, items) array for each subtask")
    return int(parts[0].shape[0])


def resample(
    tasks: Mapping[str, Parts],
    draw: np.random.Generator,
    resamples: int = RESAMPLES,
    weights: Mapping[str, float] | None = None,
    against: Against | None = None,
) -> dict[str, Resampled]:
    """Each task's mean, and under "avg" the average in which tasks have these ``weights`` (None: the suite's own,
    ``aggregate.weights``) where all of its tasks are there; with ``against`` how far they lie above that cell's.

    Raises as :func:`check`, which holds for all tasks of a cell together, and ``BadInput`` where items differ.
    """
    arms = [tasks, *([against.tasks] if against else [])]
    counts = [check([part for parts in arm.values() for part in parts]) for arm in arms]
    sizes = [{task: [part.shape[1] for part in parts] for task, parts in arm.items()} for arm in arms]
    if sizes[0] != sizes[-1]:
        raise BadInput("cells with other tasks or items cannot be held against each other; evaluate both alike")
    trained = counts[:1] if against and against.fixed else counts
    freedom, share = sum(trained) - len(trained), sum(1 / count for count in trained)
    drawn = draw.standard_normal(resamples) if freedom else np.zeros(resamples)
    by_seed = [{task: _by_seed(parts) for task, parts in arm.items()} for arm in arms]
    moved = {
        task: _moved([[arm[task][place] for arm in arms] for place in range(len(parts))], draw, resamples, share)
        for task, parts in tasks.items()
        if all(part.shape[1] > 1 for part in parts)
    }
    statistics = {task: {task: 1.0} for task in tasks}
    average = aggregate.weights(list(tasks)) if weights is None else weights
    if average is not None and set(average) <= set(tasks):
        statistics["avg"] = dict(average)
    resampled = {}
    for name, members in statistics.items():
        values = [np.sum([weight * arm[task] for task, weight in members.items()], axis=0) for arm in by_seed]
        value = float(values[0].mean() - (values[1].mean() if against else 0.0))
        squares = sum(float(((of - of.mean()) ** 2).sum()) for of in values[: len(trained)])
        error = math.sqrt(squares / freedom * share) if freedom else 0.0
        replicates, moved_by = None, 0.0
        if all(task in moved for task in members):
            items = np.sum([weight * moved[task] for task, weight in members.items()], axis=0)
            moved_by = float(items.std(ddof=1))
            known = power.freedom(moved_by, error, freedom + 1)
            stretch = np.sqrt(known / draw.chisquare(known, resamples)) if known < power.MANY else 1.0
            replicates = value + stretch * (items + error * drawn)
        parts = [part for task in members for part in tasks[task]]
        if against:
            others = [part for task in members for part in against.tasks[task]]
            parts = [_means(both)[None] for both in zip(parts, others, strict=True)]
        resampled[name] = Resampled(value, parts, replicates, power.Noise(moved_by, error, freedom + 1))
    return resampled


def _by_seed(parts: Parts) -> np.ndarray:
    """The mean over all items of a task for each seed, (seeds,)."""
    return np.sum([part.sum(axis=1) for part in parts], axis=0) / sum(part.shape[1] for part in parts)


def _means(arms: Parts) -> np.ndarray:
    """The mean over seeds of a part's items, (items,); of two cells the difference."""
    return np.asarray(arms[0].mean(axis=0) - (arms[1].mean(axis=0) if len(arms) > 1 else 0.0))


def _residual(arms: Parts) -> float:
    """The mean square of what is left of a part's scores beyond seeds and items; 0 without several seeds."""
    several = [arm for arm in arms if arm.shape[0] > 1]
    left = [a - a.mean(axis=0) - a.mean(axis=1, keepdims=True) + a.mean() for a in several]
    freedom = sum((a.shape[0] - 1) * (a.shape[1] - 1) for a in several)
    return sum(float((a**2).sum()) for a in left) / freedom if freedom else 0.0


def _moved(parts: Sequence[Parts], draw: np.random.Generator, resamples: int, share: float) -> np.ndarray:
    """How far a task's mean moves when the items of each part are drawn again, (resamples,); two items a part at
    least. A part is the scores of one cell or of two, and ``share`` of its residual variance belongs to the seeds."""
    total, varies, counted = np.zeros(resamples), 0.0, 0.0
    for arms in parts:
        scores = _means(arms)
        varies += len(scores) * float(scores.var(ddof=1))
        counted += len(scores) * share * _residual(arms)
        n = len(scores)
        values, counts = np.unique(scores, return_counts=True)
        if len(values) <= FEW:  # drawing n items is drawing how often each distinct score comes up
            sums = draw.multinomial(n, counts / n, size=resamples) @ values
        else:
            step = max(1, BLOCK // n)
            sums = np.concatenate(
                [
                    scores[draw.integers(n, size=(min(step, resamples - start), n))].sum(axis=1)
                    for start in range(0, resamples, step)
                ]
            )
        total += (sums - scores.sum()) * math.sqrt(n / (n - 1))
    kept = math.sqrt(max(0.0, 1 - counted / varies)) if varies else 1.0
    return kept * total / sum(arms[0].shape[1] for arms in parts)


def bootstrap_average(
    tasks: Mapping[str, Parts], draw: np.random.Generator, resamples: int = RESAMPLES
) -> Interval | None:
    """Interval of the suite's average (``aggregate.categories``). None where a task that belongs to it is missing, a
    part of one has a single item, or every replicate is the same. Tasks outside the categories do not matter."""
    weights = aggregate.weights(list(tasks))
    if weights is None:
        return None
    return resample({task: tasks[task] for task in weights}, draw, resamples)["avg"].interval


def compare(
    tasks: Mapping[str, Parts],
    draw: np.random.Generator,
    resamples: int = RESAMPLES,
    weights: Mapping[str, float] | None = None,
    against: Against | None = None,
) -> dict[str, Comparison]:
    """Each task's comparison, and that of the average (of ``weights``, see ``resample``) under "avg" where it is
    defined. ``tasks`` hold differences of scores, item by item and seed by seed (ours minus theirs); with ``against``
    scores, of which those of the other cell are taken.

    The paired bootstrap recentres: p is the share of replicates at least as far from the difference as the difference
    is from 0 (Efron and Tibshirani 1993, section 16.4), counting the data itself as one. With few items that differ
    it would claim too much, so it is never below 2 / 2^m, what a sign test of m such items gives at best.
    """
    comparisons: dict[str, Comparison] = {}
    alone = all(
        part.shape[0] == 1 for arm in (tasks, against.tasks if against else {}) for of in arm.values() for part in of
    )
    for name, entry in (resample(tasks, draw, resamples, weights, against) if tasks else {}).items():
        p = None
        if entry.replicates is not None:
            away = np.abs(entry.replicates - entry.value) >= abs(entry.value) - ROUNDING
            differing = sum(int(part.any(axis=0).sum()) for part in entry.parts)
            p = max((1 + int(away.sum())) / (1 + resamples), min(1.0, 2.0 ** (1 - differing)))
        p_exact = mcnemar(entry.parts) if name in tasks and alone else None
        n = sum(part.shape[1] for part in entry.parts)
        comparisons[name] = Comparison(entry.value, entry.interval, p, p_exact, n)
        if entry.interval is not None:
            comparisons[name] = replace(comparisons[name], noise=entry.noise, replicates=entry.replicates)
    return comparisons


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
    from scipy import special

    # both tails of a binomial with p = 1/2 weigh the same: what scipy.stats.binomtest gives
    return min(1.0, 2 * float(special.bdtr(min(better, worse), better + worse, 0.5)))


def holm(values: Sequence[float | None]) -> list[float | None]:
    """p-values adjusted for their number, in their order (Holm 1979): each holds for the whole family at once. What has
    none (None) has none, and does not count."""
    known = sorted((p, i) for i, p in enumerate(values) if p is not None)
    adjusted, highest = list[float | None]([None] * len(values)), 0.0
    for rank, (p, i) in enumerate(known):
        highest = max(highest, min(1.0, (len(known) - rank) * p))
        adjusted[i] = highest
    return adjusted
