"""Sampled answers: K per record, from transformers or vLLM, with the same explicit settings, and resumable.

Prompts are cut into fixed batches that depend on the pool and the config alone; each batch has its own seed and is
written as one shard, so that a run resumed after a kill gives the very answers of an unbroken one. Across engines,
machines or batch sizes the answers differ: floating-point sums do.
"""

from __future__ import annotations

import dataclasses
import io
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from adg import models, prompts, records, scale, seeds
from adg.errors import BadInput, BadMeasurement, nearest
from adg.execution import ExecConfig
from adg.progress import progress
from adg.store import Artifact, Job, Node, Stage, write_atomic

if TYPE_CHECKING:
    import numpy as np
    import torch

STAGE = Stage("answers", 1, "adg.generation:build", gpu=True)

SHOWN = 20  # failed rows named in a manifest; all of them stand in failed.jsonl


def _vllm(default: Any, identity: bool = True) -> Any:
    return field(default=default, metadata={"vllm": True, "identity": identity})


@dataclass(frozen=True)
class SamplingConfig:
    """How answers are drawn; every setting is explicit, since the two libraries' defaults differ."""

    preset: str = field(default="paper", metadata={"identity": False})  # name of these settings
    n: int = 5  # K, answers per record
    temperature: float = 1.4  # 0 is greedy, for n = 1
    top_p: float = 0.9
    top_k: int = 0  # 0 is off; the released code leaves transformers' default of 50 on
    max_new_tokens: int = 256
    prompt_tokens: int | None = None  # prompts are cut on the right to this many; the released code to 80
    use_input: bool = True  # the released code leaves a record's input out
    strip: bool = True  # of white space around an answer
    seed: int = 0

    def __post_init__(self) -> None:
        limits = {
            "n": (self.n >= 1, "1 or more"),
            "temperature": (self.temperature >= 0, "0 or more"),
            "top_p": (0 < self.top_p <= 1, "above 0 and at most 1"),
            "top_k": (self.top_k >= 0, "0 (off) or more"),
            "max_new_tokens": (self.max_new_tokens >= 1, "1 or more"),
            "prompt_tokens": (self.prompt_tokens is None or self.prompt_tokens >= 2, "2 or more, or null for no cut"),
        }
        for name, (right, expected) in limits.items():
            if not right:
                raise BadInput(f"sampling.{name} is {getattr(self, name)}; expected {expected}")
        if self.temperature == 0 and self.n > 1:
            raise BadInput(
                f"sampling.temperature is 0, so the {self.n} answers of a record would be one and the "
                f"same; set sampling.n=1 or a temperature above 0"
            )


@dataclass(frozen=True)
class EngineConfig:
    """What samples. Settings of vLLM only are left out of the identity of ``hf``."""

    name: str = "hf"  # hf | vllm
    dtype: str = "auto"  # auto (the backbone's) | float32 | bfloat16 | float16
    distributed: str = field(default="none", metadata={"identity": False})  # none | ray: batches spread over actors
    batch_size: int = 16  # prompts that share a seed and a shard
    max_num_seqs: int = _vllm(256)  # answers decoded at once
    max_num_batched_tokens: int = _vllm(8192)  # tokens in one step
    enforce_eager: bool = _vllm(False)  # no compilation: starts sooner, runs slower
    cpu_cache_gb: int = _vllm(4, identity=False)  # memory for keys and values on CPU; on GPU exec.gpu_memory counts

    def __post_init__(self) -> None:
        if self.name not in ENGINES:
            raise BadInput(
                f"engine.name is {self.name!r}{nearest(self.name, list(ENGINES))}; expected one of {', '.join(ENGINES)}"
            )
        if self.dtype not in ("auto", *models.DTYPES):
            raise BadInput(f"engine.dtype is {self.dtype!r}; expected one of auto, {', '.join(models.DTYPES)}")
        for name in ("batch_size", "max_num_seqs", "max_num_batched_tokens", "cpu_cache_gb"):
            if getattr(self, name) < 1:
                raise BadInput(f"engine.{name} is {getattr(self, name)}; expected 1 or more")


