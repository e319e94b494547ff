"""What a person meets around the work of a command: help, warnings, locales, and being stopped."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests import processes

MODULES = [
    "run",
    "select",
    "plan",
    "status",
    "report",
    "compare",
    "samples",
    "contamination",
    "fetch",
    "power",
    "claims",
]


def command(*arguments: str, cwd: Path, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return processes.run(arguments, cwd=cwd, env={**os.environ, **(env or {})}, timeout=120)


def stopped(
    root: Path, runs: Path, number: int, *more: str, group: bool = False, seen: str = "answers"
) -> tuple[int, float, str]:
    """Start a sweep of the smoke profile, stop it while a stage named ``seen`` is built; its exit status, the seconds
    that it took to end, and all that it printed. ``group``: the signal goes to all its processes, as from a terminal.
    """
    line = ["-m", "experiments.run", "-m", "profile=smoke", f"exec.runs={runs}", "exec.run_model_code=false", *more]
    process = processes.start(line, cwd=root, together=True)
    assert process.stdout is not None
    printed = ""
    for text in process.stdout:
        printed += text
        if f"    {seen}" in text and text.rstrip().endswith("..."):
            break
    time.sleep(0.5)
    began = psutil.Process(process.pid).children(recursive=True)
    sent = time.time()
    (os.killpg if group else os.kill)(process.pid, number)
    printed += process.stdout.read()
    code = process.wait(30)
    seconds = time.time() - sent
    _, alive = psutil.wait_procs(began, 3)
    assert not alive, "what it started has ended too"
    return code, seconds, printed


SWEEPS = {
    "one process": (),
    "joblib": ("hydra/launcher=joblib", "hydra.launcher.n_jobs=2"),
    "a worker for each kind of stage": ("exec.isolation=process",),
}


@pytest.mark.slow
@pytest.mark.parametrize("sweep", SWEEPS)
@pytest.mark.parametrize("group", [False, True], ids=["alone", "group"])
def test_ctrl_c_ends_a_sweep_at_once(root: Path, tmp_path: Path, sweep: str, group: bool) -> None:
    code, seconds, printed = stopped(root, tmp_path, signal.SIGINT, "selector=adg", *SWEEPS[sweep], group=group)
    assert code == 130 and seconds < 2.5, printed
    assert printed.rstrip().endswith("stopped; the same command continues") and "Traceback" not in printed
    assert not list(tmp_path.rglob("failed.json"))
    states = [json.loads(path.read_text(encoding="utf-8"))["state"] for path in (tmp_path / "cells").glob("*.json")]
    assert states == ["interrupted"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sweep", "number"),
    [*((sweep, signal.SIGTERM) for sweep in SWEEPS), ("a worker for each kind of stage", signal.SIGUSR2)],
)
def test_what_a_cluster_ends_is_interrupted_and_no_failure(
    root: Path, tmp_path: Path, sweep: str, number: signal.Signals
) -> None:
    code, seconds, printed = stopped(root, tmp_path, number, "selector=adg", *SWEEPS[sweep], group=True)
    assert code == 128 + number and seconds < 2.5 and "Traceback" not in printed
    assert printed.rstrip().endswith("interrupted; the same command continues")
    assert not list(tmp_path.rglob("failed.json"))
    states = [json.loads(path.read_text(encoding="utf-8"))["state"] for path in (tmp_path / "cells").glob("*.json")]
    assert states == ["interrupted"]


@pytest.mark.parametrize("module", MODULES)
def test_help_is_help_and_nothing_else(root: Path, tmp_path: Path, module: str) -> None:
    done = command("-m", f"experiments.{module}", "profile=smoke", f"exec.runs={tmp_path / 'runs'}", "--help", cwd=root)
    assert done.returncode == 0 and not done.stderr
    assert f"adg {module} " in done.stdout and len(done.stdout.splitlines()) < 45
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("script", ["evaluate/run.py", "finetune/run.py", "-m bench", "-m bench.geometry"])
def test_help_of_the_scripts(root: Path, script: str) -> None:
    done = command(*script.split(), "--help", cwd=root)
    assert done.returncode == 0 and done.stdout.strip() and not done.stderr


def test_an_unknown_switch_is_refused(root: Path) -> None:
    done = command("-m", "experiments.status", "profile=smoke", "--mutlirun", cwd=root)
    assert done.returncode == 1 and not done.stdout
    assert done.stderr == (
        "error: --mutlirun is no switch of this command (did you mean '--multirun'?); --help says what is\n"
    )


def test_a_refusal_is_one_line(root: Path, tmp_path: Path) -> None:
    """Of one cell, of a sweep and of the subset alone; Hydra's own words do not come before it."""
    for module, more in (("run", []), ("run", ["-m"]), ("select", []), ("plan", [])):
        line = [*more, "profile=smoke", "selector=random", "budget=1000", f"exec.runs={tmp_path}"]
        if module == "plan":
            line.append("pool.rows=0")
        done = command("-m", f"experiments.{module}", *line, cwd=root)
        assert done.returncode == 1, done.stderr
        assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1, done.stderr


def test_a_tracker_that_cannot_be_reached_is_said(root: Path, tmp_path: Path) -> None:
    line = ["selector=random", "experiment.last=subset", "tracker=wandb", "tracker.mode=online", "tracker.timeout=5"]
    env = {"WANDB_BASE_URL": "http://127.0.0.1:9", "WANDB_API_KEY": "0" * 40, "WANDB_MODE": "online"}
    done = command("-m", "experiments.run", "profile=smoke", *line, f"exec.runs={tmp_path}", cwd=root, env=env)
    assert done.returncode == 0, done.stderr
    assert "warning: " in done.stderr and "Traceback" not in done.stderr


def test_a_locale_that_is_not_utf8(root: Path, tmp_path: Path) -> None:
    """As in a container or a batch job: names of files, what is written and what is printed."""
    pool = tmp_path / "données 数.jsonl"
    pool.write_text('{"instruction": "Où? 数", "output": "là – …"}\n' * 12, encoding="utf-8")
    out = tmp_path / "chosen é.jsonl"
    line = ["selector=random", "pool=local", f"pool.path={pool}", "budget=8", f"out={out}", f"exec.runs={tmp_path}/ü"]
    env = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": ""}

    def command(*words: str) -> subprocess.CompletedProcess[str]:
        line = [sys.executable, "-m", *words]
        return subprocess.run(line, cwd=root, env=env, capture_output=True, encoding="utf-8")

    done = command("experiments.select", *line)
    assert done.returncode == 0, done.stderr
    assert str(out) in done.stdout and "Où? 数" in out.read_text(encoding="utf-8")
    done = command("experiments.report", "profile=smoke", f"exec.runs={tmp_path}/ü")
    assert done.returncode == 0 and "/ü/report/smoke-main/" in done.stdout and not done.stderr
