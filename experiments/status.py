"""How far a sweep is:  adg status profile=mini

One line a cell: done, running, failed, upstream-failed, not-run, partial or missing, with the reason; of cells that
`adg submit` gave to Slurm also queued, requeued (queued again after an interruption) or interrupted, with the job.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from typing import Any

from adg.artifacts.artifact import Artifact
from adg.artifacts.store import Status, Store
from adg.errors import BadInput
from adg.printable import printable
from experiments.app import JSON, as_json, asked, plain_errors
from experiments.cells import Cell, asked_for
from experiments.slurm import queue
from experiments.slurm.queue import KnownJob


def cell_status(cell: Cell, store: Store, beside: Collection[str] = ()) -> tuple[str, Status]:
    """The stage that tells how far the cell is, and its state; its last one, done, when all are.

    That is one being built, else one that failed or cannot be run (perhaps refused before what it needs was built),
    else the first that is not there. Stages ``beside`` are not looked at.
    """
    nodes = {role: node for role, node in cell.nodes.items() if role not in beside}
    found = store.statuses(nodes.values())
    states = {role: found[node.fingerprint] for role, node in nodes.items()}
    for telling in (("running",), ("failed", "not-run"), ("upstream-failed", "partial", "missing")):
        for role, status in states.items():
            if status.state in telling:
                return role, status
    return list(states.items())[-1]


def with_jobs(cell: Cell, store: Store, known: Sequence[KnownJob]) -> tuple[str, Status, KnownJob | None]:
    """The same with the jobs that are to build its artifacts: the stage, its state, and the job that tells it."""
    role, status = cell_status(cell, store)
    if not known or status.state == "done":
        return role, status, None
    left = {node.fingerprint: at for at, node in cell.nodes.items() if not store.complete(node)}
    status, job = queue.seen(status, cell.nodes[role], left, known)
    if job is not None and job.live and cell.nodes[role].fingerprint not in job.builds:
        role = next(at for fingerprint, at in left.items() if fingerprint in job.builds)
    return role, status, job


def evaluations(alike: Sequence[Cell], store: Store) -> dict[int, Artifact]:
    """The finished evaluations, by seed, of cells that differ in their seed alone.

    Raises ``BadInput`` naming the first cell that has none, where it stands, and how many seeds have one.
    """
    found = {cell.config.seed: store.find(cell.nodes["eval"]) if "eval" in cell.nodes else None for cell in alike}
    done = {seed: artifact for seed, artifact in found.items() if artifact is not None}
    for cell in alike:
        if cell.config.seed not in done:
            role, status = cell_status(cell, store)
            counted = f" ({len(done)} of {len(found)} seeds are done)" if len(found) > 1 else ""
            raise BadInput(f"{cell.name} is {status.state} at {role}{counted}")
    return done


def render(chosen: list[Cell], store: Store) -> str:
    """The states of all cells as text."""
    lines, counts = [], Counter[str]()
    known = queue.jobs(store)
    for cell in chosen:
        role, status, _ = with_jobs(cell, store, known)
        counts[status.state] += 1
        where = "" if status.state == "done" else f" at {role}"
        lines.append(f"  {cell.name:<48} {status.state}{where}" + (f": {status.reason}" if status.reason else ""))
    lines.append("")
    lines.append("  " + ", ".join(f"{count} {state}" for state, count in counts.most_common()))
    return printable("\n".join(lines))


def facts(chosen: Sequence[Cell], store: Store) -> dict[str, Any]:
    """The same for other programs: each cell's state, the stage that tells it, and why."""
    known = queue.jobs(store)
    found = [(cell, *with_jobs(cell, store, known)) for cell in chosen]
    return {
        "runs": str(store.root),
        "cells": [
            {
                "name": cell.name,
                "state": status.state,
                "stage": role,
                "reason": status.reason or None,
                "job": None if job is None else {"id": job.id, "state": job.state, "restarts": job.restarts},
            }
            for cell, role, status, job in found
        ],
        "counts": dict(Counter(status.state for _, _, status, _ in found)),
    }


def main() -> None:
    with plain_errors(__doc__, JSON):
        chosen, store = asked_for(JSON)
        print(as_json(facts(chosen, store)) if asked("--json") else render(chosen, store))


if __name__ == "__main__":
    main()
