"""Cells of several seeds as one row, and how far each row's average lies above random and the untrained backbone.

Means and intervals are over seeds and items, differences on the same items: those of ``experiments.compare`` and of the
claims (``samples.compare``). A seed that is not there is counted and said, never left out
in silence.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from adg import seeds
from adg.artifacts.artifact import Artifact
from adg.artifacts.store import Store
from adg.errors import BadInput
from adg.evaluation import aggregate, benchmarks, samples, statistics
from adg.evaluation.results import DONE
from adg.evaluation.statistics import Comparison
from experiments import names
from experiments.cells import Cell
from experiments.report.sections import Section
from experiments.report.table import BASELINE, RESAMPLES, UNTRAINED, WORDS, HeldOut, Row

Members = list[tuple[Cell, Row]]  # the cells of one row, which differ in their seed alone


def families(chosen: Sequence[Cell], rows: Sequence[Row]) -> list[Members]:
    """The cells of each row of the table, in order of first appearance."""
    groups: dict[tuple[str, ...], Members] = {}
    for cell, row in zip(chosen, rows, strict=True):
        key = (row.backbone, row.pool, row.selector, names.without_seed(row.variant))
        groups.setdefault(key, []).append((cell, row))
    return list(groups.values())


def table_rows(chosen: Sequence[Cell], rows: Sequence[Row], store: Store) -> tuple[list[Row], list[Section]]:
    """The rows of the table with their differences, and the section that holds each seed of those that have several."""
    groups = families(chosen, rows)
    averaged = [together(members, store) for members in groups]
    compared = [replace(row, differences=_differences(i, averaged, groups, store)) for i, row in enumerate(averaged)]
    several = [members for members in groups if len(members) > 1]
    return compared, [_section(several)] if several else []


def _evaluations(members: Members, store: Store) -> dict[int, Artifact]:
    """The finished evaluations of a row by seed."""
    found = {cell.config.seed: store.find(cell.nodes["eval"]) for cell, row in members if row.state == "done"}
    return {seed: artifact for seed, artifact in found.items() if artifact is not None}


def together(members: Members, store: Store) -> Row:
    """One row: the mean over the seeds that are done, which of how many is said in its name."""
    _, first = members[0]
    if len(members) == 1:
        return first
    done = [row for _, row in members if row.state == "done"]
    counted = (len(done), len(members))
    seeds_ = {"seed": ", ".join(str(cell.config.seed) for cell, _ in members)}
    pages = tuple(page for _, row in members for page in row.pages)
    first = replace(first, variant=names.without_seed(first.variant), repeats=counted, seeds=seeds_, pages=pages)
    if not done:
        return replace(first, reason=f"none of {len(members)} seeds is done: {first.reason or first.state}")
    evaluations = _evaluations(members, store)
    try:
        for artifact in evaluations.values():
            samples.same_items(next(iter(evaluations.values())), artifact)
    except BadInput as error:
        return replace(first, state="failed", reason=str(error), results=None)
    results = _mean_results([row.results or {} for row in done])
    measured = [task for task, entry in results["tasks"].items() if entry["status"] == DONE]
    scores = {task: samples.matrix(list(evaluations.values()), task) for task in measured}
    draw = seeds.generator(min(evaluations), "report", "seeds", first.label)
    resampled = statistics.resample(scores, draw, RESAMPLES) if scores else {}
    intervals = {name: _within(entry.interval) for name, entry in resampled.items()}
    return replace(
        first,
        state="done",
        reason="",
        results=results,
        intervals=intervals,
        interval=intervals.get("avg"),
        facts=_facts([row.facts for row in done]),
        overlap=_most([row.overlap for row in done]),
        heldout=_losses([row.heldout for row in done]),
    )


def _within(interval: statistics.Interval | None) -> tuple[float, float] | None:
    return None if interval is None else (max(0.0, interval.low), min(1.0, interval.high))


def _mean_results(every: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """``results.json`` of several seeds as one: a task's mean, or what keeps one of them from having a value."""
    tasks: dict[str, dict[str, Any]] = {}
    for task in every[0]["tasks"]:
        entries = [results["tasks"].get(task) for results in every]
        missing = [entry for entry in entries if entry is None or entry.get("value") is None]
        if missing:
            absent = {"status": "missing", "value": None, "n": 0, "reason": "not measured at every seed"}
            tasks[task] = missing[0] or absent
            continue
        beside = entries[0].get("beside") or {}
        tasks[task] = {
            **entries[0],
            "value": float(np.mean([entry["value"] for entry in entries])),
            "stderr": None,
            "beside": {name: _beside(name, other, entries) for name, other in beside.items()},
        }
    scores = {task: entry["value"] for task, entry in tasks.items()}
    return {**every[0], "tasks": tasks, "categories": aggregate.categories(scores)}


