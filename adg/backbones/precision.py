"""Which precision this machine multiplies fastest: bfloat16 where its processor has units for it, float32 elsewhere."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

FASTEST = "fastest"  # a backbone's dtype that is decided when it is built, and recorded with it
GAIN = 2.0  # by which bfloat16 must multiply faster: what is no product of matrices is slower in it on a CPU
ROWS = 512  # tokens at once, as in a batch of prompts
REPEATS = 5  # the fastest counts: other work only slows down


def fastest(config: Mapping[str, Any], device: str) -> tuple[str, dict[str, float]]:
    """``float32`` or ``bfloat16``, and the GFLOP/s of each, measured on ``device`` now.

    What is multiplied is ``ROWS`` tokens through one projection of the model's MLP, of the model's ``config`` (width
    and intermediate size; 4 times the width where it is not said).
    """
    width = int(config.get("hidden_size") or 1024)
    inner = int(config.get("intermediate_size") or 4 * width)
    rates = {dtype: _rate(width, inner, device, dtype) for dtype in ("float32", "bfloat16")}
    return ("bfloat16" if rates["bfloat16"] > GAIN * rates["float32"] else "float32"), rates


def _rate(width: int, inner: int, device: str, dtype: str) -> float:
    """GFLOP/s of a product of ``ROWS`` x ``width`` by ``width`` x ``inner``."""
    import torch

    tokens = torch.ones(ROWS, width, dtype=getattr(torch, dtype), device=device)
    weights = torch.ones(inner, width, dtype=getattr(torch, dtype), device=device)
    best = float("inf")
    for _ in range(REPEATS + 1):  # the first also warms up
        started = time.perf_counter()
        torch.nn.functional.linear(tokens, weights).sum().item()  # waits until it is done
        best = min(best, time.perf_counter() - started)
    return round(2 * ROWS * width * inner / best / 1e9, 1)
