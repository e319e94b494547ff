"""How much the subsets of a sweep have in common. Nothing here bears identity."""

from __future__ import annotations

from collections.abc import Sequence

from adg.artifacts.store import Store
from adg.selection import stability
from experiments.cells import Cell
from experiments.report import plots, selections
from experiments.report.labels import labels
from experiments.report.sections import Section
from experiments.report.table import Row

SHOWN = 20  # subsets in one map


def sections(chosen: Sequence[Cell], store: Store, rows: Sequence[Row]) -> list[Section]:
    """One map for each pool with two or more cells."""
    maps = []
    for number, pool in enumerate(dict.fromkeys(cell.config.pool.name for cell in chosen)):
        every = [cell for cell in chosen if cell.config.pool.name == pool]
        cells = every[:SHOWN]
        subsets = [selections.ids(cell, store) for cell in cells]
        if sum(subset is not None for subset in subsets) < 2:
            continue
        title = f"Overlap of the subsets chosen from {pool}"
        text = "Shared examples over the size of the smaller subset; 1 means that one contains the other."
        if len(every) > SHOWN:
            text += f" Shown are the first {SHOWN} of {len(every)} cells."
        maps.append(overlap_map(f"overlap-{number}", title, labels(cells), stability.pairwise(subsets), text))
    return maps


def overlap_map(name: str, title: str, names: Sequence[str], values: list[list[float | None]], text: str) -> Section:
    """Overlap coefficients of all pairs as a figure and a table; ``values`` (n, n), None where a subset is missing."""
    body = [
        [label, *("missing" if v is None else f"{v:.3f}" for v in row)]
        for label, row in zip(names, values, strict=True)
    ]
    return Section(name, title, [text], ["", *names], body, plots.heatmap(names, values, "overlap coefficient"))
