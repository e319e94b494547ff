"""Only the subset:

    adg select pool=local pool.path=my.jsonl selector=adg backbone=qwen2_5_7b engine=vllm budget=1000 out=subset.jsonl
    adg select pool=local pool.path=my.csv budget=1000 --dry-run
    adg select pool=local pool.hub=owner/data pool.revision=<commit> budget=1000 out=subset/ push=me/subset

No training, no benchmark, no tracking. ``out`` gets the chosen rows with all their original fields, as JSON Lines, a
JSON list, parquet or CSV by its ending; beside it ``subset.scores.jsonl`` has a row for every row of the pool's file
and ``subset.manifest.json`` says what made it. ``out=subset/`` makes a folder that a hub of data sets can hold, with a
card, and ``push=owner/name`` adds it to one there (private unless public=true). Files that exist are replaced with
``overwrite=true`` alone.
"""

from __future__ import annotations

import functools
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from adg.artifacts.artifact import Artifact, Node
from adg.artifacts.store import Store
from adg.errors import BadInput
from adg.pools.notices import notices
from adg.pools.records import from_key, load_left_out, order
from adg.pools.sources import files_of, local_path
from adg.selection.diagnostics import Diagnosis, in_words
from adg.selection.divergence import DivergenceConfig
from adg.selection.stability import QUADRANTS
from experiments import app, data_folder, dry_run, early, outputs
from experiments.cells import Cell
from experiments.config import Config
from experiments.outputs import Outputs
from experiments.report import diagnostics
from experiments.run import refuse_budget, say, store_of
from experiments.worker import Runner

DRY_RUN = "--dry-run"
SWITCHES = {DRY_RUN: "say rows, tokens, cost and what will be dropped; build and write nothing"}


def select(config: Config) -> Path:
    """Build the cell up to its subset, write it to ``config.out`` and push it where asked; returns the rows' path."""
    files, read, cell = _asked(config)
    if config.push is not None:
        data_folder.check_push(config.push, files, config.exec.offline)
    store = store_of(config)
    pool, subset = _built(cell, store, files)
    outputs.refuse_unsafe(files, read, config.overwrite)  # the work may have taken hours
    lines = subset.file("subset.jsonl").read_bytes().splitlines()
    manifest, card = (subset.path / "manifest.json").read_bytes(), None
    if files.card is not None:
        facts = data_folder.selection(cell, pool, subset)
        manifest = (json.dumps(facts, indent=2, ensure_ascii=False, default=str) + "\n").encode()
        card = functools.partial(data_folder.card, files, facts)
    outputs.write(files, lines, every_score(pool, subset), manifest, card)
    _say_what_was_chosen(cell, store, files, pool, subset)
    if config.push is not None:
        say(f"pushed: {data_folder.push(config.push, files, config.public)}")
    return files.rows


def _asked(config: Config) -> tuple[Outputs, dict[str, Path], Cell]:
    """Where the subset goes, what is read, and the cell. Raises ``BadInput`` for what cannot be meant."""
    files = outputs.outputs_of(config.out)
    read = read_by(config)
    outputs.refuse_unsafe(files, read, config.overwrite)
    cell = Cell(config)
    if not cell.selector.trains:
        raise BadInput(f"selector={cell.selector.name} selects nothing: it is the table's row without any training")
    if config.pool.corrupt:
        raise BadInput("pool.corrupt puts a fault into a pool for controls; rows are chosen from the pool as it is")
    early.check([cell], training=False)
    return files, read, cell


def _built(cell: Cell, store: Store, files: Outputs) -> tuple[Artifact, Artifact]:
    """The pool and the subset."""
    config = cell.config
    stages = {node.stage.name for node in cell.nodes["subset"].walk()}
    if "backbone" in stages and config.backbone.statement:
        say(f"{config.backbone.name}: {config.backbone.statement}; backbone=<name> chooses another")

    def on_build(node: Node, event: str, seconds: float) -> None:
        what = {"start": "...", "waiting": "is being built by another process, waiting"}
        say(f"  {node.stage.name:<9} {node.label} {what.get(event, f'{event} {seconds:.1f} s')}")

    with Runner() as runner:
        store.runner, store.exec = runner, config.exec
        pool = store.ensure(cell.nodes["pool"], on_build)  # bad rows are refused before any model is loaded
        for notice in notices(pool.info):
            say(f"  {notice}")
        refuse_budget(store, cell, pool)
        outputs.encoded(files, list(_rows(pool.file("original.jsonl"))))  # what its format cannot hold is refused now
        return pool, store.ensure(cell.nodes["subset"], on_build)


