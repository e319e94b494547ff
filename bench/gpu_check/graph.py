"""What is built: the artifacts of two cells of the mini profile, one in transformers and one in vLLM.

The sizes are such that all steps together take less than eight minutes on one GPU with the embedded model.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from adg.artifacts.artifact import Node
from adg.artifacts.store import Store
from adg.errors import BadInput, nearest
from adg.evaluation import stage as evaluation_stage
from bench.gpu_check import checked_answers
from experiments.cells import Cell, cells
from experiments.config import Config

OURS = ("profile", "selector", "engine", "suite.backend", "suite.merge_adapter", "exec.runs", "exec.isolation")
ON_A_GPU = {
    "profile": "mini",
    "backbone.dtype": "bfloat16",  # as the paper's models
    "suite.dtype": "auto",
    "pool.rows": "64",
    "pool.heldout": "0",
    "budget": "48",
    "sampling.max_new_tokens": "128",
    "engine.batch_size": "32",  # two batches, so that two replicas have work
    "engine.max_num_seqs": "256",  # vLLM captures graphs up to this many
    "finetune.max_length": "512",
    "finetune.batch_size": "8",
    "finetune.epochs": "2",
    "finetune.gradient_checkpointing": "true",
    "exec.device": "cuda",
    "exec.tokens_per_batch": "65536",
    "exec.run_model_code": "true",  # the coding benchmarks run model-written programs, confined
}
TINY = {
    "profile": "smoke",
    "pool.rows": "12",
    "pool.heldout": "0",
    "sampling.n": "3",
    "finetune.batch_size": "4",
    "suite.limit": "2",
    "engine.enforce_eager": "true",
    "engine.cpu_cache_gb": "1",
    "engine.max_num_seqs": "16",
    "exec.device": "auto",
    "exec.run_model_code": "true",
}


@dataclass(frozen=True)
class Graph:
    """The artifacts by what a step calls them, and how they are built."""

    config: Config
    nodes: dict[str, Node]
    store: Store


def refuse(given: Sequence[str]) -> None:
    """Raise ``BadInput`` for an override that the check sets itself, or that is none."""
    for word in given:
        key, equals, _ = word.partition("=")
        if not equals:
            raise BadInput(f"{word!r} is no override; expected key=value, such as backbone=llama3_8b")
        if key in OURS:
            raise BadInput(f"{key} is set by the check itself, which runs both engines; leave it out")
        if key.startswith("-"):
            raise BadInput(f"{word} is no option{nearest(key, ['--tiny', '--only', '--minutes', '--out'])}")


def graph(given: Sequence[str], tiny: bool, runs: Path) -> Graph:
    """The artifacts for these overrides, below ``runs``. Raises ``BadInput``."""
    refuse(given)
    own = {word.partition("=")[0] for word in given}
    common = [f"{key}={value}" for key, value in (TINY if tiny else ON_A_GPU).items() if key not in own]
    common += ["suite.merge_adapter=false", f"exec.runs={runs}", "exec.isolation=none", *given]
    one = _cell("selector=adg", "engine=hf", "suite.backend=hf", *common)
    other = _cell("selector=random", "engine=vllm", "suite.backend=vllm", *common)
    pool, backbone, adapter = (other.nodes[role] for role in ("pool", "backbone", "adapter"))
    sampling = dataclasses.replace(other.config.sampling, logprobs=True)
    nodes = {
        "pool": pool,
        "backbone": backbone,
        "answers, vllm": checked_answers.node(pool, backbone, sampling, other.config.engine),
        "answers, hf": one.nodes["answers"],
        "grams": one.nodes["grams"],
        "subset": one.nodes["subset"],
        "adapter": adapter,
    }
    for cell in (one, other):
        suite = cell.config.suite
        nodes[f"evaluation, {suite.backend}"] = evaluation_stage.node(adapter, backbone, suite)
        nodes[f"evaluation, {suite.backend}, alone"] = evaluation_stage.node(None, backbone, suite)
    return Graph(other.config, nodes, Store(runs, other.config.exec))


def _cell(*words: str) -> Cell:
    (cell,) = cells(list(words))
    return cell
