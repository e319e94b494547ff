"""One row of the table for each cell, from its manifests alone."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

from adg import seeds
from adg.artifacts.artifact import Artifact
from adg.artifacts.sealed import Damaged
from adg.artifacts.store import Status, Store
from adg.evaluation import samples, statistics
from adg.evaluation.results import DONE
from experiments import contamination, names
from experiments.cells import Cell
from experiments.report import heldout, published
from experiments.report.table import RESAMPLES, Row
from experiments.status import cell_status

SAME_FIGURE = {"seed", "preset", "finetune", "suite.backend", "engine"}  # varied beside the same published figure
PINS = ("hub", "revision", "sha256", ".file")  # which copy of a model or a data set is meant


def row(cell: Cell, store: Store) -> Row:
    """One row of the table; what is not there stays missing."""
    c = cell.config
    name = str(c.selector["name"])
    role, status = cell_status(cell, store, beside=("heldout",))
    held_out = heldout.of_cell(cell, store)
    results = facts = interval = None
    try:
        if status.state == "done":
            artifact = store.find(cell.nodes["eval"])
            assert artifact is not None
            results = json.loads(artifact.file("results.json").read_text(encoding="utf-8"))
            interval = average_interval(artifact, c.seed)
    except Damaged as error:  # one file of one cell: the other rows are shown
        status = Status("failed", str(error))
    if c.experiment.untrained:
        return _untrained(cell, role, status, results, interval)
    with suppress(Damaged):  # said where it is used
        subset = store.find(cell.nodes["subset"]) if "subset" in cell.nodes else None
        facts = dict(subset.info) if subset else None
    counted = None
    with suppress(Damaged):
        counted = contamination.counts(cell, store) if results else None
    overlap = (
        None
        if counted is None
        else {task: {kind: entry["overlap"] for kind, entry in kinds.items()} for task, kinds in counted.items()}
    )
    return Row(
        backbone=c.backbone.name,
        pool=c.pool.name,
        selector=name,
        variant=cell.variant,
        interval=interval,
        overlap=overlap,
        state=status.state,
        reason=f"{role}: {status.reason}" if status.reason else "",
        results=results,
        paper=published_figures(cell),
        facts=facts or {},
        seeds={"seed": c.seed},
        heldout=held_out,
    )


def published_figures(cell: Cell) -> dict[str, float] | None:
    """What was published of a cell, as its experiment says; None where something else is varied too."""
    c, name = cell.config, str(cell.config.selector["name"])
    other = {key for key in cell.varied if not _same_figure(key, cell)}
    if c.experiment.published == "main":
        return None if other else published.figure(c.backbone.paper, c.pool.paper, name)
    if not c.experiment.published:
        return None
    option, by = published.option(c.experiment.published), (c.selecting or c.backbone).paper
    value = cell.swept.get(option)
    if value is None or other - {option}:
        return None
    return published.analysis(c.experiment.published, c.backbone.paper, c.pool.paper, name, value, by)


def _same_figure(key: str, cell: Cell) -> bool:
    """Whether cells that differ in this option have the same published figure beside them: the paper varies it not."""
    return key in SAME_FIGURE or key.endswith(PINS) or names.is_path(key, cell.config)


def _untrained(cell: Cell, role: str, status: Status, results: Any, interval: tuple[float, float] | None) -> Row:
    """The row of a model that is evaluated as it is; a published checkpoint stands beside the paper's ADG row."""
    b = cell.config.backbone
    return Row(
        backbone=b.name,
        pool=b.trained_on or "–",
        selector="adg" if b.trained_on else "untrained",
        variant="as published" if b.trained_on else cell.variant,
        state=status.state,
        reason=f"{role}: {status.reason}" if status.reason else "",
        results=results,
        interval=interval,
        paper=published.figure(b.paper, b.trained_on, "adg"),
    )


def average_interval(artifact: Artifact, seed: int) -> tuple[float, float] | None:
    """The bootstrap interval of an evaluation's average (fractions); None where a task of it was not measured."""
    results = samples.results(artifact)
    if results["categories"]["avg"] is None:
        return None
    tasks = {
        task: samples.matrix([artifact], task) for task, entry in results["tasks"].items() if entry["status"] == DONE
    }
    draw = seeds.generator(seed, "report", artifact.fingerprint)
    interval = statistics.bootstrap_average(tasks, draw, RESAMPLES)
    # of few items it may reach beyond what an average can be
    return None if interval is None else (max(0.0, interval.low), min(1.0, interval.high))
