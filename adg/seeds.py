"""One root seed; every stage, shard and bootstrap derives its own by name. Nothing uses a global generator."""

from __future__ import annotations

import hashlib

import numpy as np


def child(root: int, *names: str | int) -> int:
    """A 31-bit seed that depends on ``root`` and on the path of names, and on nothing else."""
    text = "/".join([str(root), *map(str, names)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") % (2**31 - 1)


def generator(root: int, *names: str | int) -> np.random.Generator:
    """An independent numpy generator for ``root`` and the path of names."""
    return np.random.default_rng(child(root, *names))
