"""Quotas: how a budget is shared among bins, and which rows of a bin fill it. Pure functions, no part of identity."""

from __future__ import annotations

import numpy as np

from adg.errors import BadInput, BadMeasurement

RULES = ("largest_remainder", "released")
PARTS = ("top", "middle", "bottom")


def largest_remainder(sizes: np.ndarray, budget: int) -> np.ndarray:
    """Quotas proportional to ``sizes`` (B,), exactly ``budget`` in total and never above a bin's size.

    Each bin gets the floor of its share; what is left goes to the largest remainders, ties to the lower bin.
    """
    sizes = np.asarray(sizes, dtype=np.int64)
    total = int(sizes.sum())
    if not 0 <= budget <= total:
        raise BadInput(f"budget {budget} is outside 0..{total} (the records that can be selected)")
    quotas = sizes * budget // max(total, 1)
    remainders = sizes * budget - quotas * total
    short = budget - int(quotas.sum())
    # a remainder above 0 means the floor is below the bin's size, so one more always fits
    order = np.lexsort((np.arange(len(sizes)), -remainders))
    quotas[order[:short]] += 1
    return quotas


def binwise(
    scores: np.ndarray, bins: np.ndarray, budget: int, rule: str = "largest_remainder", part: str = "top"
) -> np.ndarray:
    """Indices chosen bin by bin: a quota proportional to the bin's size, filled by score.

    ``scores`` (n,) float, ``bins`` (n,) int; rows are in canonical id order, so ties go to the lowest id.
    ``part`` takes the head, the tail or the middle of each bin ranked by score, highest first.

    ``rule="largest_remainder"`` (ours) returns exactly ``budget`` indices, bins in ascending order and ranked
    within a bin; the middle is the window that starts at floor((size - quota) / 2).
    ``rule="released"`` is the released code's rule to the letter: bins under 3 members go whole to the middle;
    otherwise q = max(1, floor(size * budget / n)) for each of three parts, cut so that they fit; a part longer than
    the budget is cut globally, best first (bottom: lowest first). It may return fewer than ``budget``; the paper
    states only that quotas are proportional.
    """
    scores = np.asarray(scores, dtype=np.float64)
    bins = np.asarray(bins)
    if scores.ndim != 1 or scores.shape != bins.shape:
        raise BadInput(f"scores have shape {scores.shape} and bins {bins.shape}; expected the same (n,)")
    if rule not in RULES:
        raise BadInput(f"rule is {rule!r}; expected one of {', '.join(RULES)}")
    if part not in PARTS:
        raise BadInput(f"part is {part!r}; expected one of {', '.join(PARTS)}")
    if not np.isfinite(scores).all():
        raise BadMeasurement(f"score of row {int(np.flatnonzero(~np.isfinite(scores))[0])} is not finite")
    if budget < 0 or (budget > len(scores) and rule != "released"):  # the released rule is defined above the pool too
        raise BadInput(f"budget {budget} is outside 0..{len(scores)}")
    if len(scores) == 0:
        return np.empty(0, dtype=np.int64)
    return (_exact if rule == "largest_remainder" else _released)(scores, bins, budget, part)


def _ranked_bins(scores: np.ndarray, codes: np.ndarray) -> list[np.ndarray]:
    """Row indices of each bin code 0..B-1, highest score first, ties in row order."""
    order = np.lexsort((np.arange(len(scores)), -scores, codes))
    edges = np.flatnonzero(np.diff(codes[order])) + 1
    return np.split(order, edges)


def _exact(scores: np.ndarray, bins: np.ndarray, budget: int, part: str) -> np.ndarray:
    _, codes = np.unique(bins, return_inverse=True)
    groups = _ranked_bins(scores, codes)
    quotas = largest_remainder(np.array([len(g) for g in groups]), budget)
    taken = []
    for group, quota in zip(groups, quotas, strict=True):
        start = {"top": 0, "bottom": len(group) - quota, "middle": (len(group) - quota) // 2}[part]
        taken.append(group[start : start + quota])
    return np.concatenate(taken)


def _released(scores: np.ndarray, bins: np.ndarray, budget: int, part: str) -> np.ndarray:
    _, first, codes = np.unique(bins, return_index=True, return_inverse=True)
    by_appearance = np.argsort(np.argsort(first))  # code -> position in order of first appearance
    lists: dict[str, list[np.ndarray]] = {"top": [], "middle": [], "bottom": []}
    for group in _ranked_bins(scores, by_appearance[codes]):
        size = len(group)
        if size < 3:
            lists["middle"].append(group)
            continue
        top = middle = bottom = max(1, int(size * (budget / len(scores))))
        if top + middle + bottom > size:
            scale = size / (top + middle + bottom)
            top = bottom = max(1, int(top * scale))
            middle = size - top - bottom
        lists["top"].append(group[:top])
        lists["bottom"].append(group[size - bottom :])
        rest = group[top : size - bottom]
        start = max(0, (len(rest) - middle) // 2)
        lists["middle"].append(rest[start : start + middle])
    chosen = np.concatenate(lists[part]) if lists[part] else np.empty(0, dtype=np.int64)
    if len(chosen) > budget:
        sign = 1 if part == "bottom" else -1
        chosen = chosen[np.argsort(sign * scores[chosen], kind="stable")[:budget]]
    return chosen


def top(scores: np.ndarray, valid: np.ndarray, budget: int) -> np.ndarray:
    """The ``budget`` highest of the valid ``scores`` (n,), highest first, ties to the lowest row."""
    rows = np.flatnonzero(valid)
    return rows[np.argsort(-np.asarray(scores)[rows], kind="stable")[:budget]]
