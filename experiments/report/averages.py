"""Averages over what was swept: curves or bars, the published averages beside them. Nothing here bears identity."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from adg.artifacts.store import Store
from experiments.cells import Cell
from experiments.report import labels, plots, published, repeated
from experiments.report.plots import Ends
from experiments.report.sections import Section
from experiments.report.table import WORDS, Row

PAPER = " (paper)"  # marks a curve of published averages


def curves(
    at: Sequence[tuple[str, int]],
    values: Sequence[float | None],
    published: Sequence[float | None],
    intervals: Mapping[tuple[str, int], Ends] | None = None,
) -> str:
    """Values by budget, ``at`` being the (line, budget) of each; several at one point are averaged. ``intervals`` are
    those of the points."""
    budgets = sorted({budget for _, budget in at})
    points: dict[str, dict[int, list[float]]] = {line: {} for line, _ in at}
    for source, suffix in ((values, ""), (published, PAPER)):
        for (line, budget), value in zip(at, source, strict=True):
            if value is not None:
                points.setdefault(line + suffix, {}).setdefault(budget, []).append(value)
    series = {
        line: [float(np.mean(averages[budget])) if budget in averages else None for budget in budgets]
        for line, averages in points.items()
    }
    whiskers = {line: [(intervals or {}).get((line, budget)) for budget in budgets] for line, _ in at}
    return plots.curves(budgets, series, "examples chosen", "average (percent)", dashed=PAPER, intervals=whiskers)


def sections(chosen: Sequence[Cell], store: Store, rows: Sequence[Row]) -> list[Section]:
    """One line a cell: its average, the published one, and how many examples it was trained on."""
    if not rows:
        return []
    experiment = chosen[0].config.experiment
    names = labels.labels(chosen)
    averages = [None if row.results is None else row.results["categories"].get("avg") for row in rows]
    percent = [None if value is None else 100 * value for value in averages]
    beside = [(row.paper or {}).get("avg") for row in rows]
    several = False  # seeds at a point of a curve
    if experiment.figure == "curves":
        at = [(line, cell.config.budget) for line, cell in zip(labels.of_curves(chosen), chosen, strict=True)]
        several = len(set(at)) < len(at)
        svg = curves(at, percent, beside, _at_points(at, chosen, rows, store))
    else:
        svg = plots.bars(names, percent, "average (percent)", beside, "published", [_percent(row) for row in rows])
    text = ["A cell that has no average is named and left out of the figure."] if None in percent else []
    if any(row.interval for row in rows):
        text.append("Whiskers: 95 % interval over items" + (" and seeds." if several else "."))
    if several:
        text.append("Each point of a curve is the mean over those of its seeds that have an average.")
    if any(row.results and row.results.get("partial") for row in rows):
        text.append("* partial, not the whole benchmark: the notes of the table say in what.")
    text += [*experiment.remarks, *published.remarks(experiment.published)]
    body = [
        [name, *_line(row, value, figure, experiment.untrained)]
        for name, row, value, figure in zip(names, rows, percent, beside, strict=True)
    ]
    head = ("cell", "average", "paper", "examples", "short of the budget")
    return [Section("swept", f"Average: {experiment.title or experiment.name}", text, head, body, svg)]


def _at_points(
    at: Sequence[tuple[str, int]], chosen: Sequence[Cell], rows: Sequence[Row], store: Store
) -> dict[tuple[str, int], Ends]:
    """The interval of each point, over items and, where it has several, over its seeds."""
    points: dict[tuple[str, int], repeated.Members] = {}
    for point, cell, row in zip(at, chosen, rows, strict=True):
        points.setdefault(point, []).append((cell, row))
    known = {point: members for point, members in points.items() if any(row.interval for _, row in members)}
    return {point: _percent(repeated.together(members, store)) for point, members in known.items()}


def _percent(row: Row) -> Ends:
    return None if row.interval is None else (100 * row.interval[0], 100 * row.interval[1])


def _line(row: Row, average: float | None, figure: float | None, untrained: bool) -> list[str]:
    """What stands behind a cell's name; averages in percent."""
    partial = "*" if row.results and row.results.get("partial") else ""
    shortfall = row.facts.get("shortfall")
    return [
        WORDS.get(row.state, "missing") if average is None else f"{average:.2f}{partial}",
        "–" if figure is None else f"{figure:.2f}",
        "–" if untrained else "missing" if not row.facts else str(row.facts["rows_out"]),
        str(shortfall) if shortfall else "–",
    ]
