"""The documents as a reader sees them, and commands run as that reader would."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest

from tests import processes

ROOT = Path(__file__).resolve().parents[2]
Lines = Sequence[tuple[Sequence[str], Path]]  # words after ``adg``, and the folder to stand in


class Printed(NamedTuple):
    code: int
    printed: str


@pytest.fixture(scope="session")
def documents() -> dict[str, str]:
    """Every page for readers by its path."""
    pages = [
        ROOT / "README.md",
        ROOT / "CONTRIBUTING.md",
        *sorted(ROOT.glob("docs/*.md")),
        *ROOT.glob("docs/*/README.md"),
    ]
    return {page.relative_to(ROOT).as_posix(): page.read_text(encoding="utf-8") for page in pages}


@pytest.fixture(scope="session")
def run_all() -> Callable[[Lines], list[Printed]]:
    """Commands of ``adg`` in one process of their own, one after the other; what each printed."""

    def run(lines: Lines) -> list[Printed]:
        env = {**os.environ, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": "", "BROWSER": "true"}
        asked = json.dumps([{"words": list(words), "cwd": str(folder)} for words, folder in lines])
        done = processes.run([Path(__file__).with_name("several.py"), asked], env=env, cwd=ROOT)
        assert done.returncode == 0, done.stderr[-3000:]
        return [Printed(**result) for result in json.loads(done.stdout.splitlines()[-1])]

    return run
