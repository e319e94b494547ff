"""What is told of a cell: which it is, and what came of it, as plain data."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from adg.artifacts.files import sha256_file
from adg.evaluation import statistics
from adg.evaluation.benchmarks import binary

Curve = list[tuple[int, dict[str, float]]]  # (optimizer step, numbers by name), by step


@dataclass(frozen=True)
class CellInfo:
    """What identifies and describes a cell: ``fingerprint`` in hex, ``group`` the sweep, ``config`` plain values."""

    name: str
    fingerprint: str
    group: str
    backbone: str
    pool: str
    selector: str
    variant: str = ""
    config: Mapping[str, Any] = field(default_factory=dict)

    @property
    def id(self) -> str:
        """The id of its run in every tracker: the first 32 hex digits of the fingerprint."""
        return self.fingerprint[:32]


class CellOutcome:
    """What a cell reports while it runs; ``on_curve`` is told of its training as soon as that is there."""

    def __init__(self, on_curve: Callable[[Curve], None] | None = None) -> None:
        self.state = "done"
        self.reason = ""
        self.curve: Curve = []
        self.summary: dict[str, Any] = {}
        self.partial = False
        self.files: dict[str, Path] = {}
        self.digests: dict[str, str] = {}
        self._on_curve = on_curve

    def training(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """The rows of ``training.jsonl``: each has a "step"; its other numbers become ``train/<name>``."""
        self.curve = curve(rows)
        if self._on_curve is not None:
            self._on_curve(self.curve)

    def results(self, results: Mapping[str, Any]) -> None:
        """The scores of an evaluation in percent. A task without a score leaves its reason and no number."""
        self.partial = bool(results.get("partial"))
        self.summary["partial"] = self.partial
        for task, entry in results["tasks"].items():
            self.summary |= scores(task, entry)
        for name, value in results["categories"].items():
            if value is not None:
                self.summary[f"category/{name}"] = 100 * value

    def subset(self, path: Path, facts: Mapping[str, Any] | None = None) -> None:
        """The subset's file, kept as an artifact, and facts such as its size."""
        self.files[path.name] = path
        self.digests[path.name] = sha256_file(path)
        self.summary.update({f"subset/{key}": value for key, value in (facts or {}).items()})


def curve(rows: Iterable[Mapping[str, Any]]) -> Curve:
    """Rows of ``training.jsonl`` as numbers by step, under ``train/<name>``."""
    steps: dict[int, dict[str, float]] = {}
    for row in rows:
        numbers = {f"train/{key}": value for key, value in row.items() if key != "step" and is_number(value)}
        steps.setdefault(int(row["step"]), {}).update(numbers)
    return sorted(steps.items())


def scores(task: str, entry: Mapping[str, Any]) -> dict[str, Any]:
    """What ``results.json`` says of a task: its score in percent with the ends of its interval and the number of items,
    or the reason why there is none."""
    if entry.get("value") is None:
        return {f"not_run/{task}": entry.get("reason") or entry.get("status") or "missing"}
    found = {f"score/{task}": 100 * entry["value"], f"items/{task}": entry["n"]}
    ends = statistics.score_interval(entry["value"], entry.get("stderr"), entry["n"], binary(task))
    if ends is not None:
        found |= {f"low/{task}": 100 * ends.low, f"high/{task}": 100 * ends.high}
    return found


def is_number(value: Any) -> bool:
    """Whether a value is a figure: a number, and not true or false."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)
