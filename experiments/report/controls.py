"""The controls of a study: whether it saw what must be seen, and nothing where nothing is.

The cells are those of ``conf/experiment/controls.yaml``. Each control is a difference of two kinds of cells on the same
items, their seeds two samples, with the interval and p-value of ``adg.evaluation.statistics``; ``experiment.estimand``
names the measure that decides, which is fixed before anything is evaluated. What was not measured gives no verdict.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from adg import seeds
from adg.artifacts.artifact import Artifact
from adg.artifacts.sealed import Damaged
from adg.artifacts.store import Store
from adg.errors import BadInput, HarnessError
from adg.evaluation import benchmarks, heldout, power, samples, statistics
from adg.evaluation.statistics import Against, Comparison
from experiments import names
from experiments.cells import Cell, cells, report_folder
from experiments.config import HELD_OUT_LOSS
from experiments.report.legend import signed
from experiments.report.sections import Section
from experiments.report.table import Row
from experiments.status import cell_status

NAME = "controls"  # of the experiment, and of the section
SEEN, NOT_SEEN, NOT_RUN = "seen", "not seen", "not run"
NOTHING, FALSE_ALARM = "nothing seen, as it must be", "seen although nothing is there"
HEAD = (
    *("control", "measure", "decides", "seeds", "items", "difference"),
    *("95 % interval", "p", "smallest visible", "verdict"),
)
# overrides that the controls set themselves
OWN = ("backbone", "pool", "pool.corrupt", "selector", "experiment", "seed", "seeds")


@dataclass(frozen=True)
class Control:
    """Two kinds of cells, by their ``experiment.choice``; ``present``: the first is better, and that must be seen."""

    name: str
    ours: str
    theirs: str
    says: str
    present: bool


CONTROLS = (
    Control("positive", "clean", "corrupted", "rows as they are against rows with another row's output", True),
    Control("negative", "random", "again", "Random against Random of another seed", False),
)


@dataclass(frozen=True)
class Finding:
    """A control of one backbone and pool. ``measured`` holds differences in favour of the first kind by measure:
    fractions of a score, or nats a token of the held-out loss."""

    control: Control
    where: str
    estimand: str
    seeds: int = 0
    measured: Mapping[str, Comparison] = field(default_factory=dict)
    reason: str = ""  # why there is no verdict

    @property
    def verdict(self) -> str:
        decisive = self.measured.get(self.estimand)
        if decisive is None or decisive.p is None:
            return NOT_RUN
        clear = decisive.p <= 1 - statistics.LEVEL
        if not self.control.present:
            return FALSE_ALARM if clear else NOTHING
        return SEEN if clear and decisive.difference > 0 else NOT_SEEN

    @property
    def sentence(self) -> str:
        """What came out, with what could have been seen."""
        begin = f"{self.control.name} ({self.where}: {self.control.says}): {self.verdict}"
        entry = self.measured.get(self.estimand)
        if entry is None or entry.p is None:
            return f"{begin}; {self.reason or f'{shown(self.estimand)} has a part with a single item'}."
        line = dict(zip(HEAD, self.line(self.estimand), strict=True))
        seen = f"it could have seen {line['smallest visible']}" if entry.smallest else "all items changed alike"
        return (
            f"{begin}. {shown(self.estimand)} {line['difference']} {line['95 % interval']}, p {line['p']}, "
            f"{line['seeds']} seeds, {line['items']} items; {seen}."
        )

    def line(self, measure: str) -> list[str]:
        """The row of a measure."""
        entry = self.measured[measure]
        loss = measure == HELD_OUT_LOSS
        scale, digits = (1, 4) if loss else (100, 2)

        def number(value: float) -> str:
            return signed(scale * value, digits)

        ends = "–" if entry.interval is None else f"[{number(entry.interval.low)}, {number(entry.interval.high)}]"
        smallest = "–" if entry.smallest is None else number(entry.smallest).removeprefix("+")
        decides = measure == self.estimand
        return [
            self.control.name,
            shown(measure),
            "yes" if decides else "",
            str(self.seeds),
            f"{entry.n:,}",
            number(entry.difference),
            ends,
            "–" if entry.p is None else f"{entry.p:.4f}",
            smallest,
            self.verdict if decides else "",
        ]


def shown(measure: str) -> str:
    """A measure with its unit."""
    if measure == HELD_OUT_LOSS:
        return "held-out loss (nats a token, lower by)"
    named = {"avg": "average"}
    return f"{' + '.join(named.get(task) or benchmarks.title(task) for task in measure.split('+'))} (points)"


def findings(chosen: Sequence[Cell], store: Store) -> list[Finding]:
    """Both controls of each backbone and pool among these cells."""
    blocks: dict[str, dict[str, list[Cell]]] = {}
    for cell in chosen:
        c = cell.config
        kinds = blocks.setdefault(f"{c.backbone.name} / {c.pool.name}", {})
        kinds.setdefault(c.experiment.choice, []).append(cell)
    return [
        _finding(control, where, kinds.get(control.ours, []), kinds.get(control.theirs, []), store)
        for where, kinds in blocks.items()
        for control in CONTROLS
    ]


def _finding(control: Control, where: str, ours: Sequence[Cell], theirs: Sequence[Cell], store: Store) -> Finding:
    known = [*ours, *theirs]
    estimand = known[0].config.experiment.estimand if known else "avg"
    if not ours or not theirs:
        return Finding(control, where, estimand, reason="its cells are not among those of this command")
    try:
        measured = _measured(ours, theirs, estimand, store, where + control.name)
    except (BadInput, Damaged) as error:
        return Finding(control, where, estimand, reason=str(error))
    reason = "" if estimand in measured else f"{shown(estimand)} was not measured in both"
    return Finding(control, where, estimand, min(len(ours), len(theirs)), measured, reason)


def _measured(
    ours: Sequence[Cell], theirs: Sequence[Cell], estimand: str, store: Store, label: str
) -> dict[str, Comparison]:
    """Every measure's comparison. Raises ``BadInput`` naming a cell that is not finished."""
    root = ours[0].config.seed
    arms = [[_artifact(cell, "eval", store) for cell in arm] for arm in (ours, theirs)]
    shared = [samples.same_items(arms[0][0], other) for arm in arms for other in arm]
    tasks = [task for task in shared[0] if all(task in others for others in shared)]
    mine, other = ({task: samples.matrix(arm, task) for task in tasks} for arm in arms)
    measured = statistics.compare(mine, seeds.generator(root, NAME, label), against=Against(other))
    named = estimand.split("+")
    if len(named) > 1 and set(named) <= set(tasks):
        some, their = ({task: scores[task] for task in named} for scores in (mine, other))
        draw, weights = seeds.generator(root, NAME, label, estimand), dict.fromkeys(named, 1 / len(named))
        measured[estimand] = statistics.compare(some, draw, weights=weights, against=Against(their))["avg"]
    if all("heldout" in cell.nodes for cell in (*ours, *theirs)):
        gains, base = ({HELD_OUT_LOSS: [-_losses(arm, store)]} for arm in (ours, theirs))
        draw = seeds.generator(root, NAME, label, HELD_OUT_LOSS)
        measured[HELD_OUT_LOSS] = statistics.compare(gains, draw, against=Against(base))[HELD_OUT_LOSS]
    return measured


