"""What a sweep would do:  adg plan profile=paper [selector=adg,random ...]

Prints the cells, which artifacts are there, which will be built and for how many cells, a rough cost, and the smallest
difference that the study can see. Nothing is imported that needs a GPU, nothing is downloaded, nothing is built.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from adg.answers import stage as answers_stage
from adg.artifacts.artifact import Artifact, Node, Stage, read_artifact
from adg.artifacts.files import read_json
from adg.artifacts.store import Status, Store
from adg.embedding import one_pass
from adg.embedding import stage as embedding_stage
from adg.evaluation.benchmarks import BENCHMARKS
from adg.evaluation.config import SuiteConfig
from experiments import estimate as gpu_hours
from experiments import power
from experiments.app import JSON, as_json, asked, plain_errors
from experiments.cells import Cell, asked_for, distinct, owners
from experiments.report.published import ANALYSED, figures


def estimate(node: Node, finished: dict[str, list[float]], cell: Cell) -> float | None:
    """Minutes a stage may take: the mean of the finished ones of its kind here, else the profile's measurement."""
    seconds = finished.get(node.stage.name)
    if seconds:
        return sum(seconds) / len(seconds) / 60
    return cell.config.profile.minutes.get(node.stage.name)


def finished_seconds(store: Store, nodes: list[Node]) -> dict[str, list[float]]:
    """Seconds that the finished artifacts among ``nodes`` took, by stage."""
    seconds: dict[str, list[float]] = {}
    for node in nodes:
        artifact: Artifact | None = read_artifact(store.path(node))
        if artifact is not None:
            seconds.setdefault(node.stage.name, []).append(artifact.manifest["seconds"])
    return seconds


def seconds_on_gpus(store: Store, nodes: list[Node]) -> dict[str, list[float]]:
    """GPU-seconds of those that were made where a GPU was asked for, by stage."""
    seconds: dict[str, list[float]] = {}
    for node in nodes:
        artifact = read_artifact(store.path(node)) if node.stage.gpus else None
        how = artifact.manifest.get("exec") or {} if artifact is not None else {}
        if artifact is not None and how.get("device") == "cuda" and how.get("distributed") == "none":
            taken = artifact.manifest["seconds"] * max(1, node.stage.gpus_of(how))
            seconds.setdefault(node.stage.name, []).append(taken)
    return seconds


def render(chosen: list[Cell], store: Store) -> str:
    """The plan as text."""
    nodes = distinct(chosen)
    states = store.statuses(nodes)
    first = chosen[0].config
    lines = [
        f"{first.profile.statement}",
        f"{first.experiment.title or first.experiment.name}: {len(chosen)} cells, "
        f"{len(nodes)} artifacts, artifacts under {store.root}",
        "",
        *(cell_line(cell, states) for cell in chosen),
        "",
        *stage_lines(chosen, nodes, states, finished_seconds(store, nodes)),
        *gpu_hours.lines(chosen, nodes, states, seconds_on_gpus(store, nodes)),
        *selection_cost(chosen, store),
        *(["", f"  power: {power.line(chosen, store)}"] if first.experiment.last == "eval" else []),
    ]
    return "\n".join(lines)


def facts(chosen: list[Cell], store: Store) -> dict[str, Any]:
    """The plan for other programs. Minutes and hours are null where no rate is known."""
    nodes = distinct(chosen)
    states = store.statuses(nodes)
    first = chosen[0].config
    stages = stage_work(chosen, nodes, states, finished_seconds(store, nodes))
    hours = gpu_hours.hours(chosen, nodes, states, seconds_on_gpus(store, nodes))
    return {
        "profile": first.profile.name,
        "experiment": first.experiment.name,
        "runs": str(store.root),
        "cells": [
            {"name": cell.name, "to_do": pending, "problems": problems}
            for cell in chosen
            for pending, problems in (left_of(cell, states),)
        ],
        "stages": [
            {
                "stage": work.stage.name,
                "distinct": work.distinct,
                "cached": work.distinct - len(work.todo),
                "to_build": len(work.todo),
                "shared": work.shared,
                "minutes": work.minutes,
            }
            for work in stages
        ],
        "gpu": first.profile.gpu if hours else None,
        "gpu_hours": [asdict(entry) for entry in hours],
    }


def left_of(cell: Cell, states: Mapping[str, Status]) -> tuple[list[str], list[str]]:
    """The artifacts of a cell that are still to be built, by role, and what stands in the way."""
    state = {role: states[node.fingerprint] for role, node in cell.nodes.items()}
    pending = [role for role in state if state[role].state != "done"]
    problems = [f"{s.state}: {s.reason}" for s in state.values() if s.state in ("failed", "not-run")]
    problems += [f"will not run: {cell.nodes[role].lacks}" for role in pending if cell.nodes[role].lacks]
    return pending, problems


def cell_line(cell: Cell, states: Mapping[str, Status]) -> str:
    """One cell: what is left to do, and the first thing that stands in the way."""
    pending, problems = left_of(cell, states)
    what = "cached" if not pending else "to do: " + ", ".join(pending)
    return f"  {cell.name:<48} {what}" + (f"  [{problems[0]}]" if problems else "")


@dataclass(frozen=True)
class StageWork:
    """How many artifacts of a stage these cells need, how many cells share them, which are to be built, and how many
    minutes that may take: None without a measured rate."""

    stage: Stage
    distinct: int
    shared: int
    todo: Sequence[Node]
    minutes: float | None


