"""Results item by item: the rows behind a score, and two cells held against each other on the same items.

Rows come from ``samples/<task>.parquet`` of an ``eval`` artifact; scores are fractions, 0 or 1 for most tasks.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from adg import seeds
from adg.artifacts.artifact import Artifact
from adg.errors import BadInput, BadMeasurement, nearest
from adg.evaluation import statistics
from adg.evaluation.results import DONE
from adg.evaluation.statistics import Against, Comparison

SETTINGS = ("suite", "backend", "lm_eval", "prompt", "chat_template")  # of two results that may be compared
MEASURES = ("metric", "filter", "version", "num_fewshot", "items_hash")  # the same of each of their tasks
KEY = ("subtask", "doc_id")

ROUNDING = 1e-3  # by which scores made of log-likelihoods may differ between backends

REMEMBERED = 128  # tasks of evaluations whose scores are held in memory, those asked for last

Item = tuple[str, int]  # subtask and number of an item
Pair = tuple[dict[str, Any], dict[str, Any]]  # rows of the same item in two results


def results(artifact: Artifact) -> dict[str, Any]:
    """``results.json`` of an ``eval`` artifact."""
    return json.loads(artifact.file("results.json").read_text(encoding="utf-8"))


def rows(
    artifact: Artifact, task: str, filter_: str | None = None, columns: Sequence[str] | None = None
) -> list[dict[str, Any]]:
    """A task's rows in the order in which they were scored: those of one filter, by default of the table's figure.

    Raises ``BadInput`` when the task or the filter is not there.
    """
    import pyarrow.parquet as pq

    tasks = results(artifact)["tasks"]
    if task not in tasks:
        raise BadInput(f"{artifact.path} has no task '{task}'{nearest(task, list(tasks))}; it has {', '.join(tasks)}")
    entry = tasks[task]
    if entry["status"] != DONE:
        raise BadInput(f"{task} of {artifact.path} has no items: {entry['status']}, {entry['reason']}")
    known = [entry["filter"], *entry["beside"]]
    wanted = filter_ or entry["filter"]
    if wanted not in known:
        raise BadInput(f"{task} has no filter '{wanted}'; it has {', '.join(known)}")
    needed = None if columns is None else [*dict.fromkeys(["filter", *columns])]
    every = pq.read_table(artifact.file(f"samples/{task}.parquet"), columns=needed).to_pylist()
    return [row for row in every if row["filter"] == wanted]


@dataclass(frozen=True)
class Scored:
    """A task of an evaluation, the same where path and digests of its files are."""

    path: Path
    digests: tuple[str, ...]
    task: str
    artifact: Artifact = field(compare=False)


def scores(artifact: Artifact, task: str) -> Mapping[str, Mapping[Item, float]]:
    """Subtask -> item -> score of the table's figure, as often as a report asks for it read once.

    Raises ``BadMeasurement`` where they do not give the figure back.
    """
    files = artifact.manifest["files"]
    digests = tuple(files.get(name, {}).get("sha256", "") for name in ("results.json", f"samples/{task}.parquet"))
    return _scores(Scored(artifact.path, digests, task, artifact))


@functools.lru_cache(maxsize=REMEMBERED)
def _scores(of: Scored) -> dict[str, dict[Item, float]]:
    artifact, task = of.artifact, of.task
    by_subtask: dict[str, dict[Item, float]] = {}
    for row in rows(artifact, task, columns=[*KEY, "score"]):
        by_subtask.setdefault(row["subtask"], {})[row["subtask"], row["doc_id"]] = row["score"]
    entry = results(artifact)["tasks"][task]
    every = [score for part in by_subtask.values() for score in part.values()]
    if len(every) != entry["n"] or abs(sum(every) / max(1, len(every)) - entry["value"]) > 1e-9:
        raise BadMeasurement(
            f"{artifact.path}/samples/{task}.parquet holds {len(every)} items whose mean is not that of results.json "
            f"({entry['n']} items, {entry['value']}); delete {artifact.path} and run the same command again"
        )
    return by_subtask


def same_items(one: Artifact, other: Artifact, settings: Sequence[str] = SETTINGS) -> list[str]:
    """The tasks that both measured, after making sure that they measured the same thing.

    Raises ``BadInput`` when one of ``settings`` or a task's items, metric, filter, version or shots differ, or when
    one result is partial and the other is not: such figures are never held against each other.
    """
    a, b = results(one), results(other)
    where = f"{one.path} and {other.path}"
    for name in settings:
        if a[name] != b[name]:
            raise BadInput(f"{where} cannot be compared: {name} is {a[name]!r} and {b[name]!r}; evaluate both alike")
    done = [{task for task, entry in result["tasks"].items() if entry["status"] == DONE} for result in (a, b)]
    shared = [task for task in a["tasks"] if task in done[0] & done[1]]
    for task in shared:
        mine, theirs = a["tasks"][task], b["tasks"][task]
        if mine["partial"] != theirs["partial"] or mine["partial_reasons"] != theirs["partial_reasons"]:
            raise BadInput(
                f"{where} cannot be compared: {task} is {_part(mine)} and {_part(theirs)}; a partial result "
                f"is never held against another kind. Evaluate both with the same limits"
            )
        for name in MEASURES:
            if mine[name] != theirs[name]:
                shown = [str(entry[name])[:12] for entry in (mine, theirs)]
                raise BadInput(
                    f"{where} cannot be compared: {name} of {task} is {shown[0]} and {shown[1]}; they did "
                    f"not answer the same items alike. Evaluate both with the same suite"
                )
    return shared


def _part(entry: Mapping[str, Any]) -> str:
    return f"partial ({'; '.join(entry['partial_reasons'])})" if entry["partial"] else "whole"


def matrix(artifacts: Sequence[Artifact], task: str) -> list[np.ndarray]:
    """Scores of the same cell with several seeds: one array a subtask, (seeds, items)."""
    every = [scores(artifact, task) for artifact in artifacts]
    return [
        np.array([[by_subtask[subtask][item] for item in part] for by_subtask in every])
        for subtask, part in every[0].items()
    ]


def differences(pairs: Sequence[tuple[Artifact, Artifact]]) -> dict[str, list[np.ndarray]]:
    """Task -> one array a subtask, (seeds, items), of score differences, ours minus theirs; a pair is (ours, theirs)
    of one seed. Raises as :func:`same_items`, which holds between seeds as well."""
    shared = same_items(*pairs[0])
    for ours, theirs in pairs[1:]:
        both = set(same_items(ours, theirs)) & set(same_items(pairs[0][0], ours))
        shared = [task for task in shared if task in both]
    return {
        task: [
            a - b
            for a, b in zip(
                matrix([ours for ours, _ in pairs], task), matrix([theirs for _, theirs in pairs], task), strict=True
            )
        ]
        for task in shared
    }


def contrast(
    ours: Mapping[int, Artifact], theirs: Mapping[int, Artifact], fixed: bool = False
) -> tuple[dict[str, list[np.ndarray]], Against | None]:
    """Two cells by seed, as :func:`statistics.compare` takes them: paired where their seeds are the same, else as two
    samples; ``fixed``: theirs was not trained, and any one stands for all. Raises as :func:`differences`."""
    if set(ours) == set(theirs) and not fixed:
        return differences([(ours[seed], theirs[seed]) for seed in ours]), None
    other = list(theirs.values())[: 1 if fixed else None]
    every = [*ours.values(), *other]
    shared = [set(same_items(every[0], artifact)) for artifact in every]
    tasks = [task for task in results(every[0])["tasks"] if all(task in of for of in shared)]
    scores_of = [{task: matrix(arm, task) for task in tasks} for arm in (list(ours.values()), other)]
    return scores_of[0], Against(scores_of[1], fixed)


def compare(
    ours: Mapping[int, Artifact],
    theirs: Mapping[int, Artifact],
    fixed: bool = False,
    weights: Mapping[str, float] | None = None,
) -> dict[str, Comparison]:
    """How far one cell lies above another, each given by seed (see :func:`contrast`, ``statistics.compare``): of the
    same evaluations the same figures wherever it is asked. {} where they measured no task in common.

    Raises as :func:`differences`.
    """
    ours, theirs = dict(sorted(ours.items())), dict(sorted(theirs.items()))
    tasks, against = contrast(ours, theirs, fixed)
    names = dict.fromkeys(artifact.fingerprint for side in (ours, theirs) for artifact in side.values())
    draw = seeds.generator(min(ours), "compare", *names)
    return statistics.compare(tasks, draw, weights=weights, against=against)


def unmoved(artifacts: Sequence[Artifact], tasks: Sequence[str]) -> list[str]:
    """Those of ``tasks`` on which every item has one and the same score in all evaluations: all 0, say, so that nothing
    could be seen there."""
    return [task for task in tasks if len({score for part in matrix(artifacts, task) for score in part.flat}) == 1]


def diff(one: Artifact, other: Artifact, task: str) -> list[Pair]:
    """The items of ``task`` whose score differs, in the order of the items."""
    return [(a, b) for a, b in _pairs(one, other, task, SETTINGS) if a["score"] != b["score"]]


def apart(one: Artifact, other: Artifact, task: str) -> tuple[list[Pair], int]:
    """Of one model evaluated by two backends: the items with another answer (text, or choice) or a score that differs
    by more than ``ROUNDING``, and the number of all items."""
    pairs = _pairs(one, other, task, [name for name in SETTINGS if name != "backend"])
    differ = [(a, b) for a, b in pairs if a["answer"] != b["answer"] or abs(a["score"] - b["score"]) > ROUNDING]
    return differ, len(pairs)


def _pairs(one: Artifact, other: Artifact, task: str, settings: Sequence[str]) -> list[Pair]:
    if task not in same_items(one, other, settings):
        raise BadInput(f"{task} has not been measured in both {one.path} and {other.path}")
    theirs = {(row["subtask"], row["doc_id"]): row for row in rows(other, task)}
    return [(row, theirs[row["subtask"], row["doc_id"]]) for row in rows(one, task)]
