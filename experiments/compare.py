"""ADG against every other selector on the same items:  adg compare profile=mini

For each backbone and pool, per task and for the average: the difference in points, its interval, the p-value of the
paired bootstrap, McNemar's exact one where scores are 0 or 1, and both after Holm's correction for the number of
selectors. Where ADG stands alone (experiment=terms), its variants are compared with one another, all pairs of them.
Cells that did not answer the same items alike are refused. Several seeds (seeds=3) are compared in pairs where both
sides have the same ones, else as two samples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

from adg.artifacts.files import write_atomic
from adg.artifacts.store import Store
from adg.errors import BadInput
from adg.evaluation import samples, statistics
from adg.evaluation.statistics import Comparison
from adg.printable import printable
from experiments import names as names_
from experiments.app import JSON, as_json, asked, plain_errors
from experiments.cells import Cell, asked_for, refuse_same_names, report_folder
from experiments.report import text
from experiments.report.legend import signed
from experiments.samples import evaluation
from experiments.status import evaluations

OURS = "adg"
COLUMNS = (
    *("backbone", "pool", "ours", "theirs", "seeds", "seeds_theirs", "partial", "task", "items", "difference"),
    *("low", "high", "p", "p_holm", "holm_over", "p_mcnemar", "p_mcnemar_holm", "mcnemar_holm_over", "holm_planned"),
    "reason",
)
HEAD = ("items", "difference", "interval", "p", "Holm", "McNemar", "Holm")

Family = tuple[str, str]  # a selector and its variant, without the seed


class Corrected(NamedTuple):
    """A p-value after Holm's correction, and the number of comparisons that it was corrected over."""

    p: float
    over: int


@dataclass
class Pairing:
    """ADG and another selector of one backbone and pool, or two variants of ADG. ``tasks`` is empty where ``reason``
    says why; ``planned`` is how many comparisons are corrected together once all have results: one for each of
    ``among``."""

    backbone: str
    pool: str
    ours: str
    theirs: str
    seeds: tuple[int, ...] = ()
    seeds_theirs: tuple[int, ...] = ()
    partial: bool = False
    tasks: dict[str, Comparison] = field(default_factory=dict)
    reason: str = ""
    refused: bool = False
    planned: int = 1
    among: str = "selectors"
    holm: dict[str, Corrected] = field(default_factory=dict)
    holm_exact: dict[str, Corrected] = field(default_factory=dict)

    @property
    def label(self) -> str:
        return f"{self.backbone} / {self.pool}: {self.ours} against {self.theirs}"

    @property
    def one_seed(self) -> bool:
        """Whether no side has a second seed, so that nothing is known of what another training would change."""
        return len(self.seeds) == len(self.seeds_theirs) == 1

    @property
    def counted(self) -> str:
        """How many seeds each side has, in words; "" for one each."""
        ours, theirs = len(self.seeds), len(self.seeds_theirs)
        several = (
            f" ({ours} seeds)" if ours == theirs else f" ({ours} {'seed' if ours == 1 else 'seeds'} against {theirs})"
        )
        return "" if self.one_seed else several


def pairings(chosen: Sequence[Cell], store: Store) -> list[Pairing]:
    """ADG against each other selector, or its variants in pairs where there is no other; every difference computed,
    what is missing or refused has a reason. Raises ``BadInput`` where nothing is evaluated."""
    blocks: dict[tuple[str, str], dict[Family, list[Cell]]] = {}
    for cell in chosen:
        evaluation(cell)
        c = cell.config
        family = names_.without_seed(cell.variant)
        families = blocks.setdefault((c.backbone.name, c.pool.name), {})
        families.setdefault((str(c.selector["name"]), family), []).append(cell)
    compared = []
    for names, families in blocks.items():
        alone = all(selector == OURS for selector, _ in families)
        among = "pairs of variants" if alone else "selectors"
        for planned in _planned(list(families), alone):
            block = []
            for ours, theirs in planned:
                block.append(Pairing(*names, _name(*ours), _name(*theirs), planned=len(planned), among=among))
                _compute(block[-1], families[ours], families[theirs], store)
            _correct(block)
            compared += block
    return compared


