"""Which tokens of a text are pooled, and with what weight.

The rule is part of the stage: changing it means a new version of ``grams``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np

_PUNCTUATION = frozenset(",.;:!?()[]{}\"'`~-_/\\")
_NUMBER = re.compile(r"[\d%℃°]")  # \d: any Unicode decimal digit


def token_weight(text: str) -> float:
    """Weight of one decoded token (paper.md, from the released code).

    0 for blanks and for tokens made only of , . ; : ! ? ( ) [ ] { } " ' ` ~ - _ / and the backslash; 1.3 where there
    is a decimal digit or one of % ℃ °; else 1.
    """
    text = text.strip()
    if not text or _PUNCTUATION.issuperset(text):
        return 0.0
    return 1.3 if _NUMBER.search(text) else 1.0


def weight_table(tokenizer: Any) -> np.ndarray:
    """Weights of the whole vocabulary, (V,) float32. Special tokens decode to nothing and weigh 0."""
    texts = (tokenizer.decode([i], skip_special_tokens=True) for i in range(len(tokenizer)))
    return np.fromiter(map(token_weight, texts), dtype=np.float32, count=len(tokenizer))


@dataclass(frozen=True)
class WeightedText:
    """Tokens of one text to run; those before ``start`` are context and not pooled."""

    ids: np.ndarray  # (T,) int64
    start: int
    weights: np.ndarray  # (T,) float32, sum 1, 0 before ``start``
    total: float  # of the table's weights that were pooled; 0: equal weights instead
