"""Tests are shared out by files, so that what a file sets up is set up once."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

FILE = """
import pytest

@pytest.mark.parametrize("number", range(6))
def test_number(number):
    pass

@pytest.mark.vllm
def test_engine():
    pass
"""


def test_a_file_is_one_workers_and_so_are_all_engines(root: Path, tmp_path: Path) -> None:
    tests = tmp_path / "tests"
    tests.mkdir()
    (tests / "conftest.py").write_text((root / "tests" / "conftest.py").read_text(encoding="utf-8"), encoding="utf-8")
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers = vllm: starts an engine\n", encoding="utf-8")
    for name in ("one", "two"):
        (tests / f"test_{name}.py").write_text(FILE, encoding="utf-8")
    command = "-m pytest -n 2 --dist loadgroup --no-loadscope-reorder -v -p no:cacheprovider".split()
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    done = subprocess.run(
        [sys.executable, *command],
        cwd=tmp_path,
        env=clean,
        capture_output=True,
        text=True,
        encoding="utf-8",
    )
    assert done.returncode == 0, done.stdout + done.stderr
    passed = [line.split() for line in done.stdout.splitlines() if "PASSED" in line]
    workers: dict[str, set[str]] = {}
    for worker, *_, test in passed:
        file, name = test.split("@")[0].split("::")
        workers.setdefault("engines" if name == "test_engine" else file, set()).add(worker)
    assert len(passed) == 14
    assert {group: len(found) for group, found in workers.items()} == {
        "engines": 1,
        "tests/test_one.py": 1,
        "tests/test_two.py": 1,
    }
