"""Training in several processes: ``finetune/run.py`` under ``accelerate launch``. No part of identity."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path
from typing import Any

from adg import errors
from adg.artifacts.artifact import Job, plain
from adg.artifacts.sealed import read_sealed, write_sealed
from adg.backbones import loading
from adg.errors import HarnessError
from finetune import checks
from finetune.config import FinetuneConfig
from finetune.train import finished

HERE = Path(__file__).resolve().parent


def launch(job: Job) -> dict[str, Any]:
    """Run ``finetune/run.py`` under ``accelerate launch`` with one process per GPU and read back its ``info``.

    LoRA runs data-parallel (ddp.yaml), full training sharded (fsdp.yaml).
    """
    cfg: FinetuneConfig = job.config.recipe
    processes = job.exec.train_processes
    checks.check(cfg, loading.read_config(job.inputs["backbone"]), processes, job.exec.train_micro_batch)
    request, failure = job.work / "request.json", job.work / "failure.json"
    failure.unlink(missing_ok=True)
    write_sealed(
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
    # The processes end when this pipe closes, so a kill of this one leaves no trainer behind that still writes. Ctrl-C
    # is this process's to answer.
    with subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True) as process:
        code = process.wait()
    told = read_sealed(failure)
    if told is not None:
        raise getattr(errors, told["kind"], HarnessError)(told["reason"])
    if code != 0:
        killed = "one was killed (out of memory?); what it said" if code in (-9, 137) else "the reason"
        raise HarnessError(
            f"`accelerate launch` of {processes} training processes ended with code {code}; {killed} "
            f"stands above. Run the same command again to resume, or set exec.train_processes=1"
        )
    info = finished(job)
    if info is None:
        raise HarnessError(f"{processes} training processes ended well but left no output; run the same command again")
    return info
