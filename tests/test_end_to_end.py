"""The whole path, offline: pool to table through the user's own commands, with internet sockets refused."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests import processes

pytestmark = pytest.mark.slow

# Loaded by every Python process of the run: any attempt to leave the machine is an error.
BLOCK = """
import socket
_connect = socket.socket.connect
def connect(self, address):
    if self.family in (socket.AF_INET, socket.AF_INET6) and address[0] not in ("127.0.0.1", "::1", "localhost"):
        raise OSError(f"this test allows no network, and something wanted {address}")
    return _connect(self, address)
socket.socket.connect = connect
"""


@pytest.fixture(scope="session")
def offline(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """An environment whose Python processes cannot reach any other machine."""
    folder = tmp_path_factory.mktemp("offline")
    (folder / "sitecustomize.py").write_text(BLOCK)
    env = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "WANDB_"))}
    return {**env, "PYTHONPATH": str(folder), "CUDA_VISIBLE_DEVICES": ""}


def run(root: Path, env: dict[str, str], *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    done = processes.run(["-m", *arguments], cwd=root, env=env)
    assert not check or done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done


def digests(runs: Path, stage: str, names: tuple[str, ...]) -> dict[str, str]:
    return {
        p.relative_to(runs).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest()
        for name in names
        for p in sorted((runs / stage).glob(f"*/{name}"))
    }


@pytest.fixture(scope="session")
def smoke(root: Path, offline: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The smoke profile, run once, unbroken."""
    runs = tmp_path_factory.mktemp("smoke") / "runs"
    run(root, offline, "experiments.run", "-m", "profile=smoke", f"exec.runs={runs}")
    return runs


def test_every_stage_is_there(smoke: Path) -> None:
    stages = {"pool", "backbone", "answers", "grams", "bins", "scores", "subset", "adapter", "eval", "heldout"}
    assert stages <= {p.name for p in smoke.iterdir()}
    for manifest in smoke.glob("*/*/manifest.json"):
        content = json.loads(manifest.read_text())
        assert content["files"] and content["payload"] and content["versions"]
    assert not list(smoke.glob("*/*.partial"))


def test_the_table_has_both_rows_and_no_invented_number(smoke: Path) -> None:
    (folder,) = (smoke / "report").iterdir()
    rows = list(csv.DictReader((folder / "table.csv").open()))
    assert {row["selector"] for row in rows} == {"random", "adg"}
    assert "numbers mean nothing" in (folder / "table.md").read_text()
    assert "numbers mean nothing" in (folder / "index.html").read_text()


def test_a_second_run_builds_nothing(root: Path, offline: dict[str, str], smoke: Path) -> None:
    before = {p: p.stat().st_mtime_ns for p in smoke.glob("*/*/manifest.json")}
    done = run(root, offline, "experiments.run", "-m", "profile=smoke", f"exec.runs={smoke}")
    assert {p: p.stat().st_mtime_ns for p in smoke.glob("*/*/manifest.json")} == before
    assert "[1/2]" in done.stdout and "[2/2]" in done.stdout and "done in" not in done.stdout


def test_what_is_left_of_a_sweep_keeps_its_place(root: Path, offline: dict[str, str], smoke: Path) -> None:
    """Cells that are finished are only looked at; the others are launched."""
    (gone,) = [path for path in (smoke / "eval").glob("*adg*") if path.is_dir()]
    shutil.rmtree(gone)
    done = run(root, offline, "experiments.run", "-m", "profile=smoke", f"exec.runs={smoke}")
    built = [line for line in done.stdout.splitlines() if "done in" in line]
    assert len(built) == 1 and built[0].startswith("[2/2]") and " eval " in built[0]
    assert (gone / "manifest.json").is_file()


def test_plan_and_status_agree(root: Path, offline: dict[str, str], smoke: Path) -> None:
    plan = run(root, offline, "experiments.plan", "profile=smoke", f"exec.runs={smoke}").stdout
    assert plan.count("cached\n") >= 2 and "to do" not in plan
    assert "2 done" in run(root, offline, "experiments.status", "profile=smoke", f"exec.runs={smoke}").stdout


