"""Answers as the stage samples them, whose token ids are kept beside the texts: another engine can judge them."""

from __future__ import annotations

import json
from typing import Any

from adg import prompts
from adg.answers.config import Answer, Answers, EngineConfig, SamplingConfig
from adg.answers.stage import Sampler, sample_pool
from adg.artifacts.artifact import Artifact, Job, Node, Stage
from adg.artifacts.files import write_json
from adg.artifacts.shards import Shard, Shards

STAGE = Stage(
    "checked-answers",
    1,
    "bench.gpu_check.checked_answers:build",
    place=30,
    gpus="tensor_parallel",
    spread=True,
    work="answers to sample",
)
FILE = "ids.json"


def node(pool: Node, backbone: Node, sampling: SamplingConfig, engine: EngineConfig) -> Node:
    """The answers of a backbone to a pool, with their ids."""
    return Node(
        STAGE,
        f"{backbone.label}-{pool.label}-{engine.name}",
        Answers(sampling, engine, prompts.HASH),
        {"pool": pool, "backbone": backbone},
    )


def build(job: Job) -> dict[str, Any]:
    """The stage of answers; payload ``ids.json`` beside its own: record key -> prompt, answers, log-probabilities."""
    info, keys = sample_pool(job, f"{__name__}:KeepsIds")
    shards = Shards(job.work, "answers")
    kept: dict[str, Any] = {}
    for key in keys:
        kept |= shards.read(key).facts["ids"]
    write_json(job.folder / FILE, kept)
    return info


def load(artifact: Artifact) -> dict[str, dict[str, Any]]:
    """``ids.json``: record key -> ``prompt`` (ids), ``answers`` (ids each), ``logprobs`` (sums, natural log)."""
    loaded: dict[str, dict[str, Any]] = json.loads(artifact.file(FILE).read_text(encoding="utf-8"))
    return loaded


class KeepsIds(Sampler):
    """The stage's own sampler, whose shards have the ids too."""

    def shard(
        self, encoded: dict[str, list[int]], drawn: dict[str, list[Answer]], texts: dict[str, list[str]], seed: int
    ) -> Shard:
        made = super().shard(encoded, drawn, texts, seed)
        ids = {
            key: {
                "prompt": encoded[key],
                "answers": [answer.ids for answer in answers],
                "logprobs": [answer.logprob for answer in answers],
            }
            for key, answers in drawn.items()
        }
        return Shard({**made.facts, "ids": ids}, made.arrays, made.table)
