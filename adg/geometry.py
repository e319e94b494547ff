"""Geometry of a record's K answers: Gram matrices and the two terms of the ADG score.

Pure numpy and float64 inside, vectorised over records in chunks, so a million 5 x 5 matrices cost seconds and
little memory. The names follow the paper; what each term means is said in its docstring.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from adg.errors import BadInput, BadMeasurement

LAMBDA = 0.4  # weight of the shape term in the paper's score
FLAT = 1e-12  # a centred trace below this counts as 0, and so do both terms (released code): it is rounding
_CHUNK_VALUES = 1 << 21  # float64 values held at once by one temporary (16 MiB)


def gram(vectors: Any) -> np.ndarray:
    """Cosine Gram matrices of the answers of each record.

    ``vectors`` (n, K, d) -> (n, K, K) float64, symmetric. Rows are scaled to length 1 first, so only directions
    count; a row of zeros stays zero (an answer without a vector under ``empty_answer=zero``).
    Raises ``BadMeasurement`` for another shape or a value that is not finite, naming the first record's index.
    """
    vectors = _array(vectors, "vectors", "(n, K, d)")
    n, k, d = vectors.shape
    result = np.empty((n, k, k))
    for rows in _chunks(n, k * d):
        part = vectors[rows].astype(np.float64)
        _finite(part, rows.start, "vectors")
        length = np.linalg.norm(part, axis=2, keepdims=True)
        part /= np.where(length > 0, length, 1.0)
        product = part @ part.transpose(0, 2, 1)
        result[rows] = (product + product.transpose(0, 2, 1)) / 2
    return result


def dispersion(grams: Any) -> np.ndarray:
    """Dispersion magnitude D(x) = t / K (paper), with t the trace of the centred Gram matrix.

    ``grams`` (n, K, K) -> (n,). It is the mean squared distance of the unit answer vectors to their mean: 0 for K
    identical answers, 1 - 1/K for orthogonal ones, 1 only when the mean vanishes. Exactly 0 where t < 1e-12, so that
    identical answers tie whatever their rounding.
    Raises ``BadMeasurement`` as ``gram`` does.
    """
    grams = _grams(grams)
    result = np.empty(len(grams))
    for rows in _chunks(len(grams), grams.shape[1] ** 2):
        result[rows] = _trace(_part(grams, rows)) / grams.shape[1]
    return result


def anisotropy(grams: Any) -> np.ndarray:
    """Shape anisotropy I(x) = 1 - l_1 / t (paper): the share of the variance outside its main direction.

    ``grams`` (n, K, K) -> (n,). l_1 is the largest eigenvalue of the centred matrix and t its trace; 0 where
    t < 1e-12. Despite the paper's name the value grows with *isotropy*: 0 when all variance lies on one line, at
    most 1 - 1/(K-1), so its weight in the score means something else at each K.
    Raises ``BadMeasurement`` as ``gram`` does.
    """
    grams = _grams(grams)
    result = np.empty(len(grams))
    for rows in _chunks(len(grams), grams.shape[1] ** 2):
        part = _part(grams, rows)
        result[rows] = _shape(part, _trace(part))
    return result


def combine(dispersion: np.ndarray, anisotropy: np.ndarray, lam: float = LAMBDA) -> np.ndarray:
    """The ADG score s(x) = (1 - lam) D(x) + lam I(x) of the two terms (paper, lam = 0.4).

    D and I (n,) -> (n,); NaN where a term is NaN. lam = 0 is the dispersion alone, 1 the shape alone.
    Raises ``BadInput`` for lam outside [0, 1].
    """
    _weight(lam)
    return (1.0 - lam) * dispersion + lam * anisotropy


def divergence(grams: Any, lam: float = LAMBDA) -> np.ndarray:
    """The ADG score of each matrix: ``combine`` of its two terms.

    ``grams`` (n, K, K) -> (n,). Raises ``BadInput`` as ``combine`` does and ``BadMeasurement`` as ``gram`` does.
    """
    return combine(dispersion(grams), anisotropy(grams), lam)


def fewest_answers(lam: float) -> int:
    """How many answers a record must have for its score to say anything: 2, and 3 for lam = 1.

    One answer has no spread, and two lie on one line, so that I is 0: with fewer every record would score 0.
    Raises ``BadInput`` for lam outside [0, 1].
    """
    _weight(lam)
    return 3 if lam == 1 else 2


def finite_grams(grams: Any) -> np.ndarray:
    """The matrices as (n, K, K) float64. Raises ``BadMeasurement`` as ``gram`` does."""
    matrices = _grams(grams).astype(np.float64)
    _finite(matrices, 0, "grams")
    return matrices


def _weight(lam: float) -> None:
    if not 0.0 <= lam <= 1.0:
        raise BadInput(f"lam is {lam!r}; expected a number from 0 (dispersion only) to 1 (anisotropy only)")


def _trace(part: np.ndarray) -> np.ndarray:
    """Trace of H S H for each matrix, (m,): tr S - (sum of S) / K; 0 where that is below ``FLAT``."""
    trace = np.trace(part, axis1=1, axis2=2) - part.sum(axis=(1, 2)) / part.shape[1]
    return np.where(trace < FLAT, 0.0, trace)


def _shape(part: np.ndarray, trace: np.ndarray) -> np.ndarray:
    """1 - l_1 / t for each matrix, (m,).

    The centred matrix always has the eigenvalue 0 along (1, ..., 1); an orthonormal basis of the rest leaves a
    (K-1) x (K-1) matrix with the same other eigenvalues, which is cheaper to take apart.
    """
    k = part.shape[1]
    if k < 3:  # at most one direction holds variance
        return np.zeros(len(part))
    basis = _helmert(k)
    centred = basis @ part @ basis.T
    centred = (centred + centred.transpose(0, 2, 1)) / 2
    largest = np.linalg.eigvalsh(centred)[:, -1]
    flat = trace == 0
    share = largest / np.where(flat, 1.0, trace)
    return np.where(flat, 0.0, np.clip(1.0 - share, 0.0, 1.0 - 1.0 / (k - 1)))


def _helmert(k: int) -> np.ndarray:
    """Orthonormal rows (K-1, K), each summing to 0."""
    rows = np.tril(np.ones((k, k)), 0)[:-1]
    rows[np.arange(k - 1), np.arange(1, k)] = -np.arange(1, k)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def _grams(grams: Any) -> np.ndarray:
    grams = _array(grams, "grams", "(n, K, K)")
    if grams.shape[1] != grams.shape[2]:
        raise BadMeasurement(f"grams have shape {grams.shape}; expected square matrices (n, K, K), wrong from index 0")
    return grams


def _array(values: Any, name: str, expected: str) -> np.ndarray:
    """``values`` as a non-empty numeric array of three dimensions."""
    if not isinstance(values, np.ndarray) and isinstance(values, Sequence) and len(values):
        shapes = [np.shape(value) for value in values]
        odd = next((i for i, shape in enumerate(shapes) if shape != shapes[0]), None)
        if odd is not None:
            raise BadMeasurement(
                f"{name}: index {odd} has shape {shapes[odd]}, index 0 has {shapes[0]}; "
                f"expected one array of shape {expected}"
            )
    array = np.asarray(values)
    if array.ndim != 3 or 0 in array.shape[1:] or array.dtype.kind not in "fiu":
        raise BadMeasurement(
            f"{name} have shape {array.shape} and type {array.dtype}; "
            f"expected numbers of shape {expected}, wrong from index 0"
        )
    return array


def _part(grams: np.ndarray, rows: slice) -> np.ndarray:
    part = grams[rows].astype(np.float64)
    _finite(part, rows.start, "grams")
    return part


def _finite(part: np.ndarray, start: int, name: str) -> None:
    good = np.isfinite(part).all(axis=(1, 2))
    if not good.all():
        raise BadMeasurement(
            f"{name}: index {start + int(np.argmin(good))} holds a value that is not finite "
            f"(NaN or infinity); expected numbers only"
        )


def _chunks(n: int, values_per_row: int) -> list[slice]:
    step = max(1, _CHUNK_VALUES // max(1, values_per_row))
    return [slice(start, min(start + step, n)) for start in range(0, n, step)]
