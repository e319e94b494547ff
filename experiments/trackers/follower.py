"""The other end of ``follow.py``: the process of a tracker, as the process that runs cells sees it."""

from __future__ import annotations

import json
import logging
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from typing import Any

from adg import places

START = "import sys; sys.path.insert(0, sys.argv[1]); from experiments.trackers.follow import main; main(sys.argv[2])"
log = logging.getLogger(__name__)
_followers: dict[str, Follower] = {}
_lost: set[str] = set()  # trackers that did not answer in time: this process tells them nothing more
_said: set[str] = set()


def of(name: str, folder: str) -> Follower | None:
    """The process of a tracker that keeps its files below ``folder``, started where there is none; None where it was
    given up."""
    if name in _lost:
        return None
    there = _followers.get(name)
    if there is None or not there.fits(folder):
        if there is not None:
            there.close()
        try:
            there = _followers[name] = Follower(name, folder)
        except OSError as error:  # no memory, no process left
            lose(name, f"could not be started ({error})")
            return None
    return there


def lose(name: str, why: str) -> None:
    """Give a tracker up, and say so once. One that ended by itself is started again for the next cell."""
    there = _followers.pop(name, None)
    if there is None or there.process.poll() is None:
        _lost.add(name)
    if there is not None:
        there.kill()
    warn(f"tracker {name} {why}; `adg sync` with this command's options brings it up")


def running() -> list[Follower]:
    """Those that were started and not given up."""
    return list(_followers.values())


def forget() -> None:
    """End all of them and what is known of them; the next cell starts anew."""
    for there in _followers.values():
        there.close()
    for known in (_followers, _lost, _said):
        known.clear()


def warn(text: str) -> None:
    """A warning, the first time."""
    if text not in _said:
        _said.add(text)
        log.warning("%s", text)


class Follower:
    """A process with one tracker. Telling it something never waits."""

    def __init__(self, name: str, folder: str) -> None:
        self.name, self.folder, self.environment = name, folder, dict(os.environ)
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-c", START, str(places.ROOT), name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C is for the process that runs cells, whose end it notices
            text=True,
            encoding="utf-8",
        )
        self._tasks: queue.Queue[str | None] = queue.Queue()
        self._answers: queue.Queue[bool | None] = queue.Queue()
        for work in (self._write, self._read):
            threading.Thread(target=work, name=f"tracker {name}", daemon=True).start()

    def fits(self, folder: str) -> bool:
        """Whether it runs, with that folder and the environment of now, which libraries read once."""
        return self.process.poll() is None and self.folder == folder and self.environment == dict(os.environ)

    def tell(self, message: Mapping[str, Any]) -> None:
        """Send a message."""
        self._tasks.put(json.dumps(message) + "\n")

    def ended(self, until: float) -> bool | None:
        """Whether the tracker has the cell that was told to have ended; None where that is not known by ``until``
        (``time.monotonic``), or the process is gone."""
        try:
            return self._answers.get(timeout=max(0.0, until - time.monotonic()))
        except queue.Empty:
            return None

    def close(self) -> None:
        """Let it end by itself."""
        self._tasks.put(None)

    def kill(self) -> None:
        """End it, and what it started, now."""
        import psutil

        try:
            started = psutil.Process(self.process.pid).children(recursive=True)
        except psutil.Error:
            started = []
        self.process.kill()
        self.process.wait()
        for process in started:
            try:
                process.kill()
            except psutil.Error:
                continue

    def _write(self) -> None:
        assert self.process.stdin is not None
        try:
            while (line := self._tasks.get()) is not None:
                self.process.stdin.write(line)
                self.process.stdin.flush()
            self.process.stdin.close()
        except (OSError, ValueError):  # it is gone
            log.debug("tracker %s is gone", self.name)

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            message = json.loads(line)
            if "warning" in message:
                warn(message["warning"])
            else:
                self._answers.put(message["ended"])
        self.process.wait()
        self._answers.put(None)
