"""What a score goes by: how it ranks records beside its own terms and beside lengths, and where the chosen stand.

Computed from saved scores, without a model. No part of identity.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from adg import geometry
from adg.errors import BadInput, BadMeasurement
from adg.selection import stability
from adg.selection.quotas import top
from adg.selection.stability import QUADRANTS

TERMS = ("s", "D", "I")  # what is ranked, before the lengths


@dataclass(frozen=True)
class Agreement:
    """How the ranking by the score is that by one term alone.

    ``pairs`` is the share, of all pairs of records that both order, that both order alike; ``tau`` Kendall's tau-b
    (Kendall 1945), where a pair that only one of them ties lowers it; both None where one of them does not vary.
    ``top`` is the overlap of the ``budget`` best by each, whatever their bins, of which ``chance`` would be shared by
    random choices.
    """

    pairs: float | None
    tau: float | None
    top: float
    chance: float


@dataclass(frozen=True)
class Diagnosis:
    """What the scores of n records go by.

    ``correlations`` are Spearman's, of all pairs of ``names``: the score, its two terms and the lengths; None where a
    value does not vary or was not given. ``spread`` holds the standard deviations of the two parts of the sum,
    (1 - lam) D and lam I, and ``even`` the lam at which both would be equal; None for a score that is no such sum.
    ``pool`` and ``chosen`` count the records in each of ``QUADRANTS``, split at the medians of all n; ``chosen`` is
    None where nothing was chosen. ``means`` holds the mean of each length over the pool and over the chosen.
    """

    names: tuple[str, ...]
    correlations: tuple[tuple[float | None, ...], ...]
    anisotropy: Agreement
    dispersion: Agreement
    lam: float | None
    spread: tuple[float, float] | None
    even: float | None
    pool: tuple[int, ...]
    chosen: tuple[int, ...] | None
    means: Mapping[str, tuple[float, float | None]]


def diagnose(
    score: np.ndarray,
    dispersion: np.ndarray,
    anisotropy: np.ndarray,
    budget: int,
    lengths: Mapping[str, np.ndarray | None] | None = None,
    chosen: np.ndarray | None = None,
    lam: float | None = geometry.LAMBDA,
) -> Diagnosis:
    """The diagnosis of ``score`` (n,) with its terms D and I, (n,) each.

    ``lengths`` by name, (n,) each or None where it is not known; ``chosen`` the rows that were chosen, any order;
    ``lam`` None where the score is not (1 - lam) D + lam I. Raises ``BadInput`` for lists of another length or a budget
    outside 1..n, ``BadMeasurement`` where a value is not finite.
    """
    lengths = dict(lengths or {})
    columns = {**dict(zip(TERMS, (score, dispersion, anisotropy), strict=True)), **lengths}
    for name, column in columns.items():
        if column is not None and np.shape(column) != np.shape(score):
            raise BadInput(f"{name} has shape {np.shape(column)}, the score {np.shape(score)}; expected the same (n,)")
        if column is not None and not np.isfinite(column).all():
            raise BadMeasurement(f"{name} of row {int(np.flatnonzero(~np.isfinite(column))[0])} is not finite")
    if not 1 <= budget <= len(score):
        raise BadInput(f"budget is {budget} but {len(score)} records have a score; expected 1 to {len(score)}")
    spread = None if lam is None else (float((1 - lam) * np.std(dispersion)), float(lam * np.std(anisotropy)))
    deviations = float(np.std(dispersion)), float(np.std(anisotropy))
    where, _ = stability.quadrants(dispersion, anisotropy)
    return Diagnosis(
        tuple(columns),
        tuple(tuple(_spearman(a, b) for b in columns.values()) for a in columns.values()),
        agreement(score, anisotropy, budget),
        agreement(score, dispersion, budget),
        lam,
        spread,
        deviations[0] / sum(deviations) if spread is not None and sum(deviations) > 0 else None,
        _counts(where),
        None if chosen is None else _counts(where[chosen]),
        {
            name: (float(np.mean(column)), None if chosen is None else float(np.mean(column[chosen])))
            for name, column in lengths.items()
            if column is not None
        },
    )


def agreement(score: np.ndarray, term: np.ndarray, budget: int) -> Agreement:
    """How far the ranking by ``score`` (n,) is that by ``term`` (n,), larger first in both."""
    every = np.ones(len(score), dtype=bool)
    alike = stability.overlap(top(score, every, budget), top(term, every, budget))
    chance = stability.by_chance(budget, budget, len(score))
    if not (_varies(score) and _varies(term)):
        return Agreement(None, None, alike, chance)
    from scipy import stats

    tau = float(stats.kendalltau(score, term).statistic)
    one, other, both = (_tied(values) for values in (score, term, np.stack([score, term], axis=1)))
    pairs = len(score) * (len(score) - 1) // 2
    ordered = pairs - one - other + both  # pairs that both order
    balance = tau * np.sqrt(float(pairs - one) * float(pairs - other))  # those alike less those opposed
    return Agreement(float((ordered + balance) / (2 * ordered)) if ordered else None, tau, alike, chance)


def in_words(found: Diagnosis) -> str:
    """The diagnosis of a weighted sum in two sentences of its own numbers; one where the score is another reading."""
    if None in (found.correlations[0][1], found.correlations[0][2]):
        return "The score, or one of its terms, is the same for all records."
    first = (
        f"The score ranks records as I does at {found.correlations[0][2]:+.2f} and as D does at "
        f"{found.correlations[0][1]:+.2f} (Spearman)"
    )
    if found.anisotropy.pairs is not None:
        first += f"; {100 * found.anisotropy.pairs:.0f} % of pairs are ordered as by I alone"
    if found.spread is None or found.even is None or not min(found.spread) > 0:
        return first + "."
    d, i = found.spread
    more, less = ("I", "D") if i >= d else ("D", "I")
    return (
        f"{first}. lam = {found.lam:g} weighs D with {1 - (found.lam or 0):g} and I with {found.lam:g}, but neither is "
        f"scaled: over the pool these parts vary by {d:.4f} and {i:.4f} (standard deviations), so {more} moves the sum "
        f"{max(d, i) / min(d, i):.1f} times as far as {less}. They would move it alike at lam = {found.even:.2f}."
    )


def _spearman(a: np.ndarray | None, b: np.ndarray | None) -> float | None:
    if a is None or b is None or not (_varies(a) and _varies(b)):
        return None
    from scipy import stats

    return float(stats.spearmanr(a, b).statistic)


def _varies(values: np.ndarray) -> bool:
    return len(values) > 1 and bool((values != values[0]).any())


def _tied(values: np.ndarray) -> int:
    """Pairs of equal rows."""
    _, counts = np.unique(values, axis=0, return_counts=True)
    return int((counts.astype(np.int64) * (counts - 1) // 2).sum())


def _counts(where: np.ndarray) -> tuple[int, ...]:
    return tuple(int(count) for count in np.bincount(where, minlength=len(QUADRANTS)))
