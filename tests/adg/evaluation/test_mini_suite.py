"""The mini suite is an instrument: what the untrained embedded model scores on it, item for item, stands here.

A prompt, a stop string, a filter or an adapter that does not do its part changes these figures.
"""

from __future__ import annotations

import dataclasses
import json
import sys
import types
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml

from adg.artifacts.artifact import Artifact, Job, Node, Stage
from adg.artifacts.store import Store
from adg.backbones import loading
from adg.backbones import stage as backbone_stage
from adg.backbones.config import BackboneConfig
from adg.evaluation import stage as evaluation_stage
from adg.evaluation.config import SuiteConfig
from adg.execution import ExecConfig
from adg.sandbox import host as sandbox

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(isinstance(sandbox.available(), str), reason=f"{sandbox.available()}"),
]
EXEC = ExecConfig(device="cpu", run_model_code=True, isolation="none", eval_batch_size=16)
RIGHT = {  # task: (right answers of the untrained model, items); of TruthfulQA the probability of the true answers
    "bbh": (7, 12),
    "gsm8k": (4, 12),
    "mmlu": (6, 12),
    "truthfulqa_mc2": (7.62, 12),
    "mbpp": (4, 12),
    "humaneval": (4, 15),
}
TOLERANCE = 1.01  # items that another machine's rounding may turn
SURE = 0.2  # the same for TruthfulQA's probabilities


@pytest.fixture(scope="module")
def suite(root: Path) -> SuiteConfig:
    return SuiteConfig.of(yaml.safe_load((root / "conf" / "suite" / "mini.yaml").read_text()))


@pytest.fixture(scope="module")
def backbone() -> Node:
    return backbone_stage.node(BackboneConfig(name="smollm2_135m", builder="smollm2_135m", dtype="float32"))


@pytest.fixture(scope="module")
def store(real_runs: Path) -> Store:
    return Store(real_runs, EXEC)


@pytest.fixture(scope="module")
def untrained(store: Store, suite: SuiteConfig, backbone: Node) -> Artifact:
    return store.ensure(evaluation_stage.node(None, backbone, suite))


def tasks_of(artifact: Artifact) -> dict[str, Any]:
    return json.loads(artifact.file("results.json").read_text())["tasks"]


def test_the_untrained_model_neither_fails_nor_solves_a_benchmark(untrained: Artifact) -> None:
    tasks = tasks_of(untrained)
    assert set(tasks) == set(RIGHT)
    for name, task in tasks.items():
        assert task["n"] >= 12 and 0.1 <= task["value"] <= 0.9, f"{name}: {task['value']} of {task['n']} items"


@pytest.mark.parametrize("name", RIGHT)
def test_what_is_right_is_right_again(untrained: Artifact, name: str) -> None:
    task, (right, items) = tasks_of(untrained)[name], RIGHT[name]
    tolerance = SURE if name == "truthfulqa_mc2" else TOLERANCE
    assert task["n"] == items
    assert task["value"] * items == pytest.approx(right, abs=tolerance)


def test_answers_end_before_the_cap(untrained: Artifact, store: Store, backbone: Node) -> None:
    """Of the right answers: the cap on generated tokens is not what keeps the wrong ones wrong."""
    tokenizer = loading.load_tokenizer(store.ensure(backbone))
    for name in ("bbh", "gsm8k"):
        rows = pq.read_table(untrained.path / "samples" / f"{name}.parquet").to_pylist()
        long = [row["doc_id"] for row in rows if len(tokenizer(row["response"])["input_ids"]) >= 40]
        assert not long, f"{name}: {long}"


def write_noise(job: Job) -> dict[str, Any]:
    """An adapter of large random weights, after which the model writes nothing that a task could take."""
    import torch
    from peft import LoraConfig, get_peft_model

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = get_peft_model(
            loading.load_model(job.inputs["backbone"], "cpu"),
            LoraConfig(r=4, lora_alpha=64, init_lora_weights=False, target_modules="all-linear", task_type="CAUSAL_LM"),
        )
    model.save_pretrained(job.folder / "adapter")
    return {"rows_in": 1, "rows_out": 1, "failed": []}


def test_an_adapter_moves_the_figures(store: Store, suite: SuiteConfig, backbone: Node) -> None:
    module = types.ModuleType("noise_of_this_test")
    module.build = write_noise  # type: ignore[attr-defined]
    sys.modules[module.__name__] = module
    adapter = Node(Stage("adapter", 1, f"{module.__name__}:build"), "noise", {}, {"backbone": backbone})
    part = dataclasses.replace(suite, tasks={"humaneval": suite.tasks["humaneval"]})
    task = tasks_of(store.ensure(evaluation_stage.node(adapter, backbone, part)))["humaneval"]
    assert task["value"] * task["n"] <= RIGHT["humaneval"][0] - 3
