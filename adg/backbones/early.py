"""What is known of a backbone before it is built or fetched: the config of its model, where that lies on this machine.

So that what the model cannot do is refused before the first stage; each stage asks again of the model it has.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from adg.backbones import model_config
from adg.backbones.config import BackboneConfig
from adg.backbones.embedded import BUILDERS


def config_of(cfg: BackboneConfig) -> Mapping[str, Any] | None:
    """What ``config.json`` of the backbone says or will say; None where it would have to be fetched."""
    if cfg.builder is not None:
        return BUILDERS[cfg.builder].shape
    if cfg.hub is not None:
        from huggingface_hub import try_to_load_from_cache

        cached = try_to_load_from_cache(cfg.hub, "config.json", revision=cfg.revision)
        return model_config.read(Path(cached).parent) if isinstance(cached, str) else None
    return model_config.read(Path(str(cfg.path)).expanduser())