@dataclass(frozen=True)
class Answers:
    """What makes two sets of answers the same, next to the pool and the backbone."""

    sampling: SamplingConfig
    engine: EngineConfig
    template: str  # digest of the prompt template


@dataclass(frozen=True)
class Answer:
    """One sampled continuation: its token ids, the stop token among them when there was one."""

    ids: list[int]
    finish_reason: str  # stop | length


class Generator(Protocol):
    """A loaded engine. ``sample`` depends on its arguments alone, not on what was sampled before."""

    def sample(self, prompts: Sequence[list[int]], cfg: SamplingConfig, seed: int) -> list[list[Answer]]:
        """``cfg.n`` answers for each prompt (token ids, ready to use), in the prompts' order.

        Raises ``NotFinite`` when the model returns NaN or infinity.
        """
        ...

    def close(self) -> None:
        """Give memory back."""
        ...


class NotFinite(BadMeasurement):
    """The model's scores for the prompts at ``rows`` are not finite."""

    def __init__(self, rows: Sequence[int]) -> None:
        super().__init__(f"the model returned NaN or infinite scores for the prompts at {list(rows)}")
        self.rows = tuple(rows)


# -- the stage -----------------------------------------------------------------------------------------------


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
    cfg: Answers = job.config
    backbone = job.inputs["backbone"]
    tokenizer = models.load_tokenizer(backbone)
    pool = records.load(job.inputs["pool"])
    encoded, failed = _encode(pool, tokenizer, cfg.sampling, models.positions(backbone))
    if len(failed) > job.exec.max_failed:
        first = failed[0]
        raise BadMeasurement(
            f"{len(failed)} of {len(pool)} records cannot be sampled (first: record {first['id']}: "
            f"{first['reason']}), at most exec.max_failed={job.exec.max_failed} may; cut prompts "
            f"with sampling.prompt_tokens, drop long records with pool.max_chars, or raise "
            f"exec.max_failed"
        )
    if not encoded:
        raise BadMeasurement(f"none of the {len(pool)} records can be sampled; {len(failed)} failed")
    batches = _batches(encoded, cfg.engine.batch_size)
    shards = [job.work / f"{index:06d}.parquet" for index in range(len(batches))]
    tables = {i: table for i, shard in enumerate(shards) if (table := _read_shard(shard, batches[i], cfg)) is not None}
    resumed = len(tables)
    sampled, seconds = 0, 0.0
    longest = max(map(len, encoded.values()))
    if resumed < len(batches) and job.exec.distributed == "ray":
        absent = [index for index in range(len(batches)) if index not in tables]
        rows = [
            {"index": index, "path": str(shards[index]), "prompts": {key: encoded[key] for key in batches[index]}}
            for index in absent
        ]
        started = time.perf_counter()
        arguments = (backbone, cfg, job.exec, longest)
        scale.over_ray(rows, "adg.generation:_Sampler", arguments, job.exec, f"sampling {job.node.label}")
        seconds = time.perf_counter() - started
        for index in absent:
            table = _read_shard(shards[index], batches[index], cfg)
            if table is None:
                raise BadMeasurement(
                    f"{shards[index]} is not there although a Ray actor wrote it; the artifacts folder (exec.runs) "
                    f"must be on a file system that all machines of the cluster share"
                )
            tables[index] = table
            sampled += sum(table["tokens"].to_pylist())
    elif resumed < len(batches):
        engine = ENGINES[cfg.engine.name](backbone, tokenizer, cfg, job.exec, longest)
        started = time.perf_counter()
        try:
            with progress(len(encoded) * cfg.sampling.n, f"sampling {job.node.label}", unit="answers") as bar:
                for index, batch in enumerate(batches):
                    if index not in tables:
                        rows = _sample(engine, tokenizer, batch, encoded, cfg.sampling, index)
                        write_atomic(shards[index], _parquet(tables.setdefault(index, _table(rows))))
                        sampled += sum(tables[index]["tokens"].to_pylist())
                    bar.update(len(batch) * cfg.sampling.n)
        finally:
            engine.close()
        seconds = time.perf_counter() - started
    table = _assemble([tables[i] for i in range(len(batches))])
    write_atomic(job.folder / "answers.parquet", _parquet(table))
    write_atomic(
        job.folder / "failed.jsonl", "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in failed).encode()
    )
    return {
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
        "template": cfg.template,
        "dtype": models.dtype_of(backbone) if cfg.engine.dtype == "auto" else cfg.engine.dtype,
        "batches": len(batches),
        "resumed_batches": resumed,
        "sampling": {"tokens": sampled, "seconds": round(seconds, 3), "device": models.device(job.exec)},  # for rates
    }


