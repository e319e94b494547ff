"""docs/extending.md is true: the two files it prints, added to a copy of the project, are a selector everywhere."""

from __future__ import annotations

import csv
import os
import re
import shutil
from pathlib import Path

import pytest

from tests import processes

pytestmark = pytest.mark.slow

BLOCK = re.compile(r"`([\w/]+\.(?:py|yaml))`:\n\n```\w+\n(.*?)```", re.DOTALL)
LEFT_OUT = shutil.ignore_patterns(".*", "runs", "__pycache__", "*.egg-info", "build")


@pytest.fixture(scope="module")
def project(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project with the documented selector in it and nothing else changed."""
    copy = tmp_path_factory.mktemp("extended") / "project"
    shutil.copytree(root, copy, ignore=LEFT_OUT, symlinks=True)
    blocks = {
        path: text for path, text in BLOCK.findall((root / "docs/extending.md").read_text()) if "shortest" in path
    }
    assert sorted(blocks) == ["baselines/shortest.py", "conf/selector/shortest.yaml"]
    for path, text in blocks.items():
        assert not (copy / path).exists()
        (copy / path).write_text(text)
    return copy


def run(project: Path, *arguments: str) -> str:
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = processes.run(["-m", *arguments], cwd=project, env=env)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def test_a_selector_is_one_file_and_one_config(project: Path, tmp_path: Path) -> None:
    """In the plan, the sweep, the table and the contract suite; each in the user's own command."""
    sweep = ["profile=smoke", "selector=shortest,random", f"exec.runs={tmp_path}"]
    assert "tiny_random/mini_general/shortest" in run(project, "experiments.plan", *sweep)

    cell = ["profile=smoke", "selector=shortest", f"exec.runs={tmp_path}"]
    printed = run(project, "experiments.run", "-m", *cell)
    assert "[1/1] tiny_random/mini_general/shortest" in printed and "FAILED" not in printed

    printed = run(project, "experiments.report", *sweep)
    assert "2 cells: 1 done, 1 missing" in printed
    table = tmp_path / "report" / "smoke-main+selector-shortest-random" / "table.csv"
    rows = {row["selector"]: row for row in csv.DictReader(table.open())}
    assert set(rows) == {"shortest", "random"} and rows["shortest"]["state"] == "done"

    suite = run(
        project,
        "experiments.contract",
        "shortest",
        "-q",
    )
    passed = re.search(r"(\d+) passed", suite)
    assert passed and int(passed[1]) >= 9 and "failed" not in suite and "skipped" not in suite
