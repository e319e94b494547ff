"""ADG against every other selector on the same items:  python -m experiments.compare profile=mini

For each backbone and pool, per task and for the average: the difference in points, its interval, the p-value of the
paired bootstrap, McNemar's exact one where scores are 0 or 1, and both after Holm's correction for the number of
selectors. Cells that did not answer the same items alike are refused. Swept seeds (seed=1,2,3) are compared in pairs.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from adg import seeds
from adg.errors import BadInput
from adg.evaluation import samples, statistics
from adg.evaluation.statistics import Comparison
from adg.report import signed
from adg.store import Artifact, Store, write_atomic
from experiments.cells import Cell, asked_for
from experiments.config import plain_errors
from experiments.status import cell_status

OURS = "adg"
HEAD = ("items", "difference", "interval", "p", "Holm", "McNemar", "Holm")


@dataclass
class Pairing:
    """ADG and another selector of one backbone and pool. ``tasks`` is empty where ``reason`` says why."""

    backbone: str
    pool: str
    ours: str
    theirs: str
    seeds: tuple[int, ...] = ()
    partial: bool = False
    tasks: dict[str, Comparison] = field(default_factory=dict)
    reason: str = ""
    refused: bool = False
    holm: dict[str, float] = field(default_factory=dict)
    holm_exact: dict[str, float] = field(default_factory=dict)

    @property
    def label(self) -> str:
        return f"{self.backbone} / {self.pool}: {self.ours} against {self.theirs}"


def pairings(chosen: Sequence[Cell], store: Store) -> list[Pairing]:
    """ADG against each other selector, every difference computed; what is missing or refused has a reason."""
    families: dict[tuple[str, str, str, str], list[Cell]] = {}
    for cell in chosen:
        c = cell.config
        family = ", ".join(word for word in cell.variant.split(", ") if not word.startswith("seed="))
        families.setdefault((c.backbone.name, c.pool.name, str(c.selector["name"]), family), []).append(cell)
    found = []
    for (backbone, pool, selector, family), ours in families.items():
        near = {key: cells for key, cells in families.items() if key[:2] == (backbone, pool) and key[2] != OURS}
        block = []
        for (_, _, other, variant), theirs in near.items() if selector == OURS else ():
            if variant == family or (not variant and (backbone, pool, other, family) not in near):
                block.append(Pairing(backbone, pool, _name(selector, family), _name(other, variant)))
                _compute(block[-1], ours, theirs, store)
        _correct(block)
        found += block
    return found


def _name(selector: str, family: str) -> str:
    return f"{selector}, {family}" if family else selector


def _compute(pairing: Pairing, ours: Sequence[Cell], theirs: Sequence[Cell], store: Store) -> None:
    pairs = [(a, b) for a in ours for b in theirs if a.config.seed == b.config.seed]
    if not pairs:
        pairing.reason = "no seed in common"
        return
    found: list[tuple[Artifact, Artifact]] = []
    for pair in pairs:
        artifacts = [store.find(cell.nodes["eval"]) for cell in pair]
        for cell, artifact in zip(pair, artifacts, strict=True):
            if artifact is None:
                role, status = cell_status(cell, store)
                pairing.reason = f"{cell.name} is {status.state} at {role}"
                return
        mine, his = artifacts
        assert mine is not None and his is not None
        found.append((mine, his))
    pairing.seeds = tuple(a.config.seed for a, _ in pairs)
    try:
        changes = samples.differences(found)
    except BadInput as error:
        pairing.reason, pairing.refused = str(error), True
        return
    pairing.partial = bool(samples.results(found[0][0])["partial"])
    draw = seeds.generator(pairs[0][0].config.seed, "compare", pairing.label)
    pairing.tasks = statistics.compare(changes, draw)
    if not pairing.tasks:
        pairing.reason = "no task was measured in both"


def _correct(block: Sequence[Pairing]) -> None:
    """Holm's correction over the selectors of one backbone and pool, for each task by itself."""
    for task in dict.fromkeys(task for pairing in block for task in pairing.tasks):
        every = [pairing for pairing in block if task in pairing.tasks]
        drawn = [(pairing, p) for pairing in every if (p := pairing.tasks[task].p) is not None]
        exact = [(pairing, p) for pairing in every if (p := pairing.tasks[task].p_exact) is not None]
        for (pairing, _), adjusted in zip(drawn, statistics.holm([p for _, p in drawn]), strict=True):
            pairing.holm[task] = adjusted
        for (pairing, _), adjusted in zip(exact, statistics.holm([p for _, p in exact]), strict=True):
            pairing.holm_exact[task] = adjusted


