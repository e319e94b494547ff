"""Does all that a study needs of a GPU work on this machine?

    make gpu-check                              eight minutes on one GPU, with the embedded model
    make gpu-check ARGS="backbone=llama3_8b --minutes 30"
    make gpu-check ARGS=--tiny                  the same steps with a tiny random model, on a CPU too
    adg gpu-check --only training               one step again; the others stand as they were

Sampling in vLLM, Gram matrices, one LoRA training, six benchmarks in both backends compared, scoring speed and peak
memory: each step runs the stage that a study runs, in a process of its own; those after a failed one go on. The table
is printed, and written as Markdown (for docs/benchmarks.md) and JSON. Exit status 1 unless every step works.

Overrides are key=value, as every command takes them. Options:
  --tiny           a tiny random model, on whatever device is there
  --only STEPS     names of steps, comma-separated; what they need must be there from an earlier call
  --minutes N      for all steps together (8; with --tiny 40); the limit of each grows with it
  --out FOLDER     of the reports, logs and artifacts (runs/gpu-check, with --tiny runs/gpu-check-tiny)
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from adg import command, screen
from adg.artifacts import provenance
from adg.artifacts.files import read_json, write_atomic, write_json
from adg.errors import BadInput, nearest
from adg.places import ROOT
from adg.redaction import without_secrets
from bench.gpu_check import table
from bench.gpu_check.graph import graph
from bench.gpu_check.options import MINUTES, Options, options
from bench.gpu_check.steps import STEPS
from bench.gpu_check.table import FAILED, NOT_RUN, StepOutcome
from experiments import gpus

REPORT, FACTS = "gpu-check.md", "gpu-check.json"
NO_GPU = (
    "no NVIDIA GPU is visible here (nvidia-smi lists none, or CUDA_VISIBLE_DEVICES hides them), so there is nothing to "
    "check; make gpu-check ARGS=--tiny runs every step with a tiny model on the CPU"
)


def main() -> int:
    """The command."""
    with command.command(__doc__):
        return check(sys.argv[1:])
    return 1


def check(words: Sequence[str]) -> int:
    """The whole of it; returns the exit status. Raises ``BadInput``."""
    given = options(words)
    for name in given.only:
        if name not in STEPS:
            raise BadInput(f"--only names {name!r}{nearest(name, list(STEPS))}; the steps are {', '.join(STEPS)}")
    if not given.tiny and not gpus.visible():
        raise BadInput(NO_GPU)
    made = graph(given.overrides, given.tiny, given.out / "artifacts")  # what is wrong is refused now
    if not given.only:
        begin(given.out)
    takes = {name: step.gpus(made) for name, step in STEPS.items()}
    here = bool(gpus.visible()) and made.config.exec.device != "cpu"
    names = gpus.Lease(max(takes.values())).names if here else []
    outcomes = run_steps(given, earlier(given.out), {name: names[:count] for name, count in takes.items()})
    about = described(given, made.config.backbone.title or made.config.backbone.name, names)
    write_json(given.out / FACTS, table.document(outcomes, about))
    write_atomic(given.out / REPORT, table.markdown(outcomes, about).encode())
    print(f"\n{table.terminal(outcomes, about)}\n\nfor docs/benchmarks.md: {given.out / REPORT}\n{given.out / FACTS}")
    return 0 if table.works(outcomes) else 1


def begin(out: Path) -> None:
    """An empty folder. Raises ``BadInput`` where it holds anything but an earlier check."""
    if out.is_dir() and any(out.iterdir()) and not (out / FACTS).is_file() and not (out / "steps").is_dir():
        raise BadInput(f"--out {out} holds files that are not of a check; name another folder")
    for name in ("artifacts", "steps"):
        shutil.rmtree(out / name, ignore_errors=True)
    for name in (REPORT, FACTS):
        (out / name).unlink(missing_ok=True)
    (out / "steps").mkdir(parents=True, exist_ok=True)


def earlier(out: Path) -> dict[str, StepOutcome]:
    """The outcomes of the check before this one, where only some steps are run again."""
    known: dict[str, Any] | None = read_json(out / FACTS) if (out / FACTS).is_file() else None
    return {one["step"]: StepOutcome(**one) for one in known["steps"]} if known else {}


def run_steps(given: Options, before: dict[str, StepOutcome], names: dict[str, list[str]]) -> list[StepOutcome]:
    """Every step in turn, each on the GPUs of that name, within the time given to all."""
    outcomes, ends = [], time.monotonic() + 60 * given.minutes
    for name, step in STEPS.items():
        if given.only and name not in given.only:
            outcomes += [before[name]] if name in before else []
            continue
        left = ends - time.monotonic()
        if left <= 0:
            reason = f"the {given.minutes} minutes for all steps are over"
            outcomes.append(StepOutcome(name, step.title, NOT_RUN, wrong=reason, then=again(given, name, longer=True)))
            continue
        screen.write_line(f"{name:<16} {step.title} ...")
        outcomes.append(run_step(given, name, min(left, step.seconds * given.minutes / MINUTES), names[name]))
        one = outcomes[-1]
        screen.write_line(f"{'':<16} {one.state} in {one.seconds:.0f} s{': ' if one.wrong else ''}{one.wrong}")
    return outcomes


def run_step(given: Options, name: str, seconds: float, names: Sequence[str]) -> StepOutcome:
    """One step in a process of its own, which is ended after that many seconds."""
    written, log = given.out / "steps" / f"{name}.json", given.out / "steps" / f"{name}.log"
    written.unlink(missing_ok=True)
    written.parent.mkdir(parents=True, exist_ok=True)
    paths = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    env = {**os.environ, "PYTHONPATH": paths, **({"CUDA_VISIBLE_DEVICES": ",".join(names)} if names else {})}
    started = time.monotonic()
    with log.open("wb") as sink:
        line = [sys.executable, "-m", "bench.gpu_check.steps", name, *given.words]
        process = subprocess.Popen(line, env=env, stdout=sink, stderr=subprocess.STDOUT)
        try:
            status: int | None = process.wait(seconds)
        except subprocess.TimeoutExpired:
            status = None
            end(process)
    taken = time.monotonic() - started
    title, then = STEPS[name].title, again(given, name)
    if status is None:
        reason = f"it was not done within {seconds:.0f} s and was ended (log: {log})"
        return StepOutcome(name, title, FAILED, round(taken, 1), wrong=reason, then=again(given, name, longer=True))
    found = read_json(written) if written.is_file() else None
    if found is None:
        how = f"was killed by signal {-status} (out of memory?)" if status < 0 else f"ended with status {status}"
        said = next(filter(None, reversed(log.read_text("utf-8", "replace").splitlines())), "it said nothing")
        reason = without_secrets(f"its process {how}; its last line: {said[:300]}")
        return StepOutcome(name, title, FAILED, round(taken, 1), wrong=reason, then=f"{then}, log: {log}")
    return table.outcome(name, title, found, taken, f"{then}, log: {log}")


def end(process: subprocess.Popen[bytes]) -> None:
    """End a step and all that it started."""
    import psutil

    own = psutil.Process(process.pid)
    for each in [*own.children(recursive=True), own]:
        each.kill()
    process.wait()


def again(given: Options, name: str, longer: bool = False) -> str:
    """The command that runs a step again."""
    words = ["--only", name, *(["--minutes", str(2 * given.minutes)] if longer else []), *given.words]
    return f"make gpu-check ARGS={shlex.quote(' '.join(words))}"


def described(given: Options, model: str, names: Sequence[str]) -> dict[str, Any]:
    """What is recorded beside the outcomes; ``names``: the GPUs that they ran on."""
    device, driver = "CPU", ""
    if names:
        wanted = ["nvidia-smi", "-i", names[0], "--query-gpu=name,driver_version", "--format=csv,noheader"]
        told = subprocess.run(wanted, capture_output=True, text=True, check=False, encoding="utf-8").stdout
        device, _, driver = (told.strip().splitlines() or ["GPU, "])[0].partition(", ")
    return {
        "device": device + ", tiny" * given.tiny,
        "driver": driver,
        "model": model,
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "tiny": given.tiny,
        "overrides": list(given.overrides),
        "versions": provenance.library_versions(),
        "git": provenance.git_state(),
        "machine": provenance.machine(),
    }


if __name__ == "__main__":
    sys.exit(main())
