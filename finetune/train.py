"""Supervised fine-tuning: a subset and a backbone become an adapter (or a full model).

Tokens and labels are ours (``adg.prompts``); ``trainer.py`` hands them to TRL. A killed training goes on from its
last complete checkpoint.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import json
import os
import shutil
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adg import live
from adg.artifacts.artifact import Artifact, Job
from adg.artifacts.files import write_atomic
from adg.artifacts.sealed import Damaged, file_digests, first_difference, read_sealed, require, write_sealed
from adg.backbones import loading
from adg.backbones.on_cpu import share_keys
from adg.errors import BadMeasurement, HarnessError
from adg.pools import records
from adg.progress import notice
from adg.seeds import preserved_generators
from finetune import checks
from finetune.config import FinetuneConfig
from finetune.examples import Examples, check_rows, tokenise
from finetune.trainer import StepSplit, last_checkpoint, make_trainer, split_step

OUTPUT = "output"  # in the work folder: what the training made, as it becomes the payload
CURVE = ("step", "epoch", "loss", "grad_norm", "learning_rate", "entropy", "mean_token_accuracy")  # of a step
DONE = "done.json"  # beside it: the manifest's info and the digests of the output; written last


@dataclass(frozen=True)
class Share:
    """How one of the processes takes part in a training: its numbers, its device, its part of each step."""

    processes: int
    first: bool  # writes what there is one of
    device: str
    precision: str  # bf16 | fp32
    split: StepSplit

    @property
    def folder(self) -> str:
        """Of the checkpoints. A changed split would not end with the same bytes: it starts over in one of its own."""
        return f"{self.device}-{self.precision}-{self.split}"


@dataclass(frozen=True)
class Learned:
    """What is known of a training that ended; the weights are on disk."""

    curve: list[dict[str, Any]]  # a line an optimizer step
    trainable: int  # parameters
    resumed_at: int  # step of the checkpoint it went on from; 0: from the beginning
    sharing: str  # NO, MULTI_GPU (data parallel), FSDP, ...
    peak_memory: int  # bytes


def train(job: Job) -> dict[str, Any]:
    """Train in this process (one of several under a launcher) and write the payload; returns ``info``.

    A second call after a kill carries on from the last complete checkpoint and, on a CPU, ends with the same bytes.
    With several processes only the first returns ``info``, and rows are repeated where they cannot share the last
    batch of an epoch evenly.
    """
    cfg: FinetuneConfig = job.config.recipe
    share = _share(job)
    tokenizer = loading.load_tokenizer(job.inputs["backbone"])
    subset = records.load_rows(job.inputs["subset"].file("records.parquet"))
    examples = tokenise(tokenizer, subset, cfg)
    check_rows(examples, len(subset), cfg, job.exec.max_failed)
    started = time.time()
    output = job.work / OUTPUT / ("adapter" if cfg.method == "lora" else "model")
    learned = _learn(job, share, tokenizer, examples, output)
    _release(share)
    _check_learned(learned, len(examples.rows), cfg)
    if not share.first:
        return {}
    info = {
        "rows_in": len(subset),
        "rows_out": len(examples.rows),
        "rows_failed": len(examples.left_out),
        "failed": examples.left_out[:20],
        "steps": learned.curve[-1]["step"],
        "effective_batch": min(cfg.batch_size, len(examples.rows)),
        "layout": {**dataclasses.asdict(share.split), "distributed": learned.sharing},
        "precision": share.precision,
        "tokens_trained": examples.tokens * cfg.epochs,
        "loss_tokens_trained": examples.loss_tokens * cfg.epochs,
        "first_loss": learned.curve[0]["loss"],
        "final_loss": learned.curve[-1]["loss"],
        "trainable_parameters": learned.trainable,
        "resumed_at_step": learned.resumed_at,
        "seconds": round(time.time() - started, 3),  # of this process; a resumed run counts from the resume
        "peak_memory_bytes": learned.peak_memory,
        "peak_memory_of": "gpu" if share.device == "cuda" else "process",
    }
    _tidy(output, cfg.method, job.inputs["backbone"])
    curve = "".join(json.dumps(line) + "\n" for line in learned.curve)
    write_atomic(job.work / OUTPUT / "training.jsonl", curve.encode())
    write_sealed(job.work / DONE, {"info": info, "files": file_digests(job.work / OUTPUT)})
    _hand_over(job)
    return info


def _share(job: Job) -> Share:
    """This process's part, after the recipe was held against the backbone: no weight is read before."""
    cfg, backbone = job.config.recipe, job.inputs["backbone"]
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    checks.check(cfg, loading.read_config(backbone), processes, job.exec.train_micro_batch)
    own = "bf16" if loading.dtype_of(backbone) == "bfloat16" else "fp32"
    return Share(
        processes,
        int(os.environ.get("RANK", "0")) == 0,
        loading.device(job.exec),
        own if cfg.precision == "auto" else cfg.precision,
        split_step(cfg.batch_size, processes, job.exec.train_micro_batch),
    )


