"""What several processes say on one terminal: a line for each at the bottom, finished lines above it.

One process, the first that calls ``painting``, owns the terminal. Whatever it and the processes that it starts print, a
library's words too, reaches it through a pipe in the place of their screens and is printed above; what they are at work
on reaches it as notes (``Note``) and is the lines at the bottom. Where there is no terminal all of them print lines of
their own, each in one write.

Nothing here bears identity.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from adg.command import at_stop
from adg.printable import printable

NOTES = "ADG_SCREEN"  # environment: the named pipe that the process reads which owns the terminal
LINE = "ADG_SCREEN_LINE"  # environment: whose line this process and those that it starts write
STAGE = "ADG_SCREEN_STAGE"  # environment: how what they say of their work begins
LONGEST = 2000  # characters of a note, so that a pipe takes it in one piece
REFRESH = 2.0  # times a second that the lines at the bottom are painted


@dataclass(frozen=True)
class Note:
    """What a process is at work on; "" for nothing. ``since`` is when it began, in ``time.time()``, 0 where the text
    itself says how far it is."""

    line: str
    text: str
    since: float = 0.0


def owned() -> bool:
    """Whether some process paints the terminal that this one writes to (on this machine)."""
    return os.path.exists(os.environ.get(NOTES, ""))


def tell(text: str, since: float = 0.0) -> None:
    """Say in this process's line what it is at work on. Does nothing where no terminal is painted."""
    path = os.environ.get(NOTES)
    if path is None:
        return
    note = Note(os.environ.get(LINE, str(os.getpid())), printable(text)[:LONGEST], since)
    with contextlib.suppress(OSError):  # the terminal is not painted any more, or nobody reads in time
        pipe = os.open(path, os.O_WRONLY | os.O_NONBLOCK)
        try:
            os.write(pipe, (json.dumps(asdict(note)) + "\n").encode())
        finally:
            os.close(pipe)


@contextmanager
def line(name: str) -> Iterator[None]:
    """Within it this process and those that it starts have the line ``name``; afterwards that line is gone."""
    before = os.environ.get(LINE)
    os.environ[LINE] = name
    try:
        yield
    finally:
        stage("")
        tell("")
        os.environ.pop(LINE)
        if before is not None:
            os.environ[LINE] = before


def stage(begins: str, more: str = "") -> None:
    """Say that work on a stage begins; what is said of its progress begins with the same words. "": no stage."""
    os.environ[STAGE] = begins
    if not begins:
        os.environ.pop(STAGE)
    tell(begins + more, time.time())


def stage_words() -> str:
    """How what this process says of its work begins."""
    return os.environ.get(STAGE, "  ")


def write_line(text: str) -> None:
    """A line on stderr in one write, so that no other process's words come between."""
    sys.stderr.write(printable(text) + "\n")
    sys.stderr.flush()


@contextmanager
def painting() -> Iterator[None]:
    """Own the terminal within the block, where there is one and no other process owns it."""
    if owned() or not (sys.stdout.isatty() and sys.stderr.isatty()):
        yield
        return
    painter = _Painter()
    with at_stop(painter.close):
        try:
            yield
        finally:
            painter.close()


class _Painter:
    """Reads what all processes write and paints it, in a thread."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.live import Live

        self._folder = tempfile.TemporaryDirectory(prefix="adg-screen-")
        path = Path(self._folder.name) / "notes"
        os.mkfifo(path, 0o600)
        self._notes = os.open(path, os.O_RDWR | os.O_NONBLOCK)  # its own writer, so that it has no end
        self._said, said = os.pipe()
        os.set_blocking(self._said, False)
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        self._screens = {number: os.dup(number) for number in (1, 2)}
        for number in self._screens:
            os.dup2(said, number)
        os.close(said)
        os.environ[NOTES] = str(path)
        terminal = os.fdopen(os.dup(self._screens[1]), "w", encoding="utf-8", errors="replace")
        self._console = Console(file=terminal, force_terminal=True, highlight=False, markup=False, emoji=False)
        self._lines: dict[str, Note] = {}
        self._live = Live(
            console=self._console,
            get_renderable=self._bottom,
            transient=True,
            refresh_per_second=REFRESH,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._closing, self._closed = threading.Event(), threading.Lock()
        self._live.start()
        self._thread = threading.Thread(target=self._read, name="screen", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Print what was said until now, take the lines at the bottom away and give the terminal back."""
        with self._closed:
            if self._closing.is_set():
                return
            for stream in (sys.stdout, sys.stderr):
                with contextlib.suppress(OSError, ValueError):
                    stream.flush()
            os.environ.pop(NOTES, None)
            for number, screen in self._screens.items():
                os.dup2(screen, number)
            self._closing.set()
            self._thread.join(5)
            self._live.stop()
            self._folder.cleanup()

    def _read(self) -> None:
        rest = {self._said: b"", self._notes: b""}
        with selectors.DefaultSelector() as ready:
            for source in rest:
                ready.register(source, selectors.EVENT_READ)
            while True:
                found = [key.fd for key, _ in ready.select(0.0 if self._closing.is_set() else 0.1)]
                for source in found:
                    *whole, rest[source] = (rest[source] + self._some(source, ready)).split(b"\n")
                    for text in whole:
                        self._take(source, text)
                if not found and self._closing.is_set():
                    break
        if rest[self._said]:
            self._take(self._said, rest[self._said])

    @staticmethod
    def _some(source: int, ready: selectors.BaseSelector) -> bytes:
        data = os.read(source, 1 << 16)
        if not data:  # nobody is left who could write
            ready.unregister(source)
        return data

    def _take(self, source: int, content: bytes) -> None:
        from rich.text import Text

        text = content.decode(errors="replace").rstrip("\r").rpartition("\r")[2]  # of a bar its last state
        if source == self._said:
            self._console.print(Text.from_ansi(text), soft_wrap=True)
            return
        note = Note(**json.loads(text))
        if note.text:
            self._lines[note.line] = note
        else:
            self._lines.pop(note.line, None)

    def _bottom(self) -> Any:
        from rich.text import Text

        now = time.time()
        shown = [
            note.text + (f" {duration(now - note.since)}" if note.since and now - note.since >= 1 else "")
            for note in list(self._lines.values())
        ]
        return Text("\n".join(shown), no_wrap=True, overflow="ellipsis")


def duration(seconds: float) -> str:
    """In the largest units that tell something: "12 s", "3 min", "2 h 5 min"."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
