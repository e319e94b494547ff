"""Run one cell, or every cell of a sweep and print their table:

    adg run profile=mini pool=mini_cot selector=adg
    adg sweep profile=mini selector=adg,random seeds=3      (the same as adg run -m ...)

Nothing finished is repeated, because every artifact is found by its content key; a cell that fails keeps its
traceback, the others go on, and the exit code is 1. Hydra's own switches work too: --cfg job prints the whole
configuration, hydra/launcher=joblib hydra.launcher.n_jobs=2 runs two cells at a time.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import BrokenExecutor
from pathlib import Path
from typing import Any

from adg import command, live, screen
from adg.artifacts import disk
from adg.artifacts.artifact import WORK, Artifact, Node, file_name, plain
from adg.artifacts.files import read_json, write_json
from adg.artifacts.store import Store
from adg.backbones import loading
from adg.errors import BadInput, HarnessError, NotRunnable
from adg.evaluation import lm_eval_model, lm_eval_tasks
from adg.evaluation import stage as evaluation_stage
from adg.pools.notices import notices
from adg.printable import printable
from adg.progress import notice
from adg.redaction import without_secrets
from adg.selection import contract
from experiments import app, compose, early, gpus, parts, remaining, repeats, tracking
from experiments.cells import Cell, asked_for, refuse_same_names
from experiments.config import Config
from experiments.tracking import CellInfo, CellOutcome
from experiments.worker import Runner

_store: Store | None = None  # one a process, so that a stage that failed is not tried again by the next cell
# switches of Hydra that run nothing
SHOWS = {"--hydra-help", "--cfg", "-c", "--info", "-i", "--resolve", "--package", "-p"}
SUBMITIT = "hydra/launcher=submitit_slurm"
# environment, for every process that runs cells of this sweep: how many it has, and the places of those to be launched
_TOTAL = "ADG_SWEEP_CELLS"
_PLACES = "ADG_SWEEP_PLACES"


def store_of(config: Config) -> Store:
    """The process's store of artifacts."""
    global _store
    root = Path(config.exec.runs).absolute()
    if _store is None or _store.root != root:
        _store = Store(root)
    return _store


def say(text: str) -> None:
    sys.stdout.write(printable(text) + "\n")  # in one write: other cells say something too
    sys.stdout.flush()


def run_cell(cell: Cell, tag: str = "", eta: str = "") -> str:
    """Build every artifact of ``cell`` that is not there yet; returns "done", "not-run" or "failed".

    The cell's record says the same, "running" until then, and "interrupted" where the process was stopped.
    """
    config = cell.config
    if config.exec.threads:
        os.environ["OMP_NUM_THREADS"] = str(config.exec.threads)
    say(f"{tag}{cell.name}{eta}")

    def on_build(node: Node, event: str, seconds: float) -> None:
        say_event(tag, cell, node, event, seconds)

    store = store_of(config)
    path = record_path(cell, store)

    def record(state: str, **more: str) -> None:
        nodes = {role: node.folder for role, node in cell.nodes.items()}
        about = {"cell": cell.name, "fingerprint": cell.fingerprint, "overrides": list(cell.overrides), "nodes": nodes}
        _keep_record(path, {**about, "state": state, **more})

    record("running")
    with command.at_stop(lambda: record("interrupted")), screen.line(cell.name):
        try:
            _build(cell, store, on_build)
        except NotRunnable as error:
            record("not-run", reason=str(error))
            say(f"{tag}    not run: {error}")
            return "not-run"
        except Exception as error:
            if not command.stopping():
                reason = told(error, store)
                record("failed", reason=reason, traceback=traceback.format_exc())
                say(f"{tag}    FAILED: {reason}\n    traceback in {path}")
            return "failed"
        record("done")
        return "done"


def told(error: Exception, store: Store) -> str:
    """An error for the screen, without secrets; one of the disk in words."""
    return without_secrets(str(disk.explained(error, store.root) or error))


