"""Numbers among the options, refused with option, value and range when a config is made."""

from __future__ import annotations

from typing import Any

import pytest

from adg.answers.config import EngineConfig, SamplingConfig
from adg.embedding.config import BinsConfig, EmbeddingConfig
from adg.errors import BadInput
from adg.execution import ExecConfig
from finetune.config import FinetuneConfig

NAN, INFINITE = float("nan"), float("inf")
BAD: list[tuple[type, str, str, list[Any]]] = [
    (ExecConfig, "exec", "threads", [-1, 1.5, True]),
    (ExecConfig, "exec", "max_failed", [-1]),
    (ExecConfig, "exec", "workers", [-2]),
    (ExecConfig, "exec", "actors", [-2]),
    (ExecConfig, "exec", "tokens_per_batch", [0, -4096]),
    (ExecConfig, "exec", "train_micro_batch", [0, -4]),
    (ExecConfig, "exec", "eval_batch_size", [0, -8]),
    (ExecConfig, "exec", "tensor_parallel", [0]),
    (ExecConfig, "exec", "train_processes", [0]),
    (ExecConfig, "exec", "gpu_memory", [0, 1.1, -0.5, NAN]),
    (ExecConfig, "exec", "runs", ["", "  "]),
    (ExecConfig, "exec", "device", ["gpu"]),
    (FinetuneConfig, "finetune", "lora_rank", [0, -1]),
    (FinetuneConfig, "finetune", "lora_alpha", [0]),
    (FinetuneConfig, "finetune", "lora_dropout", [1, -0.1, NAN]),
    (FinetuneConfig, "finetune", "lora_target", ["", "q_proj,", " , "]),
    (FinetuneConfig, "finetune", "epochs", [0, -3, 1.5]),
    (FinetuneConfig, "finetune", "batch_size", [0, -64]),
    (FinetuneConfig, "finetune", "learning_rate", [0, -1e-4, NAN, INFINITE]),
    (FinetuneConfig, "finetune", "warmup_ratio", [1, -0.1, NAN]),
    (FinetuneConfig, "finetune", "weight_decay", [-1, NAN, INFINITE]),
    (FinetuneConfig, "finetune", "max_grad_norm", [-1, NAN]),
    (FinetuneConfig, "finetune", "adam_beta1", [1, -0.1]),
    (FinetuneConfig, "finetune", "adam_beta2", [1, -0.1]),
    (FinetuneConfig, "finetune", "adam_epsilon", [0, -1e-8]),
    (FinetuneConfig, "finetune", "max_length", [0, -1]),
    (FinetuneConfig, "finetune", "neftune_alpha", [0, -5, NAN]),
    (FinetuneConfig, "finetune", "save_steps", [0]),
    (SamplingConfig, "sampling", "n", [0, -5]),
    (SamplingConfig, "sampling", "temperature", [-0.1, NAN, INFINITE]),
    (SamplingConfig, "sampling", "top_p", [0, 1.1, NAN]),
    (SamplingConfig, "sampling", "top_k", [-1]),
    (SamplingConfig, "sampling", "max_new_tokens", [0]),
    (SamplingConfig, "sampling", "prompt_tokens", [1, -80]),
    (EngineConfig, "engine", "batch_size", [0]),
    (EngineConfig, "engine", "max_num_seqs", [-1]),
    (EngineConfig, "engine", "max_num_batched_tokens", [0]),
    (EngineConfig, "engine", "cpu_cache_gb", [0]),
    (EmbeddingConfig, "embedding", "max_tokens", [0]),
    (EmbeddingConfig, "embedding", "instruction_tokens", [-1]),
    (BinsConfig, "embedding.bins", "clusters", [0]),
    (BinsConfig, "embedding.bins", "seed", [-1, 2**32]),
]


@pytest.mark.parametrize(("kind", "group", "name", "values"), BAD, ids=[f"{group}.{name}" for _, group, name, _ in BAD])
def test_numbers_out_of_range_are_refused_by_name(kind: Any, group: str, name: str, values: list[Any]) -> None:
    for value in values:
        with pytest.raises(BadInput, match=rf"{group}\.{name} is .*expected|{group}\.{name} is empty"):
            kind(**{name: value})


def test_null_means_none_only_where_there_is_one() -> None:
    assert FinetuneConfig(neftune_alpha=None).neftune_alpha is None
    assert SamplingConfig(prompt_tokens=None).prompt_tokens is None
    unset: Any = None
    with pytest.raises(BadInput, match=r"finetune\.weight_decay is None"):
        FinetuneConfig(weight_decay=unset)
