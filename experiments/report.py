"""The table of a sweep from its manifests alone:  python -m experiments.report profile=mini [experiment=layers]

Writes table.md, table.csv, index.html and the analyses' figures and tables (CSV, SVG) under
``runs/report/<profile>-<experiment>/`` and prints the table; a part of a study, or a study at other settings, has its
overrides in the folder's name.
"""

from __future__ import annotations

import json
from typing import Any

from adg import report, seeds
from adg.evaluation import harness, samples, statistics
from adg.store import Artifact, Status, Store
from experiments import analyse, contamination, ledger, paper
from experiments.cells import Cell, asked_for, report_folder
from experiments.config import plain_errors
from experiments.status import cell_status

RESAMPLES = 2_000  # of an interval in a table


# varied beside the same published figure
SAME_FIGURE = {"seed", "preset", "finetune", "suite.backend", "engine", "pool.path", "backbone.path"}


def row(cell: Cell, store: Store) -> report.Row:
    """One row of the table; what is not there stays missing."""
    c = cell.config
    name = str(c.selector["name"])
    role, status = cell_status(cell, store)
    results = facts = interval = None
    if status.state == "done":
        artifact = store.find(cell.nodes["eval"])
        assert artifact is not None
        results = json.loads(artifact.file("results.json").read_text())
        interval = average_interval(artifact, c.seed)
    if c.experiment.untrained:
        return _untrained(cell, role, status, results, interval)
    if store.complete(cell.nodes["subset"]):
        subset = store.find(cell.nodes["subset"])
        facts = dict(subset.info) if subset else None
    if cell.variant and not (c.experiment.name == "main" and set(cell.varied) <= SAME_FIGURE):
        by = (c.selecting or c.backbone).paper
        figure = paper.analysis(c.experiment.name, c.backbone.paper, c.pool.paper, name, cell.swept, by)
    else:
        figure = paper.figure(c.backbone.paper, c.pool.paper, name)
    counted = contamination.counts(cell, store) if results else None
    overlap = (
        None
        if counted is None
        else {task: {kind: entry["overlap"] for kind, entry in kinds.items()} for task, kinds in counted.items()}
    )
    return report.Row(
        backbone=c.backbone.name,
        pool=c.pool.name,
        selector=name,
        variant=cell.variant,
        interval=interval,
        overlap=overlap,
        state=status.state,
        reason=f"{role}: {status.reason}" if status.reason else "",
        results=results,
        paper=figure,
        facts=facts or {},
        seeds={"seed": c.seed},
    )


def _untrained(cell: Cell, role: str, status: Status, results: Any, interval: tuple[float, float] | None) -> report.Row:
    """The row of a model that is evaluated as it is; a published checkpoint stands beside the paper's ADG row."""
    b = cell.config.backbone
    return report.Row(
        backbone=b.name,
        pool=b.trained_on or "–",
        selector="adg" if b.trained_on else "untrained",
        variant="as published" if b.trained_on else cell.variant,
        state=status.state,
        reason=f"{role}: {status.reason}" if status.reason else "",
        results=results,
        interval=interval,
        paper=paper.figure(b.paper, b.trained_on, "adg"),
    )


def average_interval(artifact: Artifact, seed: int) -> tuple[float, float] | None:
    """The bootstrap interval of an evaluation's average (fractions); None where a task of it was not measured."""
    results = samples.results(artifact)
    if results["categories"]["avg"] is None:
        return None
    tasks = {
        task: samples.matrix([artifact], task)
        for task, entry in results["tasks"].items()
        if entry["status"] == harness.DONE
    }
    draw = seeds.generator(seed, "report", artifact.fingerprint)
    found = statistics.bootstrap_average(tasks, draw, RESAMPLES)
    return None if found is None else (max(0.0, found.low), min(1.0, found.high))  # of few items it may reach beyond


def write(chosen: list[Cell], store: Store) -> str:
    """Write the files; returns the table for a terminal and where they are."""
    first = chosen[0].config
    evaluated = first.experiment.last == "eval"
    rows = [row(cell, store) for cell in chosen] if evaluated else []
    notes = [
        f"{b.name}: {b.statement}"
        for b in {c.config.backbone.name: c.config.backbone for c in chosen}.values()
        if b.statement
    ]
    notes += [note for note in dict.fromkeys(c.selector.note(c.nodes["backbone"]) for c in chosen) if note]
    title = first.experiment.title or first.experiment.name
    folder, what = report_folder(chosen, store)
    if what:
        title = f"{title} ({what})"
    table = report.Table(
        title=title,
        profile=first.profile.name,
        statement=first.profile.statement,
        rows=rows,
        notes=notes,
        ledger=ledger.load(),
        source=paper.source(),
        sections=analyse.sections(chosen, store, rows),
    )
    names = [path.name for path in report.write(table, folder)]
    return f"{report.terminal(table)}\n\n{folder}/ holds {', '.join(names)}"


def main() -> None:
    with plain_errors():
        print(write(*asked_for()))


if __name__ == "__main__":
    main()
