"""What works on the shards of a stage: a worker holds a loaded model and makes one shard after the other.

How many there are, and in which processes, decides nothing of a result: each shard depends on its own row alone.
"""

from __future__ import annotations

import importlib
from typing import Any, Protocol

from adg import errors
from adg.errors import HarnessError


class Worker(Protocol):
    """Made once, with the arguments that the stage gives, then called for every shard."""

    def work(self, row: dict[str, Any]) -> dict[str, Any]:
        """Write the shard that ``row`` describes; returns figures about it (JSON types)."""
        ...

    def close(self) -> None:
        """Give memory back."""
        ...


def make(worker: str, arguments: tuple[Any, ...]) -> Worker:
    """The worker "module:class"."""
    module, _, name = worker.partition(":")
    made: Worker = getattr(importlib.import_module(module), name)(*arguments)
    return made


def error_of(kind: str, text: str) -> HarnessError:
    """An error that a person can act on, which travelled as the name of its class and its message."""
    known = getattr(errors, kind, HarnessError)
    return known(text) if issubclass(known, HarnessError) else HarnessError(text)