def _beside(name: str, other: Mapping[str, Any], entries: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    values = [entry["beside"][name]["value"] for entry in entries]
    return {**other, "value": aggregate.mean(values), "stderr": None}


def _facts(every: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What the seeds have in common; the rest stands with each seed's own files."""
    return {key: value for key, value in every[0].items() if all(facts.get(key) == value for facts in every)}


def _most(every: Sequence[Mapping[str, Mapping[str, int]] | None]) -> dict[str, dict[str, int]] | None:
    """Of each task and kind the most of any seed; None where one seed was not compared."""
    known = [overlap for overlap in every if overlap is not None]
    if len(known) < len(every):
        return None
    return {
        task: {kind: max(overlap[task][kind] for overlap in known) for kind in kinds}
        for task, kinds in known[0].items()
        if all(task in overlap for overlap in known)
    }


def _losses(every: Sequence[HeldOut | None]) -> HeldOut | None:
    """The losses of all seeds as one array; what keeps a seed from having them."""
    known = [held for held in every if held is not None]
    if len(known) < len(every):
        return None
    for held in known:
        if held.state != "done":
            return held
        if held.ids != known[0].ids:
            return HeldOut("failed", "the seeds have other held-out rows")
    loss = np.concatenate([held.loss for held in known])
    return replace(known[0], loss=loss, truncated=max(held.truncated for held in known))


def _differences(place: int, rows: Sequence[Row], groups: Sequence[Members], store: Store) -> dict[str, Comparison]:
    """How far this row's average lies above that of random and of the untrained backbone, fractions."""
    row, found = rows[place], {}
    if row.state != "done":
        return {}
    ours = _evaluations(groups[place], store)
    for to in (BASELINE, UNTRAINED):
        other = row.beside(to, rows)
        if len(other) != 1 or other[0].state != "done":
            continue
        theirs = _evaluations(groups[next(i for i, of in enumerate(rows) if of is other[0])], store)
        try:
            compared = samples.compare(ours, theirs, fixed=to == UNTRAINED)
        except BadInput:  # not the same items: no difference has an interval
            continue
        if "avg" in compared:
            found[to] = compared["avg"]
    return found


def _section(several: Sequence[Members]) -> Section:
    """A line for each seed of the rows that have several."""
    tasks = dict.fromkeys(task for members in several for _, row in members for task in row.entries)
    head = ["backbone", "pool", "row", "seed", "state", *(benchmarks.title(task) for task in tasks), "Average"]
    body = []
    for members in several:
        for cell, row in members:
            scores = {task: entry.get("value") for task, entry in row.entries.items()}
            average = row.results["categories"].get("avg") if row.results else None
            shown = [_percent(scores.get(task)) for task in tasks] + [_percent(average)]
            name = replace(row, variant=names.without_seed(row.variant)).name
            state = "done" if row.state == "done" else WORDS[row.state]
            body.append([row.backbone, row.pool, name, str(cell.config.seed), state, *shown])
    text = ["Percent. Each seed samples, clusters, draws and trains anew; the table shows their means."]
    for members in several:
        absent = [str(cell.config.seed) for cell, row in members if row.state != "done"]
        if absent:
            row = members[0][1]
            said = f"{len(members) - len(absent)} of {len(members)} seeds"
            label = replace(row, variant=names.without_seed(row.variant)).label
            text.append(f"{label}: {said}, without {', '.join(absent)}.")
    return Section("seeds", "Each seed", text, head, body)


def _percent(value: float | None) -> str:
    return "missing" if value is None else f"{100 * value:.2f}"
