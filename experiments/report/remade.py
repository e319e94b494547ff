"""What stays of a subset when answers, clusters, preset or backbone are made anew. Nothing here bears identity."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from adg.artifacts.store import Store
from adg.selection import stability
from experiments.cells import Cell
from experiments.report import selections
from experiments.report.sections import Section
from experiments.report.table import Row

AXES = {
    "sampling.seed": "sampling seed",
    "embedding.bins.seed": "clustering seed",
    "preset": "preset",
    "backbone": "backbone",
}


def sections(chosen: Sequence[Cell], store: Store, rows: Sequence[Row]) -> list[Section]:
    """Pairs of cells that differ in one setting alone."""
    subsets = [selections.ids(cell, store) for cell in chosen]
    sizes = [selections.pool_size(cell, store) if subset else 0 for cell, subset in zip(chosen, subsets, strict=True)]
    body = []
    for key, name in AXES.items():
        pairs: list[tuple[list[str], list[str], int]] = []  # both subsets, and how many records their pool has
        absent = 0
        for a in range(len(chosen)):
            for b in range(a + 1, len(chosen)):
                first, second = chosen[a].swept, chosen[b].swept
                if {k for k in first.keys() | second.keys() if first.get(k) != second.get(k)} != {key}:
                    continue
                if (one := subsets[a]) and (other := subsets[b]):
                    pairs.append((one, other, sizes[a]))
                else:
                    absent += 1
        if not pairs:
            if absent:
                body.append([name, "0", *["missing"] * 5, str(absent)])
            continue
        chance = [stability.by_chance(len(one), len(other), size) for one, other, size in pairs]
        jaccards, overlaps = (
            [f(one, other) for one, other, _ in pairs] for f in (stability.jaccard, stability.overlap)
        )
        body.append(
            [name, str(len(pairs)), *_range(jaccards), *_range(overlaps), f"{np.mean(chance):.3f}", str(absent)]
        )
    section = Section(
        "between",
        "Subsets when one thing is made anew",
        [
            "Each line compares all pairs of cells that differ in nothing else; the range is over pairs. By chance: "
            "the overlap coefficient of two random subsets of these sizes."
        ],
        (
            "changed",
            "pairs",
            "Jaccard",
            "lowest to highest",
            "overlap",
            "lowest to highest",
            "by chance",
            "pairs missing",
        ),
        body,
    )
    return [section]


def _range(values: Sequence[float]) -> tuple[str, str]:
    return f"{np.mean(values):.3f}", f"{min(values):.3f} to {max(values):.3f}"
