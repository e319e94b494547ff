"""The process that tells one tracker of the cells that another process runs, so that it can neither stop nor slow them.

It reads messages, lines of JSON, from its input: a cell begins, its training is known, it has ended. Between them it
reads what the stages at work say (``adg/live.py``). It answers with warnings and, for each cell that has ended, with
whether the tracker has it; that stands in ``<dir>/<tracker>/cells/<id>.json`` from then on. It ends with its input.
"""

from __future__ import annotations

import functools
import json
import logging
import os
import queue
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from adg import live
from adg.artifacts.files import write_json
from adg.redaction import without_secrets
from experiments.trackers.cell import CellInfo, curve, scores
from experiments.trackers.config import TrackerConfig
from experiments.trackers.run import Run

SCHEMA = "adg-tracking/1"
POLL = 1.0  # seconds between two looks at what the stages say
CLASSES = {"wandb": "WandbRun", "tensorboard": "TensorboardRun", "trackio": "TrackioRun", "mlflow": "MlflowRun"}
ALONE = 30.0  # seconds to wait for another process that tells this tracker of the same cell
log = logging.getLogger(__name__)


def note_path(cfg: TrackerConfig, name: str, cell: CellInfo) -> Path:
    """Where it is written that a tracker has a cell, with the digest of what it has."""
    return Path(cfg.dir).absolute() / name / "cells" / f"{cell.id}.json"


class Following:
    """One tracker, one cell at a time. What goes wrong is said and costs the tracker that cell, nothing else."""

    def __init__(self, name: str, answer: Callable[[Mapping[str, Any]], None]) -> None:
        self.name, self.answer = name, answer
        module = import_module(f"experiments.trackers.{name}")
        self.kind: type[Run] = getattr(module, CLASSES[name])
        self.run: Run | None = None
        self.starts: dict[str, int] = {}  # file -> the byte up to which it was read
        self.lock: Any = None

    def take(self, message: Mapping[str, Any]) -> None:
        """Do what a message says."""
        if "begin" in message:
            self._begin(message["begin"])
        elif "curve" in message:
            self._guarded(lambda run: run.train([(step, numbers) for step, numbers in message["curve"]]))
        else:
            self._end(message["end"])

    def look(self) -> None:
        """Tell the tracker what the stages and the system's figures say since the last look."""
        for path in self.starts:
            facts, self.starts[path] = live.read(Path(path), self.starts[path])
            self._guarded(functools.partial(_tell, facts))

    def leave(self) -> None:
        """The process that ran the cell is gone: keep what there is."""
        if self.run is not None:
            self._guarded(lambda run: run.close("interrupted", {}))

    def _begin(self, about: Mapping[str, Any]) -> None:
        cfg, cell = TrackerConfig(**about["cfg"]), CellInfo(**about["cell"])
        self.about, self.note = about, note_path(cfg, self.name, cell)
        self.starts = dict.fromkeys(about["live"], 0)
        self.run = None
        self._open()
        self.look()

    def _open(self) -> None:
        from filelock import FileLock

        cfg, cell = TrackerConfig(**self.about["cfg"]), CellInfo(**self.about["cell"])
        try:
            self.note.parent.mkdir(parents=True, exist_ok=True)
            self.lock = FileLock(self.note.with_suffix(".lock"))
            self.lock.acquire(timeout=ALONE)
            run = self.kind(cfg, cell, self.about["mode"], self.about["at_work"], self.about["pid"], self.warn)
            run.begin()
            self.run = run
        except Exception as error:
            self._failed(error)

    def _end(self, ending: Mapping[str, Any]) -> None:
        self.look()
        if self.run is None:  # it did not open, or something went wrong since: once more, from what is on disk
            self._open()
            self.starts = dict.fromkeys(self.starts, 0)
            self.look()
        content, files = ending["content"], {name: Path(path) for name, path in ending["files"].items()}
        kept: list[tuple[str, str]] = []
        self._guarded(lambda run: kept.append(run.finish(content, files)))
        if kept:
            place, sent = kept[0]
            entry = {"schema": SCHEMA, "id": self.note.stem, "cell": content["cell"], "digest": ending["digest"]}
            try:
                write_json(self.note, {**entry, "sent": sent, "folder": place})
            except OSError as error:
                self._failed(error)
        self.run = None
        self._release()
        self.answer({"ended": bool(kept)})

    def _guarded(self, act: Callable[[Run], Any]) -> None:
        if self.run is None:
            return
        try:
            act(self.run)
        except Exception as error:
            self._failed(error)

    def _failed(self, error: Exception) -> None:
        self.run = None
        self._release()
        self.warn(
            f"tracker {self.name} failed ({type(error).__name__}: {error}); nothing of the cell is lost, `adg sync` "
            f"with this command's options brings it up"
        )

    def _release(self) -> None:
        if self.lock is not None:
            self.lock.release()

    def warn(self, text: str) -> None:
        """Say what went wrong, without secrets, in one line."""
        self.answer({"warning": without_secrets(" ".join(text.split()))})


def _tell(facts: Sequence[Mapping[str, Any]], run: Run) -> None:
    """Lines of a stage, or of the system's figures, which W&B has of its own."""
    run.train(curve(fact for fact in facts if "step" in fact))
    for fact in facts:
        if "task" in fact:
            run.settle(scores(fact["task"], fact["summary"]))
        elif "seconds" in fact and run.reads_system:
            run.log(fact["seconds"], {f"system/{k}": v for k, v in fact.items() if k not in ("time", "seconds")})


def main(name: str) -> None:
    """Follow with the tracker ``name`` until the input ends."""
    os.nice(3)  # the cell goes first
    said = os.fdopen(os.dup(1), "w", encoding="utf-8")  # libraries print; that is for nobody
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    lines: queue.Queue[str | None] = queue.Queue()

    def listen() -> None:
        for line in sys.stdin:
            lines.put(line)
        lines.put(None)

    def answer(message: Mapping[str, Any]) -> None:
        try:
            said.write(json.dumps(message) + "\n")
            said.flush()
        except OSError:  # nobody reads it any more
            log.debug("%s", message)

    threading.Thread(target=listen, daemon=True).start()
    following = Following(name, answer)
    while True:
        try:
            line = lines.get(timeout=POLL)
        except queue.Empty:
            following.look()
            continue
        if line is None:
            following.leave()
            return
        following.take(json.loads(line))
