"""KMQ: the same share of every cluster, drawn by quality (Diversify and Conquer, arXiv 2409.11378).

Follows for-ai/iterative-data-selection at 6ac5772, its single-round samplers. Not built: the iterative version, which
trains between rounds. Quality scores are read, not computed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from adg import seeds
from adg.artifacts.artifact import Node
from adg.errors import BadInput, NotRunnable
from adg.options import location
from adg.selection.bins import MIN_PER_BIN
from adg.selection.contract import ScoreTable, SelectorData
from baselines.shared import checkpoints, vectors
from baselines.shared.annotations import checked, read, turns
from baselines.shared.vectors import VectorOptions, VectorSelector

VARIANTS = ("corrected", "released")
WITHIN = ("quality", "random", "median")


@dataclass(frozen=True)
class KmqConfig(VectorOptions):
    """Options besides those of the vectors.

    ``within="quality"`` draws without replacement with chances in proportion to exp(quality) (official, 512 clusters);
    "random" draws uniformly (the official KMeansRandom, 4,096 clusters), "median" takes the records whose distance to
    the cluster's centre is nearest to the median of its records' (the official KCenterMedian, 1,024 clusters); neither
    reads a score.
    ``variant="corrected"`` (ours): as equal a share of every cluster as sizes allow, exactly the budget, and no more
    clusters than a fifth of the records. ``"released"``: floor(budget / clusters) of every cluster, or all of a smaller
    one, which makes fewer than the budget.
    Scores are in the field ``quality`` of the pool's rows, or of ``annotations``: JSON Lines with ``id`` and that
    field; a list of one number a turn counts with its mean.
    """

    variant: str = "corrected"
    clusters: int = 512
    within: str = "quality"
    quality: str = "quality"
    annotations: str | None = location()
    annotations_sha256: str | None = None
    n_init: int = 5  # restarts of k-means (official: of Faiss)
    max_iter: int = 300
    seed: int = 42  # of k-means and of the draw

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, allowed in (("variant", VARIANTS), ("within", WITHIN)):
            if getattr(self, name) not in allowed:
                raise BadInput(f"selector.{name} is {getattr(self, name)!r}; expected one of {', '.join(allowed)}")
        for name in ("clusters", "n_init", "max_iter"):
            if getattr(self, name) < 1:
                raise BadInput(f"selector.{name} is {getattr(self, name)}; expected a number above 0")
        if not 0 <= self.seed < 2**32:
            raise BadInput(f"selector.seed is {self.seed}; expected 0 to 2**32 - 1")
        checkpoints.check_paths(self, "annotations")


def equal_quotas(sizes: np.ndarray, budget: int) -> np.ndarray:
    """Quotas (B,) that sum to ``budget``, as equal as ``sizes`` (B,) allow.

    What small clusters lack is shared among the others, again equally; the last few, one each, go to the clusters with
    the most records left, ties to the lower cluster.
    """
    sizes = np.asarray(sizes, dtype=np.int64)
    if not 0 <= budget <= int(sizes.sum()):
        raise BadInput(f"budget {budget} is outside 0..{int(sizes.sum())} (the records that can be selected)")
    quotas = np.zeros(len(sizes), dtype=np.int64)
    while (left := budget - int(quotas.sum())) > 0:
        room = sizes - quotas
        share = left // int((room > 0).sum())
        if share:
            quotas += np.minimum(room, share)
        else:
            quotas[np.lexsort((np.arange(len(sizes)), -room))[:left]] += 1
    return quotas


def drawn(quality: np.ndarray, keys: Sequence[str], seed: int) -> np.ndarray:
    """quality - log(-log u) (n,), u in (0, 1) each record's own uniform number, from its id and ``seed``.

    The records with the highest are a draw without replacement, one after the other, with chances in proportion to
    exp(quality) among those that are left.
    """
    uniform = np.array([seeds.child(seed, "kmq", key) + 0.5 for key in keys]) / (2**31 - 1)
    return quality - np.log(-np.log(uniform))


def from_median(distance: np.ndarray, cluster: np.ndarray) -> np.ndarray:
    """-|distance - median of the distances in the row's cluster| (n,); NaN where there is no distance (n,)."""
    score = np.full(len(distance), np.nan)
    for label in np.unique(cluster[np.isfinite(distance)]):
        rows = np.flatnonzero((cluster == label) & np.isfinite(distance))
        score[rows] = -np.abs(distance[rows] - np.median(distance[rows]))
    return score


