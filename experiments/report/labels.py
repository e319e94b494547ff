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


def of_curves(chosen: Sequence[Cell]) -> list[str]:
    """The curve that each cell is a point of: what tells it apart, without its budget and its seeds."""

    def stays(override: str) -> bool:
        key = override.partition("=")[0]
        return key not in ("budget", "seed") and not key.endswith((".seed", "_seed"))

    return labels([replace(cell, overrides=tuple(filter(stays, cell.overrides))) for cell in chosen])
