"""How to run, as opposed to what: nothing in here changes the identity of an artifact."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from adg import limits
from adg.errors import BadInput, nearest
from adg.limits import ABOVE_ZERO, at_least

ENGINES = ("hf", "vllm")  # what runs a language model: transformers, or vLLM
DTYPES = ("float32", "bfloat16", "float16")  # of weights in memory
SECRET_NAMES = re.compile(r"(API_?KEY|TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIALS?)$", re.IGNORECASE)  # of variables
LIMITS = {
    **dict.fromkeys(("threads", "max_failed", "workers", "actors"), at_least(0)),
    **dict.fromkeys(
        ("tokens_per_batch", "train_micro_batch", "eval_batch_size", "tensor_parallel", "train_processes", "replicas"),
        at_least(1),
    ),
    "gpu_memory": ABOVE_ZERO,
}


@dataclass(frozen=True)
class ExecConfig:
    """The ``exec`` subtree of the configuration; recorded in manifests, never hashed."""

    runs: str = field(default="runs", metadata={"path": True})  # folder of artifacts
    device: str = "auto"  # auto | cpu | cuda
    threads: int = 0  # CPU threads for torch; 0 leaves the library's choice
    isolation: str = "auto"  # auto | process | none: whether GPU stages get a worker process
    max_failed: int = 0  # rows that may fail in a stage before it stops
    tokens_per_batch: int = 4096  # padded tokens in one forward pass
    train_micro_batch: int = 4  # examples on a device at once; the effective batch is finetune.batch_size
    eval_batch_size: int = 8
    workers: int = 0  # model-written programs scored at once; 0: one a core
    tensor_parallel: int = 1
    distributed: str = "none"  # none | ray: sampling and scoring over Ray Data (set with engine.distributed)
    replicas: int = 1  # processes on this machine that share sampling and scoring (set with engine.replicas)
    actors: int = 0  # of Ray; 0: one for every tensor_parallel GPUs, or one where there is no GPU
    train_processes: int = 1  # processes that fine-tune side by side, one a GPU
    gpu_memory: float = 0.9  # share of GPU memory vLLM may take
    run_model_code: bool = False  # consent to run model-written programs (HumanEval, MBPP), confined
    offline: bool = False  # never ask a hub

    def __post_init__(self) -> None:
        if not self.runs.strip():
            raise BadInput("exec.runs is empty; expected a folder for the artifacts, or leave it out for runs/")
        for name, allowed in (
            ("device", ("auto", "cpu", "cuda")),
            ("isolation", ("auto", "process", "none")),
            ("distributed", ("none", "ray")),
        ):
            value = getattr(self, name)
            if value not in allowed:
                raise BadInput(f"exec.{name} is {value!r}{nearest(str(value), allowed)}; expected {', '.join(allowed)}")
        limits.check("exec", self, LIMITS)
        if self.distributed == "ray" and self.replicas > 1:
            raise BadInput(
                f"engine.replicas is {self.replicas} and engine.distributed is ray, which has actors of its own: set "
                f"exec.actors={self.replicas} in place of engine.replicas, or engine.distributed=none"
            )
        if not self.runs.strip():
            raise BadInput("exec.runs is empty; expected the folder that artifacts are kept in, such as runs")