class Kmq(VectorSelector):
    """K-means clusters of the records' vectors, each giving the same number of records, drawn by quality.

    ``score`` is that of ``drawn`` (``quality`` the mean over turns) or of ``from_median``; ``distance`` that to the
    cluster's centre. Output: cluster by cluster, by score.
    """

    name = "kmq"
    version = 2
    Config = KmqConfig

    def inputs(self, cell: Mapping[str, Node]) -> dict[str, Node]:
        c, nodes = self.config, super().inputs(cell)
        if c.within == "quality":
            nodes["annotated"] = checked(cell["pool"], self, (c.quality,), c.annotations_sha256)
        return nodes

    def scores(self, data: SelectorData) -> ScoreTable:
        n = len(data.records)
        points, invalid = vectors.load(data)
        parts: dict[str, np.ndarray] = {}
        quality = np.zeros(n)  # equal chances where none is read
        if self.config.within == "quality":
            annotated = self.annotations(data)
            quality = np.array([np.nan if isinstance(value, str) else float(np.mean(value)) for value in annotated])
            invalid = {**invalid, **{i: value for i, value in enumerate(annotated) if isinstance(value, str)}}
            parts["quality"] = quality
        valid = np.array([i for i in range(n) if i not in invalid], dtype=np.int64)
        cluster, distance = np.full(n, -1, dtype=np.int64), np.full(n, np.nan)
        if len(valid):
            cluster[valid], distance[valid] = self._clusters(points[valid])
        parts |= {"cluster": cluster, "distance": distance}
        if self.config.within == "median":
            return ScoreTable(from_median(distance, cluster), parts, invalid)
        score = drawn(quality, data.keys, self.config.seed)
        score[list(invalid)] = np.nan
        return ScoreTable(score, parts, invalid)

    def annotations(self, data: SelectorData) -> list[list[float] | str]:
        """The quality of each turn of each record, or what the record lacks."""
        c = self.config
        annotated, source = read(
            data,
            c.annotations,
            c.annotations_sha256,
            lambda row: turns(row, c.quality, low=-np.inf) or "no quality score",  # a reward may be negative
        )
        if all(isinstance(value, str) for value in annotated):
            raise NotRunnable(
                f"needs quality scores: no record has '{c.quality}' in {source}; set selector.annotations=<JSON Lines "
                f"with id and this field>, selector.quality=<name of the field>, or selector.within=random or median, "
                f"which read none"
            )
        return annotated

    def _clusters(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Cluster of each row (m,), and its distance to the cluster's centre (m,)."""
        import warnings

        from sklearn.cluster import KMeans
        from sklearn.exceptions import ConvergenceWarning

        c, clusters = self.config, self.config.clusters
        if c.variant == "corrected":
            clusters = max(1, min(clusters, len(points) // MIN_PER_BIN))
        elif clusters > len(points):
            raise BadInput(
                f"selector.clusters is {clusters:,} but only {len(points):,} records can be clustered; lower it, or "
                f"use selector.variant=corrected"
            )
        model = KMeans(clusters, n_init=c.n_init, max_iter=c.max_iter, random_state=c.seed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # fewer distinct vectors than clusters
            labels = model.fit_predict(np.ascontiguousarray(points)).astype(np.int64)
        return labels, np.linalg.norm(points.astype(np.float64) - model.cluster_centers_[labels], axis=1)

    def choose(self, data: SelectorData, table: ScoreTable, budget: int) -> np.ndarray:
        rows = np.flatnonzero(table.valid)
        _, codes = np.unique(table.parts["cluster"][rows], return_inverse=True)
        sizes = np.bincount(codes)
        if self.config.variant == "corrected":
            quotas = equal_quotas(sizes, budget)
        else:
            share = budget // self.config.clusters
            if share == 0:
                raise BadInput(
                    f"the released code selects nothing with budget {budget} and {self.config.clusters} clusters; "
                    f"lower selector.clusters to {budget} or less, or use selector.variant=corrected"
                )
            quotas = np.minimum(sizes, share)
        order = np.lexsort((np.arange(len(rows)), -table.score[rows], codes))
        place = np.arange(len(rows)) - np.concatenate([[0], np.cumsum(sizes)[:-1]])[codes[order]]
        return rows[order[place < quotas[codes[order]]]]

    def may_return_fewer(self) -> bool:
        return self.config.variant == "released"
