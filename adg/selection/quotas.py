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


def across_strata(sizes: np.ndarray, quotas: np.ndarray) -> np.ndarray:
    """The quota of each bin shared among strata in proportion to the bin's own rows there, (B, S).

    ``sizes`` (B, S) rows of each bin in each stratum, ``quotas`` (B,) of the bins. Bin by bin, every stratum gets the
    floor of its share. What is left goes to those with a remainder that are furthest behind the sum of their shares so
    far, ties to the lower stratum: for one bin the largest remainders, and over many small bins the roundings cancel,
    so that the strata keep the pool's proportions. Never above a size, and within one of each share.
    """
    sizes = np.asarray(sizes, dtype=np.int64)
    result = np.zeros_like(sizes)
    behind = np.zeros(sizes.shape[1])  # what each stratum should have had by now, less what it has
    for row, (size, quota) in enumerate(zip(sizes, np.asarray(quotas, dtype=np.int64), strict=True)):
        total = max(int(size.sum()), 1)
        floor, remainder = np.divmod(size * quota, total)
        behind += remainder / total
        order = np.lexsort((np.arange(len(size)), -np.round(behind, 9)))
        extra = order[remainder[order] > 0][: int(quota - floor.sum())]
        behind[extra] -= 1
        floor[extra] += 1
        result[row] = floor
    return result


def binwise(
    scores: np.ndarray,
    bins: np.ndarray,
    budget: int,
    rule: str = "largest_remainder",
    part: str = "top",
    strata: np.ndarray | None = None,
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

    With ``strata`` (n,) int each bin keeps its quota, which is shared among the strata within it
    (``across_strata``); ``part`` is then of each bin and stratum. Only with ``rule="largest_remainder"``.
    """
    scores = np.asarray(scores, dtype=np.float64)
    bins = np.asarray(bins)
    if scores.ndim != 1 or scores.shape != bins.shape:
        raise BadInput(f"scores have shape {scores.shape} and bins {bins.shape}; expected the same (n,)")
    if rule not in RULES:
        raise BadInput(f"rule is {rule!r}; expected one of {', '.join(RULES)}")
    if part not in PARTS:
        raise BadInput(f"part is {part!r}; expected one of {', '.join(PARTS)}")
    if strata is not None and (rule != "largest_remainder" or np.shape(strata) != bins.shape):
        raise BadInput(f"strata have shape {np.shape(strata)}, rule {rule}; expected {bins.shape}, largest_remainder")
    if not np.isfinite(scores).all():
        raise BadMeasurement(f"score of row {int(np.flatnonzero(~np.isfinite(scores))[0])} is not finite")
    if budget < 0 or (budget > len(scores) and rule != "released"):  # the released rule is defined above the pool too
        raise BadInput(f"budget {budget} is outside 0..{len(scores)}")
    if len(scores) == 0:
        return np.empty(0, dtype=np.int64)
    if rule == "released":
        return _released(scores, bins, budget, part)
    return _exact(scores, bins, budget, part, np.zeros(len(bins), np.int64) if strata is None else np.asarray(strata))


def _ranked_bins(scores: np.ndarray, codes: np.ndarray) -> list[np.ndarray]:
    """Row indices of each bin code that occurs, codes ascending, highest score first, ties in row order."""
    order = np.lexsort((np.arange(len(scores)), -scores, codes))
    edges = np.flatnonzero(np.diff(codes[order])) + 1
    return np.split(order, edges)


def _exact(scores: np.ndarray, bins: np.ndarray, budget: int, part: str, strata: np.ndarray) -> np.ndarray:
    _, codes = np.unique(bins, return_inverse=True)
    _, layers = np.unique(strata, return_inverse=True)
    sizes = np.zeros((codes.max() + 1, layers.max() + 1), dtype=np.int64)
    np.add.at(sizes, (codes, layers), 1)
    quotas = across_strata(sizes, largest_remainder(sizes.sum(axis=1), budget))
    groups = _ranked_bins(scores, codes * sizes.shape[1] + layers)  # those that hold a row, in the order of quotas
    taken = []
    for group, quota in zip(groups, quotas[sizes > 0], strict=True):
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
