"""K-center: farthest-first traversal, the records that leave no record of the pool far from a chosen one.

The greedy step of DiverseEvol (arXiv 2311.08182; OFA-Sys/DiverseEvol, commit a22e952) without its training rounds:
vectors come from one model, so that all records are chosen at once. No matrix of distances is held.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from adg import seeds
from adg.errors import BadInput
from adg.progress import progress
from adg.selection.contract import ScoreTable, SelectorData
from adg.selection.quotas import top
from baselines.shared import vectors
from baselines.shared.vectors import VectorOptions, VectorSelector

GROUP = 1024  # of the farthest rows, compared with every new centre at once
CHUNK = 4096  # rows compared with new centres in one product


@dataclass(frozen=True)
class KcenterConfig(VectorOptions):
    """Options besides those of the vectors.

    ``start`` random records stand first (DiverseEvol: 100); 0, the default: one, the nearest to the mean of the pool.
    """

    start: int = 0
    seed: int = 42  # of the random records

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.start < 0:
            raise BadInput(f"selector.start is {self.start}; expected 0 or more records")


def farthest_first(points: np.ndarray, budget: int, first: Sequence[int]) -> np.ndarray:
    """``budget`` rows of ``points`` (n, d): ``first``, then again and again the row farthest from all chosen ones.

    Distances are Euclidean, computed in float64 and never below 0 (the released code takes roots of negative rounding
    errors); ties go to the lowest row, and copies of a chosen row come last, lowest row first. Exact although most rows
    are left alone in most steps: a distance to the chosen rows only falls as more are chosen, so what was farthest when
    all rows were compared last goes first, until a row outside that group might be farther; then all are compared with
    the rows chosen since, in one product. Memory: one number a row and one block besides the points.
    """
    points = np.asarray(points)
    n = len(points)
    if not 1 <= len(first) <= budget <= n or len(set(first)) < len(first):
        raise BadInput(f"{len(first)} first rows, budget {budget} and {n} points; expected 1 <= first <= budget <= n")
    owner = vectors.distinct(points)
    squares = np.einsum("ij,ij->i", points, points, dtype=np.float64)
    # squared distance to the chosen rows; below 0: taken, or a copy of another row
    nearest = np.where(owner == np.arange(n), np.inf, -1.0)
    chosen: list[int] = []
    centres, centre_squares = np.empty((budget, points.shape[1])), np.empty(budget)

    def take(row: int) -> None:
        centres[len(chosen)], centre_squares[len(chosen)] = points[row], squares[row]
        chosen.append(row)
        nearest[owner[row]] = -1.0

    def compare(rows: np.ndarray | slice, some: np.ndarray, since: int) -> None:
        """Bring the distances of ``rows``, which are ``some`` points in float64, up to date."""
        new = slice(since, len(chosen))
        distances = some @ centres[new].T
        distances *= -2
        distances += squares[rows, None]
        distances += centre_squares[new]
        nearest[rows] = np.minimum(nearest[rows], np.maximum(distances.min(axis=1), 0.0))

    for row in first:
        take(int(row))
    compared = 0  # how many of the chosen all rows have been compared with
    group, group_points, limit = np.empty(0, dtype=np.int64), np.empty((0, points.shape[1])), np.inf
    with progress(budget, "k-center", unit="records") as bar:
        bar.update(len(chosen))
        while len(chosen) < budget:
            best = int(group[np.argmax(nearest[group])]) if len(group) else -1
            if best < 0 or not nearest[best] > limit:
                for start in range(0, n, CHUNK):
                    part = slice(start, start + CHUNK)
                    compare(part, points[part].astype(np.float64), compared)
                compared = len(chosen)
                best = int(np.argmax(nearest))
                if nearest[best] < 0:
                    break
                group, limit = np.arange(n), -1.0
                if n > GROUP:
                    order = np.argpartition(nearest, n - GROUP - 1)
                    group, limit = np.sort(order[n - GROUP :]), float(nearest[order[n - GROUP - 1]])
                group_points = points[group].astype(np.float64)
            take(best)
            compare(group, group_points, len(chosen) - 1)
            bar.update(1)
    left = np.ones(n, dtype=bool)
    left[chosen] = False
    return np.concatenate([chosen, np.flatnonzero(left)[: budget - len(chosen)]]).astype(np.int64)


class Kcenter(VectorSelector):
    """Farthest-first over the records' vectors, in the order chosen.

    ``score`` is a record's distance to the mean of the pool's vectors; the first centre is the record with the least,
    ties to the lowest id. It decides nothing else.
    """

    name = "kcenter"
    Config = KcenterConfig

    def scores(self, data: SelectorData) -> ScoreTable:
        return vectors.about_mean(data, lambda point, mean: float(np.linalg.norm(point - mean)))

    def choose(self, data: SelectorData, table: ScoreTable, budget: int) -> np.ndarray:
        points, _ = vectors.load(data)
        rows = np.flatnonzero(table.valid)
        if self.config.start == 0:
            first = [int(np.argmin(table.score[rows]))]
        else:
            keys = data.keys
            draws = np.array([float(seeds.child(self.config.seed, "kcenter", keys[row])) for row in rows])
            first = top(draws, np.ones(len(rows), dtype=bool), min(self.config.start, budget)).tolist()
        return rows[farthest_first(points[rows], budget, first)]
