"""What a sweep would do:  python -m experiments.plan profile=paper [selector=adg,random ...]

Prints the cells, which artifacts are there, which will be built and for how many cells, and a rough cost. Nothing
is imported that needs a GPU, nothing is downloaded, nothing is built.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from adg.artifacts.artifact import Artifact, Node, read_artifact
from adg.artifacts.files import read_json
from adg.artifacts.store import Store
from experiments.app import plain_errors
from experiments.cells import Cell, asked_for, distinct
from experiments.report.published import ANALYSED, figures

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
        artifact: Artifact | None = read_artifact(store.path(node))
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
    lines = [
        f"{first.profile.statement}",
        f"{first.experiment.title or first.experiment.name}: {len(chosen)} cells, "
        f"{len(nodes)} artifacts, artifacts under {store.root}",
        "",
    ]
    for cell in chosen:
        pending = [role for role, node in cell.nodes.items() if states[node.fingerprint].state != "done"]
        problems = [
            f"{states[n.fingerprint].state}: {states[n.fingerprint].reason}"
            for n in cell.nodes.values()
            if states[n.fingerprint].state in ("failed", "not-run")
        ]
        problems += [
            f"will not run: needs a pinned revision of {n.config.unpinned}"
            for role, n in cell.nodes.items()
            if role in pending and getattr(n.config, "unpinned", None)
        ]
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
    lines += selection_cost(chosen, store)
    return "\n".join(lines)


def in_order(stages: Iterable[str]) -> list[str]:
    """Each stage once, in the order in which a cell goes through them."""
    found = list(dict.fromkeys(stages))
    added = [stage for stage in found if stage not in (*FIRST, *LAST)]
    return [stage for stage in (*FIRST, *added, *LAST) if stage in found]


def selection_cost(chosen: list[Cell], store: Store) -> list[str]:
    """Hours that the method's own work takes for the cell whose cost was published, beside the published hours.

    Rates are measured ones only: of finished answers and matrices of that backbone in this store, or else of
    ``make bench-gpu`` (``bench/gpu.json`` in the store's folder). Without one no hours are named.
    """
    cell = next(
        (
            c
            for c in chosen
            if (c.config.backbone.paper, c.config.pool.paper) == ANALYSED and c.config.selector["name"] == "adg"
        ),
        None,
    )
    if cell is None:
        return []
    rows, k = cell.config.pool.rows or cell.config.pool.expected_rows or 0, cell.config.sampling.n
    theirs = figures()["selection_cost_hours_4gpu"]["adg"]
    published = f"the paper names {theirs} h on 4 GPUs, {4 * theirs:.2f} GPU-hours"
    lines = [
        "",
        f"  selecting from {rows:,} examples with {cell.config.backbone.title or cell.config.backbone.name}, "
        f"{k} answers each: {published}",
    ]
    sampling, scoring = _rates(chosen, store, cell)
    for what, rate in (("sampling", sampling), ("scoring", scoring)):
        cost = "no measured rate"
        if rate is not None:
            cost = f"{rows * k / rate[0] / 3600:.2f} GPU-hours, {rate[0]:,.1f} answers/s measured {rate[1]}"
        lines.append(f"    {what:<9} {cost}")
    if sampling is None or scoring is None:
        lines.append("    no estimate without both rates; on a GPU, make bench-gpu measures them")
    else:
        hours = rows * k * (1 / sampling[0] + 1 / scoring[0]) / 3600
        lines.append(f"    together  {hours:.2f} GPU-hours, {hours / 4:.2f} h on 4 GPUs that share the records evenly")
    return lines


Rate = tuple[float, str]  # answers a second on one GPU, and where that was measured


def _rates(chosen: list[Cell], store: Store, cell: Cell) -> tuple[Rate | None, Rate | None]:
    """Rates of sampling and scoring with the backbone of ``cell`` that were measured on GPUs."""
    found: dict[str, Rate] = {}
    backbone = cell.nodes["backbone"].fingerprint
    for node in distinct(chosen):
        artifact = read_artifact(store.path(node)) if node.stage.name in ("answers", "grams") else None
        if artifact is None or node.inputs["backbone"].fingerprint != backbone:
            continue
        info, where = artifact.info, f"on {artifact.manifest['machine'].get('host')} for {node.label}"
        how = artifact.manifest.get("exec") or {}
        if how.get("distributed") == "ray":  # on how many GPUs is not known
            continue
        gpus = max(1, int(how.get("tensor_parallel", 1)))
        spent = info.get("sampling" if node.stage.name == "answers" else "embedding") or {}
        done = spent.get("tokens") or spent.get("answers")
        if not done or not spent["seconds"] or spent.get("device") != "cuda":  # all found again, or no GPU's rate
            continue
        if node.stage.name == "answers":
            answers = spent["tokens"] / (info["tokens"] / info["answers"])
            found["sampling"] = (answers / spent["seconds"] / gpus, where)
        else:
            found["scoring"] = (spent["answers"] / spent["seconds"], where)
    bench = read_json(store.root / "bench" / "gpu.json")
    if bench is not None and bench.get("shape") == "llama3_8b":
        where = f"on {bench['device']} by make bench-gpu at {bench['answer_tokens']} tokens an answer"
        found.setdefault("scoring", (bench["scoring"]["answers_per_second"], where))
        if isinstance(bench["sampling"], dict):
            rate = bench["sampling"]["tokens_per_second"] / bench["answer_tokens"]
            found.setdefault("sampling", (rate, f"{where}, {bench['sampling']['engine']}"))
    return found.get("sampling"), found.get("scoring")


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
    unit = {
        "answers": "answers to sample",
        "grams": "answers to embed",
        "losses": "records to read",
        "adapter": "examples to train on",
        "eval": "items to evaluate",
    }[nodes[0].stage.name]
    return f" ({total:,} {unit})"


def main() -> None:
    with plain_errors():
        print(render(*asked_for()))


if __name__ == "__main__":
    main()
