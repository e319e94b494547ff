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


def command(*arguments: str, env: dict[str, str] | None = None, **options: object) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        encoding="utf-8",
        env={**os.environ, **(env or {})},
        timeout=120,
        check=False,
        **options,
    )


def stopped(
    root: Path, runs: Path, number: int, *more: str, group: bool = False, seen: str = "answers"
) -> tuple[int, float, str]:
    """Start a sweep of the smoke profile, stop it while a stage named ``seen`` is built; its exit status, the seconds
    that it took to end, and all that it printed. ``group``: the signal goes to all its processes, as from a terminal.
    """
    line = ["-m", "experiments.run", "-m", "profile=smoke", f"exec.runs={runs}", "exec.run_model_code=false", *more]
    process = subprocess.Popen(
        [sys.executable, *line],
        cwd=root,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        start_new_session=True,
    )
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
@pytest.mark.parametrize("sweep", SWEEPS)
def test_what_a_cluster_ends_is_interrupted_and_no_failure(root: Path, tmp_path: Path, sweep: str) -> None:
    code, seconds, printed = stopped(root, tmp_path, signal.SIGTERM, "selector=adg", *SWEEPS[sweep], group=True)
    assert code == 143 and seconds < 2.5 and "Traceback" not in printed
    assert printed.rstrip().endswith("interrupted; the same command continues")
    assert not list(tmp_path.rglob("failed.json"))
    states = [json.loads(path.read_text(encoding="utf-8"))["state"] for path in (tmp_path / "cells").glob("*.json")]
    assert states == ["interrupted"]


@pytest.mark.parametrize("module", MODULES)
def test_help_is_help_and_nothing_else(root: Path, tmp_path: Path, module: str) -> None:
    done = command("-m", f"experiments.{module}", "profile=smoke", f"exec.runs={tmp_path / 'runs'}", "--help", cwd=root)
    assert done.returncode == 0 and not done.stderr
    assert f"python -m experiments.{module}" in done.stdout and len(done.stdout.splitlines()) < 45
    assert not list(tmp_path.iterdir())