def _planned(families: Sequence[Family], alone: bool) -> list[list[tuple[Family, Family]]]:
    """Which families of one backbone and pool are held against which, in groups to be corrected together; ``alone``:
    all are variants of ADG."""
    if alone:
        return [list(combinations(families, 2))]
    mine = [key for key in families if key[0] == OURS]
    return [
        [
            (ours, other)
            for other in families
            if other[0] != OURS and (other[1] == ours[1] or (not other[1] and (other[0], ours[1]) not in families))
        ]
        for ours in mine
    ]


def _name(selector: str, family: str) -> str:
    return f"{selector}, {family}" if family else selector


def _compute(pairing: Pairing, ours: Sequence[Cell], theirs: Sequence[Cell], store: Store) -> None:
    refuse_same_names([*ours, *theirs])
    try:
        mine, others = (evaluations(cells, store) for cells in (ours, theirs))
    except BadInput as error:
        pairing.reason = str(error)
        return
    pairing.seeds, pairing.seeds_theirs = tuple(sorted(mine)), tuple(sorted(others))
    try:
        pairing.tasks = samples.compare(mine, others, fixed=all("adapter" not in cell.nodes for cell in theirs))
    except BadInput as error:
        pairing.reason, pairing.refused = str(error), True
        return
    pairing.partial = bool(samples.results(next(iter(mine.values())))["partial"])
    if not pairing.tasks:
        pairing.reason = "no task was measured in both"


def _correct(block: Sequence[Pairing]) -> None:
    """Holm's correction over the comparisons of one block that have a p-value, for each task by itself."""
    for task in dict.fromkeys(task for pairing in block for task in pairing.tasks):
        every = [(pairing, pairing.tasks[task]) for pairing in block if task in pairing.tasks]
        drawn = [(pairing.holm, entry.p) for pairing, entry in every]
        exact = [(pairing.holm_exact, entry.p_exact) for pairing, entry in every]
        for column in (drawn, exact):
            over = sum(p is not None for _, p in column)
            for (into, _), adjusted in zip(column, statistics.holm([p for _, p in column]), strict=True):
                if adjusted is not None:
                    into[task] = Corrected(adjusted, over)


def _fewer(pairing: Pairing) -> list[str]:
    """Which figures of a comparison were corrected over fewer than planned, in words."""
    drawn = {task: entry.over for task, entry in pairing.holm.items()}
    exact = {task: entry.over for task, entry in pairing.holm_exact.items() if entry.over != drawn.get(task)}
    lines = []
    for test, corrected in (("", drawn), (" of McNemar's p", exact)):
        for over in sorted(set(corrected.values()) - {pairing.planned}):
            tasks = [task for task in corrected if corrected[task] == over]
            some = "" if tasks == list(drawn) else f" ({', '.join(tasks)})"
            lines.append(f"  Holm{test} over {over} of {pairing.planned} {pairing.among}{some}")
    return lines


def _dashes(entries: Sequence[Comparison]) -> list[str]:
    """Why some figures of these comparisons read "–"."""
    reasons = {
        "a subtask with a single item cannot be resampled": any(x.p is None for x in entries),
        "where every item of a subtask changed alike all resamples are equal, and there is no interval": any(
            x.interval is None and x.p is not None for x in entries
        ),
        "McNemar's test takes one task, one seed and scores of 0 and 1": any(x.p_exact is None for x in entries),
    }
    return [f"–: {reason}." for reason, holds in reasons.items() if holds]


