"""The model as lm-eval wants it: transformers or vLLM, with the adapter beside the weights or merged into them.

Which of them runs, and the precision, stand in the suite and are identity; batch sizes and devices are not.
"""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import math
from collections.abc import Iterator, Sequence
from typing import Any

from adg.answers import vllm_engine
from adg.artifacts.artifact import Artifact, Job
from adg.backbones import adapters, loading, on_cpu, weights
from adg.errors import BadInput, BadMeasurement
from adg.evaluation import shared_context
from adg.progress import progress

PLAIN_SENTENCE = "Question: what is two plus two?\nAnswer:"
NOT_FINITE = (
    "the model's logits are not finite on a plain sentence; look at the training curve and at the dtype. "
    "No task was evaluated"
)
LORA_RANKS = (8, 16, 32, 64, 128, 256, 512)  # that vLLM reserves room for
VLLM_REQUESTS = 1024  # handed to vLLM at once, between two steps of the progress display


@contextlib.contextmanager
def make_model(job: Job) -> Iterator[Any]:
    """lm-eval's wrapper around the backbone with its adapter, beside the weights unless the suite merges it, or
    around a fully trained model."""
    backbone, dtype = job.inputs["backbone"], job.config.suite.dtype
    dtype = loading.dtype_of(backbone) if dtype == "auto" else dtype
    tokenizer = loading.load_tokenizer(backbone)
    if job.config.suite.chat_template:
        check_chat_template(tokenizer, backbone.path.name)
    with BACKENDS[job.config.suite.backend](job, tokenizer, dtype) as lm:
        ours, theirs = tokenizer(PLAIN_SENTENCE)["input_ids"], lm.tok_encode(PLAIN_SENTENCE)
        if ours != theirs:
            raise BadMeasurement(
                f"the backend {job.config.suite.backend} reads a plain sentence as {theirs[:6]}, the tokenizer of "
                f"{backbone.path.name} as {ours[:6]}: scores of different backends would not compare"
            )
        yield lm


def check_chat_template(tokenizer: Any, name: str) -> None:
    """Raise ``BadInput`` where the tokenizer of the backbone called ``name`` has no chat template to put prompts in."""
    if not tokenizer.chat_template:
        raise BadInput(
            f"suite.chat_template is true but the tokenizer of {name} has no chat template; "
            f"set suite.chat_template=false (base models have none)"
        )


@contextlib.contextmanager
def _hf(job: Job, tokenizer: Any, dtype: str) -> Iterator[Any]:
    """The model in transformers."""
    import gc

    import torch
    from transformers import GenerationConfig

    backbone, adapter, device = job.inputs["backbone"], job.inputs.get("adapter"), loading.device(job.exec)
    model = adapters.load_trained(backbone, adapter, device, dtype, job.exec.tensor_parallel)
    if job.config.suite.merge_adapter and adapter is not None and (adapter.path / "adapter").is_dir():
        model = model.merge_and_unload()
    on_cpu.lay_by_column(model)
    # a sequence stops by id, and nothing else of the checkpoint's sampling defaults applies
    model.generation_config = GenerationConfig(
        eos_token_id=loading.stop_ids(backbone, tokenizer),
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
    )
    _check_finite(model, tokenizer)
    lm = shared_context.make_lm(
        model,
        tokenizer,
        model.generation_config.eos_token_id,
        tokenizer(PLAIN_SENTENCE)["input_ids"],
        batch_size=job.exec.eval_batch_size,
        add_bos_token=loading.adds_bos(tokenizer),
    )
    try:
        yield lm
    finally:
        del lm, model
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


@contextlib.contextmanager
def _vllm(job: Job, tokenizer: Any, dtype: str) -> Iterator[Any]:
    """The model in vLLM, which runs a LoRA adapter beside the weights by its own means."""
    backbone, adapter = job.inputs["backbone"], job.inputs.get("adapter")
    folder, chosen = loading.model_path(backbone), dict[str, Any]()
    if adapter is not None and (adapter.path / "model").is_dir():
        folder = adapter.path / "model"
    elif adapter is not None:
        adapters.check(adapter.path / "adapter", folder)  # vLLM leaves out what fits nothing, as PEFT does
        chosen = _vllm_lora(adapter)
    weights.check_once(folder, loading.remedy_of(backbone))
    restore = vllm_engine.prepare_vllm()
    try:
        lm = _vllm_wrapper().VLLM(
            pretrained=str(folder),
            tokenizer=str(loading.model_path(backbone)),
            dtype=dtype,
            add_bos_token=loading.adds_bos(tokenizer),
            batch_size=VLLM_REQUESTS,
            enable_prefix_caching=True,
            enforce_eager=loading.device(job.exec) != "cuda",
            **chosen,
            **vllm_engine.engine_arguments(job.exec),
        )
        try:
            _check_finite_vllm(lm, tokenizer)
            yield lm
        finally:
            vllm_engine.shut_down(lm.model)
            del lm
    finally:
        restore()


