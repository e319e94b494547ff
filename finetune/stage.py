"""The adapter stage: a backbone trained on a subset.

Identity: ``FinetuneConfig`` without what full training does not read, and the hash of the prompt template.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from adg import prompts
from adg.artifacts.artifact import Job, Node, Stage
from finetune.config import LORA_FIELDS, FinetuneConfig
from finetune.launch import launch
from finetune.train import finished, train

STAGE = Stage("adapter", 1, "finetune.stage:build", place=90, gpus="train_processes", work="examples to train on")


@dataclass(frozen=True)
class Training:
    """What makes two trainings of one backbone on one subset the same."""

    recipe: FinetuneConfig
    template: str  # hash of the prompt template


def node(subset: Node, backbone: Node, cfg: FinetuneConfig) -> Node:
    """The artifact of training ``backbone`` on ``subset``. What full training does not read does not identify it."""
    if cfg.method == "full":
        default = FinetuneConfig()
        cfg = dataclasses.replace(cfg, **{name: getattr(default, name) for name in LORA_FIELDS})
    return Node(
        STAGE,
        f"{backbone.label}+{subset.label}+{cfg.name}",
        Training(cfg, prompts.HASH),
        {"subset": subset, "backbone": backbone},
    )


def build(job: Job) -> dict[str, Any]:
    """Train in this process, or through ``accelerate launch`` when ``exec.train_processes`` is above one.

    Payload: ``adapter/`` (PEFT, safetensors) or ``model/`` (method full), ``training.jsonl`` (one line a step).
    """
    if (info := finished(job)) is not None:  # killed before the manifest was written
        return info
    if job.exec.train_processes > 1:
        return launch(job)
    return train(job)
