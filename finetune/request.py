"""A request file for ``finetune/run.py``: checked, then trained as a job of the adapter stage."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from adg import errors, prompts
from adg.artifacts.artifact import Artifact, Job, Node
from adg.artifacts.files import write_json
from adg.errors import BadInput
from adg.execution import ExecConfig
from finetune.config import FinetuneConfig
from finetune.stage import STAGE, Training
from finetune.train import train


def run_request(path: Path) -> dict[str, Any]:
    """Do what a JSON request says (see ``finetune/run.py``) as one of the launched processes."""
    request = json.loads(path.read_text())
    known = ("subset", "backbone", "config", "exec", "folder", "managed")
    for name in request:
        if name not in known:
            raise BadInput(
                f"{path}: unknown key {name!r}{errors.nearest(name, list(known))}; expected {', '.join(known)}"
            )
    for name in ("subset", "backbone", "folder"):
        if name not in request:
            raise BadInput(f"{path}: {name!r} is missing; expected {', '.join(known)}")
    inputs = {role: _artifact(Path(request[role])) for role in ("subset", "backbone")}
    exec_ = ExecConfig(**request.get("exec", {}))
    if exec_.threads:
        import torch

        torch.set_num_threads(exec_.threads)
    folder = Path(request["folder"])
    recipe = FinetuneConfig(**request.get("config", {}))
    job = Job(Node(STAGE, folder.name, Training(recipe, prompts.HASH)), folder, inputs, exec_)
    info = train(job)
    if info and not request.get("managed", False):
        write_json(folder / "info.json", info)
        shutil.rmtree(job.work)
    return info


def _artifact(path: Path) -> Artifact:
    manifest = path / "manifest.json"
    if not manifest.is_file():
        raise BadInput(f"{path} is no finished artifact (it has no manifest.json); build it first")
    artifact = Artifact(path, json.loads(manifest.read_text()))
    artifact.verify()
    return artifact
