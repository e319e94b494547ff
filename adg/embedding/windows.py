"""Layer windows: which hidden states of a model are averaged, from the words that declare them.

The words are identity (``EmbeddingConfig.windows``); the blocks that they mean depend on the model.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from adg.errors import BadInput


def resolve_windows(windows: Sequence[str], blocks: int) -> tuple[tuple[int, ...], ...]:
    """Hidden-state tensors of each declared window, for a model of ``blocks`` blocks.

    Tensor 0 is the embedding output and tensor i the output of the i-th block; the last, number ``blocks``, is taken
    after the final norm, as transformers hands it out. Forms:

    - ``last4``: the last four tensors (paper); any number.
    - ``released``: tensors -4, -3, -2, that is ``-4:-2`` (the last is left out).
    - ``-4:-2``, ``0:3``: tensors from:to, both included, negative ones from the end.
    - ``24-27``: blocks counted from 0 as in the paper's layer study, both included: tensors 25 to 28.
    - ``rel:0.75-1.0``: by relative depth, tensors i with 0.75 L < i <= 1.0 L (L blocks), to compare backbones.

    Raises ``BadInput`` naming the window where the model has no such tensor.
    """
    resolved = []
    for window in windows:
        form, low, high = parse_window(window)
        if form == "last":
            first, last = blocks + 1 - int(high), blocks
        elif form == "tensors":
            first, last = (int(end) + (blocks + 1 if end < 0 else 0) for end in (low, high))
        elif form == "blocks":
            first, last = int(low) + 1, int(high) + 1
        else:
            inside = [i for i in range(1, blocks + 1) if low * blocks + 1e-9 < i <= high * blocks + 1e-9]
            first, last = (inside[0], inside[-1]) if inside else (1, 0)
        if not 0 <= first <= last <= blocks:
            raise BadInput(
                f"embedding.windows: {window!r} means hidden states {first} to {last}, but the backbone has "
                f"{blocks} blocks, that is hidden states 0 to {blocks}"
            )
        resolved.append(tuple(range(first, last + 1)))
    return tuple(resolved)


def parse_window(window: str, option: str = "embedding.windows") -> tuple[str, float, float]:
    """(form, low, high) of a declared window. Raises ``BadInput`` naming the ``option`` that holds it."""
    if window == "released":
        return "tensors", -4, -2
    if match := re.fullmatch(r"last([1-9]\d*)", window):
        return "last", 0, int(match[1])
    if match := re.fullmatch(r"(-?\d+):(-?\d+)", window):
        return "tensors", int(match[1]), int(match[2])
    if match := re.fullmatch(r"(\d+)-(\d+)", window):
        return "blocks", int(match[1]), int(match[2])
    if match := re.fullmatch(r"rel:(\d*\.?\d+)-(\d*\.?\d+)", window):
        low, high = float(match[1]), float(match[2])
        if 0 <= low < high <= 1:
            return "relative", low, high
        raise BadInput(
            f"{option}: {window!r} goes from {low:g} to {high:g} of the depth; expected the lower first, both of 0 to 1"
        )
    raise BadInput(
        f"{option}: {window!r} is not a layer window; expected last4, released, hidden states "
        f"like -4:-2, blocks like 24-27, or a relative depth like rel:0.75-1.0"
    )
