"""What tells the cells of a report apart, in words. Nothing here bears identity."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from experiments.cells import Cell


def labels(chosen: Sequence[Cell]) -> list[str]:
    """What tells these cells apart, in words."""
    columns: list[Callable[[Cell], str]] = [
        lambda c: c.config.backbone.name,
        lambda c: c.config.pool.name,
        lambda c: str(c.config.selector["name"]),
        lambda c: c.config.suite.name,
        lambda c: c.variant,
    ]
    telling = [column for column in columns if len({column(cell) for cell in chosen}) > 1]
    return [", ".join(column(cell) for column in telling if column(cell)) or cell.name for cell in chosen]


def variants(chosen: Sequence[Cell]) -> list[str]:
    """What each cell's variant is called without what is set for all of them, which a title says; one alone keeps its
    own."""
    common = set.intersection(*(set(cell.varied.items()) for cell in chosen)) if len(chosen) > 1 else set()
    keys = {key for key, _ in common}
    return [_without(cell, keys.__contains__).variant for cell in chosen]


def of_curves(chosen: Sequence[Cell]) -> list[str]:
    """The curve that each cell is a point of: what tells it apart, without its budget and its seeds."""
    return labels(
        [_without(cell, lambda key: key in ("budget", "seed") or key.endswith((".seed", "_seed"))) for cell in chosen]
    )


def _without(cell: Cell, left_out: Callable[[str], bool]) -> Cell:
    """The cell with the overrides whose keys stay: for its words alone, its config is the same."""
    return replace(cell, overrides=tuple(said for said in cell.overrides if not left_out(said.partition("=")[0])))
