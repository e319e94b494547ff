"""Supervised fine-tuning: a subset and a backbone become an adapter (or a full model).

The one module that imports TRL and PEFT. Tokens and labels are ours (``adg.prompts``); TRL gets them ready-made and
every setting that matters explicitly, since its defaults differ from transformers' and move between releases.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import json
import math
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from adg import errors, models, prompts, records, seeds
from adg.errors import BadInput, BadMeasurement, HarnessError
from adg.execution import ExecConfig
from adg.progress import progress
from adg.store import Artifact, Job, Node, Stage, plain, write_atomic, write_json

STAGE = Stage("adapter", 1, "finetune.sft:build", gpu=True)

HERE = Path(__file__).resolve().parent
LORA_FIELDS = ("lora_rank", "lora_alpha", "lora_dropout", "lora_target")
COMPLETE = "complete.json"  # written last into a checkpoint; one without it is never resumed from
CHOICES = {
    "method": ("lora", "full"),
    "precision": ("auto", "bf16", "fp32"),
    "loss_on": ("response", "all"),
    "no_response": ("drop", "refuse"),
}


@dataclass(frozen=True)
class FinetuneConfig:
    """Everything that decides what is learned. How it is split over memory and devices is ``exec``'s.

    The defaults are the LoRA recipe; the released code trains all weights (conf/finetune/full.yaml).
    """

    name: str = field(default="lora", metadata={"identity": False})
    method: str = "lora"  # lora | full
    lora_rank: int = 64
    lora_alpha: int = 128
    lora_dropout: float = 0.05
    lora_target: str = "all-linear"  # or module names, comma-separated
    epochs: int = 3
    batch_size: int = 64  # examples per optimizer step, whatever the number of devices
    learning_rate: float = 1e-4
    scheduler: str = "cosine"
    warmup_ratio: float = 0.03  # share of all steps
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    optimizer: str = "adamw_torch"
    adam_beta1: float = 0.9
    adam_beta2: float = 0.999
    adam_epsilon: float = 1e-8
    max_length: int = 2048  # tokens of prompt and response together
    precision: str = "auto"  # bf16 | fp32; auto = the backbone's own
    loss_on: str = "response"  # response | all
    packing: bool = False  # one example a sequence; True is refused
    neftune_alpha: float | None = None  # noise on the embeddings; null = none
    no_response: str = "drop"  # rows whose response was cut off entirely: drop (counted) | refuse
    seed: int = 0
    # These two change memory, time and what a kill costs, never the result.
    gradient_checkpointing: bool = field(default=True, metadata={"identity": False})
    save_steps: int = field(default=100, metadata={"identity": False})  # optimizer steps between checkpoints

    def __post_init__(self) -> None:
        for name, allowed in CHOICES.items():
            value = getattr(self, name)
            if value not in allowed:
                raise BadInput(
                    f"finetune.{name} is {value!r}{errors.nearest(str(value), list(allowed))}; "
                    f"expected one of {', '.join(allowed)}"
                )
        for name in ("lora_rank", "lora_alpha", "epochs", "batch_size", "max_length", "save_steps"):
            if getattr(self, name) < 1:
                raise BadInput(f"finetune.{name} is {getattr(self, name)}; expected at least 1")
        for name in ("lora_dropout", "warmup_ratio"):
            if not 0 <= getattr(self, name) < 1:
                raise BadInput(f"finetune.{name} is {getattr(self, name)}; expected a share in [0, 1)")
        if not self.learning_rate > 0:
            raise BadInput(f"finetune.learning_rate is {self.learning_rate}; expected a positive number")
        if self.packing:
            raise BadInput(
                "finetune.packing is true; packed rows attend across examples without flash attention and "
                "no recipe of the study packs: set finetune.packing=false"
            )


@dataclass(frozen=True)
class Training:
    """What makes two trainings of one backbone on one subset the same."""

    recipe: FinetuneConfig
    template: str  # hash of the prompt template


def node(subset: Node, backbone: Node, cfg: FinetuneConfig) -> Node:
    """The artifact of training ``backbone`` on ``subset``. What full training does not read does not identify it."""
    if cfg.method == "full":
        default = FinetuneConfig()
        cfg = dataclasses.replace(cfg, **{name: getattr(default, name) for name in LORA_FIELDS})
    return Node(
        STAGE,
        f"{backbone.label}+{subset.label}+{cfg.name}",
        Training(cfg, prompts.HASH),
        {"subset": subset, "backbone": backbone},
    )


def build(job: Job) -> dict[str, Any]:
    """Train in this process, or through ``accelerate launch`` when ``exec.train_processes`` is above one.

    Payload: ``adapter/`` (PEFT, safetensors) or ``model/`` (method full), ``training.jsonl`` (one line a step).
    """
    if job.exec.train_processes > 1:
        return launch(job)
    return train(job)


# -- how a step is split (never identity) ------------------------------------------------------------------


@dataclass(frozen=True)
class Layout:
    """One optimizer step: ``processes`` x ``accumulation`` x ``micro_batch`` = the effective batch."""

    processes: int
    micro_batch: int
    accumulation: int

    def __str__(self) -> str:
        return f"{self.processes}x{self.accumulation}x{self.micro_batch}"


def layout(batch_size: int, processes: int, micro_batch: int) -> Layout:
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
    return Layout(processes, micro, share // micro)


# -- data --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Examples:
    """Tokenised rows in canonical id order, and the rows that had no response left."""

    rows: list[dict[str, list[int]]]
    left_out: list[dict[str, Any]]

    @property
    def tokens(self) -> int:
        return sum(len(row["input_ids"]) for row in self.rows)

    @property
    def loss_tokens(self) -> int:
        """Tokens that carry loss; the first of a sequence is never predicted."""
        return sum(label != prompts.IGNORED for row in self.rows for label in row["labels"][1:])


def tokenise(tokenizer: Any, subset: list[Any], cfg: FinetuneConfig) -> Examples:
    """``input_ids`` and ``labels`` of every row; rows cut so short that no response is left carry no loss in any
    recipe and are left out with their id."""
    rows, left_out = [], []
    for record in sorted(subset, key=lambda r: records.order(r.id)):
        prompt = prompts.encode_prompt(tokenizer, prompts.render(record.instruction, record.input))
        if len(prompt) >= cfg.max_length:
            left_out.append(
                {
                    "id": record.key,
                    "reason": f"its prompt has {len(prompt)} tokens, no response token is left within {cfg.max_length}",
                }
            )
            continue
        example = prompts.training_example(tokenizer, record, cfg.max_length)
        rows.append(example if cfg.loss_on == "response" else {**example, "labels": list(example["input_ids"])})
    return Examples(rows, left_out)


def _check_rows(examples: Examples, total: int, cfg: FinetuneConfig, max_failed: int) -> None:
    first = ", ".join(row["id"] for row in examples.left_out[:5])
    if cfg.no_response == "refuse" and len(examples.left_out) > max_failed:
        raise BadMeasurement(
            f"{len(examples.left_out)} of {total} training rows have no response token within "
            f"{cfg.max_length} tokens (ids {first}); raise finetune.max_length, or accept their loss "
            f"with finetune.no_response=drop"
        )
    if not examples.rows:
        raise BadMeasurement(
            f"none of the {total} training rows has a response token within {cfg.max_length} tokens; "
            f"raise finetune.max_length"
        )


# -- TRL and PEFT ------------------------------------------------------------------------------------------


def sft_arguments(cfg: FinetuneConfig, split: Layout, precision: str, device: str, folder: Path) -> dict[str, Any]:
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
    split: Layout,
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
                write_json(
                    folder / COMPLETE,
                    {
                        p.relative_to(folder).as_posix(): p.stat().st_size
                        for p in sorted(folder.rglob("*"))
                        if p.is_file()
                    },
                )

        def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if self.bar is not None:
                self.bar.__exit__(None, None, None)

    return Watch()


def last_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint that was written to its end; half-written ones are deleted.

    The trainer loads its tensors, optimizer and generator states weights-only.
    """
    found: dict[int, Path] = {}
    for path in folder.glob("checkpoint-*"):
        try:
            sizes = json.loads((path / COMPLETE).read_text())
        except FileNotFoundError:
            sizes = None
        if sizes and all((path / name).is_file() and (path / name).stat().st_size == n for name, n in sizes.items()):
            found[int(path.name.rpartition("-")[2])] = path
        else:
            shutil.rmtree(path, ignore_errors=True)
    return found[max(found)] if found else None


