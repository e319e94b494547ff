"""One root seed; every stage, shard and bootstrap derives its own by name. Nothing uses a global generator."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np


def child(root: int, *names: str | int) -> int:
    """A 31-bit seed that depends on ``root`` and on the path of names, and on nothing else."""
    text = "/".join([str(root), *map(str, names)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") % (2**31 - 1)


def generator(root: int, *names: str | int) -> np.random.Generator:
    """An independent numpy generator for ``root`` and the path of names."""
    return np.random.default_rng(child(root, *names))


@contextmanager
def preserved_generators() -> Iterator[None]:
    """The global generators of Python, numpy and torch (every GPU's too) as they were, afterwards.

    For libraries that seed or draw from them: vLLM, the trainer, models with random weights.
    """
    import random

    import torch

    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002 - the global one is what is put back
    try:
        with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002
