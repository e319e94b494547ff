"""The backbone stage: which language model is used and where it comes from; embedded ones are written here.

Identity: see ``node``. Loading into memory is ``loading.py``.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from adg import hub
from adg.artifacts.artifact import Job, Node, Stage
from adg.artifacts.files import sha256_file, sha256_text, write_json
from adg.backbones.config import BackboneConfig
from adg.backbones.embedded import BUILDERS
from adg.backbones.loading import WEIGHTS, adds_bos, check_folder, fetch_model, open_tokenizer
from adg.errors import BadInput

STAGE = Stage("backbone", 1, "adg.backbones.stage:build")


@dataclass(frozen=True)
class Backbone:
    """What makes two backbones the same; ``origin`` depends on ``source`` (see ``node``)."""

    source: str  # embedded | hub | local
    origin: dict[str, Any]
    dtype: str
    path: str | None = field(default=None, metadata={"identity": False})


def node(cfg: BackboneConfig) -> Node:
    """The artifact of a backbone; loads and downloads nothing.

    Identity: embedded = builder and package version (tiny_random: its training text); hub = id and revision;
    local = digests of the folder's files (of weights: size, first and last MiB). Raises ``BadInput`` where the
    revision is not pinned or the folder holds no model.
    """
    path = None
    if cfg.builder is not None:
        source, origin = "embedded", {"builder": cfg.builder, **BUILDERS[cfg.builder].origin()}
    elif cfg.hub is not None:
        if not hub.is_commit(cfg.revision):
            raise BadInput(
                f"backbone {cfg.name!r}: the revision of {cfg.hub} is {cfg.revision!r}, a 40-digit commit "
                f"hash is expected; take it from the model's page and write it into conf/backbone/{cfg.name}.yaml "
                f"(revision: <commit>), or set backbone.revision=<commit> where one backbone is run"
            )
        source, origin = "hub", {"hub": cfg.hub, "revision": cfg.revision}
    else:
        folder = Path(str(cfg.path)).expanduser().absolute()
        check_folder(folder, "give a folder written by save_pretrained as backbone.path")
        source, path, origin = "local", str(folder), {"files": _digests(folder)}
    inputs = {}
    if cfg.builder is not None and (made_from := BUILDERS[cfg.builder].made_from) is not None:
        inputs["source"] = node(BackboneConfig(name=made_from, builder=made_from, dtype="float32"))
    return Node(STAGE, cfg.name, Backbone(source, origin, cfg.dtype, path), inputs)


def build(job: Job) -> dict[str, Any]:
    """Write ``source.json`` and, for embedded backbones, the folder ``model``; fetch what comes from a hub."""
    cfg: Backbone = job.config
    source = {"source": cfg.source, "dtype": cfg.dtype}
    if cfg.source == "embedded":
        work, target = job.work / "model", job.folder / "model"
        if not target.is_dir():
            shutil.rmtree(work, ignore_errors=True)
            BUILDERS[cfg.origin["builder"]].write(work, job.inputs.get("source"))
            work.rename(target)
        folder = target
        source["builder"] = cfg.origin["builder"]
    elif cfg.source == "hub":
        folder = fetch_model(cfg.origin["hub"], cfg.origin["revision"], offline=job.exec.offline)
        source |= cfg.origin
    else:
        folder = Path(str(cfg.path))
        source["path"] = str(folder)
    tokenizer = open_tokenizer(folder)
    write_json(job.folder / "source.json", source)
    config = json.loads((folder / "config.json").read_text())
    return {
        "architecture": config.get("architectures", [None])[0],
        "layers": config.get("num_hidden_layers"),
        "width": config.get("hidden_size"),
        "vocabulary": len(tokenizer),
        "adds_bos": adds_bos(tokenizer),
        "tokens": {"bos": tokenizer.bos_token, "eos": tokenizer.eos_token, "pad": tokenizer.pad_token},
        "weight_bytes": sum(p.stat().st_size for p in folder.glob("*.safetensors")),
    }


def _digests(folder: Path) -> dict[str, str]:
    """File name -> sha256; weights are too large to read on every plan, so theirs covers size, head and tail."""
    return {
        path.name: _sampled_digest(path) if path.suffix in WEIGHTS else sha256_file(path)
        for path in sorted(folder.iterdir())
        if path.is_file() and not path.name.startswith(".") and path.suffix != ".md"
    }


def _sampled_digest(path: Path, block: int = 2**20) -> str:
    size = path.stat().st_size
    with open(path, "rb") as file:
        head = file.read(block)
        file.seek(max(0, size - block))
        return sha256_text(f"{size} {head.hex()} {file.read().hex()}")
