"""Fixtures shared by all tests: nothing here needs a hub, a GPU or an account."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_OFFLINE", "1")
os.environ.setdefault("WANDB_MODE", "disabled")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # the models are tiny: more threads would only wait for each other

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def root() -> Path:
    """The project's root folder."""
    return ROOT


@pytest.fixture(scope="session")
def golden() -> Path:
    """Golden values kept with the tests."""
    return ROOT / "tests" / "golden"


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """Real pools and benchmarks beside the checkout; tests that use them are skipped where they are absent."""
    path = Path(os.environ.get("ADG_SHARED", ROOT.parent / "shared"))
    if not path.is_dir():
        pytest.skip("no real data beside the checkout (set ADG_SHARED to its folder)")
    return path
