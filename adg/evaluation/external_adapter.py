"""An adapter that was not trained here, taken in as an artifact so that it can be evaluated like our own."""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from adg.artifacts import digests
from adg.artifacts.artifact import Job, Node, Stage, read_artifact
from adg.artifacts.files import sha256_file
from adg.artifacts.sealed import Damaged
from adg.backbones import adapters, loading, weights
from adg.backbones.adapters import CONFIG, WEIGHTS
from adg.errors import BadInput

OURS = re.compile(r"-([0-9a-f]{16})$")  # at the end of a base model's name: the beginning of a fingerprint
STAGE = Stage("external-adapter", 1, "adg.evaluation.external_adapter:build", place=90)


@dataclass(frozen=True)
class External:
    """The digests of an adapter's two files identify it."""

    files: dict[str, str]
    path: str = field(metadata={"identity": False})


def node(folder: Path, backbone: Node, model: str) -> Node:
    """The artifact of the PEFT adapter in ``folder`` for ``backbone``, given by the user as ``model``.

    Accepts the folder of an ``adapter`` artifact too. Raises ``BadInput`` when files are missing or the adapter names
    another base model.
    """
    folder = folder.expanduser().absolute()
    if not folder.is_dir():
        raise BadInput(f"the adapter {folder} is not a folder; expected what PEFT's save_pretrained writes")
    if (folder / "model" / "config.json").is_file():
        raise BadInput(f"{folder} holds a whole model, no adapter; give {folder / 'model'} as --model")
    made_for = _of_artifact(folder)
    folder = folder / "adapter" if (folder / "adapter" / CONFIG).is_file() else folder
    settings = adapters.read_settings(folder)
    weights.stored(folder / WEIGHTS)  # refuses a file that is not whole
    if made_for is None:
        _refuse_other_base(folder, settings.get("base_model_name_or_path") or "", backbone, model)
    elif made_for != backbone.fingerprint:
        raise BadInput(
            f"the adapter {folder} was trained on the backbone {made_for[:12]}, not on "
            f"{backbone.fingerprint[:12]} ({backbone.label}); give the model it was trained on"
        )
    files = {path.name: digest for path, digest in digests.of_files([folder / CONFIG, folder / WEIGHTS]).items()}
    return Node(
        STAGE,
        folder.name if folder.name != "adapter" else folder.parent.name,
        External(files, str(folder)),
        {"backbone": backbone},
    )


def build(job: Job) -> dict[str, Any]:
    """Copy the adapter, checking that it is still the one that was looked at and that it fits the backbone."""
    adapters.check(Path(job.config.path), loading.model_path(job.inputs["backbone"]))
    target = job.folder / "adapter"
    target.mkdir(exist_ok=True)
    for name, digest in job.config.files.items():
        shutil.copyfile(Path(job.config.path) / name, target / name)
        if sha256_file(target / name) != digest:
            raise BadInput(f"{job.config.path}/{name} changed while it was copied; run the same command again")
    return {"rows_in": 1, "rows_out": 1, "failed": []}


def _refuse_other_base(folder: Path, base: str, backbone: Node, model: str) -> None:
    """Refuse an adapter that names another base model: by its name, or by the fingerprint of a backbone, as fine-tuning
    here writes it (``<label>-<fingerprint>``)."""
    ours = OURS.search(base)
    if ours is not None and not backbone.fingerprint.startswith(ours[1]):
        raise BadInput(
            f"the adapter {folder} was trained on the backbone {base}, not on {backbone.label}-"
            f"{backbone.fingerprint[:16]}; give the model, and the dtype, it was trained with"
        )
    if ours is None and base and base != model and Path(base).name != Path(model).name:
        raise BadInput(
            f"the adapter {folder} names '{base}' as its base model, --model is '{model}'; give the "
            f"model it was trained on (or correct {CONFIG})"
        )


def _of_artifact(folder: Path) -> str | None:
    """Fingerprint of the backbone that the manifest above an adapter names, if there is one."""
    for place in (folder, folder.parent):
        try:
            artifact = read_artifact(place)
        except Damaged as error:
            raise BadInput(
                f"{error.what}; it stands above the adapter {folder} and would say which backbone that was trained on. "
                f"Copy the adapter's files alone into another folder, or mend that file"
            ) from error
        if artifact is not None:
            return artifact.manifest["inputs"].get("backbone", {}).get("fingerprint")
    return None