def _vllm_lora(adapter: Artifact) -> dict[str, Any]:
    """Settings for the adapter. The head is left out of what vLLM prepares: its log-probabilities of a prompt mix up
    the rows of an adapted head, silently so on a GPU."""
    lora = json.loads(adapter.file("adapter/adapter_config.json").read_text(encoding="utf-8"))
    targets = lora["target_modules"]
    check_lora_for_vllm(str(adapter.path), lora["r"], targets)
    if isinstance(targets, str) or lora.get("modules_to_save"):
        raise BadInput(
            f"{adapter.path} adapts {targets} and saves {lora.get('modules_to_save')}: vLLM scores prompts wrongly "
            f"with an adapted head, and only lists of modules are checked; set suite.backend=hf"
        )
    path = str(adapter.path / "adapter")
    room = next(rank for rank in LORA_RANKS if rank >= lora["r"])
    return {"lora_local_path": path, "max_lora_rank": room, "lora_target_modules": sorted(targets)}


def check_lora_for_vllm(what: str, rank: int, targets: Sequence[str]) -> None:
    """Raise ``BadInput`` where vLLM cannot evaluate such an adapter, called ``what``, or scores prompts wrongly."""
    if rank > LORA_RANKS[-1]:
        raise BadInput(f"{what} has rank {rank}, vLLM takes at most {LORA_RANKS[-1]}; set suite.backend=hf")
    if "lm_head" in targets:
        raise BadInput(f"{what} adapts lm_head, with which vLLM scores prompts wrongly; set suite.backend=hf")


@functools.cache
def _vllm_wrapper() -> Any:
    """lm-eval's module for vLLM, which asks for the version of the package `vllm`: the CPU build has another name."""
    import importlib.metadata

    import vllm
    import vllm.platforms
    import vllm.triton_utils

    known = importlib.metadata.version

    def answered(distribution_name: str) -> str:
        return vllm.__version__ if distribution_name == "vllm" else known(distribution_name)

    # vLLM tells its platform by that version, and whether Triton serves, so both before it is answered
    assert vllm.platforms.current_platform and vllm.triton_utils.HAS_TRITON is not None
    importlib.metadata.version = answered
    try:
        import lm_eval.models.vllm_causallms as module
    finally:
        importlib.metadata.version = known
    return module


BACKENDS: dict[str, Any] = {"hf": _hf, "vllm": _vllm}


def _check_finite(model: Any, tokenizer: Any) -> None:
    """Refuse a model whose logits are not finite: greedy decoding would still write text, and it would be scored."""
    import torch

    ids = torch.tensor([tokenizer(PLAIN_SENTENCE)["input_ids"]], device=model.device)
    with torch.no_grad():
        finite = bool(torch.isfinite(model(ids).logits).all())
    if not finite:
        raise BadMeasurement(NOT_FINITE)


def _check_finite_vllm(lm: Any, tokenizer: Any) -> None:
    """The same for a model in vLLM, by the log-probabilities of the sentence's own tokens."""
    (output,) = lm._model_generate([tokenizer(PLAIN_SENTENCE)["input_ids"]])
    known = [one.logprob for token in output.prompt_logprobs if token for one in token.values()]
    if not known or not all(map(math.isfinite, known)):
        raise BadMeasurement(NOT_FINITE)


@contextlib.contextmanager
def quiet_lm_eval(backend: str) -> Iterator[None]:
    """One progress display of ours in place of lm-eval's bars and log lines."""
    import datasets
    import lm_eval.api.model
    import lm_eval.api.task
    import lm_eval.models.huggingface as huggingface

    logger, modules = logging.getLogger("lm_eval"), [lm_eval.api.model, lm_eval.api.task, huggingface]
    if backend == "vllm":
        modules.append(_vllm_wrapper())
    level, own, shown = logger.level, huggingface.tqdm, not datasets.are_progress_bars_disabled()

    def bar(rows: Any = None, *, total: int = 0, desc: str = "", **_: Any) -> Any:
        return progress(total, desc.lower(), "requests") if rows is None else rows

    logger.setLevel(logging.ERROR)
    datasets.disable_progress_bars()
    for module in modules:
        module.tqdm = bar
    try:
        yield
    finally:
        for module in modules:
            module.tqdm = own
        if shown:
            datasets.enable_progress_bars()
        logger.setLevel(level)
