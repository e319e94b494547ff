"""A request file for ``finetune/run.py``: checked, then trained as a job of the adapter stage."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args, get_type_hints

from adg import errors, prompts
from adg.artifacts import disk
from adg.artifacts.artifact import Artifact, Job, Node, read_artifact
from adg.artifacts.files import write_json
from adg.artifacts.sealed import read_sealed
from adg.backbones import loading
from adg.errors import BadInput
from adg.execution import ExecConfig
from finetune import checks
from finetune.config import FinetuneConfig
from finetune.stage import STAGE, Training
from finetune.train import train

KINDS = {bool: "true or false", int: "a whole number", float: "a number", str: "a text", dict: "an object"}
FIELDS = {"subset": str, "backbone": str, "folder": str, "config": dict, "exec": dict, "managed": bool}
OPTIONAL = ("config", "exec", "managed")
HOLDS = {"subset": "records.parquet", "backbone": "source.json"}  # what an artifact of that kind has


def run_request(path: Path) -> dict[str, Any]:
    """Do what a JSON request says (see ``finetune/run.py``) as one of the launched processes.

    Raises ``BadInput`` in one line with file, key and nearest name, before a model is loaded.
    """
    request = read_request(path)
    _check_values(f"{path}:", request, FIELDS)
    for name in FIELDS:
        if name not in request and name not in OPTIONAL:
            raise BadInput(f"{path}: {name!r} is missing; expected {', '.join(FIELDS)}")
    exec_ = _options(path, "exec", ExecConfig, request)
    recipe = _options(path, "config", FinetuneConfig, request)
    inputs = {role: _artifact(path, role, Path(request[role]).expanduser()) for role in HOLDS}
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    try:
        checks.check(recipe, loading.read_config(inputs["backbone"]), processes, exec_.train_micro_batch)
    except BadInput as error:
        raise BadInput(f"{path}: {error}") from error
    if exec_.threads:
        import torch

        torch.set_num_threads(exec_.threads)
    folder = Path(request["folder"]).expanduser()
    job = Job(Node(STAGE, folder.name, Training(recipe, prompts.HASH)), folder, inputs, exec_)
    with disk.in_words(folder):
        info = train(job)
    if info and not request.get("managed", False):
        write_json(folder / "info.json", info)
        shutil.rmtree(job.work)
    return info


def _options(path: Path, section: str, kind: type, request: Mapping[str, Any]) -> Any:
    """The options of a section as the dataclass ``kind``."""
    values = request.get(section, {})
    _check_values(f"{path}: {section}:", values, get_type_hints(kind))
    try:
        return kind(**values)
    except BadInput as error:
        raise BadInput(f"{path}: {error}") from error


def _check_values(where: str, values: Mapping[str, Any], kinds: Mapping[str, Any]) -> None:
    """Refuse names that are not among ``kinds``, and values of another type than there."""
    for name, value in values.items():
        if name not in kinds:
            raise BadInput(
                f"{where} unknown key {name!r}{errors.nearest(name, list(kinds))}; known: {', '.join(kinds)}"
            )
        allowed = get_args(kinds[name]) or (kinds[name],)
        if type(value) not in allowed and not (type(value) is int and float in allowed):
            words = " or ".join(KINDS.get(kind, "null") for kind in allowed)
            raise BadInput(f"{where} {name} is {json.dumps(value)}; expected {words}")


def read_request(path: Path) -> dict[str, Any]:
    """The content of a request file. One that ``launch`` wrote carries a digest, which must fit (``Damaged``)."""
    request = read_sealed(path, unsealed=(None,))
    if request is None:
        raise BadInput(f"{path} is not there; expected a JSON file as finetune/run.py describes it")
    return request


def _artifact(request: Path, role: str, folder: Path) -> Artifact:
    artifact = read_artifact(folder)
    if artifact is None:
        raise BadInput(
            f"{request}: {role!r} is {folder}, which is no finished artifact (it has no manifest.json); build it first"
        )
    if HOLDS[role] not in artifact.manifest["files"]:
        raise BadInput(
            f"{request}: {role!r} is {folder}, an artifact of the stage {artifact.manifest['stage']} without "
            f"{HOLDS[role]}; expected runs/{role}/<name>"
        )
    artifact.verify()
    return artifact
