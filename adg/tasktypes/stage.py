"""The type of every record's task: the one of ten names that the backbone finds likeliest after the instruction.

The score of a name is the sum of the log-probabilities of its tokens after the instruction, less the same where nothing
is asked: what the instruction itself says for the name. Domain-conditional pointwise mutual information, Holtzman et
al. 2021 (arXiv 2104.08315), with the content-free input of Zhao et al. 2021 (arXiv 2102.09690). The instruction alone
is read, without its input, as in the paper's analysis, which asked an API model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from adg import prompts
from adg.artifacts.artifact import Artifact, Job, Node, Stage
from adg.artifacts.files import write_atomic
from adg.artifacts.shards import Shard, Shards, parquet
from adg.backbones import loading
from adg.batching import batch_tokens, batches
from adg.errors import BadInput, BadMeasurement
from adg.pools import records
from adg.progress import progress
from adg.tasktypes import labels
from adg.tasktypes.config import TaskTypesConfig
from adg.tasktypes.labels import CONTENT_FREE, PROBES, TYPES
from adg.tasktypes.likelihood import NameScorer

STAGE = Stage("task-types", 1, "adg.tasktypes.stage:build", place=85, gpus="tensor_parallel", work="records to sort")
FAILED = "the model gave NaN or infinity"
SHOWN = 20  # failed rows named in a manifest


@dataclass(frozen=True)
class TaskTypesIdentity:
    """What makes the types of one pool under one model the same."""

    options: TaskTypesConfig
    words: str  # digest of the prompt, the names and the probes


@dataclass(frozen=True)
class TaskTypes:
    """Types of n records in canonical order. ``types`` has "" where there is none, and ``invalid`` the reason.

    ``scores`` (n, 10) in nats, NaN in such a row. ``probes`` says of each type how many of its plain instructions the
    backbone named rightly, of ``probed`` each.
    """

    ids: list[str]
    types: list[str]
    scores: np.ndarray
    invalid: list[str]
    probes: dict[str, int]
    probed: int


def node(pool: Node, backbone: Node, cfg: TaskTypesConfig) -> Node:
    """The types of ``pool``'s instructions under ``backbone``."""
    identity = TaskTypesIdentity(cfg, labels.HASH)
    return Node(STAGE, f"{pool.label}+{backbone.label}", identity, {"pool": pool, "backbone": backbone})


def build(job: Job) -> dict[str, Any]:
    """Payload ``types.parquet``: id, type, the ten scores, and why a record has none.

    Raises ``BadMeasurement`` where more records than ``exec.max_failed`` gave no number, or what they are compared with
    gave none.
    """
    import pyarrow as pa

    cfg: TaskTypesConfig = job.config.options
    pool = records.load(job.inputs["pool"])
    probes = [(task_type, text) for task_type, texts in PROBES.items() for text in texts]
    texts = [record.instruction for record in pool] + [text for _, text in probes] + [CONTENT_FREE]
    logs, cut = _log_probabilities(job, texts)
    if not np.isfinite(logs[-1]).all():
        raise BadMeasurement(f"{FAILED} where nothing is asked; check the backbone's weights or set task_types.dtype")
    expected = logs[-1] if cfg.calibrated else np.zeros(len(TYPES))
    rows, tried = np.split((logs - expected)[:-1], [len(pool)])
    failed = [record.key for record, row in zip(pool, rows, strict=True) if not np.isfinite(row).all()]
    _check_failed(failed, job.exec.max_failed)
    rows[~np.isfinite(rows).all(axis=1)] = np.nan
    invalid = ["" if np.isfinite(row).all() else FAILED for row in rows]
    names = list(TYPES)
    types = ["" if reason else names[int(np.argmax(row))] for row, reason in zip(rows, invalid, strict=True)]
    columns: dict[str, Any] = {"id": [record.key for record in pool], "type": types}
    columns |= {name: rows[:, place] for place, name in enumerate(names)}
    write_atomic(job.folder / "types.parquet", parquet(pa.table({**columns, "invalid": invalid})))
    named = [names[int(np.argmax(row))] if np.isfinite(row).all() else "" for row in tried]
    return {
        "rows_in": len(pool),
        "rows_out": len(pool) - len(failed),
        "failed": [[key, FAILED] for key in failed][:SHOWN],
        "failed_count": len(failed),
        "cut": cut,
        "content_free": dict(zip(names, expected.tolist(), strict=True)),
        "probes": {
            name: sum(found == name for found, (task_type, _) in zip(named, probes, strict=True) if task_type == name)
            for name in names
        },
        "types": {name: types.count(name) for name in names},
    }


