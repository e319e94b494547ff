"""What can be said of a recipe before anything is trained: against the model's config, and the libraries' own lists."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from adg.backbones import model_config
from adg.errors import BadInput, nearest
from finetune.config import FinetuneConfig
from finetune.trainer import StepSplit, sft_arguments, split_step

KNOWN = {"optimizer": FinetuneConfig.optimizer, "scheduler": FinetuneConfig.scheduler}  # need no library to be checked


def check(cfg: FinetuneConfig, model: Mapping[str, Any] | None, processes: int, micro_batch: int) -> None:
    """Raise ``BadInput`` for what the recipe asks and the model, of that config, or a library does not have.

    ``model`` None: not known yet. Loads no weights; imports transformers only for values that are not the default.
    """
    split_step(cfg.batch_size, processes, micro_batch)
    if any(getattr(cfg, name) != value for name, value in KNOWN.items()):
        _check_names(cfg)
    if model is None:
        return
    positions = model_config.positions(model)
    if positions is not None and cfg.max_length > positions:
        raise BadInput(
            f"finetune.max_length is {cfg.max_length} but the model has {positions} positions; set "
            f"finetune.max_length={positions} or less"
        )
    if cfg.method == "lora" and cfg.lora_target != "all-linear":
        _check_targets(cfg, model)


def _check_names(cfg: FinetuneConfig) -> None:
    """Optimizer and scheduler by making both, as the trainer will, for one number."""
    import torch
    from transformers import SchedulerType, Trainer, get_scheduler
    from transformers.training_args import OptimizerNames
    from trl import SFTConfig

    for name, kind in (("optimizer", OptimizerNames), ("scheduler", SchedulerType)):
        value, known = getattr(cfg, name), sorted(member.value for member in kind)
        if value not in known:
            raise BadInput(f"finetune.{name} is {value!r}{nearest(value, known)}; expected one of {', '.join(known)}")
    with tempfile.TemporaryDirectory() as folder:
        arguments = SFTConfig(**sft_arguments(cfg, StepSplit(1, 1, 1), "fp32", "cpu", Path(folder)))
    try:
        Trainer.get_optimizer_cls_and_kwargs(arguments)
    except (ImportError, ValueError) as error:
        raise BadInput(
            f"finetune.optimizer is {cfg.optimizer!r}, which cannot be made here: {_first(error)}"
        ) from error
    one = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    try:
        get_scheduler(cfg.scheduler, one, num_warmup_steps=1, num_training_steps=10)
    except (TypeError, ValueError) as error:
        raise BadInput(
            f"finetune.scheduler is {cfg.scheduler!r}, which needs settings that there are no options for "
            f"({_first(error)}); choose another, such as {KNOWN['scheduler']}"
        ) from error


def _check_targets(cfg: FinetuneConfig, model: Mapping[str, Any]) -> None:
    """Each module name against the layers that LoRA can adapt: PEFT passes over a name that fits none."""
    import torch
    from transformers import AutoConfig
    from transformers.pytorch_utils import Conv1D

    from adg.backbones import weights

    kind = str(model.get("model_type"))
    bare = weights.skeleton(AutoConfig.for_model(kind, **{k: v for k, v in model.items() if k != "model_type"}))
    adaptable = (torch.nn.Linear, torch.nn.Embedding, Conv1D)
    modules = [name for name, module in bare.named_modules() if isinstance(module, adaptable)]
    names = sorted({name.rpartition(".")[2] for name in modules})
    for target in (name.strip() for name in cfg.lora_target.split(",")):
        if not any(name == target or name.endswith(f".{target}") for name in modules):
            raise BadInput(
                f"finetune.lora_target names {target!r}{nearest(target, names)}, which fits no layer of "
                f"{type(bare).__name__}; expected all-linear, or of {', '.join(names)}"
            )


def _first(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
