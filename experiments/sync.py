"""Bring trackers up to what is on disk:  adg sync profile=mini tracker=wandb

For a study that ran without a network, without a tracker, or with one that failed. A second time adds nothing: a cell's
run has the same id each time, and steps that the tracker has are not told again. Cells that were never begun are left
out.
"""

from __future__ import annotations

from collections import Counter

from adg.artifacts.files import read_json
from adg.artifacts.store import Store
from adg.errors import BadInput, HarnessError
from experiments.app import plain_errors
from experiments.cells import Cell, asked_for
from experiments.early import check_trackers
from experiments.run import info, live_files, record_path, report, say
from experiments.tracking import CellOutcome, Told


class NotSynced(HarnessError):
    """A tracker did not take what it was told; the exit status is 1."""


def sync(cell: Cell, store: Store) -> dict[str, str] | None:
    """What became of a cell at each tracker, as ``Told.end`` says it; None where the cell was never begun."""
    record = read_json(record_path(cell, store))
    if record is None:
        return None
    told, outcome = Told(cell.config.tracker, info(cell)), CellOutcome()
    for role, node in cell.nodes.items():
        artifact = store.find(node)
        if artifact is not None:
            report(outcome, role, artifact)
    outcome.state = {"running": "interrupted"}.get(record["state"], record["state"])
    outcome.reason = record.get("reason", "")
    return told.end(outcome, live_files(store, cell))


def main() -> None:
    with plain_errors(__doc__):
        chosen, store = asked_for()
        if not any(cell.config.tracker.ours for cell in chosen):
            raise BadInput(
                "no tracker is chosen; name one, or several as tracker=[wandb,tensorboard] (a tracker of another "
                "package is told when a cell is run)"
            )
        check_trackers(chosen)
        counts = Counter[tuple[str, str]]()
        for cell in chosen:
            for name, became in (sync(cell, store) or {}).items():
                counts[name, became] += 1
        for name, became in sorted(counts):
            words = {"told": "brought up", "there": "there already", "failed": "not taken"}[became]
            say(f"{name}: {counts[name, became]} cells {words}")
        if not counts:
            say(f"no cell of these was begun in {store.root}")
        if failed := sum(number for (_, became), number in counts.items() if became == "failed"):
            raise NotSynced(f"{failed} cells were not taken; the reason stands above, the same command tries again")


if __name__ == "__main__":
    main()
