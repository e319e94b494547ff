"""A request file for ``finetune/run.py``: checked, then trained as a job of the adapter stage."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from adg import errors, prompts
from adg.artifacts import disk
from adg.artifacts.artifact import Artifact, Job, Node, read_artifact
from adg.artifacts.files import write_json
from adg.artifacts.sealed import read_sealed
from adg.errors import BadInput
from adg.execution import ExecConfig
from finetune.config import FinetuneConfig
from finetune.stage import STAGE, Training
from finetune.train import train


def run_request(path: Path) -> dict[str, Any]:
    """Do what a JSON request says (see ``finetune/run.py``) as one of the launched processes."""
    request = read_request(path)
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
    with disk.in_words(folder):
        info = train(job)
    if info and not request.get("managed", False):
        write_json(folder / "info.json", info)
        shutil.rmtree(job.work)
    return info


def read_request(path: Path) -> dict[str, Any]:
    """The content of a request file. One that ``launch`` wrote carries a digest, which must fit (``Damaged``)."""
    request = read_sealed(path, unsealed=(None,))
    if request is None:
        raise BadInput(f"{path} is not there; expected a JSON file as finetune/run.py describes it")
    return request


def _artifact(path: Path) -> Artifact:
    artifact = read_artifact(path)
    if artifact is None:
        raise BadInput(f"{path} is no finished artifact (it has no manifest.json); build it first")
    artifact.verify()
    return artifact