def _artifact(cell: Cell, role: str, store: Store) -> Artifact:
    artifact = store.find(cell.nodes[role])
    if artifact is None:
        at, status = cell_status(cell, store)
        raise BadInput(f"{cell.name} is {status.state} at {at}")
    return artifact


def _losses(arm: Sequence[Cell], store: Store) -> np.ndarray:
    """Loss of each held-out row, (seeds, rows), in the rows' canonical order, which is that of every cell of a pool."""
    return np.stack([heldout.load(_artifact(cell, "heldout", store)).loss for cell in arm])


def sections(chosen: Sequence[Cell], store: Store, rows: Sequence[Row]) -> list[Section]:
    """Both controls with every measure, and what each says."""
    found = findings(chosen, store)
    estimand = found[0].estimand
    said = [finding.sentence for finding in found]
    text = [
        f"What decides is the {shown(estimand)} (experiment.estimand), which was named before anything was evaluated. "
        f"Differences are in favour of the first; intervals and p-values are of the paired bootstrap over items and "
        f"seeds. Smallest visible: the difference that as noisy a comparison shows in {100 * power.POWER:.0f} % of "
        f"studies. At this level a negative control sees something in {100 * (1 - statistics.LEVEL):.0f} % of studies.",
        *said,
    ]
    body = [finding.line(measure) for finding in found for measure in finding.measured]
    return [Section(NAME, "Controls", text, HEAD, body, brief=said)]


def beside(chosen: Sequence[Cell], store: Store) -> list[str]:
    """The reports of controls of this profile that there are: every run of them ends with one."""
    found = (store.root / "report").glob(f"{chosen[0].config.profile.name}-{NAME}*")
    return sorted(f"{path.name}{'/index.html' * (path / 'index.html').is_file()}" for path in found)


def note(chosen: Sequence[Cell], store: Store) -> str:
    """What the report of the main table says of the controls at its own settings, and where they are."""
    config = chosen[0].config
    run = f"make reproduce{'' if config.profile.name == 'mini' else f' PROFILE={config.profile.name}'} ARGS="
    if not beside(chosen, store):
        return f"controls: not run; {run}experiment={NAME}"
    shared = {
        key: value
        for key, value in chosen[0].swept.items()
        if key not in OWN
        and not key.startswith(("selector.", "experiment.", "hydra", "backbone@"))
        and all(cell.swept.get(key) == value for cell in chosen)
    }
    try:
        shared["profile"] = config.profile.name
        mine = cells([*(f"{key}={value}" for key, value in shared.items()), f"experiment={NAME}"])
        found = findings(mine, store)
    except HarnessError as error:
        return f"controls: not run; they have no place at these settings ({error})"
    if any(finding.verdict == NOT_RUN for finding in found):
        more = [f"{key}={value}" for key, value in shared.items() if key != "profile" and names.tells(key, config)]
        arguments = " ".join([f"experiment={NAME}", *more])
        return f"controls: not run; {run}" + (f'"{arguments}"' if more else arguments)
    said = "; ".join(f"{finding.control.name} {finding.verdict}" for finding in found)
    folder, _ = report_folder(mine, store)
    return f"controls: {said}" + f"; ../{folder.name}/index.html" * (folder / "index.html").is_file()