def _log_probabilities(job: Job, texts: Sequence[str]) -> tuple[np.ndarray, int]:
    """The log-probability of each name after each text, (n, 10), in shards; and how many texts were cut."""
    cfg, backbone = job.config.options, job.inputs["backbone"]
    tokenizer, device = loading.load_tokenizer(backbone), loading.device(job.exec)
    prefix = prompts.encode_prompt(tokenizer, labels.prefix())
    names = [prompts.encode(tokenizer, labels.name(task_type)) for task_type in TYPES]
    head, end = prompts.encode(tokenizer, labels.ASKED), prompts.encode(tokenizer, labels.ANSWERED)
    room = _room(loading.positions(backbone), len(prefix) + len(head) + len(end) + max(map(len, names)), cfg.max_tokens)
    bodies = [prompts.encode(tokenizer, f" {text}") for text in texts]
    contexts = [[*head, *body[:room], *end] for body in bodies]
    result, shards = np.full((len(texts), len(TYPES)), np.nan), Shards(job.work, "types")
    loaded: list[NameScorer] = []

    def scorer() -> NameScorer:
        if not loaded:
            model = loading.load_model(backbone, device, cfg.dtype, gpus=job.exec.tensor_parallel)
            loaded.append(NameScorer(model, prefix, names))
        return loaded[0]

    extra = sum(len(name) - 1 for name in names)
    limit = batch_tokens(job.exec.tokens_per_batch, device)
    with progress(len(texts), f"types of task {job.node.label}", unit="records") as bar:
        for batch in batches(range(len(texts)), lambda i: len(contexts[i]) + extra, limit):
            shard = shards.find(batch)
            if shard is None:
                shard = Shard(arrays={"logs": scorer().score([contexts[i] for i in batch])})
                if np.isfinite(shard.arrays["logs"]).all():
                    shards.save(batch, shard)
            result[batch] = shard.arrays["logs"]
            bar.update(len(batch))
    return result, sum(len(body) > room for body in bodies)


def _room(positions: int | None, taken: int, wanted: int) -> int:
    """Tokens of an instruction that are read. Raises ``BadInput`` where the backbone has no positions for any."""
    room = wanted if positions is None else min(wanted, positions - taken)
    if room < 1:
        raise BadInput(
            f"the question for a type of task takes {taken} tokens and the backbone has {positions} positions; choose "
            f"another backbone for this experiment"
        )
    return room


def _check_failed(keys: Sequence[str], allowed: int) -> None:
    if len(keys) > allowed:
        raise BadMeasurement(
            f"{len(keys)} records gave NaN or infinity, exec.max_failed allows {allowed}; their ids: "
            f"{', '.join(keys[:SHOWN])}. Try task_types.dtype=float32, or allow failures with exec.max_failed=<n>"
        )


def load(artifact: Artifact) -> TaskTypes:
    """The payload of a "task-types" artifact."""
    import pyarrow.parquet as pq

    table = pq.read_table(artifact.file("types.parquet"))
    scores = np.stack([table[name].to_numpy() for name in TYPES], axis=1)
    ids, types, invalid = (table[name].to_pylist() for name in ("id", "type", "invalid"))
    probed = len(next(iter(PROBES.values())))
    return TaskTypes(ids, types, scores, invalid, dict(artifact.info["probes"]), probed)