def render(compared: Sequence[Pairing]) -> str:
    """The comparisons as text."""
    lines = []
    for pairing in compared:
        lines += [pairing.label + pairing.counted * bool(pairing.tasks) + " (partial results)" * pairing.partial]
        if pairing.reason:
            lines += [f"  {'refused: ' if pairing.refused else ''}{pairing.reason}", ""]
            continue
        lines.append(f"  {'':<16}{HEAD[0]:>7}{HEAD[1]:>12}{HEAD[2]:>20}" + "".join(f"{h:>9}" for h in HEAD[3:]))
        for task, entry in pairing.tasks.items():
            ends = "–"
            if entry.interval is not None:
                ends = f"[{signed(100 * entry.interval.low)}, {signed(100 * entry.interval.high)}]"
            holm, holm_exact = pairing.holm.get(task), pairing.holm_exact.get(task)
            values = (entry.p, holm and holm.p, entry.p_exact, holm_exact and holm_exact.p)
            lines.append(
                f"  {task:<16}{entry.n:>7,}{signed(100 * entry.difference):>12}{ends:>20}"
                + "".join(f"{'–' if p is None else f'{p:.4f}':>9}" for p in values)
            )
        lines += [*_fewer(pairing), ""]
    shown = [pairing for pairing in compared if pairing.tasks]
    if shown:
        lines.append(
            f"Points of percent, {100 * statistics.LEVEL:.0f} % bootstrap intervals over items and seeds; p "
            "of the paired bootstrap and of McNemar's exact test,\neach also after Holm's correction over the "
            f"{' and the '.join(dict.fromkeys(x.among for x in shown))} of a backbone and pool."
        )
        alone = [pairing for pairing in shown if pairing.one_seed]
        lines += [f"{len(alone)} of {len(shown)} comparisons rest on {statistics.ONE_SEED}."] if alone else []
        lines += _dashes([entry for pairing in shown for entry in pairing.tasks.values()])
    return (
        printable("\n".join(lines))
        if compared
        else f"no cell of {OURS} together with one of another selector or variant"
    )


def comma_separated(compared: Sequence[Pairing]) -> str:
    """One line a comparison and task, fractions; a comparison without figures has its reason."""
    rows: list[list[Any]] = [list(COLUMNS)]
    nothing = (None, None)
    for x in compared:
        seeds = [" ".join(map(str, side)) for side in (x.seeds, x.seeds_theirs)]
        first = [x.backbone, x.pool, x.ours, x.theirs, *seeds, "yes" if x.partial else "no"]
        if not x.tasks:
            rows.append([*first, *[""] * 11, x.planned, x.reason])
        for task, entry in x.tasks.items():
            figures = [task, entry.n, entry.difference, *(entry.interval or nothing), entry.p]
            figures += [*x.holm.get(task, nothing), entry.p_exact, *x.holm_exact.get(task, nothing)]
            rows.append([*first, *figures, x.planned, ""])
    return text.comma_separated(rows)


def facts(compared: Sequence[Pairing]) -> list[dict[str, Any]]:
    """The same for other programs; differences and intervals are fractions."""
    return [
        {
            **{name: getattr(x, name) for name in ("backbone", "pool", "ours", "theirs", "seeds", "seeds_theirs")},
            **{name: getattr(x, name) for name in ("partial", "refused", "planned")},
            "reason": x.reason or None,
            "tasks": {
                task: {
                    "items": entry.n,
                    "difference": entry.difference,
                    "interval": entry.interval and [entry.interval.low, entry.interval.high],
                    "p": entry.p,
                    "p_mcnemar": entry.p_exact,
                    **{
                        name: corrected[task]._asdict() if task in corrected else None
                        for name, corrected in (("holm", x.holm), ("holm_mcnemar", x.holm_exact))
                    },
                }
                for task, entry in x.tasks.items()
            },
        }
        for x in compared
    ]


def write(chosen: Sequence[Cell], store: Store, compared: Sequence[Pairing]) -> Path:
    """Write ``compare.csv`` beside the tables of the same sweep."""
    path = report_folder(chosen, store)[0] / "compare.csv"
    write_atomic(path, comma_separated(compared).encode())
    return path


def main() -> None:
    with plain_errors(__doc__, JSON):
        chosen, store = asked_for(JSON)
        compared = pairings(chosen, store)
        path = write(chosen, store, compared)
        print(as_json(facts(compared)) if asked("--json") else f"{render(compared)}\n\n{path}")
        refused = [pairing.label for pairing in compared if pairing.refused]
        if refused:
            raise BadInput(f"{len(refused)} of {len(compared)} comparisons were refused: {'; '.join(refused)}")


if __name__ == "__main__":
    main()
