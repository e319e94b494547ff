"""How long the rest of a sweep takes: from what its finished artifacts took, stage by stage, not from whole cells.

The first cells build what the later ones share, so that their time says little about the others'. The sweep writes down
once which artifacts each cell needs; every process that runs cells looks which of them are still to be built. A stage
of which nothing is finished yet has its share of the profile's minutes, longer or shorter as the finished ones were.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from adg.artifacts.artifact import canonical, read_artifact
from adg.artifacts.files import read_json, sha256_text, write_json
from adg.artifacts.sealed import Damaged
from adg.artifacts.store import Store
from experiments.cells import Cell

FILE = "ADG_SWEEP_ARTIFACTS"  # environment: where that is written
FOLDER = "sweeps"
TELLING = 0.05  # share of the profile's minutes that must be finished before it tells how fast this machine is


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
    stages = {folder: stage for cell in plan["cells"] for folder, stage in cell}
    finished = {folder: known for folder in stages if (known := _taken(runs / folder)) is not None}
    waiting = {folder for cell in plan["cells"][number:] for folder, _ in cell} - finished.keys()
    taken: dict[str, list[float]] = {}
    for folder, known in finished.items():
        taken.setdefault(stages[folder], []).append(known)
    assumed = {stage: 60.0 * minutes for stage, minutes in plan["minutes"].items()}
    slower = _slower(taken, assumed, stages.values())
    rates = {stage: seconds_ * slower for stage, seconds_ in assumed.items()}
    rates |= {stage: sum(known) / len(known) for stage, known in taken.items()}
    told = [rates[stages[folder]] for folder in waiting if stages[folder] in rates]
    return sum(told) / at_once if told else None


def _slower(taken: Mapping[str, list[float]], assumed: Mapping[str, float], stages: Iterable[str]) -> float:
    """How many times as long as assumed the finished artifacts took; 1 where they are too few to tell.

    ``stages`` are those of all artifacts.
    """
    whole = sum(assumed.get(stage, 0.0) for stage in stages)
    expected = sum(assumed.get(stage, 0.0) * len(known) for stage, known in taken.items())
    took = sum(sum(known) for stage, known in taken.items() if stage in assumed)
    return took / expected if expected > 0 and expected >= TELLING * whole else 1.0


def _taken(folder: Path) -> float | None:
    try:
        artifact = read_artifact(folder)
    except Damaged:
        return None
    return None if artifact is None else float(artifact.manifest["seconds"])
