"""Facility location: records that together are similar to every record of the pool, each to its most similar one.

Greedy maximisation of the sum over i of max over chosen j of s_ij (the form that QDIT and SuperFiltering.D share),
lazy and without the N x N matrix: similarities are computed in blocks, and once the chosen records cover the pool well
enough only the few pairs that can still matter are kept.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from adg.errors import BadInput
from adg.progress import progress
from adg.selection import ScoreTable, Selector, SelectorData
from adg.store import Node
from baselines import vectors
from baselines.vectors import VectorOptions

KERNELS = ("cosine", "distance")
GRID = 2.0**30  # similarities are whole multiples of 1 / GRID, so that their sums are exact in float64
MAX_ROWS = int(2**53 / GRID)
BLOCK = 64  # candidates whose gains are computed together
CHUNK = 4096  # rows at once against such a block: what a core's cache holds
PAIRS = 2**24  # pairs kept at most, about: 8 bytes each


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

    Rows are distinct unit vectors u (n, d) with the number of records that share each. ``covered`` (n,) is the
    similarity of each to its most similar chosen record, 0 at first.
    """

    def __init__(self, points: np.ndarray, counts: np.ndarray, kernel: str, pairs: int) -> None:
        self.points = points.astype(np.float64)
        self.points /= np.linalg.norm(self.points, axis=1, keepdims=True)
        self.counts, self.kernel, self.pairs = counts.astype(np.float64), kernel, pairs
        self.covered = np.zeros(len(points))
        self.density = float(len(points))  # rows that a candidate of the last block was more similar to than covered
        self.held: dict[int, np.ndarray] = {}  # similarities of the candidates of the last block to all rows
        self.starts: np.ndarray | None = None  # of each candidate's pairs, once only those are kept
        self.pair_rows = self.pair_values = np.empty(0, dtype=np.int32)

    def first_bounds(self) -> np.ndarray:
        """An upper bound of each first gain: no kernel lies above the cosine's in its own range.

        (exp(-x) of a distance is a convex function of the cosine, and a convex function lies below its chord.)
        """
        total = self.counts @ self.points
        return (self.points @ total + self.counts.sum()) * (GRID / 2) * (1 + 1e-9) + self.counts.sum()

    def block(self, candidates: np.ndarray, pairs: list[tuple[np.ndarray, ...]] | None = None) -> np.ndarray:
        """Gains of ``candidates`` (m,). Their similarities are held; with ``pairs`` those that can matter go there."""
        n, positive = len(self.points), 0
        found = np.empty((len(candidates), n))
        gains, left = np.zeros(len(candidates)), self.points[candidates]
        for start in range(0, n, CHUNK):
            part = slice(start, min(start + CHUNK, n))
            values = similarity(left @ self.points[part].T, self.kernel, self.points.shape[1])
            own = np.flatnonzero((candidates >= start) & (candidates < part.stop))
            values[own, candidates[own] - start] = GRID  # rounding must not make a record unlike itself
            found[:, part] = values
            values -= self.covered[part]
            np.maximum(values, 0.0, out=values)
            positive += int(np.count_nonzero(values))
            gains += values @ self.counts[part]
        self.density = positive / len(candidates)
        if pairs is None:
            self.held = dict(zip(candidates.tolist(), found, strict=True))
        else:
            which, rows = np.nonzero(found > self.covered)
            pairs.append((np.bincount(which, minlength=len(candidates)), rows.astype(np.int32),
                          found[which, rows].astype(np.int32)))  # fmt: skip
        return gains

    def keep_pairs(self) -> np.ndarray:
        """From now on keep the pairs (row, candidate) whose similarity exceeds what covers the row, and no others.

        Nothing is lost, because what covers a row only grows. Returns the gains of all candidates (n,).
        """
        self.held = {}
        found: list[tuple[np.ndarray, ...]] = []
        n = len(self.points)
        gains = [self.block(np.arange(start, min(start + BLOCK, n)), found) for start in range(0, n, BLOCK)]
        self.starts = np.concatenate([[0], np.cumsum(np.concatenate([counts for counts, _, _ in found]))])
        self.pair_rows = np.concatenate([rows for _, rows, _ in found])
        self.pair_values = np.concatenate([values for _, _, values in found])
        return np.concatenate(gains)

    def few(self) -> bool:
        """Whether the pairs that can still matter are few enough to be kept, judged by the last block.

        Its candidates led, so they had more of them than others have.
        """
        n = len(self.points)
        return self.starts is None and min(self.density, n) * n <= self.pairs

    def cheap(self, candidate: int) -> bool:
        """Whether ``again`` knows the candidate's similarities."""
        return self.starts is not None or candidate in self.held

    def _entries(self, candidate: int) -> tuple[np.ndarray | slice, np.ndarray]:
        if self.starts is None:
            return slice(None), self.held[candidate]
        part = slice(self.starts[candidate], self.starts[candidate + 1])
        return self.pair_rows[part], self.pair_values[part]

    def again(self, candidate: int) -> float:
        """The gain of one candidate now."""
        rows, values = self._entries(candidate)
        return float(np.maximum(values - self.covered[rows], 0.0) @ self.counts[rows])

    def take(self, candidate: int) -> None:
        """Choose it: it covers what it is more similar to than all before."""
        rows, values = self._entries(candidate)
        self.covered[rows] = np.maximum(self.covered[rows], values)