def _learn(job: Job, share: Share, tokenizer: Any, examples: Examples, output: Path) -> Learned:
    """Load, train and save the weights into ``output``; raises ``HarnessError`` where the GPU's memory is too small."""
    import torch

    cfg: FinetuneConfig = job.config.recipe
    cuda, folder = share.device == "cuda", job.work / share.folder
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    # Full training keeps float32 weights under bf16 autocast; LoRA's frozen weights are bf16, its own float32.
    weights = "bfloat16" if share.precision == "bf16" and cfg.method == "lora" else "float32"
    model = loading.load_model(job.inputs["backbone"], share.device if share.processes == 1 else "cpu", dtype=weights)
    if not cuda:
        share_keys(model)
    with preserved_generators(), _quiet():
        trainer = make_trainer(cfg, share.split, share.precision, share.device, model, tokenizer, examples.rows, folder)
        if share.first:
            trainer.add_callback(_telling(job.work / live.FILE))
        trainable = sum(p.numel() for p in trainer.model.parameters() if p.requires_grad)
        checkpoint = last_checkpoint(folder) if share.first else None
        if share.processes > 1:
            checkpoint = _agreed(trainer, checkpoint, folder)
        try:
            with _inputs_as_they_are(trainer.model, cfg.method == "lora" and share.precision == "bf16"):
                trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
        except torch.cuda.OutOfMemoryError as error:
            raise HarnessError(
                f"the GPU has too little memory for exec.train_micro_batch={share.split.micro_batch} (up to "
                f"{cfg.max_length} tokens each); lower it, the effective batch of {cfg.batch_size} "
                f"stays, or set finetune.gradient_checkpointing=true"
            ) from error
        if share.first:
            shutil.rmtree(job.work / OUTPUT, ignore_errors=True)
        trainer.save_model(str(output))  # every process takes part where weights are sharded
    return Learned(
        [{name: line[name] for name in CURVE if name in line} for line in trainer.state.log_history if "loss" in line],
        trainable,
        0 if checkpoint is None else int(checkpoint.name.rpartition("-")[2]),
        trainer.accelerator.distributed_type.value,
        torch.cuda.max_memory_allocated() if cuda else _process_peak(),
    )


def _inputs_as_they_are(model: Any, active: bool) -> contextlib.AbstractContextManager[None]:
    """Without PEFT's turning of each input into float32, which autocast turns back: the same bits, a tenth sooner."""
    from peft.helpers import disable_input_dtype_casting

    return disable_input_dtype_casting(model, active)


def _telling(path: Path) -> Any:
    """Each line of the curve at once, for whoever looks on. After a kill, steps since the checkpoint come once more."""
    from transformers import TrainerCallback

    class Telling(TrainerCallback):
        def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            line = state.log_history[-1]
            if "loss" in line:
                live.tell(path, {name: line[name] for name in CURVE if name in line})

    return Telling()


def _check_learned(learned: Learned, rows: int, cfg: FinetuneConfig) -> None:
    if not any(line["learning_rate"] for line in learned.curve):
        raise BadMeasurement(
            f"the learning rate was 0 at each of the {len(learned.curve)} optimizer steps (the warm-up takes "
            f"the first), so nothing was learned from {rows} rows; lower "
            f"finetune.batch_size (now {cfg.batch_size}) or set finetune.warmup_ratio=0"
        )


def finished(job: Job) -> dict[str, Any] | None:
    """``info`` of a training that came to its end in this folder, whose output becomes the payload; None where none
    did, or where its output is damaged, which is said: it is trained again from its last checkpoint."""
    path = job.work / DONE
    try:
        content = read_sealed(path)
        if content is None:
            return None
        require(path, content, {"info": dict, "files": dict})
        if wrong := first_difference(job.work / OUTPUT, content["files"]):
            raise Damaged(wrong)
    except Damaged as error:
        notice(f"{error.what}; the training goes on from its last checkpoint")
        path.unlink()
        return None
    _hand_over(job)
    return content["info"]


def _hand_over(job: Job) -> None:
    """The output as the payload: linked, so that scratch stays whole until the manifest is written; else copied."""

    def link(source: str, target: str) -> None:
        Path(target).unlink(missing_ok=True)
        try:
            os.link(source, target)
        except OSError:
            shutil.copy2(source, target)

    shutil.copytree(job.work / OUTPUT, job.folder, copy_function=link, dirs_exist_ok=True)


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


def _release(share: Share) -> None:
    """Give memory back, and let the next stage of this process choose its own device and precision."""
    import torch
    from accelerate.state import AcceleratorState, GradientState

    gc.collect()
    if share.device == "cuda":
        torch.cuda.empty_cache()
    if share.processes == 1:
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
        settings = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
        settings["base_model_name_or_path"] = f"{backbone.manifest['label']}-{backbone.fingerprint[:16]}"
        settings["target_modules"] = sorted(settings["target_modules"])
        (folder / "adapter_config.json").write_text(
            json.dumps(settings, indent=2, sort_keys=True) + "\n", encoding="utf-8"
        )
    else:
        (folder / "training_args.bin").unlink(missing_ok=True)
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        config.pop("_name_or_path", None)
        (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
