"""A tracker: one line of JSON for each cell that has ended."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from experiments.tracking import CellInfo, CellOutcome, TrackerConfig


def tell(cfg: TrackerConfig, cell: CellInfo, outcome: CellOutcome) -> None:
    """Add a line to the file ``tracker.options.file``, below the folder ``tracker.dir``.

    Called whenever a cell has been run; ``cell.fingerprint`` is the same for the same cell.
    """
    line = {"cell": cell.name, "fingerprint": cell.fingerprint, "state": outcome.state, **outcome.summary}
    with open(Path(cfg.dir) / cfg.options["file"], "a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")
