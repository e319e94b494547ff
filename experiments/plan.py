"""What a sweep would do:  python -m experiments.plan profile=paper [selector=adg,random ...]

Prints the cells, which artifacts are there, which will be built and for how many cells, and a rough cost. Nothing
is imported that needs a GPU, nothing is downloaded, nothing is built.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from adg.store import Artifact, Node, Store, _read
from experiments.cells import Cell, asked_for, distinct
from experiments.config import plain_errors

FIRST = ("pool", "backbone", "answers", "grams", "bins")  # then those that selectors add, in the order of their use
LAST = ("scores", "subset", "adapter", "eval")


def estimate(node: Node, finished: dict[str, list[float]], cell: Cell) -> float | None:
    """Minutes a stage may take: the mean of the finished ones of its kind here, else the profile's measurement."""
    seconds = finished.get(node.stage.name)
    if seconds:
        return sum(seconds) / len(seconds) / 60
    return cell.config.profile.minutes.get(node.stage.name)


def finished_seconds(store: Store, nodes: list[Node]) -> dict[str, list[float]]:
    """Seconds that the finished artifacts among ``nodes`` took, by stage."""
    found: dict[str, list[float]] = {}
    for node in nodes:
        artifact: Artifact | None = _read(store.path(node))
        if artifact is not None:
            found.setdefault(node.stage.name, []).append(artifact.manifest["seconds"])
    return found


def render(chosen: list[Cell], store: Store) -> str:
    """The plan as text."""
    nodes = distinct(chosen)
    used = Counter(node.fingerprint for cell in chosen for node in cell.nodes.values())
    owner = {node.fingerprint: cell for cell in reversed(chosen) for node in cell.nodes.values()}
    states = {node.fingerprint: store.status(node) for node in nodes}
    finished = finished_seconds(store, nodes)
    first = chosen[0].config
    lines = [f"{first.profile.statement}", f"{first.experiment.title or first.experiment.name}: {len(chosen)} cells, "
             f"{len(nodes)} artifacts, artifacts under {store.root}", ""]  # fmt: skip
    for cell in chosen:
        pending = [role for role, node in cell.nodes.items() if states[node.fingerprint].state != "done"]
        problems = [f"{states[n.fingerprint].state}: {states[n.fingerprint].reason}" for n in cell.nodes.values()
                    if states[n.fingerprint].state in ("failed", "not-run")]  # fmt: skip
        what = "cached" if not pending else "to do: " + ", ".join(pending)
        lines.append(f"  {cell.name:<48} {what}" + (f"  [{problems[0]}]" if problems else ""))
    lines += ["", f"  {'stage':<10}{'distinct':>9}{'cached':>8}{'to build':>10}{'shared':>8}   {'rough cost':<30}"]
    total, unknown = 0.0, []
    for stage in in_order({n.stage.name: None for n in nodes}):
        of_stage = [n for n in nodes if n.stage.name == stage]
        todo = [n for n in of_stage if states[n.fingerprint].state != "done"]
        shared = sum(used[n.fingerprint] > 1 for n in of_stage)
        costs = [estimate(n, finished, owner[n.fingerprint]) for n in todo]
        if None in costs:
            unknown.append(stage)
            cost = "no measured rate" + amount(todo, owner)
        else:
            minutes = sum(c for c in costs if c is not None)
            total += minutes
            cost = f"{minutes:.1f} min" if todo else "-"
        lines.append(
            f"  {stage:<10}{len(of_stage):>9}{len(of_stage) - len(todo):>8}{len(todo):>10}{shared:>8}   {cost}"
        )
    parts = [f"about {total:.0f} min"] if total or not unknown else []
    parts += [f"no measured rate for {', '.join(unknown)}"] if unknown else []
    lines += ["", f"  in all {', and '.join(parts)}"]
    if first.profile.measured_on and not finished:
        lines.append(f"  measured on {first.profile.measured_on}")
    return "\n".join(lines)


def in_order(stages: Iterable[str]) -> list[str]:
    """Each stage once, in the order in which a cell goes through them."""
    found = list(dict.fromkeys(stages))
    added = [stage for stage in found if stage not in (*FIRST, *LAST)]
    return [stage for stage in (*FIRST, *added, *LAST) if stage in found]


def amount(nodes: list[Node], owner: dict[str, Cell]) -> str:
    """How much work these artifacts of one stage are, in the stage's own unit, where the config says it."""
    total = 0
    for node in nodes:
        c = owner[node.fingerprint].config
        rows = c.pool.rows or c.pool.expected_rows
        budget = rows if owner[node.fingerprint].selector.whole_pool else c.budget
        items = sum(task.items or 0 for task in c.suite.tasks.values()) if c.suite.limit is None else 0
        part = {
            "answers": rows and rows * c.sampling.n,
            "grams": rows and rows * c.sampling.n,
            "losses": rows,
            "adapter": budget and budget * c.finetune.epochs,
            "eval": items,
        }.get(node.stage.name)
        if not part:
            return ""
        total += int(part)
    unit = {"answers": "answers to sample", "grams": "answers to embed", "losses": "records to read",
            "adapter": "examples to train on", "eval": "items to evaluate"}[nodes[0].stage.name]  # fmt: skip
    return f" ({total:,} {unit})"


def main() -> None:
    with plain_errors():
        print(render(*asked_for()))


if __name__ == "__main__":
    main()