@contextlib.contextmanager
def generators_kept() -> Iterator[None]:
    """Put the global generators of Python, numpy and torch back as they were: the trainer seeds and uses them."""
    import random

    import numpy as np
    import torch

    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)  # noqa: NPY002


# -- training ----------------------------------------------------------------------------------------------


def train(job: Job) -> dict[str, Any]:
    """Train in this process (one of several under a launcher) and write the payload; returns ``info``.

    A second call after a kill carries on from the last complete checkpoint and, on a CPU, ends with the same bytes.
    With several processes only the first returns ``info``, and rows are repeated where they cannot share the last
    batch of an epoch evenly.
    """
    import torch

    cfg: FinetuneConfig = job.config.recipe
    target = job.folder / ("adapter" if cfg.method == "lora" else "model")
    done = job.work / "info.json"
    if target.is_dir() and done.is_file():  # killed between the last rename and the manifest
        return json.loads(done.read_text())

    processes = int(os.environ.get("WORLD_SIZE", "1"))
    first = int(os.environ.get("RANK", "0")) == 0
    split = layout(cfg.batch_size, processes, job.exec.train_micro_batch)
    device = models.device(job.exec)
    backbone = job.inputs["backbone"]
    own = "bf16" if models.dtype_of(backbone) == "bfloat16" else "fp32"
    precision = own if cfg.precision == "auto" else cfg.precision

    tokenizer = models.load_tokenizer(backbone)
    subset = records.load_rows(job.inputs["subset"].file("records.parquet"))
    examples = tokenise(tokenizer, subset, cfg)
    _check_rows(examples, len(subset), cfg, job.exec.max_failed)

    # A changed split would not end with the same bytes: it starts over in a folder of its own.
    folder = job.work / f"{device}-{precision}-{split}"
    started = time.time()
    cuda = device == "cuda"
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    # Full training keeps float32 weights under bf16 autocast; LoRA's frozen weights are bf16, its own float32.
    weights = "bfloat16" if precision == "bf16" and cfg.method == "lora" else "float32"
    model = models.load_model(backbone, device if processes == 1 else "cpu", dtype=weights)
    with generators_kept(), _quiet():
        trainer = make_trainer(cfg, split, precision, device, model, tokenizer, examples.rows, folder)
        trainable = sum(p.numel() for p in trainer.model.parameters() if p.requires_grad)
        checkpoint = last_checkpoint(folder) if processes == 1 or first else None
        if processes > 1:
            checkpoint = _agreed(trainer, checkpoint, folder)
        try:
            trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
        except torch.cuda.OutOfMemoryError as error:
            raise HarnessError(
                f"the GPU has too little memory for exec.train_micro_batch={split.micro_batch} (up to "
                f"{cfg.max_length} tokens each); lower it, the effective batch of {cfg.batch_size} "
                f"stays, or set finetune.gradient_checkpointing=true"
            ) from error
        staged = job.work / "final"
        if first:
            shutil.rmtree(staged, ignore_errors=True)
        trainer.save_model(str(staged))  # every process takes part where weights are sharded
    kept = ("step", "epoch", "loss", "grad_norm", "learning_rate", "entropy", "mean_token_accuracy")
    curve = [
        {name: line[name] for name in kept if name in line} for line in trainer.state.log_history if "loss" in line
    ]
    sharing = trainer.accelerator.distributed_type.value  # NO, MULTI_GPU (data parallel), FSDP, ...
    peak = torch.cuda.max_memory_allocated() if cuda else _process_peak()
    del trainer, model
    _release(cuda, processes)
    if not any(line["learning_rate"] for line in curve):
        raise BadMeasurement(
            f"the learning rate was 0 at each of the {len(curve)} optimizer steps (the warm-up takes "
            f"the first), so nothing was learned from {len(examples.rows)} rows; lower "
            f"finetune.batch_size (now {cfg.batch_size}) or set finetune.warmup_ratio=0"
        )
    if not first:
        return {}

    info = {
        "rows_in": len(subset),
        "rows_out": len(examples.rows),
        "rows_failed": len(examples.left_out),
        "failed": examples.left_out[:20],
        "steps": curve[-1]["step"],
        "effective_batch": min(cfg.batch_size, len(examples.rows)),
        "layout": {**dataclasses.asdict(split), "distributed": sharing},
        "precision": precision,
        "tokens_trained": examples.tokens * cfg.epochs,
        "loss_tokens_trained": examples.loss_tokens * cfg.epochs,
        "first_loss": curve[0]["loss"],
        "final_loss": curve[-1]["loss"],
        "trainable_parameters": trainable,
        "resumed_at_step": 0 if checkpoint is None else int(checkpoint.name.rpartition("-")[2]),
        "seconds": round(time.time() - started, 3),  # of this process; a resumed run counts from the resume
        "peak_memory_bytes": peak,
        "peak_memory_of": "gpu" if cuda else "process",
    }
    _tidy(staged, cfg.method, backbone)
    write_atomic(job.folder / "training.jsonl", "".join(json.dumps(line) + "\n" for line in curve).encode())
    write_json(done, info)
    shutil.rmtree(target, ignore_errors=True)
    staged.rename(target)
    return info