def _keep_record(path: Path, record: dict[str, Any]) -> None:
    """Write down how far a cell got, without secrets; a disk that does not take it is said and costs nothing else."""
    try:
        write_json(path, without_secrets(record))
    except OSError as error:
        notice(f"the record of this cell was not written: {disk.explained(error, path) or error}")


def record_path(cell: Cell, store: Store) -> Path:
    """Where it is written how far a cell got."""
    return store.root / "cells" / f"{file_name(cell.name.replace('/', '+'))}-{cell.fingerprint[:8]}.json"


def _build(cell: Cell, store: Store, on_build: Callable[[Node, str, float], None]) -> None:
    """Build a cell's artifacts in their order and report them to the tracker."""
    lacking = lacks(store, cell)
    if lacking is None:
        refuse_without_gpu(store, cell)
        refuse_suite(store, cell)
        if more_can_run(store, cell):
            store.reopen(cell.nodes["eval"])
    live_ = None if lacking is not None else _live(store, cell)
    with Runner() as runner, tracking.track(cell.config.tracker, info(cell), live_) as tracked:
        if lacking is not None:
            store.refuse(lacking, NotRunnable(lacking.lacks))
        store.runner, store.exec = runner, cell.config.exec
        artifacts = {}
        for role, node in cell.nodes.items():
            known = store.complete(node)
            artifacts[role] = store.ensure(node, on_build)
            refuse_early(store, cell, role, artifacts[role])
            for notice in notices(artifacts[role].info) if role == "pool" and not known else ():
                say(f"      {notice}")
            report(tracked, role, artifacts[role])


def report(tracked: CellOutcome, role: str, artifact: Artifact) -> None:
    """Tell the trackers what is to be told of an artifact."""
    if role == "adapter":
        tracked.training(_lines(artifact.file("training.jsonl")))
    elif role == "eval":
        tracked.results(json.loads(artifact.file("results.json").read_text(encoding="utf-8")))
    elif role == "subset":
        tracked.subset(artifact.file("subset.jsonl"), artifact.info)


def lacks(store: Store, cell: Cell) -> Node | None:
    """The first artifact of a cell that is not there and cannot be built; None where nothing is known to be in the way.

    Nothing of such a cell is built: the others build what they share with it.
    """
    return next((node for node in cell.nodes.values() if node.lacks and not store.complete(node)), None)


def _live(store: Store, cell: Cell) -> list[Path] | None:
    """Where stages of a cell that are not finished say how far they are; None where all of it is there."""
    if all(store.complete(node) for node in cell.nodes.values()):
        return None
    return live_files(store, cell)


def live_files(store: Store, cell: Cell) -> list[Path]:
    """Where training and evaluation say how far they are, while they are at work."""
    return [store.partial(cell.nodes[role]) / WORK / live.FILE for role in ("adapter", "eval") if role in cell.nodes]


def say_event(tag: str, cell: Cell, node: Node, event: str, seconds: float) -> None:
    """One line for what happens to an artifact."""
    what = {"start": f"{node.label} ...", "waiting": f"{node.label} is being built by another process, waiting"}
    begins = f"{tag}    {node.stage.name:<9} "
    if event != "cached":
        say(begins + what.get(event, f"{event} in {seconds:.1f} s"))
        if event in what:
            screen.stage(begins, what[event])
        else:
            screen.stage(f"{tag}{cell.name}")


def refuse_without_gpu(store: Store, cell: Cell) -> None:
    """Where more GPUs are asked for than there are, say so now, not after pools and weights were fetched."""
    exec_, seen = cell.config.exec, len(gpus.visible())
    if exec_.device == "cpu" or exec_.distributed != "none" or (exec_.device == "auto" and not seen):
        return
    left = [node for node in cell.nodes.values() if node.stage.gpus and not store.complete(node)]
    if left and not seen:
        raise BadInput(
            f"exec.device is cuda and no NVIDIA GPU is visible, with {len(left)} stages to do that need one (first "
            f"{left[0].label}); run this where there is a GPU, or set exec.device=cpu"
        )
    gpus.refuse_more_than(seen, max((node.stage.gpus_of(vars(exec_)) for node in left), default=0))


