"""What a report shows beside the table: the sections that the experiment's config names, each from artifacts alone.

Neither a model nor a clustering library is imported, and what is not there stays missing. Nothing here bears identity.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from adg.artifacts.store import Store
from experiments.cells import Cell
from experiments.report import (
    averages,
    controls,
    diagnostics,
    overlaps,
    quadrants,
    remade,
    selections,
    settings,
    task_types,
)
from experiments.report.sections import Section
from experiments.report.table import Row

# What experiment.sections may name; each takes the cells, the store and the table's rows (none where only subsets are
# made), and returns the sections that there is something to say in.
SECTIONS: dict[str, Callable[[Sequence[Cell], Store, Sequence[Row]], list[Section]]] = {
    "averages": averages.sections,
    "selections": selections.sections,
    "overlaps": overlaps.sections,
    "remade": remade.sections,
    "settings": settings.sections,
    "quadrants": quadrants.sections,
    "diagnostics": diagnostics.sections,
    "controls": controls.sections,
    "task_types": task_types.sections,
}


def sections(chosen: Sequence[Cell], store: Store, rows: Sequence[Row]) -> list[Section]:
    """The analyses of these cells; ``rows`` are those of the table, in the cells' order, or none."""
    return [section for name in chosen[0].config.experiment.shown for section in SECTIONS[name](chosen, store, rows)]
