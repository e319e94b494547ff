"""Averages of benchmark scores: over items, subtasks, tasks and categories. Computed here and nowhere else.

A part that was not measured makes everything above it None; it is never counted as zero.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

# project page: Reasoning, Knowledge, Coding and their mean; reproduces the published averages
CATEGORIES = {
    "reasoning": ("bbh", "gsm8k"),
    "knowledge": ("mmlu", "truthfulqa_mc2"),
    "coding": ("humaneval", "mbpp"),
}


def mean(values: Sequence[float | None]) -> float | None:
    """The plain mean; None when a value is None or there is none."""
    present = [value for value in values if value is not None]
    return math.fsum(present) / len(present) if present and len(present) == len(values) else None


def categories(tasks: Mapping[str, float | None]) -> dict[str, float | None]:
    """``{"reasoning", "knowledge", "coding", "avg"}`` of task scores, in their unit.

    None for a category with a task that is absent or None, and for ``avg`` when a category is None.
    """
    found = {name: mean([tasks.get(task) for task in members]) for name, members in CATEGORIES.items()}
    return found | {"avg": mean(list(found.values()))}


def standard_error(scores: Sequence[float]) -> float | None:
    """Standard error of the mean over items (sample variance); None for fewer than two."""
    if len(scores) < 2:
        return None
    centre = math.fsum(scores) / len(scores)
    return math.sqrt(math.fsum((s - centre) ** 2 for s in scores) / (len(scores) - 1) / len(scores))


def pooled(means: Sequence[float], sizes: Sequence[int]) -> float:
    """Mean over the items of several subtasks (lm-eval: ``weight_by_size``)."""
    return math.fsum(m * n for m, n in zip(means, sizes, strict=True)) / sum(sizes)


def pooled_standard_error(errors: Sequence[float | None], sizes: Sequence[int]) -> float | None:
    """lm-eval's standard error of a group: from the pooled variance within subtasks; None where one has no error."""
    if any(error is None for error in errors):
        return None
    within = math.fsum((n - 1) * (e or 0.0) ** 2 * n for e, n in zip(errors, sizes, strict=True))
    return math.sqrt(within / (sum(sizes) - len(sizes)) / sum(sizes))
