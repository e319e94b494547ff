"""A model's ``config.json``: what it says of blocks and positions, without any library. Nothing here bears identity."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from adg.errors import BadInput


def read(folder: Path) -> dict[str, Any]:
    """The object in ``config.json``. Raises ``BadInput`` where it is not one."""
    file = folder / "config.json"
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadInput(f"{file} cannot be read ({error}); expected the config that save_pretrained writes") from error
    if not isinstance(config, dict):
        raise BadInput(f"{file} holds {type(config).__name__}, not an object; expected what save_pretrained writes")
    return config


def positions(config: Mapping[str, Any]) -> int | None:
    """Tokens a text may have at most; None where the config names no limit."""
    return config.get("max_position_embeddings") or config.get("n_positions")


def blocks(config: Mapping[str, Any]) -> int | None:
    """Blocks of the model; None where the config does not say."""
    return config.get("num_hidden_layers") or config.get("n_layer")
