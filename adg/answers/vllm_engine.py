"""vLLM in this process: how it is started, made repeatable and shut down; sampling and log-probabilities with it.

The only module that starts vLLM for answers and losses. The engine's name is part of identity, its devices are not.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from adg.answers.config import Answer, Answers, SamplingConfig
from adg.artifacts.artifact import Artifact
from adg.backbones import loading, weights
from adg.execution import ExecConfig
from adg.seeds import preserved_generators

if TYPE_CHECKING:
    import numpy as np


CPU_CACHE_GB = 4  # memory for keys and values where there is no GPU


def engine_arguments(exec_: ExecConfig, cpu_cache_gb: int = CPU_CACHE_GB) -> dict[str, Any]:
    """What every vLLM engine of this project is started with, for sampling, losses and evaluation alike."""
    memory: dict[str, Any] = {"kv_cache_memory_bytes": cpu_cache_gb << 30}
    if loading.device(exec_) == "cuda":
        memory = {"gpu_memory_utilization": exec_.gpu_memory}
    return {
        "trust_remote_code": False,
        "tensor_parallel_size": exec_.tensor_parallel,
        "seed": 0,
        "generation_config": "vllm",  # nothing from the checkpoint's generation_config.json
        "async_scheduling": False,  # its steps would depend on timing
        "disable_log_stats": True,
        **memory,
    }


class Reseed:
    """Added to vLLM's workers: sets every generator they may sample with (CPU builds know no seed per request).

    On GPUs a request without a seed is given one by numpy's, elsewhere torch's draws the tokens.
    """

    def reseed(self, seed: int) -> None:
        import random

        import numpy as np
        import torch

        random.seed(seed)
        np.random.seed(seed % 2**32)  # noqa: NPY002 - vLLM draws from the global one
        torch.manual_seed(seed)  # every GPU's generator too


class Vllm:
    """vLLM with its engine in this process, which makes the order of its steps repeatable; ``close`` leaves no trace.

    ``settings`` are further arguments of vLLM's ``LLM``; ``max_model_len`` counts the tokens of a text and its answer.
    """

    def __init__(
        self,
        backbone: Artifact,
        dtype: str,
        exec_: ExecConfig,
        max_model_len: int,
        cpu_cache_gb: int = CPU_CACHE_GB,
        **settings: Any,
    ) -> None:
        path = loading.model_path(backbone)
        weights.check_once(path, loading.remedy_of(backbone))
        self._restore = prepare_vllm()
        try:
            with preserved_generators():
                from vllm import LLM

                self.llm = LLM(
                    model=str(path),
                    tokenizer=str(path),
                    dtype=loading.dtype_of(backbone) if dtype == "auto" else dtype,
                    max_model_len=max_model_len,
                    **engine_arguments(exec_, cpu_cache_gb),
                    **settings,
                )
        except BaseException:
            self._restore()
            raise

    def log_probabilities(self, texts: Sequence[list[int]]) -> list[np.ndarray]:
        """Of every token after those before it: (T,) float64 a text, natural log; NaN for its first token."""
        import numpy as np
        from vllm import SamplingParams

        params = SamplingParams(max_tokens=1, temperature=0, prompt_logprobs=0, detokenize=False)
        with preserved_generators():
            done = self.llm.generate([{"prompt_token_ids": ids} for ids in texts], params, use_tqdm=False)
        return [
            np.array([np.nan, *(at[token].logprob for at, token in zip(one.prompt_logprobs[1:], ids[1:], strict=True))])
            for one, ids in zip(done, texts, strict=True)
        ]

    def close(self) -> None:
        shut_down(self.llm)
        del self.llm
        self._restore()


class VllmEngine(Vllm):
    """Each batch starts from a fresh seed and an empty prefix cache; within it, a prompt is read once for its K
    answers. The order of the engine's steps, and so its draws, are repeatable."""

    def __init__(self, backbone: Artifact, tokenizer: Any, cfg: Answers, exec_: ExecConfig, longest: int) -> None:
        self.stop = loading.stop_ids(backbone, tokenizer)
        super().__init__(
            backbone,
            cfg.engine.dtype,
            exec_,
            longest + cfg.sampling.max_new_tokens,
            cfg.engine.cpu_cache_gb,
            enable_prefix_caching=True,
            max_num_seqs=cfg.engine.max_num_seqs,
            max_num_batched_tokens=cfg.engine.max_num_batched_tokens,
            enforce_eager=cfg.engine.enforce_eager,
            worker_extension_cls=f"{Reseed.__module__}.{Reseed.__qualname__}",
            logprobs_mode="raw_logprobs",  # of the model's own distribution, before temperature and cuts
        )

    def sample(self, prompts: Sequence[list[int]], cfg: SamplingConfig, seed: int) -> list[list[Answer]]:
        from vllm import SamplingParams

        params = SamplingParams(
            n=cfg.n,
            temperature=cfg.temperature,
            top_p=cfg.top_p,
            top_k=cfg.top_k,
            min_p=0.0,
            repetition_penalty=1.0,
            presence_penalty=0.0,
            frequency_penalty=0.0,
            max_tokens=cfg.max_new_tokens,
            stop_token_ids=self.stop,
            detokenize=False,
            logprobs=0 if cfg.logprobs else None,  # of the sampled token alone
        )
        with preserved_generators():
            self.llm.reset_prefix_cache()
            self.llm.collective_rpc("reseed", args=(seed,))
            done = self.llm.generate([{"prompt_token_ids": ids} for ids in prompts], params, use_tqdm=False)
        return [
            [
                Answer(list(one.token_ids), str(one.finish_reason), one.cumulative_logprob)
                for one in sorted(o.outputs, key=lambda c: c.index)
            ]
            for o in done
        ]


def prepare_vllm() -> Callable[[], None]:
    """Let vLLM run inside this process, quietly; returns a function that undoes what it changes here."""
    restore = _process_state()
    os.environ |= {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_NO_USAGE_STATS": "1"}
    os.environ["VLLM_USE_FLASHINFER_SAMPLER"] = "0"  # it draws with a generator of its own, where it is installed
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    return restore


def shut_down(llm: Any) -> None:
    """Give back the memory of a vLLM engine; the caller drops its last reference."""
    import gc

    from vllm.distributed import cleanup_dist_env_and_memory

    llm.llm_engine.engine_core.shutdown()
    del llm
    cleanup_dist_env_and_memory()
    gc.collect()


def _process_state() -> Any:
    """A function that gives this process back the environment, threads and cores that vLLM changes."""
    import torch

    environment = dict(os.environ)
    set_threads, threads = torch.set_num_threads, torch.get_num_threads()
    cores = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None

    def restore() -> None:
        os.environ.clear()
        os.environ.update(environment)
        torch.set_num_threads = set_threads  # its CPU worker puts a function without effect in its place
        torch.set_num_threads(threads)
        if cores is not None:
            os.sched_setaffinity(0, cores)

    return restore
