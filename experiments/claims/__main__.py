"""Every published claim with a verdict:  adg claims profile=mini

Each claim is judged from the finished cells of its experiment (main, terms, layers, answers, budget, cross_backbone,
chinese, bins, task_types) by the rule in ``experiments/claims/claims.yaml``; what was not run says so. Nothing is
built.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adg.artifacts.files import write_atomic
from adg.artifacts.store import Store
from adg.errors import HarnessError
from experiments import app, cells, parts
from experiments.app import JSON, as_json, asked, plain_errors
from experiments.cells import Cell
from experiments.claims import page, published, rules
from experiments.claims.page import Judged
from experiments.report import as_csv
from experiments.report.sections import Section


@dataclass(frozen=True)
class Verdicts:
    """All claims, judged; ``unknown`` says of an experiment why its cells are not known."""

    judged: list[Judged]
    section: Section
    unknown: Mapping[str, str]
    statement: str  # what the profile's numbers are worth
    path: Path  # of the CSV


def judge(overrides: Sequence[str]) -> Verdicts:
    """Judge every claim from the finished cells that these overrides mean, and write the CSV."""
    rule, claims, digest = rules.load()
    swept: dict[str, list[Cell]] = {}
    unknown: dict[str, str] = {}
    with parts.shared():
        for experiment in dict.fromkeys(claim.experiment for claim in claims if claim.experiment):
            try:
                found = cells.cells([*overrides, f"experiment={experiment}"])
                if all(cell.nodes for cell in found):
                    swept[experiment] = found
            except HarnessError as error:  # no pinned revision of a data set, say, or a selector that is not for it
                unknown[experiment] = str(error)
    first = next(iter(swept.values()))[0].config
    store = Store(Path(first.exec.runs))
    judged = [page.judged(claim, swept.get(claim.experiment, []), store, rule) for claim in claims]
    section = page.table(judged, rule, digest)
    path = store.root / "report" / f"{first.profile.name}-claims.csv"
    write_atomic(path, as_csv.section(section).encode())
    return Verdicts(judged, section, unknown, first.profile.statement, path)


def render(verdicts: Verdicts) -> str:
    """All claims as text."""
    lines = [verdicts.statement, ""]
    for entry, row in zip(verdicts.judged, verdicts.section.body, strict=True):
        named = dict(zip(verdicts.section.head, row, strict=True))
        lines += [f"{entry.claim.id:<4} {entry.claim.says} ({entry.claim.where})"]
        lines += [f"     published alone: {named['published alone']}"]
        if entry.weakest is not None:
            seeds = "seed" if named["seeds"] == "1" else "seeds"
            lines += [
                f"     compared: {named['compared']}",
                f"     here: {named['weakest effect here']} points, 95 % interval {named['95 % interval']} over "
                f"{named['seeds']} {seeds} and {named['items']} items, smallest visible {named['smallest visible']}; "
                f"published {named['published effect']}",
            ]
        lines += [f"     {named['verdict'].upper()}" + (f" ({named['fidelity']})" if entry.effects else "")]
    lines += ["", *verdicts.section.text, *(f"{name}: {reason}" for name, reason in verdicts.unknown.items())]
    return "\n".join([*lines, "", str(verdicts.path)])


def facts(verdicts: Verdicts) -> dict[str, Any]:
    """The same for other programs; effects are in points, null where nothing was measured."""
    return {
        "statement": verdicts.statement,
        "rule": rules.load()[2],
        "claims": [
            {
                "id": entry.claim.id,
                "says": entry.claim.says,
                "where": entry.claim.where,
                "experiment": entry.claim.experiment or None,
                "published_alone": published.verdict(entry.claim.id),
                "verdict": entry.verdict,
                "differs": entry.fidelity,
                "contaminated": entry.contaminated,
                "effects": [dataclasses.asdict(effect) for effect in entry.effects],
            }
            for entry in verdicts.judged
        ],
        "unknown": verdicts.unknown,
        "csv": str(verdicts.path),
    }


def main() -> None:
    with plain_errors(__doc__, JSON):
        verdicts = judge(app.overrides(JSON))
        print(as_json(facts(verdicts)) if asked("--json") else render(verdicts))


if __name__ == "__main__":
    main()
