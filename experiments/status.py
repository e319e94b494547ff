"""How far a sweep is:  python -m experiments.status profile=mini

One line a cell: done, running, failed, upstream-failed, not-run, partial or missing, with the reason.
"""

from __future__ import annotations

from collections import Counter

from adg.store import Status, Store
from experiments.cells import Cell, asked_for
from experiments.config import plain_errors


def cell_status(cell: Cell, store: Store) -> tuple[str, Status]:
    """The first stage of the cell that is not done, and its state; ("eval", done) when all are."""
    status = Status("missing")
    for role, node in cell.nodes.items():
        status = store.status(node)
        if status.state != "done":
            return role, status
    return role, status


def render(chosen: list[Cell], store: Store) -> str:
    """The states of all cells as text."""
    lines, counts = [], Counter[str]()
    for cell in chosen:
        role, status = cell_status(cell, store)
        counts[status.state] += 1
        where = "" if status.state == "done" else f" at {role}"
        lines.append(f"  {cell.name:<48} {status.state}{where}" + (f": {status.reason}" if status.reason else ""))
    lines.append("")
    lines.append("  " + ", ".join(f"{count} {state}" for state, count in counts.most_common()))
    return "\n".join(lines)


def main() -> None:
    with plain_errors():
        print(render(*asked_for()))


if __name__ == "__main__":
    main()
