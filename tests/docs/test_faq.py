"""docs/faq.md quotes what is really printed: most messages are provoked, the others are found in the sources."""

from __future__ import annotations

import ast
import errno
import functools
import re
import subprocess
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from adg.artifacts import disk

POINT = re.compile(r"^- `([^`]+)` ", re.MULTILINE)
LEFT_OUT = re.compile(r"\.\.\.|<[^>]+>")  # in a quoted message: whatever stands there
LOCAL = ("select", "pool=local", "selector=random")
KEPT = (*LOCAL, "pool.path=rows.jsonl", "pool.empty_output=drop")

PROVOKED: dict[str, tuple[str, ...]] = {  # how the message begins -> what is typed after adg
    "error: adg has no command": ("pln",),
    "error: unknown config key": ("plan", "budgett=1"),
    "error: selector=adgg": ("plan", "selector=adgg"),
    "error: selector 'random' has no option": ("plan", "profile=mini", "selector=random,adg", "selector.lam=0.5"),
    "error: the overrides name 54 cells": ("samples", "profile=mini"),
    "error: <cell> has no evaluation": (
        "samples",
        "profile=mini",
        "pool=mini_cot",
        "selector=adg",
        "backbone=smollm2_135m",
    ),
    "error: seeds=3": ("run", "profile=smoke", "selector=random", "seeds=3"),
    "error: <folder> ... holds none": ("plan", "--config-dir=."),
    "error: pool 'local' needs a file": LOCAL,
    "<file>: no row has the fields": (*LOCAL, "pool.path=names.jsonl", "budget=1"),
    "2 x empty output": (*LOCAL, "pool.path=rows.jsonl", "budget=1"),
    "error: budget is 5": (*KEPT, "budget=5", "out=much.jsonl"),
    "error: <file>, <file>, <file> exist already": (*KEPT, "budget=1", "out=there.jsonl"),
    "error: pool 'local' reads a/b": (*LOCAL, "pool.hub=a/b", "budget=1"),
    "error: <repository> at <commit>": ("select", "pool=alpaca_gpt4", "selector=random", "budget=1"),
    "FAILED: exec.device is cuda": (
        *("run", "profile=paper", "pool=mini_cot", "backbone=tiny_random", "selector=random", "budget=5"),
        "tracker=none",
    ),
    "not run: <part>: needs": ("sweep", "profile=smoke", "selector=scar"),
}
THE_SHELLS = "adg: command not found"
THE_DISKS = "the disk is full"


def quoted(text: str) -> list[str]:
    return [" ".join(message.split()) for message in POINT.findall(text)]


def pattern(message: str) -> re.Pattern[str]:
    """What a quoted message matches: anything where it leaves something out."""
    return re.compile(".*?".join(map(re.escape, LEFT_OUT.split(message))), re.DOTALL)


@functools.cache
def strings(root: Path) -> tuple[str, ...]:
    """Every text of the sources; where one is put together, its constants are in it and the rest left out."""
    found = []
    for folder in ("adg", "baselines", "evaluate", "experiments", "finetune", "requirements"):
        for path in sorted((root / folder).rglob("*.py")):
            tree = ast.parse(path.read_text(encoding="utf-8"))
            constants = {
                target.id: node.value.value
                for node in tree.body
                if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)
                for target in node.targets
                if isinstance(target, ast.Name) and isinstance(node.value.value, str)
            }
            found += [" ".join(text.split()) for text in texts(tree, constants)]
    return tuple(found)


def texts(tree: ast.Module, constants: Mapping[str, str]) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value
        elif isinstance(node, ast.JoinedStr):
            parts = []
            for part in node.values:
                if isinstance(part, ast.Constant):
                    parts.append(str(part.value))
                else:
                    assert isinstance(part, ast.FormattedValue)
                    name = part.value.id if isinstance(part.value, ast.Name) else ""
                    parts.append(constants.get(name, "\0"))
            yield "".join(parts)


@pytest.fixture(scope="module")
def messages(documents: Mapping[str, str]) -> list[str]:
    found = quoted(documents["docs/faq.md"])
    assert len(found) > 25 and len(found) == len(set(found))
    assert len(found) == documents["docs/faq.md"].count("\n- "), "each point begins with a message in backticks"
    return found


@pytest.mark.slow
def test_messages_are_printed(messages: list[str], run_all: Callable[..., Any], tmp_path: Path) -> None:
    """All are provoked first, so that one run of Python does; then each is looked for."""
    rows = [{"instruction": "a", "output": "b"}, {"instruction": "c", "output": ""}, {"instruction": "d"}]
    (tmp_path / "rows.jsonl").write_text("".join(f"{row}\n".replace("'", '"') for row in rows))
    (tmp_path / "names.jsonl").write_text('{"question": "a", "reply": "b"}\n')
    first = ([*KEPT, "budget=1", "out=there.jsonl"], tmp_path)
    done, *printed = run_all([first, *((words, tmp_path) for words in PROVOKED.values())])
    assert done.code == 0, done.printed
    for (begins, words), (_, text) in zip(PROVOKED.items(), printed, strict=True):
        (message,) = [message for message in messages if message.startswith(begins)]
        said = " ".join(text.split())
        assert pattern(message).search(said), f"{message}\nis not what adg {' '.join(words)} says:\n{text}"


def test_the_other_messages_stand_in_the_sources(messages: list[str], root: Path) -> None:
    elsewhere = (*PROVOKED, THE_SHELLS, THE_DISKS)
    others = [message for message in messages if not message.startswith(elsewhere)]
    assert len(others) >= 10
    missing = [
        message
        for message in others
        if not any(pattern(message.removeprefix("error: ")).search(text) for text in strings(root))
    ]
    assert not missing


def test_the_shells_own_message_is_that(messages: list[str]) -> None:
    done = subprocess.run(["/bin/bash", "-c", "adg --help"], env={"PATH": "/none"}, capture_output=True, text=True)
    assert THE_SHELLS in messages and THE_SHELLS in done.stderr


def test_a_full_disk_is_said_so(messages: list[str], tmp_path: Path) -> None:
    (message,) = [message for message in messages if message.startswith(THE_DISKS)]
    said = disk.explained(OSError(errno.ENOSPC, "No space left on device", str(tmp_path)), tmp_path)
    assert pattern(message).match(str(said))
