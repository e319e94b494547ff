"""Facility location: records that together are similar to every record of the pool, each to its most similar one.

Greedy maximisation of the sum over i of max over chosen j of s_ij (SuperFiltering.D's form, and QDIT's without its
weight on quality), lazy and without the N x N matrix: similarities are computed in blocks, and of those of the leading
candidates only the pairs that can still matter are held, fewer and fewer as the chosen records cover the pool.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from adg.errors import BadInput
from adg.progress import progress
from adg.selection.contract import ScoreTable, SelectorData
from baselines.shared import vectors
from baselines.shared.vectors import VectorOptions, VectorSelector

KERNELS = ("cosine", "distance")
GRID = 2.0**30  # similarities are whole multiples of 1 / GRID, so that their sums are exact in float64
MAX_ROWS = int(2**53 / GRID)
BLOCK = 128  # candidates whose gains are computed together
CHUNK = 4096  # rows at once against such a block: what a core's cache holds
PAIRS = 2**25  # similarities held at once, about: 8 bytes each


@dataclass(frozen=True)
class FacilityLocationConfig(VectorOptions):
    """Options besides those of the vectors.

    ``kernel="cosine"`` (ours): s = (1 + cosine) / 2. ``"distance"``: s = exp(-|a - b| / d), d the width of the vectors,
    SuperFiltering.D's kernel, which is nearly flat: all of it lies within 1 % of 1 for unit vectors.
    """

    kernel: str = "cosine"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_kernel(self.kernel)


def check_kernel(kernel: str) -> None:
    if kernel not in KERNELS:
        raise BadInput(f"selector.kernel is {kernel!r}; expected one of {', '.join(KERNELS)}")


def similarity(cosines: np.ndarray, kernel: str, width: int) -> np.ndarray:
    """Similarities in whole steps of 1 / GRID of the range that the kernel has: 0 for opposite vectors, GRID for equal.

    ``cosines`` any shape, changed in place where it can be. Taking the kernel's smallest value off and stretching the
    rest multiplies every gain but the first by one number, and adds one number to all first gains: the greedy order
    stays the same.
    """
    np.clip(cosines, -1.0, 1.0, out=cosines)
    if kernel == "cosine":
        cosines += 1.0
        cosines *= GRID / 2
    else:
        lowest = np.expm1(-2.0 / width)
        np.multiply(cosines, -2.0, out=cosines)
        cosines += 2.0
        np.sqrt(cosines, out=cosines)
        cosines /= -width
        np.expm1(cosines, out=cosines)
        cosines -= lowest
        cosines *= GRID / -lowest
    return np.rint(cosines, out=cosines)


class _Gains:
    """Exact gains of candidates, and what is covered so far.

    Rows are distinct vectors (n, d) with the number of records that share each. ``covered`` (n,) is the similarity of
    each to its most similar chosen record, 0 at first. ``pairs`` holds, for candidates computed lately, the rows that
    are more similar to the candidate than to what covered them then, and these similarities: no other row can matter
    any more, because what covers a row only grows.
    """

    def __init__(self, points: np.ndarray, counts: np.ndarray, kernel: str) -> None:
        self.points = points.astype(np.float64)
        self.points /= np.linalg.norm(self.points, axis=1, keepdims=True)
        self.counts, self.kernel = counts.astype(np.float64), kernel
        self.covered = np.zeros(len(points))
        self.pairs: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        self.size = 0  # entries of all pairs

    def first_bounds(self) -> np.ndarray:
        """An upper bound of each first gain: no kernel lies above the cosine's in its own range.

        (exp(-x) of a distance is a convex function of the cosine, and a convex function lies below its chord.)
        """
        total = self.counts @ self.points
        return (self.points @ total + self.counts.sum()) * (GRID / 2) * (1 + 1e-9) + self.counts.sum()

    def block(self, candidates: np.ndarray) -> np.ndarray:
        """Gains of ``candidates`` (m,), whose pairs are held from now on."""
        n = len(self.points)
        similar = np.empty((len(candidates), n))
        gains, left = np.zeros(len(candidates)), self.points[candidates]
        for start in range(0, n, CHUNK):
            part = slice(start, min(start + CHUNK, n))
            values = similarity(left @ self.points[part].T, self.kernel, self.points.shape[1])
            own = np.flatnonzero((candidates >= start) & (candidates < part.stop))
            values[own, candidates[own] - start] = GRID  # rounding must not make a record unlike itself
            similar[:, part] = values
            values -= self.covered[part]
            np.maximum(values, 0.0, out=values)
            gains += values @ self.counts[part]
        for candidate, similarities in zip(candidates.tolist(), similar, strict=True):
            self._hold(candidate, np.flatnonzero(similarities > self.covered).astype(np.int32), similarities)
        return gains

    def _hold(self, candidate: int, rows: np.ndarray, similarities: np.ndarray) -> None:
        self.drop(candidate)
        self.pairs[candidate] = rows, similarities[rows].astype(np.int32)
        self.size += len(rows)

    def drop(self, candidate: int) -> None:
        """Hold its pairs no longer."""
        if candidate in self.pairs:
            self.size -= len(self.pairs.pop(candidate)[0])

    def again(self, candidate: int) -> float:
        """The gain of a candidate whose pairs are held."""
        rows, values = self.pairs[candidate]
        excess = values - self.covered[rows]
        still = excess > 0
        gain = float(excess[still] @ self.counts[rows[still]])
        if 2 * np.count_nonzero(still) < len(rows):
            self.size -= len(rows) - int(np.count_nonzero(still))
            self.pairs[candidate] = rows[still], values[still]
        return gain

    def take(self, candidate: int) -> None:
        """Choose a candidate whose pairs are held: it covers what it is more similar to than all before."""
        rows, values = self.pairs[candidate]
        self.covered[rows] = np.maximum(self.covered[rows], values)
        self.drop(candidate)


def greedy(
    points: np.ndarray, budget: int, kernel: str = "cosine", ties: str = "lowest", pairs: int = PAIRS
) -> np.ndarray:
    """``budget`` rows of ``points`` (n, d; any length above 0) in the order of the largest gain.

    Gain of j: the sum over rows i of max(0, s_ij - the largest s_ik of the chosen k). Exact although lazy: gains only
    fall, so one computed earlier is an upper bound, and whoever still leads after being computed anew has the largest.
    Similarities are computed in float64 and rounded to 2^-30 of their range, which makes every sum exact: no gain
    depends on the order of the rows, and equal ones tie. ``ties`` go to the "lowest" row or to the "highest"; rows that
    gain nothing (copies of chosen ones) come last, in that order. About ``pairs`` similarities are held at once, 8
    bytes each, those of the leading candidates; the result does not depend on it.
    """
    points = np.asarray(points)
    n = len(points)
    if not 0 < budget <= n or n > MAX_ROWS:
        raise BadInput(f"budget is {budget} with {n} points; expected 1 to n, and n at most {MAX_ROWS:,}")
    if ties == "highest":
        return n - 1 - greedy(points[::-1], budget, kernel, pairs=pairs)
    rows, counts = np.unique(vectors.distinct(points), return_counts=True)
    state = _Gains(points[rows], counts, kernel)
    bounds = state.first_bounds()  # upper bounds of the gains; -1: chosen
    computed = np.full(len(rows), -1, dtype=np.int64)  # how many were chosen when the bound was the gain itself
    chosen: list[int] = []
    with progress(budget, "facility location", unit="records") as bar:
        while len(chosen) < budget:
            best = int(np.argmax(bounds))
            if bounds[best] <= 0:
                break
            held = best in state.pairs
            if held and computed[best] == len(chosen):
                state.take(best)
                bounds[best] = -1.0
                chosen.append(best)
                bar.update(1)
            elif held:
                bounds[best], computed[best] = state.again(best), len(chosen)
            else:
                if state.size > pairs:
                    for candidate in sorted(state.pairs, key=bounds.__getitem__):
                        state.drop(candidate)
                        if 2 * state.size <= pairs:
                            break
                block = np.argpartition(bounds, -BLOCK)[-BLOCK:] if len(rows) > BLOCK else np.arange(len(rows))
                block = np.union1d(block, best)  # among ties the others may all be held
                block = np.array([i for i in block.tolist() if bounds[i] > 0 and i not in state.pairs])
                bounds[block], computed[block] = state.block(block), len(chosen)
    taken = rows[chosen]
    left = np.ones(n, dtype=bool)
    left[taken] = False
    return np.concatenate([taken, np.flatnonzero(left)[: budget - len(taken)]]).astype(np.int64)


class FacilityLocation(VectorSelector):
    """Greedy facility location over the records' vectors, in the order chosen.

    ``score`` is a record's mean cosine to the pool's records (itself included). With the cosine kernel the first
    record chosen is the one with the highest; it decides nothing else.
    """

    name = "facility_location"
    Config = FacilityLocationConfig

    def scores(self, data: SelectorData) -> ScoreTable:
        return vectors.about_mean(data, lambda point, mean: float(point @ mean))

    def choose(self, data: SelectorData, table: ScoreTable, budget: int) -> np.ndarray:
        points, _ = vectors.load(data)
        rows = np.flatnonzero(table.valid)
        return rows[greedy(points[rows], budget, self.config.kernel)]
