"""The subsets that cells chose: how far each is, and which records it holds. Nothing here bears identity."""

from __future__ import annotations

from collections.abc import Sequence

from adg.artifacts.store import Store
from experiments.cells import Cell
from experiments.report.sections import Section
from experiments.report.table import WORDS, Row


def ids(cell: Cell, store: Store) -> list[str] | None:
    import pyarrow.parquet as pq

    """The ids of the records that a cell chose, as they stand on disk; None where there is no subset."""
    if "subset" not in cell.nodes or not store.complete(cell.nodes["subset"]):
        return None
    artifact = store.find(cell.nodes["subset"])
    assert artifact is not None
    return pq.read_table(artifact.file("records.parquet"), columns=["id"])["id"].to_pylist()


def pool_size(cell: Cell, store: Store) -> int:
    """How many records a finished subset was chosen from."""
    artifact = store.find(cell.nodes["subset"])
    assert artifact is not None
    return int(artifact.info["rows_in"])


def sections(chosen: Sequence[Cell], store: Store, rows: Sequence[Row]) -> list[Section]:
    """One line a cell: whether its subset is there, and how large it is."""
    body = []
    for cell in chosen:
        status = store.status(cell.last)
        artifact = store.find(cell.last) if status.state == "done" else None
        what = [str(artifact.info["rows_out"]), str(artifact.info["shortfall"])] if artifact else ["–", "–"]
        body.append([cell.name, "done" if artifact else WORDS.get(status.state, status.state), *what])
    there = sum(row[1] == "done" for row in body)
    section = Section(
        "selections",
        f"Selections ({there} of {len(body)} are there)",
        (),
        ("cell", "state", "examples", "short of the budget"),
        body,
    )
    return [section]
