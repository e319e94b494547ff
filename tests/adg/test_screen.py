"""Two processes at once on one terminal, and in one log: no line of one is written over by the other."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from collections.abc import Callable
from pathlib import Path

import pytest

from adg import screen

COLUMNS = 60
CELL = """
import os, sys, time
from adg import screen
from adg.progress import notice, progress
name = sys.argv[1]
with screen.line(name):
    sys.stdout.write(f"{name} begins\\n")
    sys.stdout.flush()
    screen.stage(f"{name}    eval      ", "a model of a name as long as the terminal is wide, and longer than that ...")
    with progress(120, "answers", "requests") as bar:
        for step in range(120):
            time.sleep(0.03)
            bar.update(1)
            if step % 40 == 20:
                notice(f"{name} at {step} 一二三")
            if step == 60:
                os.write(2, b"a bar of a library\\rof another process: 99 %\\n")
    sys.stdout.write(f"{name} done\\n")
"""
BOTH = """
import subprocess, sys
from adg import screen
with screen.painting():
    cells = [subprocess.Popen([sys.executable, "-c", sys.argv[1], f"[{number}/2]"]) for number in (1, 2)]
    assert [cell.wait() for cell in cells] == [0, 0]
    assert not any(sys.stdout.isatty() for _ in [0]) or screen.owned()
print("the table, of lines that are as long as they are: " + 100 * "x")
"""


class Terminal:
    """What a terminal shows of what is written to it: as much of its control sequences as is written here."""

    def __init__(self) -> None:
        self.rows: list[str] = [""]
        self.row = self.column = 0

    def write(self, text: str) -> None:
        for part in re.findall(r"\x1b\[[?\d;]*[A-Za-z]|[^\x1b]", text):
            if part == "\n":
                self.row += 1
            elif part == "\r":
                self.column = 0
            elif part[0] != "\x1b":
                self._put(part)
            elif part[-1] == "A":
                self.row -= int(part[2:-1] or 1)
            elif part == "\x1b[2K":
                self.rows[self.row] = ""
            else:
                assert part[-1] in "mhl", f"what is {part!r}?"
            self.rows += [""] * (self.row + 1 - len(self.rows))

    def _put(self, character: str) -> None:
        if self.column == COLUMNS:
            self.row, self.column = self.row + 1, 0
            self.rows += [""] * (self.row + 1 - len(self.rows))
        line = self.rows[self.row].ljust(self.column)
        self.rows[self.row] = line[: self.column] + character + line[self.column + 1 :]
        self.column += 1


def on_a_terminal(root: Path, *arguments: str, shown: Callable[[Terminal], None]) -> tuple[str, int]:
    """What a process writes to a terminal, and its exit status; ``shown`` looks at the terminal after each piece."""
    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 24, COLUMNS, 0, 0))
    environment = {**os.environ, "TERM": "xterm", "PYTHONPATH": str(root)}
    for name in ("COLUMNS", "LINES", screen.NOTES, "NO_COLOR"):
        environment.pop(name, None)
    process = subprocess.Popen(
        [sys.executable, *arguments], stdin=follower, stdout=follower, stderr=follower, cwd=root, env=environment
    )
    os.close(follower)
    terminal, written, rest = Terminal(), "", b""
    while True:
        try:
            piece = os.read(leader, 1 << 16)
        except OSError:  # the other end is closed
            break
        if not piece:
            break
        rest += piece
        try:
            text, rest = rest.decode(), b""
        except UnicodeDecodeError:
            continue
        if re.search(r"\x1b\[?[?\d;]*$", text):
            text, rest = text[: text.rindex("\x1b")], text[text.rindex("\x1b") :].encode()
        written += text
        terminal.write(text)
        shown(terminal)
    os.close(leader)
    return written, process.wait()


def test_each_process_has_its_line_and_finished_ones_stand_above(root: Path) -> None:
    seen: list[list[str]] = []
    written, status = on_a_terminal(
        root, "-c", BOTH, CELL, shown=lambda terminal: seen.append([row for row in terminal.rows if row])
    )
    assert status == 0, written
    last = seen[-1]
    for number in (1, 2):
        said = [row for row in last if f"[{number}/2]" in row]
        notes = [f"    note: [{number}/2] at {step} 一二三" for step in (20, 60, 100)]
        assert said == [f"[{number}/2] begins", *notes, f"[{number}/2] done"], "each once, whole, in their order"
    assert last.count("of another process: 99 %") == 2, "what libraries write has lines of its own"
    assert "".join(last).endswith("the table, of lines that are as long as they are: " + 100 * "x")
    running = [[row for row in rows if re.match(r"\[[12]/2\]    eval", row)] for rows in seen]
    assert max(map(len, running)) == 2, "a line for each of both, never more"
    both = [rows for rows in running if len(rows) == 2]
    assert both and all({row[:5] for row in rows} == {"[1/2]", "[2/2]"} for rows in both)
    assert any(re.search(r"answers: \d+ of 120 requests \(\d+ %\)", row) for rows in both for row in rows)
    for rows in seen:
        bottom = [place for place, row in enumerate(rows) if re.match(r"\[[12]/2\]    eval", row)]
        assert all(place >= len(rows) - 3 for place in bottom), "at the bottom"
    assert not running[-1], "nothing is left of them"


def test_in_a_log_there_are_plain_lines(root: Path, tmp_path: Path) -> None:
    with (tmp_path / "log").open("wb") as log:
        subprocess.run(
            [sys.executable, "-c", BOTH, CELL.replace(r"a bar of a library\\r", "")],
            stdout=log,
            stderr=log,
            env={**os.environ, "PYTHONPATH": str(root), "PYTHONUNBUFFERED": "1"},
            check=True,
        )
    text = (tmp_path / "log").read_text()
    assert not re.search(r"[\r\x1b]", text)
    expected = ["begins", "    note", "    note", "    note", "done"]
    for number in (1, 2):
        lines = [line for line in text.splitlines() if f"[{number}/2]" in line]
        assert len(lines) == len(expected) and all(word in line for word, line in zip(expected, lines, strict=True))


def test_a_stopped_command_leaves_the_terminal_as_it_was(root: Path) -> None:
    code = """
import os, signal, time
from adg import command, screen
with command.command():
    with screen.painting(), screen.line("cell"):
        screen.stage("cell    eval      ", "model ...")
        print("before", flush=True)
        time.sleep(1)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)
"""
    terminals: list[Terminal] = []
    written, status = on_a_terminal(root, "-c", code, shown=terminals.append)
    rows = [row for row in terminals[-1].rows if row]
    assert status == 143 and rows[0] == "before" and rows[-1] == "interrupted; the same command continues", written
    assert "eval" in written and not any("eval" in row for row in rows)
    assert written.rindex("\x1b[?25h") > written.rindex("\x1b[?25l"), "the cursor is shown again"


def test_what_begins_a_stage_begins_what_is_said_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (screen.NOTES, screen.LINE, screen.STAGE):
        monkeypatch.delenv(name, raising=False)
    assert screen.stage_words() == "  "
    with screen.line("a"):
        screen.stage("[1/2] eval ", "model")
        with screen.line("b"):
            assert os.environ[screen.LINE] == "b"
        assert os.environ[screen.LINE] == "a"
    assert screen.LINE not in os.environ and screen.stage_words() == "  "


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.4, "0 s"), (59, "59 s"), (61, "1 min"), (3599, "1 h 0 min"), (7500, "2 h 5 min")]
)
def test_durations(seconds: float, words: str) -> None:
    assert screen.duration(seconds) == words
