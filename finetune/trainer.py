"""The one module that imports TRL and PEFT: every setting that matters is passed, since their defaults move.

How a batch is split into micro-batches and processes is no part of identity; the effective batch is.
"""

from __future__ import annotations

import math
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adg import seeds
from adg.artifacts.sealed import Damaged, file_digests, first_difference, read_sealed, require, write_sealed
from adg.errors import BadInput, BadMeasurement
from adg.progress import notice, progress
from finetune.config import FinetuneConfig

COMPLETE = "complete.json"  # written last into a checkpoint; one without it is never resumed from


@dataclass(frozen=True)
class StepSplit:
    """One optimizer step: ``processes`` x ``accumulation`` x ``micro_batch`` = the effective batch."""

    processes: int
    micro_batch: int
    accumulation: int

    def __str__(self) -> str:
        return f"{self.processes}x{self.accumulation}x{self.micro_batch}"


def split_step(batch_size: int, processes: int, micro_batch: int) -> StepSplit:
    """The largest micro-batch up to ``micro_batch`` that divides each process's share of ``batch_size``."""
    if batch_size % processes:
        near = max(processes, batch_size // processes * processes)
        raise BadInput(
            f"finetune.batch_size is {batch_size}, which {processes} processes (exec.train_processes) cannot "
            f"share evenly; use a number of processes that divides it, or finetune.batch_size={near}"
        )
    if micro_batch < 1:
        raise BadInput(f"exec.train_micro_batch is {micro_batch}; expected at least 1")
    share = batch_size // processes
    micro = max(size for size in range(1, min(micro_batch, share) + 1) if share % size == 0)
    return StepSplit(processes, micro, share // micro)


def sft_arguments(cfg: FinetuneConfig, split: StepSplit, precision: str, device: str, folder: Path) -> dict[str, Any]:
    """Arguments of TRL's ``SFTConfig``: ours, and the libraries' defaults we rely on, spelled out."""
    return {
        "output_dir": str(folder),
        "num_train_epochs": cfg.epochs,
        "max_steps": -1,
        "per_device_train_batch_size": split.micro_batch,
        "gradient_accumulation_steps": split.accumulation,
        "average_tokens_across_devices": True,  # the loss is a mean over the tokens of the whole effective batch
        "learning_rate": cfg.learning_rate,
        "lr_scheduler_type": cfg.scheduler,
        "warmup_steps": cfg.warmup_ratio,  # below 1: a share of all steps
        "weight_decay": cfg.weight_decay,
        "max_grad_norm": cfg.max_grad_norm,
        "optim": cfg.optimizer,
        "adam_beta1": cfg.adam_beta1,
        "adam_beta2": cfg.adam_beta2,
        "adam_epsilon": cfg.adam_epsilon,
        "bf16": precision == "bf16",
        "fp16": False,
        "use_cpu": device == "cpu",
        "ddp_find_unused_parameters": False,
        "gradient_checkpointing": cfg.gradient_checkpointing,
        "gradient_checkpointing_kwargs": {"use_reentrant": False},
        "neftune_noise_alpha": cfg.neftune_alpha,
        "label_smoothing_factor": 0.0,
        "loss_type": "nll",
        "seed": seeds.child(cfg.seed, "finetune", "dropout"),
        "data_seed": seeds.child(cfg.seed, "finetune", "order"),
        "train_sampling_strategy": "random",
        "dataloader_drop_last": False,
        "dataloader_num_workers": 0,
        "dataloader_pin_memory": device != "cpu",
        # The data set is ready: nothing is templated, truncated, packed or masked by TRL.
        "max_length": cfg.max_length,
        "packing": cfg.packing,
        "padding_free": False,
        "completion_only_loss": False,
        "assistant_only_loss": False,
        "shuffle_dataset": False,
        "dataset_kwargs": {"skip_prepare_dataset": True},
        "save_strategy": "steps",
        "save_steps": cfg.save_steps,
        "save_total_limit": 2,  # the previous one stays until the next is complete
        "eval_strategy": "no",
        "logging_strategy": "steps",
        "logging_steps": 1,
        "logging_nan_inf_filter": False,  # True would replace a NaN by the mean so far
        "report_to": "none",
        "disable_tqdm": True,
        "push_to_hub": False,
        "use_liger_kernel": False,
        "torch_compile": False,
    }


def lora_arguments(cfg: FinetuneConfig) -> dict[str, Any]:
    """Arguments of PEFT's ``LoraConfig``. "all-linear" is every linear layer but the language-model head."""
    names = [name.strip() for name in cfg.lora_target.split(",")]
    return {
        "r": cfg.lora_rank,
        "lora_alpha": cfg.lora_alpha,
        "lora_dropout": cfg.lora_dropout,
        "target_modules": cfg.lora_target if cfg.lora_target == "all-linear" else names,
        "bias": "none",
        "use_rslora": False,
        "use_dora": False,
        "init_lora_weights": True,
        "task_type": "CAUSAL_LM",
    }


def make_trainer(
    cfg: FinetuneConfig,
    split: StepSplit,
    precision: str,
    device: str,
    model: Any,
    tokenizer: Any,
    rows: list[dict[str, list[int]]],
    folder: Path,
) -> Any:
    """A TRL ``SFTTrainer`` that trains ``model`` on ``rows`` as they are. Seeds the global generators: call it and
    ``train`` inside ``generators_kept``."""
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import PrinterCallback
    from trl import SFTConfig, SFTTrainer
    from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

    class Trainer(SFTTrainer):
        def _send_telemetry(self) -> None:
            """Nothing about a run is sent anywhere."""

        def floating_point_ops(self, inputs: Any) -> int:
            """Not counted: nothing reads it, and each step would count the model's parameters anew."""
            return 0

        def create_model_card(self, *args: Any, **kwargs: Any) -> None:
            """Checkpoints are scratch; an adapter's manifest says what it is."""

    arguments = SFTConfig(**sft_arguments(cfg, split, precision, device, folder))
    if split.processes == 1 and arguments.n_gpu > 1:
        arguments._n_gpu = 1  # several GPUs are visible; one process uses the first only
    pad = tokenizer.pad_token_id
    trainer = Trainer(
        model=model,
        args=arguments,
        train_dataset=Dataset.from_dict({name: [row[name] for row in rows] for name in ("input_ids", "labels")}),
        data_collator=DataCollatorForLanguageModeling(pad_token_id=tokenizer.eos_token_id if pad is None else pad),
        processing_class=tokenizer,
        peft_config=LoraConfig(**lora_arguments(cfg)) if cfg.method == "lora" else None,
    )
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(_watch())
    return trainer


def _watch() -> Any:
    """Stop at a loss that is no number, mark complete checkpoints, show progress."""
    from accelerate import PartialState
    from transformers import TrainerCallback

    class Watch(TrainerCallback):
        bar: Any = None

        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.is_world_process_zero:
                self.bar = progress(state.max_steps, "fine-tuning", unit="steps").__enter__()
                self.bar.update(state.global_step)

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
            if self.bar is not None:
                self.bar.update(1)
            if state.global_step == state.max_steps < args.save_steps:
                control.should_save = False  # too short to be worth a checkpoint of its end
            return control

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
            for name in ("loss", "grad_norm"):
                value = (logs or {}).get(name)
                if value is not None and not math.isfinite(value):
                    raise BadMeasurement(
                        f"fine-tuning: {name} is {value} at step {state.global_step} of "
                        f"{state.max_steps}; nothing was saved from this step on. Lower "
                        f"finetune.learning_rate or set finetune.precision=fp32"
                    )

        def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            PartialState().wait_for_everyone()
            if state.is_world_process_zero:
                folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
                seal_checkpoint(folder)

        def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if self.bar is not None:
                self.bar.__exit__(None, None, None)

    return Watch()


def seal_checkpoint(folder: Path) -> None:
    """Write down, last, what a checkpoint holds; every file of it is on the disk by then."""
    write_sealed(folder / COMPLETE, {"files": file_digests(folder, leave_out=(COMPLETE,))})


def last_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint that is as it was written; half-written and damaged ones are deleted, the latter said.

    The trainer loads its tensors, optimizer and generator states weights-only.
    """
    steps = {int(p.name.rpartition("-")[2]): p for p in folder.glob("checkpoint-*") if p.name[11:].isdigit()}
    for step in sorted(steps, reverse=True):
        path = steps[step]
        try:
            content = read_sealed(path / COMPLETE)
            if content is not None:
                require(path / COMPLETE, content, {"files": dict})
                if wrong := first_difference(path, content["files"]):
                    raise Damaged(wrong)
                return path
        except Damaged as error:
            notice(f"{error.what}; the training goes on from an earlier checkpoint, or from its beginning")
        shutil.rmtree(path)
    return None
