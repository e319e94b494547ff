"""Faults on purpose, a few of each kind on a real study; `make chaos` tries many more (see ``chaos.py``)."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from tests import processes

pytestmark = pytest.mark.slow


def test_every_fault_is_mended_or_refused_by_name(root: Path) -> None:
    few = ["--damages", "12", "--kills", "12", "--selectors", "1", "--seed", "3", "--seconds", "40"]
    env = {key: value for key, value in os.environ.items() if not key.startswith("WANDB_")}
    done = processes.run(["tests/chaos.py", *few], cwd=root, env=env)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-3000:]
    trials = re.search(r"^(\d+) trials, 0 faults$", done.stdout, flags=re.MULTILINE)
    assert trials is not None and int(trials[1]) >= 1, done.stdout