def _agreed(trainer: Any, checkpoint: Path | None, folder: Path) -> Path | None:
    """The first process's choice of checkpoint, known to all (it alone may delete half-written ones)."""
    from accelerate.utils import broadcast_object_list

    name = broadcast_object_list([None if checkpoint is None else checkpoint.name])[0]
    return None if name is None else folder / name


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Errors only from transformers: it warns at every start that the configs take the tokenizer's special tokens."""
    from transformers.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)


def _release(cuda: bool, processes: int) -> None:
    """Give memory back, and let the next stage of this process choose its own device and precision."""
    import torch
    from accelerate.state import AcceleratorState, GradientState

    gc.collect()
    if cuda:
        torch.cuda.empty_cache()
    if processes == 1:
        AcceleratorState._reset_state(reset_partial_state=True)
        GradientState._reset_state()


def _process_peak() -> int:
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _tidy(folder: Path, method: str, backbone: Artifact) -> None:
    """Leave only what loads the result: no pickle, no path of this machine, no order that changes between runs."""
    if method == "lora":
        for path in folder.iterdir():
            if path.name not in ("adapter_config.json", "adapter_model.safetensors"):
                path.unlink()
        settings = json.loads((folder / "adapter_config.json").read_text())
        settings["base_model_name_or_path"] = f"{backbone.manifest['label']}-{backbone.fingerprint[:16]}"
        settings["target_modules"] = sorted(settings["target_modules"])
        (folder / "adapter_config.json").write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n")
    else:
        (folder / "training_args.bin").unlink(missing_ok=True)
        config = json.loads((folder / "config.json").read_text())
        config.pop("_name_or_path", None)
        (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    for path in folder.iterdir():
        with open(path, "rb") as file:
            os.fsync(file.fileno())


# -- several GPUs ------------------------------------------------------------------------------------------


def launch(job: Job) -> dict[str, Any]:
    """Run ``finetune/run.py`` under ``accelerate launch`` with one process per GPU and read back its ``info``.

    LoRA runs data-parallel (ddp.yaml), full training sharded (fsdp.yaml).
    """
    cfg: FinetuneConfig = job.config.recipe
    processes = job.exec.train_processes
    layout(cfg.batch_size, processes, job.exec.train_micro_batch)
    request, failure = job.work / "request.json", job.work / "failure.json"
    failure.unlink(missing_ok=True)
    write_json(
        request,
        {
            "subset": str(job.inputs["subset"].path),
            "backbone": str(job.inputs["backbone"].path),
            "config": dataclasses.asdict(cfg),
            "exec": plain(job.exec),
            "folder": str(job.folder),
            "managed": True,
        },
    )
    command = [
        sys.executable,
        "-m",
        "accelerate.commands.launch",
        "--config_file",
        str(HERE / "accelerate" / ("ddp.yaml" if cfg.method == "lora" else "fsdp.yaml")),
        "--num_processes",
        str(processes),
        "--main_process_port",
        "0",  # a free one: another cell may be trained beside this
        str(HERE / "run.py"),
        str(request),
    ]
    # The processes end when this pipe closes, so a kill of this one leaves no trainer behind that still writes.
    with subprocess.Popen(command, stdin=subprocess.PIPE) as process:
        code = process.wait()
    if failure.is_file():
        told = json.loads(failure.read_text())
        raise getattr(errors, told["kind"])(told["reason"])
    if code != 0:
        raise HarnessError(
            f"`accelerate launch` of {processes} training processes ended with code {code}; the "
            f"reason stands above. Run the same command again to resume, or set exec.train_processes=1"
        )
    return json.loads((job.work / "info.json").read_text())


def run_request(path: Path) -> dict[str, Any]:
    """Do what a JSON request says (see ``finetune/run.py``) as one of the launched processes."""
    request = json.loads(path.read_text())
    known = ("subset", "backbone", "config", "exec", "folder", "managed")
    for name in request:
        if name not in known:
            raise BadInput(
                f"{path}: unknown key {name!r}{errors.nearest(name, list(known))}; expected {', '.join(known)}"
            )
    for name in ("subset", "backbone", "folder"):
        if name not in request:
            raise BadInput(f"{path}: {name!r} is missing; expected {', '.join(known)}")
    inputs = {role: _artifact(Path(request[role])) for role in ("subset", "backbone")}
    exec_ = ExecConfig(**request.get("exec", {}))
    if exec_.threads:
        import torch

        torch.set_num_threads(exec_.threads)
    folder = Path(request["folder"])
    recipe = FinetuneConfig(**request.get("config", {}))
    job = Job(Node(STAGE, folder.name, Training(recipe, prompts.HASH)), folder, inputs, exec_)
    info = train(job)
    if info and not request.get("managed", False):
        write_json(folder / "info.json", info)
        shutil.rmtree(job.work)
    return info


def _artifact(path: Path) -> Artifact:
    manifest = path / "manifest.json"
    if not manifest.is_file():
        raise BadInput(f"{path} is no finished artifact (it has no manifest.json); build it first")
    artifact = Artifact(path, json.loads(manifest.read_text()))
    artifact.verify()
    return artifact