class _Sampler:
    """An actor's part of the sampling: the engine, and one batch at a time into its shard."""

    def __init__(self, backbone: Artifact, cfg: Answers, exec_: ExecConfig, longest: int) -> None:
        self.cfg, self.tokenizer = cfg, models.load_tokenizer(backbone)
        self.engine = ENGINES[cfg.engine.name](backbone, self.tokenizer, cfg, exec_, longest)

    def work(self, row: dict[str, Any]) -> dict[str, Any]:
        encoded: dict[str, list[int]] = row["prompts"]
        rows = _sample(self.engine, self.tokenizer, list(encoded), encoded, self.cfg.sampling, row["index"])
        write_atomic(Path(row["path"]), _parquet(_table(rows)))
        return {"answers": len(rows)}


def load(artifact: Artifact) -> dict[str, list[str]]:
    """Key -> the K answers in sample order, keys in canonical order; records that failed are not in it."""
    import pyarrow.parquet as pq

    table = pq.read_table(artifact.file("answers.parquet"), columns=["id", "sample", "text"])
    found: dict[str, list[str]] = {}
    for key, sample, text in zip(*(table[name].to_pylist() for name in table.column_names), strict=True):
        answers = found.setdefault(key, [])
        if sample != len(answers):
            raise BadInput(
                f"{artifact.path}/answers.parquet: record {key} has sample {sample} where {len(answers)} "
                f"was expected; delete the folder and run the same command again"
            )
        answers.append(text)
    return found


