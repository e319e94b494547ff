"""Answers and their Gram matrices in one pass: the states that sampling computes anyway are pooled as they come.

Pooled are the sampled tokens themselves, special ones aside. The other way (``embedding.source=encoder``) encodes each
answer's text again: where that gives the same tokens the vectors are the same to rounding, and the other answers are
counted. Sums are kept, never states.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from adg import geometry, prompts
from adg.answers import stage as answers_stage
from adg.answers.config import Answer, Answers, EngineConfig, SamplingConfig
from adg.artifacts.artifact import Artifact, Job, Node, Stage
from adg.artifacts.files import write_json
from adg.artifacts.shards import Shard, Shards
from adg.embedding.config import EmbeddingConfig
from adg.embedding.pooling import StateSums, unit
from adg.embedding.texts import CannotEmbed, weight_table
from adg.errors import BadInput
from adg.execution import ExecConfig
from adg.pools import records

if TYPE_CHECKING:
    import torch

STAGE = Stage(
    "pooled-answers",
    1,
    "adg.embedding.one_pass:build",
    place=30,
    gpus="tensor_parallel",
    spread=True,
    work="answers to sample and embed",
)
COUNTS = ("empty_answers", "truncated_answers", "unweighted_answers", "identical_records", "retokenized_answers")


@dataclass(frozen=True)
class AnswerPooling:
    """What of ``EmbeddingConfig`` decides an answer's vector while it is sampled; the rest is the sampling's own."""

    windows: tuple[str, ...]
    token_weights: bool
    max_tokens: int
    empty_answer: str


@dataclass(frozen=True)
class PooledAnswers(Answers):
    """What makes two sets of pooled answers the same, next to the pool and the backbone."""

    pooling: AnswerPooling


@dataclass(frozen=True)
class Pooled:
    """A loaded artifact: the Gram matrices of the records that have them, and why others have none."""

    rows: dict[str, int]  # record key -> row of ``grams``
    grams: np.ndarray  # (m, W, K, K) float64
    failed: dict[str, str]
    counts: dict[str, int]


def node(pool: Node, backbone: Node, sampling: SamplingConfig, engine: EngineConfig, cfg: EmbeddingConfig) -> Node:
    """The pooled answers of a backbone to a pool. Raises ``BadInput`` where sampling computes other states than
    ``cfg`` asks for."""
    check(sampling, engine, cfg)
    plain = answers_stage.node(pool, backbone, sampling, engine)
    pooling = AnswerPooling(cfg.declared, cfg.token_weights, cfg.max_tokens, cfg.empty_answer)
    config = PooledAnswers(plain.config.sampling, plain.config.engine, plain.config.template, pooling)
    return Node(STAGE, plain.label, config, plain.inputs)


def check(sampling: SamplingConfig, engine: EngineConfig, cfg: EmbeddingConfig) -> None:
    """Raise ``BadInput`` where the states of sampling are not those that ``cfg`` would compute."""
    wrong = None
    if engine.name != "hf":
        wrong = f"engine={engine.name} does not hand out hidden states while it samples; set engine=hf"
    elif sampling.prompt_tokens is not None:
        wrong = f"sampling.prompt_tokens={sampling.prompt_tokens} cuts prompts; set sampling.prompt_tokens=null"
    elif sampling.use_input != cfg.use_input:
        wrong = (
            f"sampling.use_input={str(sampling.use_input).lower()} makes other prompts than embedding.use_input="
            f"{str(cfg.use_input).lower()}; set both alike"
        )
    elif engine.dtype != cfg.dtype:
        wrong = f"engine.dtype is {engine.dtype} and embedding.dtype {cfg.dtype}; set both alike"
    if wrong:
        raise BadInput(f"embedding.source=sampling pools the states of sampling: {wrong}, or embedding.source=encoder")


def build(job: Job) -> dict[str, Any]:
    """What the stage of answers writes, and beside it ``grams.npy`` and ``pooled.json`` (ids of its rows, failures)."""
    info, keys = answers_stage.sample_pool(job, f"{__name__}:PoolingSampler")
    shards = Shards(job.work, "answers")
    found: dict[str, np.ndarray] = {}
    failed: dict[str, str] = {}
    counts: dict[str, int] = dict.fromkeys(COUNTS, 0)
    for key in keys:
        shard = shards.read(key)
        found |= dict(zip(shard.facts["keys"], shard.arrays["grams"], strict=True))
        failed |= shard.facts["failed"]
        counts = {name: counts[name] + shard.facts["counts"][name] for name in COUNTS}
    ids = sorted(found, key=lambda key: records.order(records.from_key(key)))
    k, windows = job.config.sampling.n, job.config.pooling.windows
    grams = np.array([found[key] for key in ids]).reshape(len(ids), len(windows), k, k)
    np.save(job.folder / "grams.npy", grams, allow_pickle=False)
    write_json(job.folder / "pooled.json", {"ids": ids, "failed": failed})
    return {**info, "windows": list(windows), "pooling": counts}


def load(artifact: Artifact) -> Pooled:
    """The payload beside the answers."""
    kept = json.loads(artifact.file("pooled.json").read_text(encoding="utf-8"))
    return Pooled(
        {key: row for row, key in enumerate(kept["ids"])},
        np.load(artifact.file("grams.npy"), allow_pickle=False),
        kept["failed"],
        dict(artifact.info["pooling"]),
    )


class PoolingSampler(answers_stage.Sampler):
    """Samples batches and pools the states of their tokens; a shard holds the Gram matrices beside the answers."""

    def __init__(self, backbone: Artifact, cfg: PooledAnswers, exec_: ExecConfig, longest: int, work: str) -> None:
        super().__init__(backbone, cfg, exec_, longest, work)
        engine: Any = self.engine
        self.states = AnswerStates(engine.model, self.tokenizer, cfg.pooling)
        engine.reader = self.states

    def shard(
        self, encoded: dict[str, list[int]], drawn: dict[str, list[Answer]], texts: dict[str, list[str]], seed: int
    ) -> Shard:
        counts = dict.fromkeys(COUNTS, 0)
        grams: dict[str, np.ndarray] = {}
        failed: dict[str, str] = {}
        vectors = self.states.vectors(encoded, drawn, texts, counts, failed)
        for key, windows in vectors.items():
            grams[key] = np.concatenate([geometry.gram(window[None]) for window in windows])
        table = super().shard(encoded, drawn, texts, seed).table
        facts = {"keys": list(grams), "failed": failed, "counts": counts}
        return Shard(facts, {"grams": np.array(list(grams.values()))}, table)


class AnswerStates:
    """Sums of the states of sampled tokens, and of their prompts, while an engine samples one batch; then vectors.

    There are two sums of each: kind 0 weighted as ``EmbeddingConfig.token_weights`` says, kind 1 with equal weights,
    for texts all of whose tokens weigh 0. Special tokens have no part in an answer.
    """

    def __init__(self, model: Any, tokenizer: Any, cfg: AnswerPooling) -> None:
        import torch

        self.cfg, self.tokenizer = cfg, tokenizer
        self.sums = StateSums(model, cfg.windows)
        self.text = np.zeros(max(len(tokenizer), int(self.sums.base.config.vocab_size)), dtype=np.float32)
        self.text[: len(tokenizer)] = 1  # ids beyond the tokenizer's stand for no text
        self.text[tokenizer.all_special_ids] = 0
        self.weights = self.text.copy()
        if cfg.token_weights:
            self.weights[: len(tokenizer)] *= weight_table(tokenizer)
        self._kinds = torch.from_numpy(np.stack([self.weights, self.text])).to(self.sums.device)  # (2, V)
        self._answers = self._prompts = self.sums.empty(0, 2)
        self._steps = 0  # tokens of each answer that were read

    def read_prompts(self, ids: torch.Tensor, mask: torch.Tensor, n: int) -> None:
        import torch

        self._steps, self._answers = 0, self.sums.empty(len(ids) * n, 2)
        self._prompts = self.sums.empty(len(ids), 2)
        weighted = self._kinds[0][ids] if self.cfg.token_weights else torch.ones_like(ids)
        self.sums.start(torch.stack([weighted * mask, mask], dim=1).float(), self._prompts)

    def counts(self, tokens: torch.Tensor) -> torch.Tensor:
        return (self._kinds[1][tokens] > 0) & (self._steps < self.cfg.max_tokens)

    def read_tokens(self, answers: torch.Tensor, tokens: torch.Tensor, counted: torch.Tensor) -> None:
        self._steps += 1
        self.sums.start((self._kinds[:, tokens] * counted).T[:, :, None], self._answers, answers)

    def vectors(
        self,
        encoded: Mapping[str, list[int]],
        drawn: Mapping[str, list[Answer]],
        texts: Mapping[str, list[str]],
        counts: dict[str, int],
        failed: dict[str, str],
    ) -> dict[str, np.ndarray]:
        """Of each record of the batch that was sampled last (W, K, d) float32 of length 1, or 0 under
        empty_answer=zero. Adds to ``counts``, and to ``failed`` why a record has none."""
        self.sums.stop()
        answers, prompts_ = (sums.cpu().numpy() for sums in (self._answers, self._prompts))
        made: dict[str, np.ndarray] = {}
        row = 0
        for place, key in enumerate(encoded):
            sums = answers[row : row + len(drawn[key])]
            row += len(sums)
            prompt = prompts_[place, 0 if not self.cfg.token_weights or self.weights[encoded[key]].any() else 1]
            try:
                rows = self._record(sums, prompt, drawn[key], texts[key], counts)
            except CannotEmbed as reason:
                failed[key] = str(reason)
                continue
            made[key] = unit(rows).swapaxes(0, 1)
        return made

    def _record(
        self, sums: np.ndarray, prompt: np.ndarray, drawn: list[Answer], texts: list[str], counts: dict[str, int]
    ) -> np.ndarray:
        """What the K answers of a record are pooled to (K, W, d), any length. Raises ``CannotEmbed``."""
        limit, rows = self.cfg.max_tokens, np.zeros_like(sums[:, 0])
        first: dict[tuple[int, ...], int] = {}
        for i, (answer, text) in enumerate(zip(drawn, texts, strict=True)):
            ends = answer.finish_reason == "stop" and not self.text[answer.ids[-1]]
            ids = answer.ids[:-1] if ends else answer.ids
            pooled = [token for token in ids[:limit] if self.text[token]] if text.strip() else []
            same = first.setdefault(tuple(pooled), i)
            if same != i:  # equal to the last bit, whatever the places in the batch
                rows[i] = rows[same]
            elif text.strip():
                if not pooled:
                    raise CannotEmbed("has an answer without a token")
                rows[i] = sums[i, 0 if self.weights[pooled].any() else 1]
            elif self.cfg.empty_answer == "fail":
                raise CannotEmbed("has an empty answer (embedding.empty_answer=fail)")
            elif self.cfg.empty_answer == "prompt_vector":
                rows[i] = prompt
            counts["empty_answers"] += not pooled
            counts["truncated_answers"] += len(ids) > limit
            counts["unweighted_answers"] += bool(pooled) and not self.weights[pooled].any()
            counts["retokenized_answers"] += bool(pooled) and prompts.encode(self.tokenizer, text) != ids
        counts["identical_records"] += len(drawn) > 1 and len(first) == 1
        if not np.isfinite(rows).all():
            raise CannotEmbed(f"the backbone gave NaN or infinity in {self.sums.dtype} for it")
        wanted = [i for i, text in enumerate(texts) if text.strip() or self.cfg.empty_answer != "zero"]
        if not rows[wanted].any(axis=2).all():
            raise CannotEmbed("the backbone gave a vector of zeros for it")
        return rows
