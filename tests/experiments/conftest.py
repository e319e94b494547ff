"""Finished cells without models: artifacts whose evaluations hold the scores that a test gives them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from adg.artifacts.artifact import Artifact, Job, Node, canonical, run_builder
from adg.artifacts.files import sha256_text
from adg.artifacts.store import Store
from adg.evaluation import aggregate, heldout
from adg.evaluation.heldout import HeldOutLosses
from adg.evaluation.results import ITEM, SCHEMA, parquet_bytes
from adg.execution import ExecConfig
from experiments.cells import Cell, cells

Scores = Mapping[str, Mapping[str, list[float]]]  # task -> subtask -> scores of its items
REAL = ("pool", "contamination")  # stages that are cheap enough to be run for real


def write_evaluation(
    folder: Path, scores: Scores, partial: bool = False, prompt: str = "Q", backend: str = "hf"
) -> None:
    """``results.json`` and ``samples/`` of an evaluation with these scores."""
    tasks = {}
    for task, parts in scores.items():
        rows = [
            {
                "subtask": subtask,
                "doc_id": i,
                "filter": "none",
                "score": float(score),
                "answer": f"a{score:g}",
                "target": f"t{i}",
                "error": "",
                "response": f"says {score:g}",
                "prompt": f"{prompt} {i} of {subtask}",
                "prompt_tokens": 3,
                "prompt_hash": sha256_text(f"{prompt} {i}"),
                "doc_hash": sha256_text(f"{subtask} {i}"),
            }
            for subtask, values in parts.items()
            for i, score in enumerate(values)
        ]
        values = [row["score"] for row in rows]
        tasks[task] = {
            "status": "done",
            "reason": "",
            "metric": "acc",
            "filter": "none",
            "value": sum(values) / len(values),
            "stderr": aggregate.standard_error(values),
            "n": len(values),
            "num_fewshot": 0,
            "version": 1.0,
            "partial": partial,
            "partial_reasons": ["a limit"] if partial else [],
            "subtasks": {},
            "beside": {},
            "items_hash": sha256_text(canonical([[row[key] for key in ITEM] for row in rows])),
        }
        (folder / "samples").mkdir(exist_ok=True)
        (folder / "samples" / f"{task}.parquet").write_bytes(parquet_bytes(rows))
    results = {
        "schema": SCHEMA,
        "backend": backend,
        "suite": "mini",
        "lm_eval": "0.4.13",
        "prompt": "plain",
        "chat_template": False,
        "partial": partial,
        "partial_reasons": [],
        "tasks": tasks,
        "categories": aggregate.categories({task: entry["value"] for task, entry in tasks.items()}),
    }
    (folder / "results.json").write_text(json.dumps(results))


class Study:
    """Cells of the smoke profile whose evaluations are written by hand."""

    def __init__(self, runs: Path) -> None:
        self.runs = runs
        self.scores: dict[str, Scores] = {}  # fingerprint of an evaluation -> its scores
        self.options: dict[str, dict[str, Any]] = {}
        self.losses: dict[str, list[float]] = {}  # fingerprint of a held-out loss -> that of each row
        self.store = Store(runs, ExecConfig(), self._run)

    def cells(self, *overrides: str) -> list[Cell]:
        return cells(["profile=smoke", f"exec.runs={self.runs}", *overrides])

    def finish(self, cell: Cell, scores: Scores, **options: Any) -> Artifact:
        node = cell.nodes["eval"]
        self.scores[node.fingerprint], self.options[node.fingerprint] = scores, options
        return self.store.ensure(node)

    def hold_out(self, cell: Cell, losses: list[float]) -> Artifact:
        """The held-out loss of a cell, row by row."""
        node = cell.nodes["heldout"]
        self.losses[node.fingerprint] = losses
        return self.store.ensure(node)

    def _run(self, node: Node, folder: Path, inputs: Mapping[str, Artifact], exec_: Any) -> dict[str, Any]:
        if node.stage.name in REAL:
            return run_builder(node, folder, inputs, exec_)
        if node.stage.name == "eval":
            write_evaluation(folder, self.scores[node.fingerprint], **self.options[node.fingerprint])
        elif node.stage.name == "heldout":
            loss = np.array(self.losses[node.fingerprint])
            ids, tokens = [str(i) for i in range(len(loss))], np.full(len(loss), 9)
            job = Job(node, folder, inputs, exec_)
            heldout.save(job, HeldOutLosses(ids, loss, tokens, np.zeros(len(loss), dtype=bool)))
        elif node.stage.name == "subset":
            (folder / "records.parquet").write_bytes(inputs["pool"].file("records.parquet").read_bytes())
        else:
            (folder / "made").write_text(node.label)
        return {"rows_in": 1, "rows_out": 1, "failed": []}


@pytest.fixture(scope="session")
def new_study() -> type[Study]:
    """For fixtures that several tests share."""
    return Study


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return Study(tmp_path / "runs")


@pytest.fixture
def flat() -> Callable[[float], Scores]:
    """Six tasks of 20 items, of which a share is right."""

    def scores(share: float) -> Scores:
        tasks = ("bbh", "gsm8k", "mmlu", "truthfulqa_mc2", "mbpp", "humaneval")
        return {task: {task: [float(i < round(20 * share)) for i in range(20)]} for task in tasks}

    return scores