def _encode(
    pool: Sequence[records.Record], tokenizer: Any, cfg: SamplingConfig, context: int | None
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


def _batches(encoded: dict[str, list[int]], size: int) -> list[list[str]]:
    """Keys in groups of ``size`` of similar prompt length (less padding); ties stay in canonical order."""
    keys = sorted(encoded, key=lambda key: len(encoded[key]))
    return [keys[start : start + size] for start in range(0, len(keys), size)]


def _sample(
    engine: Generator, tokenizer: Any, batch: list[str], encoded: dict[str, list[int]], cfg: SamplingConfig, index: int
) -> list[dict[str, Any]]:
    seed = seeds.child(cfg.seed, "answers", index)
    try:
        answers = engine.sample([encoded[key] for key in batch], cfg, seed)
    except NotFinite as error:
        named = ", ".join(batch[row] for row in error.rows)
        raise BadMeasurement(
            f"the model returned NaN or infinite scores for record {named}; check its weights, or "
            f"use another engine.dtype"
        ) from error
    return [
        {
            "id": key,
            "sample": sample,
            "text": _text(tokenizer, answer, cfg.strip),
            "finish_reason": answer.finish_reason,
            "tokens": len(answer.ids),
            "prompt_tokens": len(encoded[key]),
            "seed": seed,
        }
        for key, drawn in zip(batch, answers, strict=True)
        for sample, answer in enumerate(drawn)
    ]


def _text(tokenizer: Any, answer: Answer, strip: bool) -> str:
    text = tokenizer.decode(answer.ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return text.strip() if strip else text


# -- shards --------------------------------------------------------------------------------------------------


def _table(rows: list[dict[str, Any]]) -> Any:
    import pyarrow as pa

    types = {
        "id": pa.string(),
        "sample": pa.int32(),
        "text": pa.string(),
        "finish_reason": pa.string(),
        "tokens": pa.int32(),
        "prompt_tokens": pa.int32(),
        "seed": pa.int64(),
    }
    return pa.table({name: pa.array([row[name] for row in rows], kind) for name, kind in types.items()})


def _parquet(table: Any) -> bytes:
    import pyarrow.parquet as pq

    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    return buffer.getvalue()


def _read_shard(path: Path, batch: list[str], cfg: Answers) -> Any | None:
    """The finished shard of a batch, or None: a missing or damaged one is sampled again, with the same result."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not path.is_file():
        return None
    try:
        table = pq.read_table(path)
    except (pa.ArrowInvalid, OSError):
        return None
    complete = table["id"].to_pylist() == [key for key in batch for _ in range(cfg.sampling.n)]
    return table if complete else None


def _assemble(tables: list[Any]) -> Any:
    """All shards as one table in canonical order of the records, then by sample."""
    import pyarrow as pa

    table = pa.concat_tables(tables).combine_chunks()
    keys, samples = table["id"].to_pylist(), table["sample"].to_pylist()
    order = sorted(range(len(keys)), key=lambda row: (records.order(records.from_key(keys[row])), samples[row]))
    return table.take(order)


# -- transformers --------------------------------------------------------------------------------------------


class TransformersEngine:
    """transformers: each prompt is read once for its K answers, and answers that ended make room."""

    COMPACT = 0.125  # share of ended rows above which they are taken out of the batch

    def __init__(self, backbone: Artifact, tokenizer: Any, cfg: Answers, exec_: ExecConfig, longest: int) -> None:
        self.device = models.device(exec_)
        self.model = models.load_model(backbone, self.device, cfg.engine.dtype)
        self.stop = models.stop_ids(backbone, tokenizer)
        self.pad = tokenizer.pad_token_id

    def sample(self, prompts: Sequence[list[int]], cfg: SamplingConfig, seed: int) -> list[list[Answer]]:
        import torch

        generator = torch.Generator(self.device).manual_seed(seed)
        with torch.inference_mode():
            return self._sample(prompts, cfg, generator)

    def _sample(self, prompts: Sequence[list[int]], cfg: SamplingConfig, generator: torch.Generator) -> Any:
        import torch

        width = max(map(len, prompts))
        ids = torch.tensor([[self.pad] * (width - len(p)) + p for p in prompts], device=self.device)
        mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=self.device)
        out = self.model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=(mask.cumsum(-1) - 1).clamp(min=0),
            use_cache=True,
            logits_to_keep=1,
        )
        cache = out.past_key_values
        cache.batch_repeat_interleave(cfg.n)
        mask = mask.repeat_interleave(cfg.n, 0)
        logits = out.logits[:, -1].float().repeat_interleave(cfg.n, 0)

        stop = torch.tensor(self.stop, device=self.device)
        rows = torch.arange(len(mask), device=self.device)  # which answer each row of the batch is
        alive = torch.ones(len(mask), dtype=torch.bool, device=self.device)
        tokens = torch.full((len(mask), cfg.max_new_tokens), self.pad, device=self.device)
        lengths = torch.full((len(mask),), cfg.max_new_tokens, device=self.device)
        ended = torch.zeros(len(mask), dtype=torch.bool, device=self.device)
        for step in range(cfg.max_new_tokens):
            try:
                drawn = draw(logits, cfg.temperature, cfg.top_p, cfg.top_k, generator)
            except NotFinite as error:
                raise NotFinite(sorted({int(rows[row]) // cfg.n for row in error.rows})) from error
            tokens[rows, step] = drawn
            over = alive & torch.isin(drawn, stop)
            lengths[rows[over]] = step + 1
            ended[rows[over]] = True
            alive &= ~over
            left = int(alive.sum())
            if left == 0 or step + 1 == cfg.max_new_tokens:
                break
            if len(alive) - left > self.COMPACT * len(alive):
                keep = alive.nonzero().squeeze(1)
                cache.batch_select_indices(keep)
                rows, mask, drawn, alive = rows[keep], mask[keep], drawn[keep], alive[keep]
            positions = mask.sum(-1, keepdim=True)
            mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
            out = self.model(
                input_ids=drawn[:, None],
                attention_mask=mask,
                position_ids=positions,
                past_key_values=cache,
                use_cache=True,
            )
            logits = out.logits[:, -1].float()
        answers = [
            Answer(line[:length], "stop" if stopped else "length")
            for line, length, stopped in zip(tokens.tolist(), lengths.tolist(), ended.tolist(), strict=True)
        ]
        return [answers[start : start + cfg.n] for start in range(0, len(answers), cfg.n)]

    def close(self) -> None:
        import gc

        import torch

        del self.model
        gc.collect()
        if self.device == "cuda":
            torch.cuda.empty_cache()


def draw(
    logits: torch.Tensor, temperature: float, top_p: float, top_k: int, generator: torch.Generator
) -> torch.Tensor:
    """One token per row of ``logits`` (rows, vocabulary) -> (rows,): temperature, then top-k, then top-p.

    Top-p keeps a token when less than ``top_p`` of the mass is on more probable ones, as both libraries do, but
    nothing is sorted (sorting 80 rows of 49,152 costs as much as the model): a token is drawn from the whole
    distribution and, if refused, drawn again among the more probable ones only, which is the same distribution.
    Tokens tied at a limit are all kept. Raises ``NotFinite`` naming rows.
    """
    import torch

    bad = (~torch.isfinite(logits.sum(-1))).nonzero().flatten().tolist()
    if bad:
        raise NotFinite(bad)
    if temperature == 0:
        return logits.argmax(-1)
    logits = logits / temperature
    if 0 < top_k < logits.shape[-1]:
        logits = logits.masked_fill(logits < logits.topk(top_k).values[:, -1:], float("-inf"))
    probabilities = logits.softmax(-1)
    drawn = torch.empty(len(logits), dtype=torch.long, device=logits.device)
    waiting = torch.arange(len(logits), device=logits.device)
    weights = probabilities
    while len(waiting):
        mass = weights.cumsum(-1)
        point = torch.rand(len(waiting), 1, generator=generator, device=logits.device) * mass[:, -1:]
        token = torch.searchsorted(mass, point, right=True).clamp_(max=logits.shape[-1] - 1)
        probability = weights.gather(1, token)
        above = (probabilities * (probabilities > probability)).sum(-1)
        kept = (probability[:, 0] > 0) & ((above < top_p) if top_p < 1 else True)
        drawn[waiting[kept]] = token[kept, 0]
        refused = ~kept
        waiting, probabilities, probability = waiting[refused], probabilities[refused], probability[refused]
        weights = weights[refused] * (probabilities > probability)
    return drawn


# -- vLLM ----------------------------------------------------------------------------------------------------


class Reseed:
    """Added to vLLM's workers: sets every generator they may sample with (CPU builds know no seed per request).

    On GPUs a request without a seed is given one by numpy's, elsewhere torch's draws the tokens.
    """

    def reseed(self, seed: int) -> None:
        import random

        import numpy as np
        import torch

        random.seed(seed)
        np.random.seed(seed % 2**32)  # noqa: NPY002 - vLLM draws from the global one
        torch.manual_seed(seed)  # every GPU's generator too


class Vllm:
    """vLLM with its engine in this process, which makes the order of its steps repeatable; ``close`` leaves no trace.

    ``settings`` are further arguments of vLLM's ``LLM``; ``max_model_len`` counts the tokens of a text and its answer.
    """

    def __init__(
        self,
        backbone: Artifact,
        dtype: str,
        exec_: ExecConfig,
        max_model_len: int,
        cpu_cache_gb: int = 4,
        **settings: Any,
    ) -> None:
        device = models.device(exec_)
        path = models.model_path(backbone)
        self._restore = prepare_vllm()
        try:
            with _forked_rng():
                from vllm import LLM

                memory: dict[str, Any] = {"kv_cache_memory_bytes": cpu_cache_gb << 30}
                if device == "cuda":
                    memory = {"gpu_memory_utilization": exec_.gpu_memory}
                self.llm = LLM(
                    model=str(path),
                    tokenizer=str(path),
                    trust_remote_code=False,
                    dtype=models.dtype_of(backbone) if dtype == "auto" else dtype,
                    seed=0,
                    generation_config="vllm",  # nothing from the checkpoint's generation_config.json
                    async_scheduling=False,  # its steps would depend on timing
                    max_model_len=max_model_len,
                    tensor_parallel_size=exec_.tensor_parallel,
                    disable_log_stats=True,
                    **memory,
                    **settings,
                )
        except BaseException:
            self._restore()
            raise

    def log_probabilities(self, texts: Sequence[list[int]]) -> list[np.ndarray]:
        """Of every token after those before it: (T,) float64 a text, natural log; NaN for its first token."""
        import numpy as np
        from vllm import SamplingParams

        params = SamplingParams(max_tokens=1, temperature=0, prompt_logprobs=0, detokenize=False)
        with _forked_rng():
            done = self.llm.generate([{"prompt_token_ids": ids} for ids in texts], params, use_tqdm=False)
        return [
            np.array([np.nan, *(at[token].logprob for at, token in zip(one.prompt_logprobs[1:], ids[1:], strict=True))])
            for one, ids in zip(done, texts, strict=True)
        ]

    def close(self) -> None:
        shut_down(self.llm)
        del self.llm
        self._restore()


class VllmEngine(Vllm):
    """Each batch starts from a fresh seed and an empty prefix cache; within it, a prompt is read once for its K
    answers. The order of the engine's steps, and so its draws, are repeatable."""

    def __init__(self, backbone: Artifact, tokenizer: Any, cfg: Answers, exec_: ExecConfig, longest: int) -> None:
        self.stop = models.stop_ids(backbone, tokenizer)
        super().__init__(
            backbone,
            cfg.engine.dtype,
            exec_,
            longest + cfg.sampling.max_new_tokens,
            cfg.engine.cpu_cache_gb,
            enable_prefix_caching=True,
            max_num_seqs=cfg.engine.max_num_seqs,
            max_num_batched_tokens=cfg.engine.max_num_batched_tokens,
            enforce_eager=cfg.engine.enforce_eager,
            worker_extension_cls=f"{Reseed.__module__}.{Reseed.__qualname__}",
        )

    def sample(self, prompts: Sequence[list[int]], cfg: SamplingConfig, seed: int) -> list[list[Answer]]:
        from vllm import SamplingParams

        params = SamplingParams(
            n=cfg.n,
            temperature=cfg.temperature,
            top_p=cfg.top_p,
            top_k=cfg.top_k,
            min_p=0.0,
            repetition_penalty=1.0,
            presence_penalty=0.0,
            frequency_penalty=0.0,
            max_tokens=cfg.max_new_tokens,
            stop_token_ids=self.stop,
            detokenize=False,
        )
        with _forked_rng():
            self.llm.reset_prefix_cache()
            self.llm.collective_rpc("reseed", args=(seed,))
            done = self.llm.generate([{"prompt_token_ids": ids} for ids in prompts], params, use_tqdm=False)
        return [
            [Answer(list(one.token_ids), str(one.finish_reason)) for one in sorted(o.outputs, key=lambda c: c.index)]
            for o in done
        ]


def prepare_vllm() -> Callable[[], None]:
    """Let vLLM run inside this process, quietly; returns a function that undoes what it changes here."""
    restore = _process_state()
    os.environ |= {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_NO_USAGE_STATS": "1"}
    os.environ["VLLM_USE_FLASHINFER_SAMPLER"] = "0"  # it draws with a generator of its own, where it is installed
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    return restore


def shut_down(llm: Any) -> None:
    """Give back the memory of a vLLM engine; the caller drops its last reference."""
    import gc

    from vllm.distributed import cleanup_dist_env_and_memory

    llm.llm_engine.engine_core.shutdown()
    del llm
    cleanup_dist_env_and_memory()
    gc.collect()


@contextmanager
def _forked_rng() -> Iterator[None]:
    """The states of all three global generators as they were, afterwards."""
    import random

    import numpy as np
    import torch

    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002 - vLLM seeds the global one
    try:
        with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002


def _process_state() -> Any:
    """A function that gives this process back the environment, threads and cores that vLLM changes."""
    import torch

    environment = dict(os.environ)
    set_threads, threads = torch.set_num_threads, torch.get_num_threads()
    cores = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None

    def restore() -> None:
        os.environ.clear()
        os.environ.update(environment)
        torch.set_num_threads = set_threads  # its CPU worker puts a function without effect in its place
        torch.set_num_threads(threads)
        if cores is not None:
            os.sched_setaffinity(0, cores)

    return restore


ENGINES: dict[str, type] = {"hf": TransformersEngine, "vllm": VllmEngine}
