"""Every published claim with a verdict:  adg claims profile=mini

Each claim is judged from the finished cells of its experiment (main, terms, layers, answers, budget, cross_backbone,
chinese, bins, task_types) by the rule in ``experiments/claims/claims.yaml``; what was not run says so. Nothing is
built.
"""

from __future__ import annotations

from pathlib import Path

from adg.artifacts.files import write_atomic
from adg.artifacts.store import Store
from adg.errors import HarnessError
from experiments import app, cells
from experiments.app import plain_errors
from experiments.cells import Cell
from experiments.claims import page, rules
from experiments.report import as_csv


def render(overrides: list[str]) -> tuple[str, Path]:
    """All claims as text, and the CSV that they were written to."""
    rule, claims, digest = rules.load()
    swept: dict[str, list[Cell]] = {}
    unknown: dict[str, str] = {}
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
    lines = [first.profile.statement, ""]
    for entry, row in zip(judged, section.body, strict=True):
        named = dict(zip(section.head, row, strict=True))
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
    lines += ["", *section.text, *(f"{name}: {reason}" for name, reason in unknown.items()), "", str(path)]
    return "\n".join(lines), path


def main() -> None:
    with plain_errors(__doc__):
        print(render(app.overrides())[0])


if __name__ == "__main__":
    main()