def test_killed_in_every_stage_and_continued_ends_the_same(
    root: Path, offline: dict[str, str], smoke: Path, tmp_path: Path
) -> None:
    """kill -9 whenever a new stage has begun to write; what is built equals the unbroken run's."""
    runs, killed = tmp_path / "runs", set()
    command = ["-m", "experiments.run", "-m", "profile=smoke", "selector=adg", f"exec.runs={runs}"]
    for _ in range(12):
        process = processes.start(command, cwd=root, env=offline, quiet=True)
        while process.poll() is None:
            stages = {p.parent.name for p in runs.glob("*/*.partial")} - killed
            if stages:
                time.sleep(0.1)
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                killed |= stages
                break
            time.sleep(0.01)
        else:
            break
    assert process.returncode == 0
    assert len(killed) >= 6, f"killed only in {killed}"
    for stage, names in {
        "answers": ("answers.parquet",),
        "grams": ("grams.npy", "instructions.npy"),
        "bins": ("bins.parquet",),
        "subset": ("subset.jsonl", "scores.jsonl"),
        "adapter": ("adapter/adapter_model.safetensors",),
    }.items():
        mine, unbroken = digests(runs, stage, names), digests(smoke, stage, names)
        assert mine and mine.items() <= unbroken.items(), stage
    mine, unbroken = (
        {p.parent.name: json.loads(p.read_text())["tasks"] for p in r.glob("eval/*/results.json")}
        for r in (runs, smoke)
    )
    assert mine.items() <= unbroken.items()


def test_a_failing_cell_does_not_stop_the_others(root: Path, offline: dict[str, str], smoke: Path) -> None:
    """A budget above the pool fails in its cell with a reason; the finished cell stays and the exit code is 1."""
    done = run(
        root,
        offline,
        "experiments.run",
        "-m",
        "profile=smoke",
        "selector=random",
        "budget=8,9000",
        f"exec.runs={smoke}",
        check=False,
    )
    assert done.returncode == 1
    assert "the pool holds 24 records" in done.stdout
    failed = [json.loads(p.read_text()) for p in (smoke / "cells").glob("*.json")]
    assert {"failed", "done"} <= {f["state"] for f in failed}


def test_select_writes_rows_with_their_fields_and_a_score_for_each(
    root: Path, offline: dict[str, str], tmp_path: Path
) -> None:
    rows = [
        {"id": f"r{i}", "instruction": f"Name {i + 2} birds.", "output": "sparrow " * (i + 1), "source": "mine"}
        for i in range(20)
    ]
    (tmp_path / "my.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    out = tmp_path / "subset.jsonl"
    run(
        root,
        offline,
        "experiments.select",
        "pool=local",
        f"pool.path={tmp_path / 'my.jsonl'}",
        "selector=adg",
        "backbone=tiny_random",
        "budget=5",
        f"out={out}",
        "sampling.max_new_tokens=4",
        f"exec.runs={tmp_path / 'runs'}",
    )
    chosen = [json.loads(line) for line in out.read_text().splitlines()]
    assert len(chosen) == 5 and all(r in rows for r in chosen)
    scores = [json.loads(line) for line in (tmp_path / "subset.scores.jsonl").read_text().splitlines()]
    assert [s["id"] for s in scores] == sorted(r["id"] for r in rows)
    assert {s["id"] for s in scores if s["selected"] is not None} == {r["id"] for r in chosen}
    assert all(s["reason"] for s in scores if s["selected"] is None)
    assert {"score", "dispersion", "anisotropy", "bin"} <= scores[0].keys()
    asked = [
        "experiments.select",
        "pool=local",
        f"pool.path={tmp_path / 'my.jsonl'}",
        "selector=adg",
        "backbone=tiny_random",
        f"exec.runs={tmp_path / 'other'}",
    ]
    done = run(root, offline, *asked, f"out={tmp_path / 'my.jsonl'}", check=False)
    assert done.returncode == 1 and "would replace or join what pool.path reads" in done.stderr
    done = run(root, offline, *asked, f"out={out}", "overwrite=true", "budget=21", check=False)
    assert done.returncode == 1 and "budget is 21 but the pool holds 20 records" in done.stderr
    assert {path.name for path in (tmp_path / "other").iterdir()} == {"pool", "subset"}, "nothing was sampled"
    done = run(root, offline, "experiments.select", f"out={tmp_path / 'new.jsonl'}", check=False)
    assert done.returncode == 1 and "pool 'local' needs a file: add pool.path=" in done.stderr


def test_select_refuses_bad_rows_before_any_work(root: Path, offline: dict[str, str], tmp_path: Path) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text('{"instruction": "a", "output": "b"}\n{"instruction": "a", \n{"output": "no instruction"}\n')
    done = run(
        root,
        offline,
        "experiments.select",
        "pool=local",
        f"pool.path={path}",
        "selector=random",
        "budget=1",
        f"out={tmp_path / 'out.jsonl'}",
        f"exec.runs={tmp_path / 'runs'}",
        check=False,
    )
    assert done.returncode == 1
    assert "bad.jsonl" in done.stderr and "line 2" in done.stderr and "line 3" in done.stderr
    assert not (tmp_path / "out.jsonl").exists()