def _say_what_was_chosen(cell: Cell, store: Store, files: Outputs, pool: Artifact, subset: Artifact) -> None:
    facts = subset.info
    say(f"{facts['rows_out']:,} of {pool.info['rows_in']:,} records{_left_out(pool)} -> {files.rows}")
    if facts["shortfall"]:
        say(f"the released quota rule returned {facts['shortfall']:,} fewer than the budget of {facts['budget']:,}")
    say(f"scores of every record -> {files.scores}")
    if isinstance(cell.selector.config, DivergenceConfig) and (found := diagnostics.of_cell(cell, store)) is not None:
        say(f"{in_words(found)}{_shares(found)}")


def read_by(config: Config) -> dict[str, Path]:
    """Option -> the file or folder that it names and this configuration reads."""
    paths: dict[str, Any] = {"backbone.path": config.backbone.path}
    if config.selecting is not None:
        paths["selecting.path"] = config.selecting.path
    paths |= {f"selector.{name}": value for name, value in config.selector.items() if isinstance(value, str)}
    named = {option: Path(os.path.expanduser(value)) for option, value in paths.items() if value not in (None, "???")}
    read = {option: path for option, path in named.items() if path.exists()}
    if config.pool.path is not None:
        path = local_path(config.pool)
        read |= {"pool.path": path} | {f"pool.path ({p.name})": p for p in files_of(path, config.pool) if p != path}
    return read


def _rows(originals: Path) -> Iterator[bytes]:
    """Every row of a pool as it came, as JSON."""
    for line in originals.read_bytes().splitlines():
        yield json.dumps(json.loads(line)["row"]).encode()


def every_score(pool: Artifact, subset: Artifact) -> list[dict[str, Any]]:
    """A row for every row of the pool's source, in canonical order: its scores, or why it was left out of the pool."""
    scored = [json.loads(line) for line in subset.file("scores.jsonl").read_bytes().splitlines()]
    empty = {**dict.fromkeys(scored[0]), "selected": None}
    left_out = [{**empty, "id": from_key(key), "reason": why} for key, why in load_left_out(pool).items()]
    return sorted([*scored, *left_out], key=lambda row: order(row["id"]))


def _left_out(pool: Artifact) -> str:
    """How many rows of the source the pool does not hold, and why: ", 1 dropped"."""
    info = pool.info
    dropped, held_out = info["dropped"], info.get("held_out", 0)
    undrawn = info["sampled_from"] - info["rows_out"] - held_out
    counts = {"dropped": dropped, "not drawn (pool.rows)": undrawn, "held out (pool.heldout)": held_out}
    return "".join(f", {count:,} {why}" for why, count in counts.items() if count)


def _shares(found: Diagnosis) -> str:
    """Where the chosen stand, as a sentence."""
    if found.chosen is None or not sum(found.chosen):
        return ""
    shares = (
        f"{name} {100 * count / sum(found.chosen):.0f} % (pool {100 * there / sum(found.pool):.0f} %)"
        for name, count, there in zip(QUADRANTS, found.chosen, found.pool, strict=True)
    )
    return f" Chosen: {', '.join(shares)}."


def main(config: Config) -> None:
    select(config)


def plan(config: Config) -> None:
    """Say what ``select`` would do, and do nothing of it."""
    _, _, cell = _asked(config)
    say("\n".join(dry_run.lines(cell, store_of(config))))


def entry() -> None:
    """The command; without a profile the method runs at the paper's settings, nothing scaled down."""
    with app.plain_errors(__doc__, SWITCHES):
        _entry()


def _entry() -> None:
    if not any(argument.startswith("profile=") for argument in sys.argv[1:]):
        sys.argv.insert(1, "profile=own")
    if app.asked(DRY_RUN):
        sys.argv.remove(DRY_RUN)
        app.hydra_app(plan)
    else:
        app.hydra_app(main)


if __name__ == "__main__":
    entry()
