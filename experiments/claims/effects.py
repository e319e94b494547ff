"""The differences that a claim speaks of, estimated from a study's finished evaluations, item by item.

Nothing is built here. A difference whose cells are not finished, or did not answer the same items, has a reason in
place of a number.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from adg.artifacts.sealed import Damaged
from adg.artifacts.store import Store
from adg.errors import BadInput
from adg.evaluation import benchmarks, power, samples
from adg.evaluation.statistics import Comparison
from experiments import status
from experiments.cells import Cell
from experiments.claims.rules import Claim, Effect, Rule
from experiments.report.rows import published_figures

OTHERS = "others"  # every other cell that was trained on a selection
UNTRAINED = ("untrained",)  # no selector of the paper


def values(cell: Cell) -> dict[str, str]:
    """What sets a cell apart: its names, its overrides, and whether its subset was chosen by the backbone it trains."""
    c = cell.config
    chooser = "own" if c.selecting is None or c.selecting.name == c.backbone.name else "other"
    names = {"backbone": c.backbone.name, "pool": c.pool.name, "selector": str(c.selector["name"])}
    return {**cell.swept, **names, "budget": str(c.budget), "seed": str(c.seed), "selecting": chooser}


def pairs(claim: Claim, cells: Sequence[Cell]) -> Iterator[tuple[list[Cell], list[Cell]]]:
    """(ours, theirs) of every difference that the claim speaks of, block by block: on each side cells that differ in
    their seed alone."""
    described = [(cell, _ranked(values(cell), cells)) for cell in cells]
    for ours, theirs in claim.pairs:
        varying = {*ours, *(theirs if isinstance(theirs, Mapping) else ()), "seed", "place", "backbone@selecting"}
        blocks: dict[tuple[Any, ...], dict[str, list[Cell]]] = {}
        for cell, of in described:
            side = _side(of, ours, theirs)
            block = tuple(sorted((key, value) for key, value in of.items() if key not in varying))
            for name in side:
                blocks.setdefault(block, {}).setdefault(name, []).append(cell)
        for sides in blocks.values():
            for name, other in sides.items():
                if name == "ours" or "ours" not in sides:
                    continue
                yield from itertools.product(_by_family(sides["ours"]), _by_family(other))


def _by_family(cells: Sequence[Cell]) -> list[list[Cell]]:
    families: dict[str, list[Cell]] = {}
    for cell in cells:
        families.setdefault(cell.family, []).append(cell)
    return list(families.values())


def _ranked(of: dict[str, str], cells: Sequence[Cell]) -> dict[str, str]:
    """With the cell's "place" among the budgets of the sweep, which is what a claim says of a budget."""
    budgets = sorted({cell.config.budget for cell in cells})
    places = {budgets[-1]: "largest", budgets[(len(budgets) - 1) // 2]: "middle"} if len(budgets) > 1 else {}
    return {**of, "place": places.get(int(of["budget"]), "")}


def _side(of: Mapping[str, str], ours: Mapping[str, str], theirs: Any) -> list[str]:
    """On which sides of a difference a cell stands: "ours", or the name of another one."""

    def fits(wanted: Mapping[str, str]) -> bool:
        return all((of["place"] if key == "budget" else of.get(key)) == value for key, value in wanted.items())

    if fits(ours):
        return ["ours"]
    if theirs == OTHERS:
        return [", ".join(f"{key}={of.get(key)}" for key in ours)] if of["selector"] not in UNTRAINED else []
    return ["theirs"] if fits(theirs) else []


def estimate(claim: Claim, cells: Sequence[Cell], store: Store, rule: Rule) -> list[Effect]:
    """Every difference of a claim, in points; [] where the sweep holds no cell that the claim speaks of."""
    return [effect for ours, theirs in pairs(claim, cells) for effect in _effects(ours, theirs, claim, store, rule)]


def _effects(ours: Sequence[Cell], theirs: Sequence[Cell], claim: Claim, store: Store, rule: Rule) -> Iterator[Effect]:
    label = f"{ours[0].family} against {theirs[0].family}"
    for average in claim.averages:
        stated = Effect(
            label if average == "avg" else f"{average}: {label}",
            published=_published((ours[0], theirs[0]), average),
            seeds=(len(ours), len(theirs)),
            cells=tuple(dict.fromkeys(cell.fingerprint for cell in (*ours, *theirs))),
        )
        try:
            entry, unseen = _difference(ours, theirs, average, store, rule)
        except (BadInput, Damaged) as error:
            yield replace(stated, missing=str(error))
            continue
        found = replace(stated, value=100 * entry.difference, items=entry.n, unseen=unseen)
        yield found if unseen else _with_spread(found, entry, rule)


def _difference(
    ours: Sequence[Cell], theirs: Sequence[Cell], average: str, store: Store, rule: Rule
) -> tuple[Comparison, str]:
    """And why it says nothing, or "". Raises ``BadInput`` where a cell is not finished, or the average's tasks were not
    measured alike in both."""
    mine, others = (status.evaluations(cells, store) for cells in (ours, theirs))
    fixed = all("adapter" not in cell.nodes for cell in theirs)
    members = None if average == "avg" else benchmarks.members()[average]
    weights = None if members is None else {task: 1 / len(members) for task in members}
    compared = samples.compare(mine, others, fixed=fixed, weights=weights)
    if "avg" not in compared:
        measured = ", ".join(compared) or "none"
        raise BadInput(f"{average} needs tasks that were not measured in both; there are {measured}")
    tasks = [task for task in compared if task != "avg" and (weights is None or task in weights)]
    still = samples.unmoved([*mine.values(), *others.values()], tasks)
    if len(still) < rule.floor * len(tasks):
        return compared["avg"], ""
    titles = ", ".join(map(benchmarks.title, still))
    return compared["avg"], f"every item of {titles} scores alike in all of its evaluations"


def _with_spread(effect: Effect, entry: Comparison, rule: Rule) -> Effect:
    """With interval, one-sided bound and smallest visible effect; without where nothing is known of the spread."""
    if entry.replicates is None or entry.noise is None:
        return effect
    ends = [(1 - rule.level) / 2, (1 + rule.level) / 2, 1 - rule.one_sided]
    low, high, lower = 100 * np.quantile(entry.replicates, ends)
    smallest = 100 * power.smallest_difference(entry.noise, rule.level, rule.power)
    return replace(effect, low=float(low), high=float(high), lower=float(lower), smallest=smallest)


def _published(pair: tuple[Cell, Cell], average: str) -> float | None:
    ours, theirs = (published_figures(cell) for cell in pair)
    if ours is None or theirs is None or average not in ours or average not in theirs:
        return None
    return ours[average] - theirs[average]
