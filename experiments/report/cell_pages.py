"""A page for each cell of a report, beside the report's own: manifests, training curve, items.

A page is made anew only where what it shows has changed: what it was made of stands in its first lines.
Nothing here bears identity.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import quote

from markupsafe import Markup

from adg.artifacts.artifact import Artifact, canonical, file_name
from adg.artifacts.files import sha256_text, write_atomic
from adg.artifacts.store import Store
from experiments.cells import Cell, distinct
from experiments.report import behind, plots, templates
from experiments.report.inline import inline
from experiments.report.table import BASELINE, Row

FOLDER = "cells"
ALL, MOST, LEAST = 2_200_000, 120_000, 6_000  # bytes of items: of all pages together, of one page at most and at least
MARK = '<meta name="made-of" content="{}">'
BEGINNING = 400  # bytes of a page within which the mark stands


def address(cell: Cell) -> str:
    """The address of a cell's page from its report's folder."""
    return quote(f"{FOLDER}/{_file(cell)}")


def places(chosen: Sequence[Cell]) -> dict[str, tuple[str, str]]:
    """Name and address of each cell's page, by the name and by the first digits under which reports speak of it."""
    return {said: (cell.name, address(cell)) for cell in chosen for said in (cell.name, cell.fingerprint[:8])}


def write(
    chosen: Sequence[Cell],
    rows: Sequence[Row],
    store: Store,
    found: Mapping[str, Artifact],
    folder: Path,
    title: str,
) -> int:
    """Write the pages that are not there or out of date, and remove those of other cells; returns how many were
    written. ``rows`` are the cells' rows, in their order, or none where only subsets are made; ``found``: the complete
    artifacts by fingerprint."""
    states = _states(chosen, store, found)
    limit = min(MOST, max(LEAST, ALL // max(1, len(chosen))))
    written, kept = 0, set()
    for place, cell in enumerate(chosen):
        path = folder / FOLDER / _file(cell)
        kept.add(path.name)
        random = _random(place, chosen, rows)
        nodes = [*cell.nodes.values(), *([random.nodes["eval"]] if random is not None else [])]
        parts = [templates.digest(), cell.name, cell.asked, random and random.name, limit, title]
        mark = MARK.format(sha256_text(canonical([*parts, [states[node.fingerprint] for node in nodes]])))
        if path.is_file() and mark.encode() in path.read_bytes()[:BEGINNING]:
            continue
        text = page(cell, rows[place] if rows else None, random, store, limit, title, mark)
        write_atomic(path, text.encode())
        written += 1
    for path in (folder / FOLDER).glob("*.html"):
        if path.name not in kept:
            path.unlink()
    return written


def page(cell: Cell, row: Row | None, random: Cell | None, store: Store, limit: int, title: str, mark: str) -> str:
    """The page of one cell; ``random`` is the cell that it is held against."""
    evaluated = behind.found(cell, store)
    against = None if random is None else behind.found(random, store)
    log, steps = behind.training(cell, store)
    curve: str = ""
    if steps:
        svg = plots.training(
            [step["step"] for step in steps],
            [step["loss"] for step in steps],
            [step.get("learning_rate") for step in steps],
        )
        curve = inline(svg, "curve", f"training of {cell.name}")
    return templates.render(
        "cell.html",
        cell=cell,
        row=row,
        title=title,
        mark=Markup(mark),
        artifacts=behind.artifacts(cell, store),
        up="../../..",
        tasks=behind.tasks(evaluated, against, limit) if evaluated is not None else [],
        log=log,
        steps=len(steps),
        curve=curve,
        random=None if random is None or against is None else random,
        random_address=None if random is None else quote(_file(random)),
        baseline=BASELINE,
        samples=f"adg samples {shlex.join(cell.asked)}",
    )


def _file(cell: Cell) -> str:
    return f"{file_name(cell.name)}-{cell.fingerprint[:8]}.html"


def _random(place: int, chosen: Sequence[Cell], rows: Sequence[Row]) -> Cell | None:
    """The cell of the random row that a cell's row is held against; None where there is none, or several."""
    if not rows:
        return None
    beside = rows[place].beside(BASELINE, rows)
    same = [cell for cell, row in zip(chosen, rows, strict=True) if any(row is one for one in beside)]
    return same[0] if len(same) == 1 else None


def _states(chosen: Sequence[Cell], store: Store, found: Mapping[str, Artifact]) -> dict[str, list[str]]:
    """By fingerprint what a page says of an artifact may change with: its digest, or how far it is and why."""
    nodes = distinct(chosen)
    absent = store.statuses(node for node in nodes if node.fingerprint not in found)
    states = {name: [name, str(artifact.manifest.get("digest"))] for name, artifact in found.items()}
    return states | {name: [name, status.state, status.reason] for name, status in absent.items()}
