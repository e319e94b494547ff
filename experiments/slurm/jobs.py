"""A study as jobs: what several cells need is built first, by jobs of its own, on which the cells' jobs depend.

Artifacts that the same cells need are built one after the other by one job, as long as they need as many GPUs; where
that number changes, another job goes on. So no job waits for what another one builds while it holds a GPU, and what
needs no GPU asks for none. An artifact that more cells need than another never comes after it, so that no two jobs wait
for each other. Nothing here bears identity.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby

from adg.artifacts.artifact import Node
from experiments.cells import Cell, distinct


@dataclass(frozen=True)
class PlannedJob:
    """``builds``: the artifacts, in their order. ``cell``: whose configuration it runs with; ``last``: it ends that
    cell. ``after``: places in the list of jobs, and ids of jobs that are in the queue already."""

    name: str
    cell: Cell
    builds: tuple[Node, ...]
    gpus: int
    last: bool
    shared: bool
    after: tuple[int, ...]
    behind: tuple[str, ...]


def planned(
    chosen: Sequence[Cell], to_build: Collection[str], in_hand: Mapping[str, str] | None = None
) -> list[PlannedJob]:
    """The jobs that build the artifacts ``to_build`` (fingerprints), each after those that it depends on.

    ``in_hand``: fingerprints of artifacts that jobs in the queue build, with the ids of these; they are not built
    twice.
    """
    in_hand = in_hand or {}
    needing = users(chosen)
    left = [node for node in distinct(chosen) if node.fingerprint in to_build and node.fingerprint not in in_hand]
    together: dict[tuple[int, ...], list[Node]] = {}
    for node in left:
        together.setdefault(needing[node.fingerprint], []).append(node)
    jobs: list[PlannedJob] = []
    built_by: dict[str, int] = {}
    for places, nodes in sorted(together.items(), key=lambda item: (-len(item[0]), item[0])):
        cell = chosen[places[0]]
        before: tuple[int, ...] = ()
        runs = [(count, tuple(run)) for count, run in groupby(nodes, partial(gpus, cell))]
        for number, (count, run) in enumerate(runs):
            needs = [parent.fingerprint for node in run for parent in node.inputs.values()]
            after = {*before, *(built_by[need] for need in needs if need in built_by)}
            alone = len(places) == 1
            jobs.append(
                PlannedJob(
                    name=cell.name if alone else run[-1].folder,
                    cell=cell,
                    builds=run,
                    gpus=count,
                    last=alone and number == len(runs) - 1,
                    shared=not alone,
                    after=tuple(sorted(after)),
                    behind=tuple(sorted({in_hand[need] for need in needs if need in in_hand})),
                )
            )
            before = (len(jobs) - 1,)
            built_by |= {node.fingerprint: len(jobs) - 1 for node in run}
    return jobs


def users(chosen: Sequence[Cell]) -> dict[str, tuple[int, ...]]:
    """The places of the cells that need an artifact, by fingerprint."""
    needing: dict[str, tuple[int, ...]] = {}
    for place, cell in enumerate(chosen):
        for node in cell.nodes.values():
            needing[node.fingerprint] = (*needing.get(node.fingerprint, ()), place)
    return needing


def gpus(cell: Cell, node: Node) -> int:
    """GPUs that a job asks for to build this artifact: none where its stage runs no model, or all runs on CPUs."""
    exec_ = cell.config.exec
    return 0 if exec_.device == "cpu" else node.stage.gpus_of(vars(exec_))
