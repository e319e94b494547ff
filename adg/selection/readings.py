"""Other readings of the same Gram matrices: what a sceptic would have measured in place of the ADG score.

Each takes cosine Gram matrices (n, K, K) and gives one number a record, (n,) float64, larger for more varied answers.
None needs a model: they are read from the matrices that ADG keeps. Nothing here bears identity by itself; the name of
a reading does, in the selector's options.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from adg import geometry
from adg.errors import BadInput

RIDGE = 1e-6  # added to the diagonal before a determinant, so that two equal answers give a finite one
THRESHOLD = 0.95  # cosine from which two answers are taken to say the same


def mean_distance(grams: Any) -> np.ndarray:
    """Mean cosine distance 1 - S_ij over the pairs of answers, in [0, 2].

    For vectors of length 1 it is K / (K - 1) times the dispersion D, so it ranks as ADG with lam = 0 does.
    Raises ``BadInput`` for one answer and ``BadMeasurement`` as ``geometry.gram``.
    """
    matrices = _several(grams)
    k = matrices.shape[1]
    pairs = (matrices.sum(axis=(1, 2)) - np.trace(matrices, axis1=1, axis2=2)) / (k * (k - 1))
    return 1.0 - pairs


def vendi(grams: Any) -> np.ndarray:
    """Vendi score: exp of the entropy of the eigenvalues of S / tr S, from 1 (one answer) to K (orthogonal ones).

    Friedman and Dieng 2023 (they divide by K, which is the trace of unit vectors). 0 where every vector is zero.
    """
    matrices = _several(grams)
    trace = np.trace(matrices, axis1=1, axis2=2)
    empty = trace < geometry.FLAT
    shares = np.clip(np.linalg.eigvalsh(matrices), 0.0, None) / np.where(empty, 1.0, trace)[:, None]
    logs = np.log(np.where(shares > 0, shares, 1.0))
    return np.where(empty, 0.0, np.exp(-(shares * logs).sum(axis=1)))


def participation_ratio(grams: Any) -> np.ndarray:
    """t^2 / sum of l_i^2 of the centred matrix: over how many directions the spread is shared, from 1 to K - 1.

    0 where the trace t is below 1e-12, as ADG's anisotropy is.
    """
    matrices = _several(grams)
    k = matrices.shape[1]
    centre = np.eye(k) - 1.0 / k
    centred = centre @ matrices @ centre
    trace = np.trace(centred, axis1=1, axis2=2)
    flat = trace < geometry.FLAT
    squares = (centred * centred).sum(axis=(1, 2))
    return np.where(flat, 0.0, trace**2 / np.where(flat, 1.0, squares))


def log_determinant(grams: Any) -> np.ndarray:
    """Natural log of det(S + 1e-6 I): the squared volume that the answer vectors span, 0 for orthogonal ones (up to
    the ridge) and about log(K * 1e-6^(K-1)) for K equal ones."""
    matrices = _several(grams)
    sign, value = np.linalg.slogdet(matrices + RIDGE * np.eye(matrices.shape[1]))
    return np.where(sign > 0, value, -np.inf)


def cluster_entropy(grams: Any, threshold: float = THRESHOLD) -> np.ndarray:
    """Entropy (natural log) of the answers over groups of those that say the same, from 0 to log K.

    Two answers are in one group where a chain of cosines of at least ``threshold`` joins them (connected components).
    """
    matrices = _several(grams)
    k = matrices.shape[1]
    joined = (matrices >= threshold) | np.eye(k, dtype=bool)
    for _ in range(max(1, (k - 1).bit_length())):  # every chain is at most k - 1 long
        joined = (joined[:, :, :, None] & joined[:, None, :, :]).any(axis=2)
    sizes = joined.sum(axis=2)  # of each answer's group
    return (np.log(k) - np.log(sizes)).mean(axis=1)


READINGS: dict[str, Callable[..., np.ndarray]] = {
    "mean_distance": mean_distance,
    "vendi": vendi,
    "participation_ratio": participation_ratio,
    "log_determinant": log_determinant,
    "cluster_entropy": cluster_entropy,
}


def _several(grams: Any) -> np.ndarray:
    """Finite float64 matrices of two answers or more."""
    matrices = geometry.finite_grams(grams)
    if matrices.shape[1] < 2:
        raise BadInput(f"{matrices.shape[1]} answer a record; a spread needs 2 or more (sampling.n)")
    return matrices
