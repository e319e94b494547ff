"""Sampled answers: K per record, from transformers or vLLM, with the same explicit settings, and resumable.

Prompts are cut into fixed batches that depend on the pool and the config alone; each batch has its own seed and is
written as one shard, so that a run resumed after a kill gives the very answers of an unbroken one. Across engines,
machines or batch sizes the answers differ: floating-point sums do.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from adg import prompts, seeds, spread, workers
from adg.answers.config import Answer, Answers, EngineConfig, Generator, NotFinite, SamplingConfig
from adg.answers.transformers_engine import TransformersEngine
from adg.answers.vllm_engine import VllmEngine
from adg.artifacts.artifact import Artifact, Job, Node, Stage
from adg.artifacts.files import write_atomic
from adg.artifacts.shards import Shard, Shards, parquet
from adg.backbones import loading
from adg.errors import BadInput, BadMeasurement
from adg.execution import ENGINES, ExecConfig
from adg.pools import records
from adg.pools.records import Record
from adg.progress import progress

STAGE = Stage(
    "answers", 1, "adg.answers.stage:build", place=30, gpus="tensor_parallel", spread=True, work="answers to sample"
)
SHOWN = 20  # failed rows named in a manifest; all of them stand in failed.jsonl


def node(pool: Node, backbone: Node, sampling: SamplingConfig, engine: EngineConfig) -> Node:
    """The answers of a backbone to a pool."""
    if engine.name != "vllm":
        own: dict[str, Any] = {f.name: f.default for f in dataclasses.fields(engine) if f.metadata.get("vllm")}
        engine = dataclasses.replace(engine, **own)
    return Node(
        STAGE,
        f"{backbone.label}-{pool.label}-k{sampling.n}",
        Answers(sampling, engine, prompts.HASH),
        {"pool": pool, "backbone": backbone},
    )


def build(job: Job) -> dict[str, Any]:
    """Sample every batch that has no shard yet, then write ``answers.parquet`` and ``failed.jsonl``.

    Raises ``BadMeasurement`` before any model is loaded when more than ``exec.max_failed`` prompts do not fit.
    """
    return sample_pool(job, f"{__name__}:Sampler")[0]


def sample_pool(job: Job, sampler: str) -> tuple[dict[str, Any], list[tuple[int, list[str]]]]:
    """``build`` with a ``Sampler`` of the given "module:class"; returns the keys of the shards ("answers") too."""
    cfg: Answers = job.config
    backbone = job.inputs["backbone"]
    tokenizer = loading.load_tokenizer(backbone)
    pool = records.load(job.inputs["pool"])
    encoded, failed = encode(pool, tokenizer, cfg.sampling, loading.positions(backbone))
    if len(failed) > job.exec.max_failed:
        first, too_long = failed[0], {row["id"] for row in failed}
        raise BadMeasurement(
            f"{len(failed)} of {len(pool)} records cannot be sampled (first: record {first['id']}: "
            f"{first['reason']}), at most exec.max_failed={job.exec.max_failed} may; "
            f"{records.dropping([record for record in pool if record.key in too_long])} leaves them out, "
            f"exec.max_failed={len(failed)} goes on without their scores"
        )
    if not encoded:
        raise BadMeasurement(f"none of the {len(pool)} records can be sampled; {len(failed)} failed")
    batches = batches_of(encoded, cfg.engine.batch_size)
    keys = list(enumerate(batches))  # of the shards: the number gives the seed
    shards = Shards(job.work, "answers")
    absent = shards.absent(keys)
    seconds = _sample_batches(job, sampler, [keys[place] for place in absent], encoded) if absent else 0.0
    tables = [shards.read(key).table for key in keys]
    sampled = sum(sum(tables[place]["tokens"].to_pylist()) for place in absent)
    table = _assemble(tables)
    write_atomic(job.folder / "answers.parquet", parquet(table))
    write_atomic(
        job.folder / "failed.jsonl", "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in failed).encode()
    )
    info = {
        "rows_in": len(pool),
        "rows_out": len(encoded),
        "failed": failed[:SHOWN],
        "failed_count": len(failed),
        "answers": table.num_rows,
        "empty": sum(not text.strip() for text in table["text"].to_pylist()),
        "truncated": table["finish_reason"].to_pylist().count("length"),
        "tokens": sum(table["tokens"].to_pylist()),
        "prompt_tokens": sum(map(len, encoded.values())),
        "prompts_cut": _cut(encoded, cfg.sampling),
        **({"logprobs": True} if cfg.sampling.logprobs else {}),
        "template": cfg.template,
        "dtype": loading.dtype_of(backbone) if cfg.engine.dtype == "auto" else cfg.engine.dtype,
        "batches": len(batches),
        "resumed_batches": len(batches) - len(absent),
        "sampling": {"tokens": sampled, "seconds": round(seconds, 3), "device": loading.device(job.exec)},  # for rates
    }
    return info, keys


def _sample_batches(job: Job, sampler: str, keys: list[tuple[int, list[str]]], encoded: dict[str, list[int]]) -> float:
    """Sample the batches ``keys`` (number and record keys), each into its shard, here or by several workers.

    Returns the seconds that took, without loading the model where that happens here.
    """
    cfg: Answers = job.config
    longest, title = max(map(len, encoded.values())), f"sampling {job.node.label}"
    rows = [{"index": index, "prompts": {key: encoded[key] for key in batch}} for index, batch in keys]
    arguments = (job.inputs["backbone"], cfg, job.exec, longest, str(job.work))
    if spread.wanted(job.exec):
        started = time.perf_counter()
        spread.over(rows, sampler, arguments, job.exec, title)
        return time.perf_counter() - started
    here = workers.make(sampler, arguments)
    started = time.perf_counter()
    try:
        with progress(sum(len(batch) for _, batch in keys) * cfg.sampling.n, title, unit="answers") as bar:
            for row in rows:
                bar.update(here.work(row)["answers"])
    finally:
        here.close()
    return time.perf_counter() - started


class Sampler:
    """A loaded engine that samples one batch after the other, each into its shard; here, in a replica or an actor."""

    def __init__(self, backbone: Artifact, cfg: Answers, exec_: ExecConfig, longest: int, work: str) -> None:
        self.cfg, self.tokenizer = cfg, loading.load_tokenizer(backbone)
        self.engine: Generator = BY_NAME[cfg.engine.name](backbone, self.tokenizer, cfg, exec_, longest)
        self.shards = Shards(Path(work), "answers")

    def work(self, row: dict[str, Any]) -> dict[str, Any]:
        encoded: dict[str, list[int]] = row["prompts"]
        seed = seeds.child(self.cfg.sampling.seed, "answers", row["index"])
        drawn = self._draw(encoded, seed)
        texts = {key: [text_of(self.tokenizer, one, self.cfg.sampling.strip) for one in drawn[key]] for key in drawn}
        self.shards.save((row["index"], list(encoded)), self.shard(encoded, drawn, texts, seed))
        return {"answers": sum(map(len, drawn.values()))}

    def close(self) -> None:
        self.engine.close()

    def shard(
        self, encoded: dict[str, list[int]], drawn: dict[str, list[Answer]], texts: dict[str, list[str]], seed: int
    ) -> Shard:
        """What is kept of a batch: of each record its prompt, its answers and these as texts."""
        return Shard(table=_table(encoded, drawn, texts, seed, self.cfg.sampling.logprobs))

    def _draw(self, encoded: dict[str, list[int]], seed: int) -> dict[str, list[Answer]]:
        try:
            answers = self.engine.sample(list(encoded.values()), self.cfg.sampling, seed)
        except NotFinite as error:
            named = ", ".join(list(encoded)[row] for row in error.rows)
            raise BadMeasurement(
                f"the model returned NaN or infinite scores for record {named}; check its weights, or "
                f"use another engine.dtype"
            ) from error
        return dict(zip(encoded, answers, strict=True))


def load(artifact: Artifact) -> dict[str, list[str]]:
    """Key -> the K answers in sample order, keys in canonical order; records that failed are not in it."""
    return {key: [text for (text,) in rows] for key, rows in _by_record(artifact, "text").items()}


def load_likelihoods(artifact: Artifact) -> dict[str, list[float]]:
    """Key -> of each of the K answers the mean log-probability (natural log) of its sampled tokens, in sample order.

    Raises ``BadInput`` where none were kept while sampling.
    """
    if not artifact.info.get("logprobs"):
        raise BadInput(f"{artifact.path} holds no log-probabilities; sample with sampling.logprobs=true")
    rows = _by_record(artifact, "logprob", "tokens")
    return {key: [logprob / tokens for logprob, tokens in answers] for key, answers in rows.items()}


def _by_record(artifact: Artifact, *columns: str) -> dict[str, list[tuple[Any, ...]]]:
    """Key -> ``columns`` of its answers in sample order."""
    import pyarrow.parquet as pq

    table = pq.read_table(artifact.file("answers.parquet"), columns=["id", "sample", *columns])
    by_record: dict[str, list[tuple[Any, ...]]] = {}
    for key, sample, *values in zip(*(table[name].to_pylist() for name in table.column_names), strict=True):
        answers = by_record.setdefault(key, [])
        if sample != len(answers):
            raise BadInput(
                f"{artifact.path}/answers.parquet: record {key} has sample {sample} where {len(answers)} "
                f"was expected; delete the folder and run the same command again"
            )
        answers.append(tuple(values))
    return by_record


def encode(
    pool: Sequence[Record], tokenizer: Any, cfg: SamplingConfig, context: int | None
) -> tuple[dict[str, list[int]], list[dict[str, str]]]:
    """Key -> prompt ids in canonical order, and the records whose prompt does not fit."""
    encoded, failed = {}, []
    for record in sorted(pool, key=lambda record: records.order(record.id)):
        text = prompts.render(record.instruction, record.input if cfg.use_input else "")
        ids = prompts.encode_prompt(tokenizer, text, cfg.prompt_tokens, side="right")
        if context is not None and len(ids) + cfg.max_new_tokens > context:
            failed.append(
                {
                    "id": record.key,
                    "reason": f"a prompt of {len(ids)} tokens and {cfg.max_new_tokens} new "
                    f"ones exceed the model's context of {context}",
                }
            )
        else:
            encoded[record.key] = ids
    return encoded, failed


def _cut(encoded: dict[str, list[int]], cfg: SamplingConfig) -> int:
    """Prompts as long as the limit: those that were, or just were not, cut."""
    return 0 if cfg.prompt_tokens is None else sum(len(ids) >= cfg.prompt_tokens for ids in encoded.values())


def batches_of(encoded: dict[str, list[int]], size: int) -> list[list[str]]:
    """Keys in groups of ``size`` of similar prompt length (less padding); ties stay in canonical order."""
    keys = sorted(encoded, key=lambda key: len(encoded[key]))
    return [keys[start : start + size] for start in range(0, len(keys), size)]


def text_of(tokenizer: Any, answer: Answer, strip: bool) -> str:
    text = tokenizer.decode(answer.ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return text.strip() if strip else text


def _table(
    encoded: dict[str, list[int]],
    drawn: dict[str, list[Answer]],
    texts: dict[str, list[str]],
    seed: int,
    logprobs: bool,
) -> Any:
    """A row for each answer; the log-probability where it was asked for."""
    import pyarrow as pa

    rows = [
        (key, sample, text, answer.finish_reason, len(answer.ids), len(encoded[key]), seed, answer.logprob)
        for key, answers in drawn.items()
        for sample, (answer, text) in enumerate(zip(answers, texts[key], strict=True))
    ]
    types = {
        "id": pa.string(),
        "sample": pa.int32(),
        "text": pa.string(),
        "finish_reason": pa.string(),
        "tokens": pa.int32(),
        "prompt_tokens": pa.int32(),
        "seed": pa.int64(),
        "logprob": pa.float64(),
    }
    columns = zip(types.items(), zip(*rows, strict=True), strict=True)
    table = pa.table({name: pa.array(values, kind) for (name, kind), values in columns})
    return table if logprobs else table.drop_columns("logprob")


def _assemble(tables: list[Any]) -> Any:
    """All shards as one table in canonical order of the records, then by sample."""
    import pyarrow as pa

    table = pa.concat_tables(tables).combine_chunks()
    keys, samples = table["id"].to_pylist(), table["sample"].to_pylist()
    order = sorted(range(len(keys)), key=lambda row: (records.order(records.from_key(keys[row])), samples[row]))
    return table.take(order)


BY_NAME: dict[str, type] = dict(zip(ENGINES, (TransformersEngine, VllmEngine), strict=True))
