"""A backbone with its training folded in: one model folder that every stage loads as it loads a backbone."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from typing import Any

from adg.artifacts.artifact import Job, Node, Stage
from adg.artifacts.files import write_json
from adg.backbones import adapters, loading

STAGE = Stage("tuned", 1, "finetune.merge:build")


@dataclass(frozen=True)
class Tuned:
    """What makes two merged models the same, beside adapter and backbone."""

    source: str = "tuned"


def node(adapter: Node, backbone: Node) -> Node:
    """The artifact of ``backbone`` with what ``adapter``, trained on it, has learned."""
    return Node(STAGE, adapter.label, Tuned(), {"adapter": adapter, "backbone": backbone})


def build(job: Job) -> dict[str, Any]:
    """Stage "tuned": ``model/`` and ``source.json``, as a backbone has them; weights in the backbone's own dtype.

    A LoRA adapter is added to the weights, rounded to that dtype; a fully trained model is copied as it is.
    """
    backbone, adapter = job.inputs["backbone"], job.inputs["adapter"]
    dtype, target = loading.dtype_of(backbone), job.folder / "model"
    shutil.rmtree(target, ignore_errors=True)  # of a kill
    if (adapter.path / "model").is_dir():
        shutil.copytree(adapter.path / "model", target)
    else:
        folder = loading.model_path(backbone)
        adapters.check(adapter.path / "adapter", folder)  # before anything large is read
        model = loading.load_model(backbone, "cpu", dtype)
        merged = adapters.attach(model, adapter.path / "adapter", folder).merge_and_unload()
        merged.config.name_or_path = ""  # no path of this machine
        merged.save_pretrained(target)
    loading.load_tokenizer(backbone).save_pretrained(target)
    write_json(job.folder / "source.json", {"source": "tuned", "dtype": dtype})
    return {"adapter": adapter.path.name, "backbone": backbone.path.name, "dtype": dtype}
