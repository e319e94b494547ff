"""Types of task in the pool and among the chosen: what a selector takes more of. Nothing here bears identity."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from adg.artifacts.store import Store
from adg.evaluation import statistics
from adg.tasktypes import stage as tasktypes_stage
from adg.tasktypes.labels import TYPES
from adg.tasktypes.shifts import Shift, shifts
from adg.tasktypes.stage import TaskTypes
from experiments.cells import Cell
from experiments.report import plots, selections
from experiments.report.sections import Section
from experiments.report.table import Row

HEAD = ("type", "plain ones named", "pool", "%", "chosen", "%", "shift", "95 % interval", "p", "corrected p")


@dataclass(frozen=True)
class Found:
    """The types of a cell's pool; how many records have each; the shifts of its choice, {} where there is none."""

    types: TaskTypes
    pool: Mapping[str, int]
    shifts: Mapping[str, Shift]


def of_cell(
    cell: Cell, store: Store, level: float = statistics.LEVEL, one_sided: float = statistics.LEVEL
) -> Found | None:
    """What is known of a cell; None where its pool has no types yet. Records without a type are left out."""
    artifact = store.find(cell.nodes["task-types"]) if "task-types" in cell.nodes else None
    if artifact is None:
        return None
    types = tasktypes_stage.load(artifact)
    of = {key: name for key, name in zip(types.ids, types.types, strict=True) if name}
    ids = selections.ids(cell, store)
    pool, chosen = _counts(list(of.values())), _counts([of[key] for key in ids or () if key in of])
    return Found(types, pool, shifts(pool, chosen, level, one_sided) if sum(chosen.values()) else {})


def _counts(names: Sequence[str]) -> dict[str, int]:
    counted = Counter(names)
    return {name: counted[name] for name in TYPES}


def sections(chosen: Sequence[Cell], store: Store, rows: Sequence[Row]) -> list[Section]:
    """One table a cell whose pool is sorted into types."""
    cells = [cell for cell in chosen if "task-types" in cell.nodes]
    return [_section(number, cell, of_cell(cell, store)) for number, cell in enumerate(cells)]


def _section(number: int, cell: Cell, found: Found | None) -> Section:
    name, title = f"task-types-{number}", f"Types of task: {cell.name}"
    if found is None:
        body = [[task_type, *["missing"] * (len(HEAD) - 1)] for task_type in TYPES]
        return Section(name, title, ["The pool is not sorted into types yet."], HEAD, body)
    right, probed = sum(found.types.probes.values()), found.types.probed * len(TYPES)
    backbone = (cell.config.selecting or cell.config.backbone).name
    untyped = found.types.types.count("")
    text = [
        f"The type of a record is the name that {backbone} finds likeliest after the instruction, beyond what that "
        f"name has where nothing is asked; the paper asked an API model. Of plain instructions, whose type is known, "
        f"it names {right} of {probed} rightly ({probed // len(TYPES)} by guessing); where it names few of a type, "
        f"that type's shares say little.",
        "Shift: points of the chosen's share above the pool's. Interval: Newcombe's, of the chosen against the others, "
        "shrunk by the part of the pool that was chosen, as whiskers in the figure; p: Fisher's exact one; "
        "corrected for the ten types (Holm).",
    ]
    text += [f"{untyped:,} records have no type: {_reason(found.types)}."] if untyped else []
    body = [_line(found, task_type) for task_type in TYPES]
    every, taken = sum(found.pool.values()), sum(shift.chosen for shift in found.shifts.values())
    shares = [100 * found.shifts[task_type].chosen / taken if found.shifts else None for task_type in TYPES]
    beside = [100 * count / every for count in found.pool.values()] if every else [None] * len(TYPES)
    ends = [_whisker(share, found.shifts.get(name)) for share, name in zip(beside, TYPES, strict=True)]
    svg = plots.bars(list(TYPES.values()), shares, "percent of the chosen", beside, "of the pool", ends)
    return Section(name, title, text, HEAD, body, svg)


def _whisker(share: float | None, shift: Shift | None) -> tuple[float, float] | None:
    """The interval of a type's shift, drawn from the pool's share (percent)."""
    if share is None or shift is None or shift.interval is None:
        return None
    return share + 100 * shift.interval[0], share + 100 * shift.interval[1]


def _line(found: Found, task_type: str) -> list[str]:
    every = sum(found.pool.values())
    count = found.pool[task_type]
    first = [task_type, f"{found.types.probes[task_type]} of {found.types.probed}", str(count)]
    first.append(f"{100 * count / every:.1f}" if every else "–")
    shift = found.shifts.get(task_type)
    if shift is None:
        return [*first, *["missing"] * (len(HEAD) - len(first))]
    taken = sum(of.chosen for of in found.shifts.values())
    line = [*first, str(shift.chosen), f"{100 * shift.chosen / taken:.1f}", f"{100 * shift.value + 0.0:+.1f}"]
    if shift.interval is None or shift.p is None or shift.corrected is None:
        return [*line, "all were chosen", "–", "–"]
    low, high = (100 * end for end in shift.interval)
    return [*line, f"{low:+.1f} to {high:+.1f}", f"{shift.p:.3f}", f"{shift.corrected:.3f}"]


def _reason(types: TaskTypes) -> str:
    return "; ".join(dict.fromkeys(reason for reason in types.invalid if reason))
