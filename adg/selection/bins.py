"""Bins: clusters of the instruction vectors, inside which ADG picks its best records.

MiniBatchKMeans with the released settings. Rows enter in canonical id order, so the pool's own order never
matters. Imports scikit-learn only while building.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import numpy as np

from adg.artifacts.artifact import Artifact, Job, Node, Stage
from adg.artifacts.files import write_atomic
from adg.embedding.config import BinsConfig
from adg.errors import BadMeasurement

if TYPE_CHECKING:
    from numpy.typing import ArrayLike


STAGE = Stage("bins", 1, "adg.selection.bins:build", place=50)
MIN_PER_BIN = 5  # records a bin should hold on average; k-means refuses more clusters than rows


def node(grams: Node, cfg: BinsConfig) -> Node:
    """The bins of one grams artifact (which carries the instruction vectors)."""
    return Node(STAGE, grams.label, cfg, {"grams": grams})


def cluster(vectors: ArrayLike, cfg: BinsConfig = BinsConfig()) -> np.ndarray:
    """Bin of each row: ``vectors`` (n, d) -> (n,) int64 in 0 .. clusters-1, some of which may stay empty.

    clusters = min(configured, floor(n / 5)), at least 1; mini-batch min(1000, n // 10), at least 1.
    Raises ``BadMeasurement`` for another shape or a value that is not finite, naming the first row.
    """
    vectors = np.asarray(vectors)
    if vectors.ndim != 2 or 0 in vectors.shape:
        raise BadMeasurement(f"instruction vectors have shape {vectors.shape}; expected (n, d) with n and d at least 1")
    finite = np.isfinite(vectors).all(axis=1)
    if not finite.all():
        raise BadMeasurement(
            f"instruction vectors: row {int(np.argmin(finite))} holds a value that is not finite "
            f"(NaN or infinity); nothing was clustered"
        )
    clusters = count(len(vectors), cfg)
    if clusters == 1:
        return np.zeros(len(vectors), dtype=np.int64)

    import warnings

    from sklearn.cluster import MiniBatchKMeans
    from sklearn.exceptions import ConvergenceWarning

    model = MiniBatchKMeans(
        n_clusters=clusters,
        random_state=cfg.seed,
        batch_size=max(1, min(1000, len(vectors) // 10)),
        n_init=cfg.n_init,
        max_iter=cfg.max_iter,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # fewer distinct vectors than clusters: bins stay empty
        return model.fit_predict(np.ascontiguousarray(vectors)).astype(np.int64)


def count(n: int, cfg: BinsConfig) -> int:
    """Clusters made for ``n`` records."""
    return max(1, min(cfg.clusters, n // MIN_PER_BIN))


def build(job: Job) -> dict[str, Any]:
    """Cluster the instruction vectors of ``job.inputs["grams"]``; payload ``bins.parquet`` (id, bin)."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from adg.embedding import stage as embedding_stage

    grams = embedding_stage.load(job.inputs["grams"])
    bins = cluster(grams.instructions, job.config)
    sink = io.BytesIO()
    pq.write_table(pa.table({"id": pa.array(grams.ids, pa.string()), "bin": pa.array(bins, pa.int64())}), sink)
    write_atomic(job.folder / "bins.parquet", sink.getvalue())
    sizes = np.bincount(bins)
    sizes = sizes[sizes > 0]
    return {
        "rows_in": len(grams.ids),
        "rows_out": len(bins),
        "failed": [],
        "clusters_configured": job.config.clusters,
        "clusters": count(len(bins), job.config),
        "bins_used": len(sizes),
        "largest_bin": int(sizes.max()),
        "smallest_bin": int(sizes.min()),
    }


def load(artifact: Artifact) -> dict[str, int]:
    """Bin of each record by id key, in canonical id order."""
    import pyarrow.parquet as pq

    columns = pq.read_table(artifact.file("bins.parquet")).to_pydict()
    return dict(zip(columns["id"], columns["bin"], strict=True))
