"""Trackio: a run for each cell in ``<dir>/trackio`` or in TRACKIO_DIR; ``trackio show`` opens them.

Where TRACKIO_SPACE_ID or TRACKIO_SERVER_URL name a place elsewhere, Trackio sends them there as well.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from experiments.trackers.cell import Curve
from experiments.trackers.run import Run

KEPT = ("timestamp", "step")  # what a row has besides numbers


class TrackioRun(Run):
    """Rows are read back from its database when it begins, and when it ends: Trackio itself only warns of losses."""

    run: Any = None

    def begin(self) -> None:
        os.environ.setdefault("TRACKIO_DIR", str(self.folder / "trackio"))  # read when it is imported
        import trackio

        self.words: dict[str, str] = {}
        for name, steps in self._rows().items():
            for step, value in steps.items():
                self.hold(name, step, value)
        self.run = trackio.init(
            project=self.cfg.project,
            name=self.label,
            group=self.cell.group,
            config={**self.cell.config, "cell": self.cell.name},
            resume="allow",
            embed=False,
            auto_log_cpu=False,
            auto_log_gpu=False,
        )

    def add(self, rows: Curve) -> None:
        for step, numbers in rows:
            self.run.log(numbers, step=step)

    def describe(self, words: Mapping[str, str]) -> None:
        new = {name: said for name, said in words.items() if self.words.get(name) != said}
        if new:
            self.run.log(new, step=self.last)

    def close(self, state: str, files: Mapping[str, Path]) -> tuple[str, str]:
        from trackio.utils import TRACKIO_DIR

        self.run.finish()
        kept = self._rows()
        lost = sum(len(steps.keys() - kept.get(name, {}).keys()) for name, steps in self.held.items())
        if lost:
            raise OSError(f"{lost} values were not kept in {TRACKIO_DIR}")
        return str(TRACKIO_DIR), "offline"

    def _rows(self) -> dict[str, dict[int, float]]:
        """What its database holds of this cell, by name and step; words go to ``words``."""
        from trackio.sqlite_storage import SQLiteStorage

        found: dict[str, dict[int, float]] = {}
        for row in SQLiteStorage.get_logs(self.cfg.project, self.label):
            for name, value in row.items():
                if isinstance(value, str) and name not in KEPT:
                    self.words[name] = value
                elif name not in KEPT:
                    found.setdefault(name, {})[int(row["step"])] = value
        return found