def stage_work(
    chosen: Sequence[Cell], nodes: Sequence[Node], states: Mapping[str, Status], finished: dict[str, list[float]]
) -> list[StageWork]:
    """What each stage has to do, in the order in which a cell goes through them."""
    used = Counter(node.fingerprint for cell in chosen for node in cell.nodes.values())
    owner = owners(chosen)
    work = []
    for stage in in_order(node.stage for node in nodes):
        of_stage = [node for node in nodes if node.stage == stage]
        todo = [node for node in of_stage if states[node.fingerprint].state != "done"]
        costs = [estimate(node, finished, owner[node.fingerprint]) for node in todo]
        minutes = None if None in costs else sum(cost for cost in costs if cost is not None)
        work.append(StageWork(stage, len(of_stage), sum(used[n.fingerprint] > 1 for n in of_stage), todo, minutes))
    return work


def stage_lines(
    chosen: list[Cell], nodes: list[Node], states: Mapping[str, Status], finished: dict[str, list[float]]
) -> list[str]:
    """A line for each stage, and what is to be done in all."""
    work = stage_work(chosen, nodes, states, finished)
    width = max(10, *(len(of.stage.name) + 2 for of in work))
    lines = [f"  {'stage':<{width}}{'distinct':>9}{'cached':>8}{'to build':>10}{'shared':>8}   {'rough cost':<30}"]
    for of in work:
        if of.minutes is None:
            cost = "no measured rate" + amount(of.stage, of.todo, owners(chosen))
        else:
            cost = f"{of.minutes:.1f} min" if of.todo else "-"
        counts = f"{of.distinct:>9}{of.distinct - len(of.todo):>8}{len(of.todo):>10}{of.shared:>8}"
        lines.append(f"  {of.stage.name:<{width}}{counts}   {cost}")
    unknown = [of.stage.name for of in work if of.minutes is None]
    total = sum(of.minutes for of in work if of.minutes is not None)
    parts = [f"about {total:.0f} min"] if total or not unknown else []
    parts += [f"no measured rate for {', '.join(unknown)}"] if unknown else []
    lines += ["", f"  in all {', and '.join(parts)}"]
    profile = chosen[0].config.profile
    if profile.measured_on and not finished:
        lines.append(f"  measured on {profile.measured_on}")
    return lines


def in_order(stages: Iterable[Stage]) -> list[Stage]:
    """Each stage once, by its place; those of one place in the order of their use."""
    return sorted(dict.fromkeys(stages), key=lambda stage: stage.place)


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
    rates: dict[str, Rate] = {}
    backbone = cell.nodes["backbone"].fingerprint
    for node in distinct(chosen):
        measured = node.stage in (answers_stage.STAGE, one_pass.STAGE, embedding_stage.STAGE)
        artifact = read_artifact(store.path(node)) if measured else None
        if artifact is None or node.inputs["backbone"].fingerprint != backbone:
            continue
        info, where = artifact.info, f"on {artifact.manifest['machine'].get('host')} for {node.label}"
        how = artifact.manifest.get("exec") or {}
        if how.get("distributed") == "ray":  # on how many GPUs is not known
            continue
        gpus = max(1, node.stage.gpus_of(how))
        sampled = node.stage != embedding_stage.STAGE
        spent = info.get("sampling" if sampled else "embedding") or {}
        done = spent.get("tokens") or spent.get("answers")
        if not done or not spent["seconds"] or spent.get("device") != "cuda":  # all found again, or no GPU's rate
            continue
        if sampled:
            answers = spent["tokens"] / (info["tokens"] / info["answers"])
            rates["sampling"] = (answers / spent["seconds"] / gpus, where)
        else:
            rates["scoring"] = (spent["answers"] / spent["seconds"] / int(how.get("replicas", 1)), where)
    bench = read_json(store.root / "bench" / "gpu.json")
    if bench is not None and bench.get("shape") == "llama3_8b":
        where = f"on {bench['device']} by make bench-gpu at {bench['answer_tokens']} tokens an answer"
        rates.setdefault("scoring", (bench["scoring"]["answers_per_second"], where))
        if isinstance(bench["sampling"], dict):
            rate = bench["sampling"]["tokens_per_second"] / bench["answer_tokens"]
            rates.setdefault("sampling", (rate, f"{where}, {bench['sampling']['engine']}"))
    return rates.get("sampling"), rates.get("scoring")


def amount(stage: Stage, nodes: Sequence[Node], owner: Mapping[str, Cell]) -> str:
    """How much work these artifacts of ``stage`` are, in the stage's own unit; "" where the configs do not say it."""
    total = 0
    for node in nodes:
        cell = owner[node.fingerprint]
        c = cell.config
        rows = c.pool.rows or c.pool.expected_rows or 0
        adapter = cell.nodes.get("adapter")  # a training inside a selector is on other examples
        own = adapter is not None and adapter.fingerprint == node.fingerprint
        counts = {
            "answers": rows * c.sampling.n,
            "records": rows,
            "examples": (rows if cell.selector.whole_pool else c.budget) * c.finetune.epochs if own else 0,
            "held-out": c.pool.heldout,
            "items": items(c.suite),
        }
        count = int(counts.get(stage.work.split()[0] if stage.work else "", 0))
        if not count:
            return ""
        total += count
    return f" ({total:,} {stage.work})"


def items(suite: SuiteConfig) -> int:
    """Items that a suite puts to a model; 0 where the config does not say how many."""
    total = 0
    for name, task in suite.tasks.items():
        limit, group = suite.limit_of(name), name in BENCHMARKS and BENCHMARKS[name].data.prefix
        parts = len(task.subtasks or ()) if group else 1
        count = (task.items or 0) * (task.subtasks is None) if limit is None else limit * parts
        if not count:
            return 0
        total += count
    return total


def main() -> None:
    with plain_errors(__doc__, JSON):
        chosen, store = asked_for(JSON)
        print(as_json(facts(chosen, store)) if asked("--json") else render(chosen, store))


if __name__ == "__main__":
    main()
