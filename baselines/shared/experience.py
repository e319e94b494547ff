"""IFD's pre-experienced model: the backbone after a brief training on a few records of every kind of instruction.

Follows tianyi-lab/Cherry_LLM at 01fac8d: k-means over the prompts' vectors, then up to ten records of each cluster
whose prompts are neither easy nor hard. The repository has no recipe of its own for the training.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from adg.artifacts.artifact import Job, Node, Stage
from adg.errors import BadInput, BadMeasurement
from adg.pools import records
from baselines.shared import loss_texts, scorer_stage
from baselines.shared.loss_texts import LossesConfig, Text
from baselines.shared.scorer_stage import PoolScorer
from finetune import merge
from finetune import stage as finetune_stage
from finetune.config import FinetuneConfig

if TYPE_CHECKING:
    from numpy.typing import ArrayLike


STAGE = Stage("experience", 1, "baselines.shared.experience:build", gpus="tensor_parallel", work="records to read")


@dataclass(frozen=True)
class ExperienceConfig:
    """Which records are drawn; the defaults are those of the official scripts."""

    prompt: str = "alpaca"
    clusters: int = 100  # at most one a record
    per_cluster: int = 10
    low: float = 25.0  # percentiles of the prompts' perplexity in a cluster, both included
    high: float = 75.0
    seed: int = 0
    max_tokens: int = 512  # of a prompt

    def __post_init__(self) -> None:
        for name in ("clusters", "per_cluster"):
            if getattr(self, name) < 1:
                raise BadInput(f"selector.pre_{name} is {getattr(self, name)}; expected 1 or more")
        if not 0 <= self.low <= self.high <= 100:
            raise BadInput(
                f"selector.pre_percentiles is [{self.low:g}, {self.high:g}]; expected two of 0 to 100, the lower first"
            )


@dataclass(frozen=True)
class ExperienceIdentity:
    """What makes two draws from the same pool with the same backbone the same."""

    draw: ExperienceConfig
    templates: str  # hash of the prompt's texts


def experienced(pool: Node, backbone: Node, cfg: ExperienceConfig, recipe: FinetuneConfig) -> Node:
    """``backbone`` after its training by ``recipe`` on the records of ``pool`` that are drawn as ``cfg`` says."""
    drawn = Node(
        STAGE,
        f"{pool.label}+{backbone.label}",
        ExperienceIdentity(cfg, loss_texts.templates(cfg.prompt)),
        {"pool": pool, "model": backbone},
    )
    return merge.node(finetune_stage.node(drawn, backbone, recipe), backbone)


def draw(labels: ArrayLike, perplexities: ArrayLike, cfg: ExperienceConfig) -> np.ndarray:
    """Rows drawn, ascending, from ``labels`` (n,) of the clusters and ``perplexities`` (n,) of the prompts.

    A cluster below ``per_cluster`` members is taken whole. Of another those between the two percentiles stay (linear
    interpolation); of m of these every floor(m / per_cluster)-th, the first ``per_cluster``; all where m is less.
    """
    labels, perplexities = np.asarray(labels), np.asarray(perplexities, dtype=np.float64)
    taken = []
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        if len(members) >= cfg.per_cluster:
            low, high = np.percentile(perplexities[members], [cfg.low, cfg.high])
            members = members[(low <= perplexities[members]) & (perplexities[members] <= high)]
        taken.append(members[:: max(1, len(members) // cfg.per_cluster)][: cfg.per_cluster])
    return np.sort(np.concatenate(taken))


def build(job: Job) -> dict[str, Any]:
    """Stage "experience": ``records.parquet``, the records drawn, and ``prompts.parquet`` (id, perplexity, cluster).

    The vector of a prompt is the mean over all its tokens of the last hidden state, not normalised.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    cfg: ExperienceConfig = job.config.draw
    with PoolScorer(job, LossesConfig(cfg.prompt, cfg.max_tokens)) as scoring:
        pool, layout = scoring.pool, scoring.layout
        texts: dict[str, Text] = {}
        owners: dict[str, list[int]] = {}
        for row, record in enumerate(pool):
            text = Text(np.array(layout.encode(layout.prompt(record))[: cfg.max_tokens], dtype=np.int32), 1)
            texts.setdefault(text.digest, text)
            owners.setdefault(text.digest, []).append(row)
        names = list(texts)
        vectors: np.ndarray | None = None
        losses = np.full(len(pool), np.nan)
        failed: list[str] = []

        def run(batch: list[int]) -> dict[str, np.ndarray]:
            means, nll = scoring.scorer().vectors([texts[names[i]] for i in batch])
            return {"vectors": means.astype(np.float32), "losses": nll}

        def size(i: int) -> int:
            return len(texts[names[i]].ids)

        for batch, arrays in scorer_stage.shards(names, size, run, job.work, scoring.tokens_per_batch, "prompts"):
            if vectors is None:
                vectors = np.empty((len(pool), arrays["vectors"].shape[1]), dtype=np.float32)
            for i, vector, loss in zip(batch, arrays["vectors"], arrays["losses"], strict=True):
                vectors[owners[names[i]]], losses[owners[names[i]]] = vector, loss
                if not (np.isfinite(vector).all() and np.isfinite(loss)):
                    failed += [pool[row].key for row in owners[names[i]]]
            scorer_stage.check_failed(failed, scoring, "backbone.dtype")
    lost = set(failed)
    rows = np.array([row for row, record in enumerate(pool) if record.key not in lost], dtype=np.int64)
    if vectors is None or not len(rows):
        raise BadMeasurement(f"none of the {len(pool)} prompts gave finite numbers in {scoring.dtype}")
    labels = cluster(vectors[rows], cfg)
    perplexities = np.exp(losses[rows])
    chosen = draw(labels, perplexities, cfg)
    records.save_rows(job.folder / "records.parquet", [pool[rows[i]] for i in chosen])
    table = pa.table({"id": [pool[row].key for row in rows], "perplexity": perplexities, "cluster": labels})
    pq.write_table(table, job.folder / "prompts.parquet")
    return {
        "rows_in": len(pool),
        "rows_out": len(chosen),
        "failed": [[key, scorer_stage.FAILED] for key in failed],
        "clusters": len(np.unique(labels)),
        "prompt": cfg.prompt,
        "dtype": scoring.dtype,
    }


def cluster(vectors: np.ndarray, cfg: ExperienceConfig) -> np.ndarray:
    """k-means cluster of each row: ``vectors`` (n, d) -> (n,) int64, at most one cluster a row."""
    import warnings

    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning

    model = KMeans(min(cfg.clusters, len(vectors)), n_init=10, random_state=cfg.seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # fewer distinct vectors than clusters: some stay empty
        return model.fit_predict(np.ascontiguousarray(vectors, dtype=np.float64)).astype(np.int64)
