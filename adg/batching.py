"""Texts of many lengths in batches of similar length, so that little is padded. No part of identity."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

CPU_TOKENS = 512  # in a batch on a CPU at most: measured, larger ones fall out of its caches and are slower


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


def batch_tokens(tokens_per_batch: int, device: str) -> int:
    """Padded tokens of a batch on ``device``, for ``exec.tokens_per_batch``."""
    return min(tokens_per_batch, CPU_TOKENS) if device == "cpu" else tokens_per_batch