def refuse_early(store: Store, cell: Cell, role: str, artifact: Artifact) -> None:
    """Refuse what an artifact of a cell shows to be wrong now, before more is built."""
    if role == "pool":
        refuse_budget(store, cell, artifact)
    if role == "backbone":
        refuse_chat_template(store, cell, artifact)


def refuse_budget(store: Store, cell: Cell, pool: Artifact) -> None:
    """Refuse a budget above the pool now, not after its answers were sampled."""
    if "subset" in cell.nodes and not cell.selector.whole_pool and not store.complete(cell.nodes["subset"]):
        try:
            contract.check_budget(cell.config.budget, int(pool.info["rows_out"]))
        except HarnessError as error:
            store.refuse(cell.nodes["subset"], error)


def refuse_suite(store: Store, cell: Cell) -> None:
    """Refuse now what the installed lm-eval has not, and an adapter that the suite's backend could not run."""
    suite, recipe = cell.config.suite, cell.config.finetune
    if "eval" not in cell.nodes or store.complete(cell.nodes["eval"]):
        return
    lm_eval_tasks.check(suite)
    if suite.backend == "vllm" and recipe.method == "lora" and "adapter" in cell.nodes:
        targets = [name.strip() for name in recipe.lora_target.split(",")]
        lm_eval_model.check_lora_for_vllm("finetune.lora_rank or lora_target: the adapter", recipe.lora_rank, targets)


def refuse_chat_template(store: Store, cell: Cell, backbone: Artifact) -> None:
    """Refuse a tokenizer without the chat template that the suite asks for, before anything is sampled or trained."""
    if cell.config.suite.chat_template and "eval" in cell.nodes and not store.complete(cell.nodes["eval"]):
        try:
            lm_eval_model.check_chat_template(loading.load_tokenizer(backbone), cell.config.backbone.name)
        except HarnessError as error:
            store.refuse(cell.nodes["eval"], error)


def more_can_run(store: Store, cell: Cell) -> bool:
    """Whether the cell's evaluation left tasks out (no consent, no sandbox) that could run now."""
    evaluated = store.find(cell.nodes["eval"]) if "eval" in cell.nodes else None
    if evaluated is None:
        return False
    results = json.loads(evaluated.file("results.json").read_text(encoding="utf-8"))
    return evaluation_stage.can_complete(results, cell.config.exec)


def info(cell: Cell) -> CellInfo:
    """What trackers are told of a cell before it is run."""
    c = cell.config
    return CellInfo(
        name=cell.name,
        fingerprint=cell.fingerprint,
        group=f"{c.profile.name}-{c.experiment.name}",
        backbone=c.backbone.name,
        pool=c.pool.name,
        selector=str(c.selector["name"]),
        variant=cell.variant,
        config={
            **{field.name: plain(getattr(c, field.name)) for field in dataclasses.fields(c)},  # exec and tracker too
            **{group: getattr(c, group).name for group in ("profile", "preset", "experiment")},
        },
    )


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _position() -> tuple[str, str]:
    """Where this cell stands in a sweep, and how long the rest may take; empty outside a sweep."""
    total = int(os.environ.get(_TOTAL, "0"))
    if not total:
        return "", ""
    number, at_once = app.job()
    place = int(os.environ[_PLACES].split(",")[number])
    left = remaining.seconds(place, at_once)
    return _tag(place, total), "" if left is None else f" (about {max(1, round(left / 60))} min left)"


def _tag(place: int, total: int) -> str:
    return f"[{place + 1}/{total}] "


class CellFailed(HarnessError):
    """Cells failed; the others were run, and the exit status is 1."""


