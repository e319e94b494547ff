"""The table of a sweep from its manifests alone:  python -m experiments.report profile=mini [experiment=layers]

Writes table.md, table.csv, index.html and the analyses' figures and tables (CSV, SVG) under
``runs/report/<profile>-<experiment>/`` and prints the table.
"""

from __future__ import annotations

import json

from adg import report
from adg.store import Store
from experiments import analyse, ledger, paper
from experiments.cells import Cell, asked_for
from experiments.config import plain_errors
from experiments.status import cell_status


def row(cell: Cell, store: Store) -> report.Row:
    """One row of the table; what is not there stays missing."""
    c = cell.config
    name = str(c.selector["name"])
    role, status = cell_status(cell, store)
    results = facts = None
    if status.state == "done":
        artifact = store.find(cell.nodes["eval"])
        assert artifact is not None
        results = json.loads(artifact.file("results.json").read_text())
    if store.complete(cell.nodes["subset"]):
        subset = store.find(cell.nodes["subset"])
        facts = dict(subset.info) if subset else None
    if cell.variant:
        by = (c.selecting or c.backbone).paper
        figure = paper.analysis(c.experiment.name, c.backbone.paper, c.pool.paper, name, cell.swept, by)
    else:
        figure = paper.figure(c.backbone.paper, c.pool.paper, name)
    return report.Row(
        backbone=c.backbone.name, pool=c.pool.name, selector=name, variant=cell.variant,
        state=status.state, reason=f"{role}: {status.reason}" if status.reason else "",
        results=results, paper=figure, facts=facts or {}, seeds={"seed": c.seed},
    )  # fmt: skip


def write(chosen: list[Cell], store: Store) -> str:
    """Write the files; returns the table for a terminal and where they are."""
    first = chosen[0].config
    evaluated = first.experiment.last == "eval"
    rows = [row(cell, store) for cell in chosen] if evaluated else []
    notes = [f"{b.name}: {b.statement}" for b in {c.config.backbone.name: c.config.backbone for c in chosen}.values()
             if b.statement]  # fmt: skip
    title = first.experiment.title or first.experiment.name
    folder = store.root / "report" / f"{first.profile.name}-{first.experiment.name}"
    table = report.Table(title=title, profile=first.profile.name, statement=first.profile.statement, rows=rows,
                         notes=notes, ledger=ledger.load(), source=paper.source(),
                         sections=analyse.sections(chosen, store, rows))  # fmt: skip
    names = [path.name for path in report.write(table, folder)]
    return f"{report.terminal(table)}\n\n{folder}/ holds {', '.join(names)}"


def main() -> None:
    with plain_errors():
        print(write(*asked_for()))


if __name__ == "__main__":
    main()
