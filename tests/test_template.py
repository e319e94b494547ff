"""docs/template is true: installed beside the project, all that it adds is found everywhere."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests import processes

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def installed(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The template as pip installs it, in a folder of its own."""
    folder = tmp_path_factory.mktemp("template")
    source = folder / "source"
    shutil.copytree(root / "docs" / "template", source)
    pip = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "-q",
        "--no-deps",
        "--no-build-isolation",
        "--disable-pip-version-check",
    ]
    subprocess.run([*pip, "--target", str(folder / "site"), str(source)], check=True)
    return folder / "site"


def run(installed: Path, folder: Path, *arguments: str) -> str:
    """A command of a user who stands in a folder of their own."""
    root = Path(__file__).resolve().parent.parent
    paths = os.pathsep.join([str(installed), str(root)])
    env = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = processes.run(["-m", *arguments], cwd=folder, env=env)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def test_its_parts_are_found_by_every_command(installed: Path, tmp_path: Path) -> None:
    study = ["profile=smoke", "pool=tickets", "selector=brief,random", "budget=6", "suite=sums", "tracker=lines"]
    assert "tiny_random/tickets/brief" in run(installed, tmp_path, "adg", "plan", *study)
    printed = run(installed, tmp_path, "adg", "sweep", *study, "selector=brief")
    assert "[1/1] tiny_random/tickets/brief" in printed and "FAILED" not in printed
    (line,) = map(json.loads, (tmp_path / "runs" / "cells.jsonl").read_text().splitlines())
    assert line["cell"].startswith("tiny_random/tickets/brief") and line["state"] == "done"
    assert {"score/gsm8k", "subset/rows_out"} <= line.keys()
    run(installed, tmp_path, "adg", "select", "pool=tickets", "selector=brief", "budget=2", "out=brief.jsonl")
    rows = [json.loads(line) for line in (tmp_path / "brief.jsonl").read_text().splitlines()]
    assert [row["reply"] for row in rows] == ["We do.", "Under Account, Security."]
    manifest = json.loads((tmp_path / "brief.manifest.json").read_text())
    assert manifest["versions"]["my-selection"] == "0.1.0"


def test_its_benchmark_is_a_column(installed: Path, tmp_path: Path) -> None:
    """Its own task and data, through lm-eval, to the report and to the comparison with a pool."""
    study = ["profile=smoke", "pool=tickets", "selector=brief", "budget=6", "suite=opposites", "suite.limit=null"]
    printed = run(installed, tmp_path, "adg", "run", *study)
    assert "Opposite" in printed and "FAILED" not in printed
    items = run(installed, tmp_path, "adg", "samples", *study, "--json")
    assert [json.loads(line)["target"].strip() for line in items.splitlines()] == ["cold", "late", "empty", "shut"]
    assert "opposites" in run(installed, tmp_path, "adg", "contamination", *study)


def test_the_contract_is_tested_by_one_command(installed: Path, tmp_path: Path) -> None:
    said = run(installed, tmp_path, "adg", "contract", "brief", "-q")
    passed = re.search(r"(\d+) passed", said)
    assert passed and int(passed[1]) >= 10 and "failed" not in said and "skipped" not in said


def test_its_own_tests_pass(installed: Path, root: Path) -> None:
    run(installed, root / "docs" / "template", "pytest", "-q", "-p", "no:cacheprovider", "tests")
