"""Averages of benchmark scores: over items, subtasks, tasks and categories. Computed here and nowhere else.

A part that was not measured makes everything above it None; it is never counted as zero.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

from adg.evaluation import benchmarks


def mean(values: Sequence[float | None]) -> float | None:
    """The plain mean; None when a value is None or there is none."""
    present = [value for value in values if value is not None]
    return math.fsum(present) / len(present) if present and len(present) == len(values) else None


def grouping(tasks: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """The categories of a suite: the paper's, or none for a suite of other tasks only."""
    names, papers = set(tasks), benchmarks.members()
    return papers if not names or any(names & set(members) for members in papers.values()) else {}


def categories(tasks: Mapping[str, float | None]) -> dict[str, float | None]:
    """``{"reasoning", "knowledge", "coding", "avg"}`` of task scores, in their unit; of a suite with none of the
    paper's tasks ``{"avg"}``, the mean of its tasks.

    None for a category with a task that is absent or None, and for ``avg`` when a category is None.
    """
    means = {name: mean([tasks.get(task) for task in members]) for name, members in grouping(tasks).items()}
    return means | {"avg": mean(list((means or tasks).values()))}


def weights(tasks: Iterable[str]) -> dict[str, float] | None:
    """What each task weighs in ``avg``, for averages of more than one number a task; None where a task of a category
    is not among ``tasks``, or there is none."""
    names = list(tasks)
    groups = list(grouping(names).values()) or [(name,) for name in names]
    if not names or any(task not in names for members in groups for task in members):
        return None
    return {task: 1 / len(groups) / len(members) for members in groups for task in members}


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
