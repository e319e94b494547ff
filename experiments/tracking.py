"""What trackers are told of a cell: live while it is at work, all of it at its end, once.

The JSON on disk is the record, a tracker a view of it. Each of this project's trackers (``experiments/trackers``) has a
process of its own, so that none can stop or slow a cell. It takes what the stages write as they go and, at the end,
what is missing; a run's id is made from the cell's fingerprint, so it is the same run however often a cell is taken up.
What goes wrong is one warning, and ``adg sync`` brings it up later.

The trainer's own ``report_to`` is not used: it would tell again each step that a resumed training repeats, tell paths
of this machine, keep the training apart from the evaluation, and its failures would stop the training.

A tracker of another package is a function that it adds to the entry points ``adg.plugins.TRACKERS``. It is called with
the ``TrackerConfig``, the ``CellInfo`` and the ``CellOutcome`` of each cell that ends, as often as the cell is run; its
failures are warnings too.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from adg import plugins
from adg.artifacts.artifact import plain
from adg.artifacts.files import sha256_text
from adg.errors import NotRunnable
from adg.redaction import without_secrets
from experiments.trackers import follower
from experiments.trackers.cell import CellInfo, CellOutcome, Curve
from experiments.trackers.config import TrackerConfig, check
from experiments.trackers.follow import SCHEMA, note_path
from experiments.trackers.system import SystemFigures
from experiments.trackers.wandb import resolve_mode

__all__ = ["CellInfo", "CellOutcome", "Told", "TrackerConfig", "check", "track"]
log = logging.getLogger(__name__)


@contextmanager
def track(cfg: TrackerConfig, cell: CellInfo, live: Sequence[Path] | None = None) -> Iterator[CellOutcome]:
    """Report one cell: fill the ``CellOutcome`` inside the block, what is not known by then is told when it ends.

    ``live``: files in which the stages that will be at work say how far they are; None: all is there already.
    An exception passes through after the run was told as failed. The same cell with the same content is told once,
    however often it is run. Raises ``BadInput`` at the start where a library is missing, ``mode=online`` has no API
    key, or a tracker cannot be loaded.
    """
    tellers = {name: plugins.load(plugins.found(plugins.TRACKERS)[name]) for name in cfg.others}
    told = Told(cfg, cell)
    record = CellOutcome(told.curve)

    def end() -> None:
        told.end(record)
        for name, tell in tellers.items():
            _tell(name, tell, cfg, cell, record)

    try:
        with contextlib.nullcontext() if live is None else told.at_work(live):
            yield record
    except Exception as error:
        record.state = "not-run" if isinstance(error, NotRunnable) else "failed"
        record.reason = f"{type(error).__name__}: {error}"
        end()
        raise
    end()


def _tell(name: str, tell: Callable[..., None], cfg: TrackerConfig, cell: CellInfo, record: CellOutcome) -> None:
    """Tell a tracker of another package, without secrets. What goes wrong in it is a warning."""
    record.summary, record.reason = without_secrets((record.summary, record.reason))
    try:
        tell(cfg, dataclasses.replace(cell, config=without_secrets(plain(cell.config))), record)
    except Exception as error:
        log.warning("tracker %s failed for %s (%s: %s)", name, cell.name, type(error).__name__, error)
        log.debug("tracker failed", exc_info=True)


class Told:
    """One cell and this project's trackers that are told of it. Raises ``BadInput`` where one cannot be."""

    def __init__(self, cfg: TrackerConfig, cell: CellInfo) -> None:
        check(cfg)
        self.cfg = cfg
        self.cell = dataclasses.replace(cell, config=without_secrets(plain(cell.config)))
        self.modes = {name: resolve_mode(cfg) if name == "wandb" else "" for name in cfg.ours}
        self.names = [name for name, mode in self.modes.items() if mode != "off"]
        self._processes: dict[str, follower.Follower | None] = {}  # of the trackers that were told of the cell

    @property
    def system(self) -> Path:
        """The file of the system's figures while the cell was at work."""
        return Path(self.cfg.dir).absolute() / "tracking" / f"{self.cell.id}.system.jsonl"

    @contextmanager
    def at_work(self, live: Sequence[Path]) -> Iterator[None]:
        """Trackers follow ``live`` and the system's figures."""
        if not self.names:
            yield
            return
        for name in self.names:
            self._begin(name, live, at_work=True)
        with SystemFigures(self.system):
            yield

    def curve(self, curve: Curve) -> None:
        """The training is over, or was found finished."""
        for name in self._processes:
            self._say(name, {"curve": curve})

    def end(self, record: CellOutcome, unfinished: Sequence[Path] = ()) -> dict[str, str]:
        """All that is known, to those that do not have it; "told", "there" (it was) or "failed" by tracker.

        ``unfinished``: files in which stages that were stopped had said how far they were.
        """
        summary, reason = without_secrets((record.summary, record.reason))
        content = {
            "cell": self.cell.name,
            "group": self.cell.group,
            "project": self.cfg.project,
            "entity": self.cfg.entity,
            "config": self.cell.config,
            "summary": {**summary, "state": record.state, **({"reason": reason} if reason else {})},
            "curve": record.curve,
            "files": record.digests,
        }
        digest = sha256_text(json.dumps(content, sort_keys=True, ensure_ascii=False))
        files = {name: str(path.absolute()) for name, path in record.files.items()}
        said = {}
        for name in self.names:
            if name not in self._processes:
                if self._there(name, digest):
                    said[name] = "there"
                    continue
                self._begin(name, unfinished)
            self._say(name, {"end": {"content": content, "digest": digest, "files": files}})
        until = time.monotonic() + self.cfg.timeout
        for name in [name for name in self.names if name not in said]:
            said[name] = "told" if self._wait(name, until) else "failed"
        self._processes.clear()
        return said

    def _there(self, name: str, digest: str) -> bool:
        """Whether a tracker has this content: by its note, which says where."""
        try:
            note = json.loads(note_path(self.cfg, name, self.cell).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return False
        if not isinstance(note, dict) or note.get("schema") != SCHEMA or note.get("digest") != digest:
            return False
        return note.get("sent") == "online" or (self.modes[name] != "online" and Path(str(note["folder"])).exists())

    def _begin(self, name: str, live: Sequence[Path], at_work: bool = False) -> None:
        self._processes[name] = follower.of(name, self.cfg.dir)
        about = {
            "cfg": dataclasses.asdict(self.cfg),
            "cell": plain(dataclasses.asdict(self.cell)),
            "mode": self.modes[name],
            "at_work": at_work,
            "live": [str(path) for path in (*live, self.system)],
            "pid": os.getpid(),
        }
        self._say(name, {"begin": about})

    def _say(self, name: str, message: dict[str, Any]) -> None:
        process = self._processes[name]
        if process is not None:
            process.tell(message)

    def _wait(self, name: str, until: float) -> bool:
        process = self._processes[name]
        if process is None:
            return False
        answer = process.ended(until)
        if answer is None:
            code = process.process.poll()
            slow = f"did not answer within {self.cfg.timeout:g} s and is told nothing more by this process"
            follower.lose(name, slow if code is None else f"ended with code {code}")
        return bool(answer)
