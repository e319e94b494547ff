"""Answers become geometry: hidden states pooled into one vector an answer, kept as K x K Gram matrices.

One pass through the blocks that are needed gives every declared layer window; the tokens that the K answers of a
record share are run once. Kept are the Gram matrices (for the score) and the instruction's vector (for the bins).
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from adg import geometry, prompts, spread
from adg.artifacts.artifact import Artifact, Job, Node, Stage
from adg.artifacts.files import write_json
from adg.artifacts.shards import Shard, Shards
from adg.backbones import loading
from adg.backbones.on_cpu import share_keys
from adg.embedding import one_pass
from adg.embedding.config import EmbeddingConfig, GramsIdentity
from adg.embedding.encoder import Encoder, Vectors
from adg.embedding.one_pass import Pooled
from adg.embedding.windows import resolve_windows
from adg.errors import BadInput, BadMeasurement
from adg.execution import ExecConfig
from adg.pools import records
from adg.pools.records import Record
from adg.progress import progress

STAGE = Stage(
    "grams", 1, "adg.embedding.stage:build", place=40, gpus="tensor_parallel", spread=True, work="answers to embed"
)
SHARD = 128  # records done between two savings; a kill loses at most these
REPORTED = 20  # failed rows listed in the manifest


@dataclass(frozen=True)
class Grams:
    """A loaded artifact: n records in canonical id order, W declared windows, K answers, width d."""

    ids: list[str]  # id keys, see adg.pools.records
    windows: list[str]
    grams: np.ndarray  # (n, W, K, K) float64
    instructions: np.ndarray  # (n, d) float32, length 1, of the first window; read from disk as it is used


def node(answers: Node, pool: Node, backbone: Node, cfg: EmbeddingConfig) -> Node:
    """Grams of ``answers``; the settings of the bins are no part of it."""
    return Node(
        STAGE,
        f"{pool.label}+{backbone.label}+{cfg.name}",
        GramsIdentity(cfg, prompts.HASH),
        {"answers": answers, "pool": pool, "backbone": backbone},
    )


def load(artifact: Artifact) -> Grams:
    """The payload of a grams artifact."""
    return Grams(
        json.loads(artifact.file("ids.json").read_text(encoding="utf-8")),
        list(artifact.info["windows"]),
        np.load(artifact.file("grams.npy"), allow_pickle=False),
        np.load(artifact.file("instructions.npy"), allow_pickle=False, mmap_mode="r"),
    )


def build(job: Job) -> dict[str, Any]:
    """Embed every record's answers, shard by shard; payload ``ids.json``, ``grams.npy``, ``instructions.npy``.

    A finished shard is found again in ``job.work`` after a kill. Raises ``BadMeasurement`` naming the records once
    more of them fail than ``exec.max_failed``.
    """
    cfg: EmbeddingConfig = job.config.embedding
    pool, answers = job.inputs["pool"].file("records.parquet"), job.inputs["answers"].file("answers.parquet")
    total, k = _sizes(pool, answers)
    encoder: Encoder | None = None
    failed: list[tuple[str, str]] = []
    counts: dict[str, int] = {}
    shards, keys, ids = Shards(job.work, "grams"), [], []
    model: dict[str, Any] = {}
    embedded, seconds = 0, 0.0
    pooled = one_pass.load(job.inputs["answers"]) if cfg.source == "sampling" else None
    if spread.wanted(job.exec):
        embedded, seconds = _spread(job, cfg, pool, answers, k)
    with progress(total, "embedding", unit="records") as bar:
        for items in _batches(pool, answers):
            key = [record.key for record, _ in items]
            shard = shards.find(key)
            made = shard is None
            if shard is None:
                if encoder is None:
                    encoder = _encoder(job.inputs["backbone"], job.exec, cfg)
                started = time.perf_counter()
                shard = _shard(encoder, items, k, pooled)
                embedded, seconds = embedded + len(items) * k, seconds + time.perf_counter() - started
            facts = shard.facts
            failed += [(key, reason) for key, reason in facts["failed"]]
            _check_failures(failed, job.exec.max_failed)
            if made:
                shards.save(key, shard)
            for name, value in facts["counts"].items():
                counts[name] = counts.get(name, 0) + value
            keys.append(key)
            ids += facts["keys"]
            model = facts["model"]
            bar.update(len(items))
    kept, names = total - len(failed), list(cfg.declared)
    if not kept:
        raise BadMeasurement(f"all {total} records failed; the first: {failed[0][0]}: {failed[0][1]}")
    shards.assemble(job.folder / "grams.npy", keys, "grams", (kept, len(names), k, k), np.float64)
    shards.assemble(job.folder / "instructions.npy", keys, "instructions", (kept, model["width"]), np.float32)
    write_json(job.folder / "ids.json", ids)
    return {
        "rows_in": total,
        "rows_out": kept,
        "failed": failed[:REPORTED],
        "failed_count": len(failed),
        "answers": k,
        "windows": names,
        "hidden_states": dict(zip(names, model["tensors"], strict=True)),
        "blocks": model["blocks"],
        "blocks_run": model["blocks_run"],
        "width": model["width"],
        "dtype": model["dtype"],
        "preset": cfg.name,
        **counts,
        **(pooled.counts if pooled else {}),
        "embedding": {
            "answers": 0 if pooled else embedded,
            "seconds": round(seconds, 3),
            "device": loading.device(job.exec),
        },  # rates
    }


def _encoder(backbone: Artifact, exec_: ExecConfig, cfg: EmbeddingConfig) -> Encoder:
    blocks = loading.blocks(backbone)
    if blocks is not None:
        resolve_windows(cfg.declared, blocks)  # refused before anything large is read
    model = loading.load_model(backbone, loading.device(exec_), cfg.dtype, headless=True)
    share_keys(model)
    return Encoder(model, loading.load_tokenizer(backbone), cfg, exec_.tokens_per_batch)


def _shard(encoder: Encoder, items: Sequence[tuple[Record, list[str]]], k: int, pooled: Pooled | None) -> Shard:
    """What is made of some records: all here, or only the instructions' vectors beside matrices that are there."""
    if pooled is None:
        vectors = encoder.embed(items, k)
        return Shard(_facts(encoder, vectors), _arrays(vectors))
    reasons = {
        record.key: f"has {len(texts)} of {k} answers"
        if len(texts) != k
        else pooled.failed.get(record.key, "its answers were not pooled")
        for record, texts in items
        if record.key not in pooled.rows
    }
    vectors = encoder.embed([(record, []) for record, _ in items if record.key not in reasons], 0)
    facts = _facts(encoder, vectors)
    facts["failed"] = [*reasons.items(), *vectors.failed]
    grams = pooled.grams[[pooled.rows[key] for key in vectors.keys]]
    return Shard(facts, {"grams": grams, "instructions": vectors.instructions})


