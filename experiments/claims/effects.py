"""The differences that a claim speaks of, estimated from a study's finished evaluations, item by item.

Nothing is built here. A difference whose cells are not finished, or did not answer the same items, has a reason in
place of a number.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from adg import seeds
from adg.artifacts.artifact import Artifact
from adg.artifacts.store import Store
from adg.errors import BadInput
from adg.evaluation import aggregate, benchmarks, samples, statistics
from experiments.cells import Cell
from experiments.claims.rules import Claim, Effect, Rule
from experiments.report.rows import published_figures
from experiments.status import cell_status

OTHERS = "others"  # every other cell that was trained on a selection
UNTRAINED = ("untrained",)  # no selector of the paper


def values(cell: Cell) -> dict[str, str]:
    """What sets a cell apart: its names, its overrides, and whether its subset was chosen by the backbone it trains."""
    c = cell.config
    chooser = "own" if c.selecting is None or c.selecting.name == c.backbone.name else "other"
    names = {"backbone": c.backbone.name, "pool": c.pool.name, "selector": str(c.selector["name"])}
    return {**cell.swept, **names, "budget": str(c.budget), "seed": str(c.seed), "selecting": chooser}


def pairs(claim: Claim, cells: Sequence[Cell]) -> Iterator[tuple[str, list[tuple[Cell, Cell]]]]:
    """(label, cell pairs of equal seeds) of every difference that the claim speaks of, block by block."""
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
                matched = [(a, b) for a in sides["ours"] for b in other if a.config.seed == b.config.seed]
                if matched:
                    yield f"{matched[0][0].name} against {matched[0][1].name}", matched


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
    return [
        effect
        for label, matched in pairs(claim, cells)
        for effect in _effects(label, matched, claim.averages, store, rule)
    ]


def _effects(
    label: str, matched: Sequence[tuple[Cell, Cell]], averages: Sequence[str], store: Store, rule: Rule
) -> Iterator[Effect]:
    fingerprints = tuple(dict.fromkeys(cell.fingerprint for pair in matched for cell in pair))
    for average in averages:
        name = label if average == "avg" else f"{average}: {label}"
        published = _published(matched[0], average)
        missing = ""
        try:
            artifacts = _artifacts(matched, store)
            changes = samples.differences(artifacts)
            weights = _weights(average, list(changes))
        except BadInput as error:
            missing = str(error)
        if missing:
            yield Effect(name, published=published, missing=missing, cells=fingerprints)
            continue
        draw = seeds.generator(matched[0][0].config.seed, "claims", name)
        drawn = statistics.resample({task: changes[task] for task in weights}, draw, weights=weights)["avg"]
        items = sum(part.shape[1] for task in weights for part in changes[task])
        statement = Effect(
            name, 100 * drawn.value, published=published, seeds=len(matched), items=items, cells=fingerprints
        )
        yield statement if drawn.replicates is None else _with_spread(statement, 100 * drawn.replicates, rule)


def _with_spread(effect: Effect, replicates: np.ndarray, rule: Rule) -> Effect:
    low, high, lower = np.quantile(replicates, [(1 - rule.level) / 2, (1 + rule.level) / 2, 1 - rule.one_sided])
    if high - low <= statistics.ROUNDING:  # every item changed alike: nothing is known of the spread
        return effect
    return replace(effect, low=float(low), high=float(high), lower=float(lower), error=float(replicates.std(ddof=1)))


def _artifacts(matched: Sequence[tuple[Cell, Cell]], store: Store) -> list[tuple[Artifact, Artifact]]:
    """The evaluations of each pair. Raises ``BadInput`` naming the cell and the stage that is not finished."""
    pairs_: list[tuple[Artifact, Artifact]] = []
    for pair in matched:
        artifacts = []
        for cell in pair:
            artifact = store.find(cell.nodes["eval"]) if "eval" in cell.nodes else None
            if artifact is None:
                role, status = cell_status(cell, store)
                raise BadInput(f"{cell.name} is {status.state} at {role}")
            artifacts.append(artifact)
        pairs_.append((artifacts[0], artifacts[1]))
    return pairs_


def _weights(average: str, tasks: Sequence[str]) -> dict[str, float]:
    """What each task weighs in an average. Raises ``BadInput`` where one of its tasks was not measured in both."""
    weights = aggregate.weights(tasks) if average == "avg" else None
    if average != "avg":
        members = benchmarks.members()[average]
        weights = {task: 1 / len(members) for task in members} if set(members) <= set(tasks) else None
    if weights is None:
        raise BadInput(f"{average} needs tasks that were not measured in both; there are {', '.join(tasks) or 'none'}")
    return weights


def _published(pair: tuple[Cell, Cell], average: str) -> float | None:
    ours, theirs = (published_figures(cell) for cell in pair)
    if ours is None or theirs is None or average not in ours or average not in theirs:
        return None
    return ours[average] - theirs[average]