def greedy(
    points: np.ndarray, budget: int, kernel: str = "cosine", ties: str = "lowest", pairs: int = PAIRS
) -> np.ndarray:
    """``budget`` rows of ``points`` (n, d; any length above 0) in the order of the largest gain.

    Gain of j: the sum over rows i of max(0, s_ij - the largest s_ik of the chosen k). Exact although lazy: gains only
    fall, so one computed earlier is an upper bound, and whoever still leads after being computed anew has the largest.
    Similarities are computed in float64 and rounded to 2^-30 of their range, which makes every sum exact: no gain
    depends on the order of the rows, and equal ones tie. ``ties`` go to the "lowest" row or to the "highest"; rows that
    gain nothing (copies of chosen ones) come last, in that order. ``pairs`` limits memory, not the result.
    """
    points = np.asarray(points)
    n = len(points)
    if not 0 < budget <= n or n > MAX_ROWS:
        raise BadInput(f"budget is {budget} with {n} points; expected 1 to n, and n at most {MAX_ROWS:,}")
    if ties == "highest":
        return n - 1 - greedy(points[::-1], budget, kernel, pairs=pairs)
    owner = vectors.distinct(points)
    rows, counts = np.unique(owner, return_counts=True)
    state = _Gains(points[rows], counts, kernel, pairs)
    bounds = state.first_bounds()  # upper bounds of the gains; -1: chosen
    computed = np.full(len(rows), -1, dtype=np.int64)  # how many were chosen when the bound was the gain itself
    chosen: list[int] = []
    with progress(budget, "facility location", unit="records") as bar:
        while len(chosen) < budget:
            best = int(np.argmax(bounds))
            if bounds[best] <= 0:
                break
            if computed[best] == len(chosen):
                if not state.cheap(best):  # its similarities were given up for another block's
                    state.block(np.array([best]))
                state.take(best)
                bounds[best] = -1.0
                chosen.append(best)
                bar.update(1)
            elif state.few():
                bounds = np.where(bounds < 0, -1.0, state.keep_pairs())
                computed[:] = len(chosen)
            elif state.cheap(best):
                bounds[best], computed[best] = state.again(best), len(chosen)
            else:
                block = np.argpartition(bounds, -BLOCK)[-BLOCK:] if len(rows) > BLOCK else np.arange(len(rows))
                block = block[bounds[block] > 0]
                bounds[block] = state.block(block)
                computed[block] = len(chosen)
    taken = rows[chosen]
    left = np.ones(n, dtype=bool)
    left[taken] = False
    return np.concatenate([taken, np.flatnonzero(left)[: budget - len(taken)]]).astype(np.int64)


class FacilityLocation(Selector):
    """Greedy facility location over the records' vectors, in the order chosen.

    ``score`` is a record's mean cosine to the pool's records (itself included). With the cosine kernel the first
    record chosen is the one with the highest; it decides nothing else.
    """

    name = "facility_location"
    title = "Facility location"
    Config = FacilityLocationConfig
    requires = ("vectors",)

    def needs(self) -> tuple[str, ...]:
        return vectors.needs(self.config)

    def extra(self, pool: Node, backbone: Node) -> dict[str, Node]:
        return vectors.nodes(pool, backbone, self.config)

    def scores(self, data: SelectorData) -> ScoreTable:
        points, invalid = vectors.load(data)
        valid = np.array([i for i in range(len(points)) if i not in invalid], dtype=np.int64)
        score = np.full(len(points), np.nan)
        if len(valid):
            mean = points[valid].mean(axis=0, dtype=np.float64)
            score[valid] = [float(points[row] @ mean) for row in valid]
        return ScoreTable(score, invalid=invalid)

    def choose(self, data: SelectorData, table: ScoreTable, budget: int) -> np.ndarray:
        points, _ = vectors.load(data)
        rows = np.flatnonzero(table.valid)
        return rows[greedy(points[rows], budget, self.config.kernel)]
