"""Only the subset:

    python -m experiments.select pool=local pool.path=my.jsonl selector=adg backbone=qwen2_5_7b engine=vllm \\
        budget=1000 out=subset.jsonl

No training, no benchmark, no tracking. ``out`` gets the chosen rows with all their original fields; beside it
``subset.scores.jsonl`` has a row for every record of the pool and ``subset.manifest.json`` says what made it.
"""

from __future__ import annotations

import sys
from pathlib import Path

from adg.artifacts.artifact import Node
from adg.artifacts.files import write_atomic
from adg.errors import BadInput
from experiments import config as config_
from experiments.cells import Cell
from experiments.config import Config
from experiments.run import refuse_budget, say, store_of
from experiments.worker import Runner


def select(config: Config) -> Path:
    """Build the cell up to its subset and copy it to ``config.out``; returns that path."""
    out = Path(config.out).absolute()
    if not out.parent.is_dir():
        raise BadInput(f"the folder {out.parent} of out={config.out} does not exist; create it first")
    cell = Cell(config)
    if config.pool.path is not None and out == Path(config.pool.path).expanduser().absolute():
        raise BadInput(f"out={config.out} is the pool's own file; name another one")
    stem = out.name.removesuffix(".jsonl")
    scores, manifest = out.with_name(f"{stem}.scores.jsonl"), out.with_name(f"{stem}.manifest.json")
    reads = {node.stage.name for node in cell.nodes["subset"].walk()}
    if "backbone" in reads and config.backbone.statement:
        say(f"{config.backbone.name}: {config.backbone.statement}; backbone=<name> chooses another")

    def on_build(node: Node, event: str, seconds: float) -> None:
        what = {"start": "...", "waiting": "is being built by another process, waiting"}
        say(f"  {node.stage.name:<9} {node.label} {what.get(event, f'{event} {seconds:.1f} s')}")

    store = store_of(config)
    with Runner() as runner:
        store.runner, store.exec = runner, config.exec
        pool = store.ensure(cell.nodes["pool"], on_build)  # bad rows are refused before any model is loaded
        refuse_budget(store, cell, pool)
        subset = store.ensure(cell.nodes["subset"], on_build)
    for source, target in (("subset.jsonl", out), ("scores.jsonl", scores)):
        write_atomic(target, subset.file(source).read_bytes())
    write_atomic(manifest, (subset.path / "manifest.json").read_bytes())
    facts = subset.info
    say(f"{facts['rows_out']:,} of {facts['rows_in']:,} records -> {out}")
    if facts["shortfall"]:
        say(f"the released quota rule returned {facts['shortfall']:,} fewer than the budget of {facts['budget']:,}")
    say(f"scores of every record -> {scores}")
    return out


def main(config: Config) -> None:
    select(config)


def entry() -> None:
    """The command; without a profile the method runs at the paper's settings, nothing scaled down."""
    if not any(argument.startswith("profile=") for argument in sys.argv[1:]):
        sys.argv.insert(1, "profile=own")
    config_.hydra_app(main)()


if __name__ == "__main__":
    entry()
