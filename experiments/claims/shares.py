"""The differences that a claim about task types speaks of: shares of the chosen against their pool, in points.

Nothing is built here. A shift is counted in the direction that the claim names, so that above 0 speaks for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import NormalDist

from adg.artifacts.store import Store
from adg.evaluation import power
from experiments.cells import Cell
from experiments.claims.rules import Claim, Effect, Rule
from experiments.report import task_types
from experiments.status import cell_status

SELECTOR = "adg"  # whose choice the claims are about


def estimate(claim: Claim, cells: Sequence[Cell], store: Store, rule: Rule) -> list[Effect]:
    """The shift of each type that the claim names, in each ADG cell.

    A type whose plain instructions the backbone does not name often enough (``rule.probes``) has no interval: whether
    it is chosen more often cannot be seen with that backbone.
    """
    return [
        _effect(name, direction, cell, store, rule)
        for cell in cells
        if cell.selector.name == SELECTOR
        for name, direction in claim.shares.items()
    ]


def _effect(name: str, direction: str, cell: Cell, store: Store, rule: Rule) -> Effect:
    label, fingerprints = f"{name} {direction} in {cell.name}", (cell.fingerprint,)
    found = task_types.of_cell(cell, store, rule.level, rule.one_sided)
    if found is None or not found.shifts:
        role, status = cell_status(cell, store)
        return Effect(label, missing=f"{cell.name} is {status.state} at {role}", cells=fingerprints)
    shift, sign = found.shifts[name], 1 if direction == "up" else -1
    chosen = sum(of.chosen for of in found.shifts.values())
    right, probed = found.types.probes[name], found.types.probed
    if shift.interval is None or shift.lower is None or shift.upper is None:
        reason = "every record was chosen"
    elif right < rule.probes * probed:
        reason = f"the backbone names {right} of {probed} plain instructions of that type"
    else:
        low, high = sorted(100 * sign * end for end in shift.interval)
        error = (high - low) / (2 * NormalDist().inv_cdf((1 + rule.level) / 2))
        return Effect(
            label,
            100 * sign * shift.value,
            low,
            high,
            100 * (shift.lower if sign > 0 else -shift.upper),
            smallest=power.smallest_effect(error, rule.level, rule.power),
            seeds=(1, 1),
            items=chosen,
            cells=fingerprints,
        )
    return Effect(label, 100 * sign * shift.value, unseen=reason, seeds=(1, 1), items=chosen, cells=fingerprints)