def _facts(encoder: Encoder, vectors: Vectors) -> dict[str, Any]:
    """What a shard says of its records and of the model beside the arrays."""
    return {
        "failed": vectors.failed,
        "counts": vectors.counts,
        "keys": vectors.keys,
        "model": {
            "tensors": encoder.tensors,
            "blocks": encoder.blocks,
            "width": encoder.width,
            "blocks_run": encoder.blocks_run,
            "dtype": encoder.dtype,
        },
    }


def _arrays(vectors: Vectors) -> dict[str, np.ndarray]:
    """Gram matrices of every window, (m, W, K, K) float64, and the instructions' vectors."""
    m, k, windows = vectors.answers.shape[:3]
    grams = np.empty((m, windows, k, k))
    for w in range(windows):
        grams[:, w] = geometry.gram(vectors.answers[:, :, w])
    return {"grams": grams, "instructions": vectors.instructions}


class _Embedder:
    """A replica's or an actor's part of the embedding: the encoder, and one shard at a time."""

    def __init__(
        self, backbone: Artifact, exec_: ExecConfig, cfg: EmbeddingConfig, k: int, work: str, answers: Artifact
    ) -> None:
        self.encoder, self.k, self.folder = _encoder(backbone, exec_, cfg), k, Path(work)
        self.pooled = one_pass.load(answers) if cfg.source == "sampling" else None

    def work(self, row: dict[str, Any]) -> dict[str, Any]:
        inputs = Shards(self.folder, "texts").read(row["records"]).facts["items"]
        items = [(Record(**record), texts) for record, texts in inputs]
        shard = _shard(self.encoder, items, self.k, self.pooled)
        Shards(self.folder, "grams").save(row["records"], shard)
        return {"records": len(inputs), "failed": len(shard.facts["failed"])}

    def close(self) -> None:
        del self.encoder


