"""How long the rest of a sweep takes: from what its finished artifacts took, stage by stage, not from whole cells.

The first cells build what the later ones share, so that their time says little about the others'. The sweep writes down
once which artifacts each cell needs; every process that runs cells looks which of them are still to be built.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from adg.artifacts.artifact import canonical, read_artifact
from adg.artifacts.files import read_json, sha256_text, write_json
from adg.artifacts.sealed import Damaged
from adg.artifacts.store import Store
from experiments.cells import Cell

FILE = "ADG_SWEEP_ARTIFACTS"  # environment: where that is written
FOLDER = "sweeps"


def write_down(chosen: Sequence[Cell], store: Store) -> None:
    """Keep the artifacts of each cell and the profile's minutes in the store, under the name of what they say."""
    cells = [[[node.folder, node.stage.name] for node in cell.nodes.values()] for cell in chosen]
    plan = {"cells": cells, "minutes": chosen[0].config.profile.minutes}
    path = store.root / FOLDER / f"{sha256_text(canonical(plan))[:16]}.json"
    write_json(path, plan)
    os.environ[FILE] = str(path.absolute())


def seconds(number: int, at_once: int) -> float | None:
    """Seconds that cell ``number`` (from 0) and those after it may take together, ``at_once`` at a time; None where
    nothing that is left has a measured rate. Artifacts that several cells share count once."""
    path = Path(os.environ.get(FILE, ""))
    plan: dict[str, Any] | None = read_json(path) if path.is_file() else None
    if plan is None:
        return None
    runs = path.parent.parent
    taken: dict[str, list[float]] = {}
    waiting: dict[str, str] = {}
    for place, cell in enumerate(plan["cells"]):
        for folder, stage in cell:
            known = _taken(runs / folder)
            if known is not None:
                taken.setdefault(stage, []).append(known)
            elif place >= number:
                waiting[folder] = stage
    rates = {stage: 60.0 * minutes for stage, minutes in plan["minutes"].items()}
    rates |= {stage: sum(known) / len(known) for stage, known in taken.items()}
    told = [rates[stage] for stage in waiting.values() if stage in rates]
    return sum(told) / at_once if told else None


def _taken(folder: Path) -> float | None:
    try:
        artifact = read_artifact(folder)
    except Damaged:
        return None
    return None if artifact is None else float(artifact.manifest["seconds"])