def main(config: Config) -> None:
    cell = Cell(config, app.task_overrides())
    compose.refuse_ignored(config, cell.overrides)
    tag, eta = _position()
    if not tag:
        if "seeds" in cell.swept:
            raise BadInput(f"seeds={config.seeds} repeats cells of a sweep; add -m, or choose one with seed=")
        early.check([cell])
    with screen.painting():
        state = run_cell(cell, tag, eta)
    if tag:  # a sweep ends with the table of all its cells, and says what failed
        return
    if state == "failed":
        raise CellFailed(f"{cell.name} failed; repair the cause and run the same command again")
    from experiments.report import sweep

    say(f"\n{sweep.write([cell], store_of(config))}")


def _sweep() -> None:
    """Every cell of the command line, then their table. Raises ``CellFailed`` where some failed."""
    from experiments.report import sweep

    if SUBMITIT in sys.argv:
        raise BadInput(
            f"{SUBMITIT} is replaced by adg submit, whose jobs wait for shared stages without a GPU; its options are "
            f"slurm.partition, slurm.minutes, slurm.mem_gb and more (docs/running.md)"
        )
    with contextlib.ExitStack() as composing:
        composing.enter_context(parts.shared())  # also for the table, whose name asks for cells
        chosen, _ = asked_for()  # what is wrong in the last cell is refused before the first is begun
        store = store_of(chosen[0].config)  # that of the cells which run here, so that what is there is verified once
        settled = [place for place, cell in enumerate(chosen) if _is_settled(cell, store)]
        left = [place for place in range(len(chosen)) if place not in settled]
        for place in left:
            refuse_suite(store, chosen[place])
        refuse_same_names(chosen)
        early.check(chosen)
        os.environ[_TOTAL], os.environ[_PLACES] = str(len(chosen)), ",".join(map(str, left))
        remaining.write_down(chosen, store)
        broken = ""
        try:
            lines = [chosen[place].overrides for place in left]
            with command.at_stop(lambda: _interrupted(chosen, store)), repeats.sweeping(lines), screen.painting():
                for place in settled:  # here, since a launcher would compose each once more to find nothing to do
                    run_cell(chosen[place], _tag(place, len(chosen)))
                if left:
                    composing.close()
                    app.hydra_app(main)
        except BrokenExecutor:
            broken = (
                "a process that ran cells was killed, perhaps for want of memory; the same command continues, with "
                "fewer cells at once: hydra.launcher.n_jobs=1"
            )
        say(f"\n{sweep.write(chosen, store)}")
    if broken:
        raise CellFailed(broken)
    records = {cell.name: read_json(record_path(cell, store)) or {"state": "never begun"} for cell in chosen}
    failed = [name for name, record in records.items() if record["state"] not in ("done", "not-run")]
    if failed:
        raise CellFailed(
            f"{len(failed)} of {len(chosen)} cells failed, first {failed[0]} ({records[failed[0]]['state']}); repair "
            f"the cause and run the same command again"
        )


def _is_settled(cell: Cell, store: Store) -> bool:
    """Whether a cell takes no time: all of it is there and nothing of it would be taken up again, or it cannot be run.
    What is damaged is made again."""
    try:
        if lacks(store, cell) is not None:
            return True
        return bool(cell.nodes) and all(map(store.complete, cell.nodes.values())) and not more_can_run(store, cell)
    except HarnessError:
        return False


def _interrupted(chosen: Sequence[Cell], store: Store) -> None:
    """Say so in the records of cells that processes of a launcher were at work on; they are killed without a word."""
    for path in (record_path(cell, store) for cell in chosen):
        record = read_json(path)
        if record is not None and record["state"] == "running":
            write_json(path, {**record, "state": "interrupted"})


def entry() -> None:
    """The command: one cell, or a sweep that ends with its table."""
    with app.plain_errors(__doc__):
        switches = set(sys.argv[1:])
        if {"-m", "--multirun"} & switches and not switches & SHOWS:
            _sweep()
        else:
            app.hydra_app(main)


if __name__ == "__main__":
    from experiments import run  # so that other processes find the functions of this module by name

    run.entry()