def render(found: Sequence[Pairing]) -> str:
    """The comparisons as text."""
    lines = []
    for pairing in found:
        lines += [pairing.label + (" (partial results)" if pairing.partial else "")]
        if pairing.reason:
            lines += [f"  {'refused: ' if pairing.refused else ''}{pairing.reason}", ""]
            continue
        lines.append(f"  {'':<16}{HEAD[0]:>7}{HEAD[1]:>12}{HEAD[2]:>20}" + "".join(f"{h:>9}" for h in HEAD[3:]))
        for task, entry in pairing.tasks.items():
            ends = "–"
            if entry.interval is not None:
                ends = f"[{signed(100 * entry.interval.low)}, {signed(100 * entry.interval.high)}]"
            values = (entry.p, pairing.holm.get(task), entry.p_exact, pairing.holm_exact.get(task))
            lines.append(f"  {task:<16}{entry.n:>7,}{signed(100 * entry.difference):>12}{ends:>20}"
                         + "".join(f"{'–' if p is None else f'{p:.4f}':>9}" for p in values))  # fmt: skip
        lines.append("")
    shown = [pairing for pairing in found if pairing.tasks]
    if shown:
        lines.append(f"Points of percent, {100 * statistics.LEVEL:.0f} % bootstrap intervals over items and seeds; p "
                     "of the paired bootstrap and of McNemar's exact test,\neach also after Holm's correction over the "
                     "selectors of a backbone and pool.")  # fmt: skip
        alone = [pairing for pairing in shown if len(pairing.seeds) == 1]
        lines += [f"{len(alone)} of {len(shown)} comparisons rest on {statistics.ONE_SEED}."] * bool(alone)
        if any(entry.interval is None for pairing in shown for entry in pairing.tasks.values()):
            lines.append("–: a subtask with a single item, which cannot be resampled, or scores other than 0 and 1.")
    return "\n".join(lines) if found else f"no cell of {OURS} together with one of another selector"


def comma_separated(found: Sequence[Pairing]) -> str:
    """One line a comparison and task, fractions; a comparison without figures has its reason."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["backbone", "pool", "ours", "theirs", "seeds", "partial", "task", "items", "difference", "low",
                     "high", "p", "p_holm", "p_mcnemar", "p_mcnemar_holm", "reason"])  # fmt: skip
    for pairing in found:
        first = [pairing.backbone, pairing.pool, pairing.ours, pairing.theirs, " ".join(map(str, pairing.seeds)),
                 "yes" if pairing.partial else "no"]  # fmt: skip
        if not pairing.tasks:
            writer.writerow([*first, *[""] * 9, pairing.reason])
        for task, x in pairing.tasks.items():
            ends = [None, None] if x.interval is None else [x.interval.low, x.interval.high]
            writer.writerow([*first, task, x.n, x.difference, *ends, x.p, pairing.holm.get(task), x.p_exact,
                             pairing.holm_exact.get(task), ""])  # fmt: skip
    return out.getvalue()


def write(chosen: Sequence[Cell], store: Store, found: Sequence[Pairing]) -> Path:
    """Write ``compare.csv`` beside the tables of the same sweep."""
    first = chosen[0].config
    path = store.root / "report" / f"{first.profile.name}-{first.experiment.name}" / "compare.csv"
    write_atomic(path, comma_separated(found).encode())
    return path


def main() -> None:
    with plain_errors():
        chosen, store = asked_for()
        found = pairings(chosen, store)
        print(render(found))
        print(f"\n{write(chosen, store, found)}")
        refused = [pairing.label for pairing in found if pairing.refused]
        if refused:
            raise BadInput(f"{len(refused)} of {len(found)} comparisons were refused: {'; '.join(refused)}")


if __name__ == "__main__":
    main()
