"""The backbone stage: which language model is used and where it comes from; embedded ones are written here.

Identity: see ``node``. Loading into memory is ``loading.py``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from adg import hub
from adg.artifacts.artifact import Job, Node, Stage
from adg.artifacts.files import write_json
from adg.backbones import content, loading, model_config, precision, weights
from adg.backbones.config import BackboneConfig
from adg.backbones.embedded import BUILDERS
from adg.errors import BadInput

STAGE = Stage("backbone", 1, "adg.backbones.stage:build", place=20)


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
    local = digests of the whole content of the folder's files. Raises ``BadInput`` where the
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
        content.check_folder(folder, "give a folder written by save_pretrained as backbone.path")
        source, path, origin = "local", str(folder), {"files": content.digests_of(folder)}
    inputs = {}
    if cfg.builder is not None and (made_from := BUILDERS[cfg.builder].made_from) is not None:
        inputs["source"] = node(BackboneConfig(name=made_from, builder=made_from, dtype="float32"))
    return Node(STAGE, cfg.name, Backbone(source, origin, cfg.dtype, path), inputs)


def build(job: Job) -> dict[str, Any]:
    """Write ``source.json`` and, for embedded backbones, the folder ``model``; fetch what comes from a hub.

    Weights and tokenizer are held against the model's config, so that nothing is begun with a model that does not fit.
    A dtype of "fastest" is decided here, once for all that uses this artifact; ``source.json`` and the manifest say it.
    """
    cfg: Backbone = job.config
    source: dict[str, Any] = {"source": cfg.source, "dtype": cfg.dtype}
    if cfg.source == "embedded":
        folder = job.folder / "model"
        BUILDERS[cfg.origin["builder"]].write(folder, job.inputs.get("source"))
        source["builder"] = cfg.origin["builder"]
    elif cfg.source == "hub":
        folder = content.fetch_model(cfg.origin["hub"], cfg.origin["revision"], offline=job.exec.offline)
        source |= cfg.origin
    else:
        folder = Path(str(cfg.path))
        content.check_unchanged(folder, cfg.origin["files"])
        source |= {"path": str(folder), **cfg.origin}
    weights.check(folder, loading.remedy_for(source, job.folder))
    tokenizer = loading.open_tokenizer(folder)
    config = model_config.read(folder)
    rates: dict[str, float] = {}
    if cfg.dtype == precision.FASTEST:
        source["dtype"], rates = precision.fastest(config, loading.device(job.exec))
    write_json(job.folder / "source.json", source)
    return {
        "dtype": source["dtype"],
        "aside": ["source.json"],  # where the weights lie is no part of what they are
        "decided": {"dtype": source["dtype"]},
        **({"gflops": rates} if rates else {}),
        "architecture": config.get("architectures", [None])[0],
        "layers": model_config.blocks(config),
        "width": config.get("hidden_size"),
        "vocabulary": len(tokenizer),
        "adds_bos": loading.adds_bos(tokenizer),
        "tokens": {"bos": tokenizer.bos_token, "eos": tokenizer.eos_token, "pad": tokenizer.pad_token},
        "weight_bytes": sum(p.stat().st_size for p in folder.glob("*.safetensors")),
    }
