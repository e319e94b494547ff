"""The pilot: real data at one machine's size, from the hub or from files, and scaled by overrides alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from adg.artifacts.store import Store
from experiments import plan, run
from experiments.cells import Cell, cells
from experiments.compose import compose

SELECTORS = ["untrained", "random", "longest", "superfiltering", "answer_diversity", "adg"]


def test_what_the_profile_is() -> None:
    config = compose(["profile=pilot"])
    assert (config.backbone.name, config.backbone.builder) == ("smollm2_135m", "smollm2_135m")
    assert (config.pool.name, config.pool.rows, config.budget) == ("alpaca_gpt4", 2000, 200)
    assert config.pool.revision and config.pool.heldout >= 100
    assert config.profile.selectors.split(",") == SELECTORS
    paper = compose(["profile=paper"]).suite
    for name, task in config.suite.tasks.items():
        theirs = paper.tasks[name]
        same = ("num_fewshot", "metric", "filter", "version", "repo", "revision", "items", "runs_code")
        assert all(getattr(task, key) == getattr(theirs, key) for key in same), name
        assert task.limit is not None and (theirs.subtasks or task.subtasks or theirs.items), name
    assert config.suite.tasks.keys() == paper.tasks.keys()
    assert plan.items(config.suite) == sum(
        task.limit * len(task.subtasks or [name]) for name, task in config.suite.tasks.items()
    )


def test_each_selector_is_a_cell_with_a_held_out_loss_and_nothing_needs_a_gpu() -> None:
    chosen = cells(["profile=pilot"])
    assert list(dict.fromkeys(cell.config.selector["name"] for cell in chosen)) == SELECTORS
    assert all({"eval", "heldout"} <= set(cell.nodes) for cell in chosen)
    assert {cell.config.exec.device for cell in chosen} == {"auto"}
    shared = {
        cell.nodes["answers"].fingerprint for cell in chosen if cell.config.seed == 42 and "answers" in cell.nodes
    }
    assert len(shared) == 1, "both selectors that read answers read the same"


def pilot(folder: Path, shared: Path, *overrides: str) -> list[Cell]:
    """Cells of a pilot cut down to a minute, from the files beside the checkout."""
    small = [
        "pool.rows=24",
        "pool.heldout=4",
        "budget=8",
        "suite.limit=1",
        "suite.max_gen_toks=16",
        "finetune.epochs=1",
    ]
    files = ["pool.hub=null", f"pool.path={shared}/pools/alpaca.parquet", f"suite.data_root={shared}/benchmarks"]
    return cells(["profile=pilot", "backbone=tiny_random", *files, *small, f"exec.runs={folder}", *overrides])


@pytest.mark.slow
def test_a_cell_of_it_from_files(shared_dir: Path, tmp_path: Path) -> None:
    (cell,) = pilot(tmp_path, shared_dir / "data", "selector=longest", "seeds=1")
    assert run.run_cell(cell) == "done"
    store = Store(tmp_path)
    evaluated, heldout = (store.find(cell.nodes[role]) for role in ("eval", "heldout"))
    assert evaluated is not None and heldout is not None and heldout.info["rows_out"] == 4
    results = json.loads(evaluated.file("results.json").read_text(encoding="utf-8"))
    assert {task["status"] for task in results["tasks"].values()} <= {"done", "not-run"} and results["partial"]
