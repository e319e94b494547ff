"""The command ``adg``: its help, and that each sub-command is its module."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from experiments.commands import COMMANDS
from tests import processes

ASKED = "select run sweep plan status report compare claims samples contamination fetch bench".split()


def adg(*words: str, cwd: Path, module: str = "adg") -> subprocess.CompletedProcess[str]:
    return processes.run(["-m", module, *words], cwd=cwd, timeout=120)


def test_the_console_command_is_this_module(root: Path) -> None:
    declared = tomllib.loads((root / "pyproject.toml").read_text())["project"]["scripts"]
    assert declared == {"adg": "adg.__main__:main"} and set(ASKED) <= set(COMMANDS)


def test_help_is_one_screen_and_starts_at_once(root: Path) -> None:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, "-m", "adg", "--help"], cwd=root, capture_output=True, text=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert (after.ru_utime - before.ru_utime) + (after.ru_stime - before.ru_stime) < 1.5
    lines = done.stdout.splitlines()
    assert done.returncode == 0 and not done.stderr and len(lines) <= 24 and max(map(len, lines)) <= 104
    assert all(any(line.startswith(f"  {name} ") for line in lines) for name in COMMANDS)
    assert adg(cwd=root).stdout == done.stdout


def test_help_imports_nothing_heavy(root: Path) -> None:
    code = "import sys\nfrom adg import __main__\nsys.argv = ['adg', '--help']\n__main__.main()\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert not {"numpy", "hydra", "omegaconf", "pyarrow", "torch"} & set(done.stdout.splitlines()[-1].split())


@pytest.mark.parametrize("name", COMMANDS)
def test_each_has_help_with_an_example(root: Path, tmp_path: Path, name: str) -> None:
    done = adg(name, "--help", cwd=root)
    assert done.returncode == 0 and not done.stderr and f"adg {name} " in done.stdout
    assert len(done.stdout.splitlines()) < 50


def test_it_is_the_module_that_python_runs(root: Path, tmp_path: Path) -> None:
    line = ["profile=smoke", "selector=random,longest", f"exec.runs={tmp_path}"]
    for name in ("plan", "status"):
        done = adg(name, *line, cwd=root)
        assert done.returncode == 0, done.stderr
        assert done.stdout == adg(*line, cwd=root, module=f"experiments.{name}").stdout


def test_what_is_wrong_is_one_line(root: Path, tmp_path: Path) -> None:
    done = adg("pln", cwd=root)
    assert done.returncode == 1 and done.stderr.startswith("error: adg has no command 'pln' (did you mean 'plan'?)")
    done = adg("run", "profile=smoke", "selector=random", "budget=100000", f"exec.runs={tmp_path}", cwd=root)
    assert done.returncode == 1 and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1


def test_a_folder_of_the_user_does_not_stand_before_ours(root: Path, tmp_path: Path) -> None:
    (tmp_path / "experiments").mkdir()
    (tmp_path / "experiments" / "__init__.py").write_text("raise SystemExit('not ours')")
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(root)])}
    done = processes.run(["-m", "adg", "plan", "profile=smoke", "selector=random"], cwd=tmp_path, env=env)
    assert done.returncode == 0 and "1 cells" in done.stdout, done.stderr
