"""A cell's run in one tracker: the interface that each tracker's module fills, and what all of them share.

A run knows what it holds by name and step, so that whatever it is told again (by a training that was resumed, by a
second ``adg sync``) adds nothing.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

from adg.artifacts.artifact import file_name
from experiments.trackers.cell import CellInfo, Curve, is_number
from experiments.trackers.config import TrackerConfig


class Run(ABC):
    """Opened, told of numbers as they come, finished or left. Whatever it raises costs the tracker this run alone.

    ``live``: the cell is at work; False: what is on disk is brought up. ``pid``: the process that runs the cell.
    ``warn`` says what is no reason to give up.
    """

    reads_system: ClassVar[bool] = True  # False: it has the system's figures by itself

    def __init__(
        self,
        cfg: TrackerConfig,
        cell: CellInfo,
        mode: str = "offline",
        live: bool = False,
        pid: int = 0,
        warn: Callable[[str], None] = lambda text: None,
    ) -> None:
        self.cfg, self.cell, self.mode, self.live, self.pid, self.warn = cfg, cell, mode, live, pid, warn
        self.held: dict[str, dict[int, float]] = {}  # name -> value by step
        self.last = 0  # the highest optimizer step that was seen

    # -- what a tracker does -----------------------------------------------------------------------------
    @abstractmethod
    def begin(self) -> None:
        """Begin the run of this cell, or go on with the one that is there: ``held`` is then what it holds."""

    @abstractmethod
    def add(self, rows: Curve) -> None:
        """Add numbers, by step, that it does not hold yet."""

    @abstractmethod
    def describe(self, words: Mapping[str, str]) -> None:
        """Keep words beside the numbers: the state, reasons."""

    @abstractmethod
    def close(self, state: str, files: Mapping[str, Path]) -> tuple[str, str]:
        """End the run and see that all is kept; returns where it is (a folder, a file) and "online" or "offline".

        ``state``: done | not-run | failed | interrupted.
        """

    # -- what they share ---------------------------------------------------------------------------------
    @property
    def folder(self) -> Path:
        """Where this tracker keeps its files."""
        return Path(self.cfg.dir).absolute()

    @property
    def label(self) -> str:
        """A name for a file or a run that no other cell has."""
        return f"{file_name(self.cell.name.replace('/', '+'))}-{self.cell.id[:8]}"

    def hold(self, name: str, step: int, value: float) -> None:
        """Note what the tracker has."""
        self.held.setdefault(name, {})[step] = value

    def log(self, step: int, numbers: Mapping[str, float]) -> None:
        """Points of curves; one that is held stays as it is."""
        self._add([(step, self._new(step, numbers))])

    def train(self, curve: Curve) -> None:
        """Steps of the training."""
        for step, _ in curve:
            self.last = max(self.last, step)
        self._add([(step, self._new(step, numbers)) for step, numbers in curve])

    def settle(self, values: Mapping[str, Any]) -> None:
        """What the cell came to, at the last step of its training; told again only where it has changed."""
        numbers = {name: float(value) for name, value in values.items() if is_number(value)}
        self._add([(self.last, {name: value for name, value in numbers.items() if not self._is(name, value)})])

    def _new(self, step: int, numbers: Mapping[str, float]) -> dict[str, float]:
        return {name: value for name, value in numbers.items() if step not in self.held.get(name, {})}

    def _is(self, name: str, value: float) -> bool:
        held = self.held.get(name)
        return bool(held) and math.isclose(held[max(held)], value, rel_tol=1e-6)  # type: ignore[index,arg-type]

    def _add(self, rows: Curve) -> None:
        rows = [(step, numbers) for step, numbers in rows if numbers]
        if rows:
            self.add(rows)
        for step, numbers in rows:
            for name, value in numbers.items():
                self.hold(name, step, value)

    def finish(self, content: Mapping[str, Any], files: Mapping[str, Path]) -> tuple[str, str]:
        """All that is known at the cell's end, then ``close``."""
        self.train(content["curve"])
        summary = content["summary"]
        self.settle(summary)
        self.describe({name: str(value) for name, value in summary.items() if not is_number(value)})
        return self.close(summary["state"], files)


def flat(config: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """A tree of settings as ``section.key``."""
    found: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping) and value:
            found |= flat(value, f"{before}{key}.")
        else:
            found[f"{before}{key}"] = value
    return found
