"""Texts of many lengths in batches of similar length, so that little is padded. No part of identity."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any


def batches(items: Sequence[int], size: Any, budget: int) -> Iterator[list[int]]:
    """``items`` in batches of similar ``size``, longest first, whose padded tokens stay within ``budget``."""
    batch: list[int] = []
    for item in sorted(items, key=lambda i: (-size(i), i)):
        if batch and (len(batch) + 1) * size(batch[0]) > budget:
            yield batch
            batch = []
        batch.append(item)
    if batch:
        yield batch
