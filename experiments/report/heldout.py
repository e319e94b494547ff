"""The held-out losses of a table: means over rows, intervals, and differences to random and to the untrained backbone.

Differences are paired row by row; intervals and p-values are those of ``adg.evaluation.statistics``, over rows and
seeds. Lower is better, so a difference below 0 is a gain.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from adg import seeds
from adg.artifacts.sealed import Damaged
from adg.artifacts.store import Store
from adg.evaluation import heldout, statistics
from adg.evaluation.statistics import Against, Comparison
from experiments.cells import Cell
from experiments.report.table import BASELINE, RESAMPLES, UNTRAINED, WORDS, HeldOut, Row


@dataclass(frozen=True)
class LossValue:
    """The held-out loss as it is printed: nats per token, or the ``word`` that stands there instead.

    ``to_random`` and ``to_untrained`` are this row's loss minus that of the other row of its backbone and pool, and
    ``holm`` their p-values after Holm's correction over the rows that have one.
    """

    by_row: float | None = None
    by_token: float | None = None
    rows: int = 0
    tokens: int = 0
    truncated: int = 0
    word: str = ""
    note: str = ""
    interval: tuple[float, float] | None = None
    to_random: Comparison | None = None
    to_untrained: Comparison | None = None
    holm: tuple[float | None, float | None] = (None, None)

    @property
    def differences(self) -> tuple[tuple[str, Comparison | None, float | None], ...]:
        """(to what, the difference, its corrected p)."""
        return ((BASELINE, self.to_random, self.holm[0]), (UNTRAINED, self.to_untrained, self.holm[1]))


def of_cell(cell: Cell, store: Store) -> HeldOut | None:
    """What was measured for a cell, or how far that is; None where its pool holds no rows out."""
    node = cell.nodes.get("heldout")
    if node is None:
        return None
    status = store.status(node)
    if status.state != "done":
        return HeldOut(status.state, status.reason)
    try:
        artifact = store.find(node)
        assert artifact is not None
        losses = heldout.load(artifact)
    except Damaged as error:
        return HeldOut("failed", str(error))
    truncated = int(losses.truncated.sum())
    return HeldOut(ids=tuple(losses.ids), loss=losses.loss[None], tokens=losses.tokens, truncated=truncated)


def values(rows: Sequence[Row]) -> list[LossValue | None]:
    """What is printed for each row; None for all where no row has held-out rows."""
    if all(row.heldout is None for row in rows):
        return [None] * len(rows)
    found = [_value(row, rows) for row in rows]
    blocks: dict[tuple[str, str], list[int]] = {}
    for i, row in enumerate(rows):
        blocks.setdefault((row.backbone, row.pool), []).append(i)
    for members in blocks.values():
        entries = [[entry for _, entry, _ in found[i].differences] for i in members]
        corrected = [statistics.holm([entry and entry.p for entry in column]) for column in zip(*entries, strict=True)]
        for i, pair in zip(members, zip(*corrected, strict=True), strict=True):
            found[i] = replace(found[i], holm=pair)
    return list(found)


def _value(row: Row, rows: Sequence[Row]) -> LossValue:
    held = row.heldout
    if held is None:
        return LossValue(word="–")
    if held.state != "done":
        word = WORDS[held.state]
        said = held.reason in row.reason  # the row says it already
        return LossValue(word=word, note=f"held-out loss {word}: {held.reason}" if held.reason and not said else "")
    draw = seeds.generator(0, "report", "held-out", row.label)
    interval = statistics.resample({"held-out": [held.loss]}, draw, RESAMPLES)["held-out"].interval
    mean = held.loss.mean(axis=0)
    return LossValue(
        by_row=float(mean.mean()),
        by_token=float((mean * held.tokens).sum() / held.tokens.sum()),
        rows=len(held.ids),
        tokens=int(held.tokens.sum()),
        truncated=held.truncated,
        interval=None if interval is None else (interval.low, interval.high),
        to_random=_difference(row, _other(row, rows, BASELINE)),
        to_untrained=_difference(row, _other(row, rows, UNTRAINED), fixed=True),
    )


def _other(row: Row, rows: Sequence[Row], selector: str) -> list[HeldOut]:
    """What was measured for that selector beside ``row``: of its variant, or where that has none, without one."""
    others = row.beside(selector, rows)
    return [o.heldout for o in others if o.heldout is not None and o.heldout.state == "done"]


def _difference(row: Row, others: Sequence[HeldOut], fixed: bool = False) -> Comparison | None:
    """This row's losses minus theirs, paired by held-out row, and by seed where both have as many; ``fixed``: theirs
    are of a model that was not trained."""
    held = row.heldout
    others = [other for other in others if held is not None and other.ids == held.ids]
    if held is None or not others:
        return None
    theirs = np.concatenate([other.loss for other in others])
    draw = seeds.generator(0, "report", "held-out difference", row.label)
    if len(theirs) == len(held.loss) and not fixed:
        return statistics.compare({"held-out": [held.loss - theirs]}, draw, RESAMPLES)["held-out"]
    against = Against({"held-out": [theirs[: 1 if fixed else None]]}, fixed)
    return statistics.compare({"held-out": [held.loss]}, draw, RESAMPLES, against=against)["held-out"]