def _spread(job: Job, cfg: EmbeddingConfig, pool: Path, answers: Path, k: int) -> tuple[int, float]:
    """Make the missing shards by several workers; returns the answers embedded and the seconds that took.

    The texts of a shard are handed over as a shard of their own, so that no pool has to fit into memory.
    """
    rows, count = [], 0
    grams, inputs = Shards(job.work, "grams"), Shards(job.work, "texts")
    for items in _batches(pool, answers):
        key = [record.key for record, _ in items]
        if grams.find(key) is None:
            inputs.save(key, Shard({"items": [[dataclasses.asdict(record), texts] for record, texts in items]}))
            rows.append({"records": key})
            count += len(items) * k
    if not rows:
        return 0, 0.0
    started = time.perf_counter()
    arguments = (job.inputs["backbone"], job.exec, cfg, k, str(job.work), job.inputs["answers"])
    spread.over(rows, "adg.embedding.stage:_Embedder", arguments, job.exec, "embedding")
    for row in rows:
        grams.read(row["records"])
    return count, time.perf_counter() - started


def _sizes(pool: Path, answers: Path) -> tuple[int, int]:
    """Records of the pool and K, the answers a record should have."""
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    rows = pq.ParquetFile(pool).metadata.num_rows
    largest = pc.max(pq.read_table(answers, columns=["sample"])["sample"]).as_py()
    if not rows or largest is None:
        raise BadInput(
            f"{pool} holds {rows} records and {answers} {'no' if largest is None else 'some'} answers; "
            f"there is nothing to embed"
        )
    return rows, largest + 1


def _batches(pool: Path, answers: Path) -> Iterator[list[tuple[Record, list[str]]]]:
    """Records with their answers by sample, ``SHARD`` at a time: both files are read as they are needed."""
    rows = _rows(answers, ["id", "sample", "text"])
    at = next(rows, None)
    batch: list[tuple[Record, list[str]]] = []
    for key, instruction, input_, output in _rows(pool, ["id", "instruction", "input", "output"]):
        pairs: list[tuple[int, str]] = []
        while at is not None and at[0] == key:
            pairs.append((at[1], at[2]))
            at = next(rows, None)
        pairs.sort(key=lambda pair: pair[0])
        if [sample for sample, _ in pairs] != list(range(len(pairs))):
            raise BadInput(
                f"{answers}: record {key} has the samples {[sample for sample, _ in pairs]}; expected "
                f"0, 1, 2, … each once. Delete that folder and run the same command again"
            )
        batch.append((Record(records.from_key(key), instruction, input_, output), [text for _, text in pairs]))
        if len(batch) == SHARD:
            yield batch
            batch = []
    if batch:
        yield batch
    if at is not None:
        raise BadInput(
            f"{answers}: the answers of record {at[0]} belong to no record of {pool}, or stand out of id "
            f"order. Delete the folder of the answers and run the same command again"
        )


def _rows(path: Path, columns: list[str]) -> Iterator[tuple[Any, ...]]:
    import pyarrow.parquet as pq

    for batch in pq.ParquetFile(path).iter_batches(batch_size=1024, columns=columns):
        yield from zip(*(batch.column(name).to_pylist() for name in columns), strict=True)


def _check_failures(failed: Sequence[tuple[str, str]], limit: int) -> None:
    if len(failed) > limit:
        shown = "; ".join(f"record {key}: {reason}" for key, reason in failed[:REPORTED])
        raise BadMeasurement(
            f"{len(failed)} records could not be embedded, exec.max_failed allows {limit}: {shown}. "
            f"Mend or drop them in the pool, or allow failures with exec.max_failed=<n>"
        )
