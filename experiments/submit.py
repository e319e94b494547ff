"""The cells of a study as jobs of a Slurm cluster:  adg submit profile=paper slurm.partition=gpu slurm.mem_gb=96

What several cells need is built first, by jobs of its own, on which the cells' jobs depend: no job waits for another
while it holds a GPU, and stages that run no model ask for none. A job bears the name of its cell. One that is
interrupted is queued again and goes on where it was. The command returns at once; `adg status` says how far it is, and
the same command again submits what is neither finished nor in the queue.
"""

from __future__ import annotations

import contextlib
import io
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from adg import places
from adg.artifacts.store import Store
from adg.errors import BadInput
from adg.printable import printable
from experiments import early, run
from experiments.app import asked, plain_errors
from experiments.cells import Cell, asked_for, distinct, refuse_same_names
from experiments.slurm import queue
from experiments.slurm.config import SlurmConfig
from experiments.slurm.jobs import PlannedJob, planned, users
from experiments.slurm.work import work

SWITCHES = {"--dry-run": "the jobs and what each waits for; nothing is submitted"}
# After the work: an interrupted job is queued again, unless Slurm itself has ended or queued it.
AGAIN = """\
code=$?
state=$(squeue --noheader --jobs=$SLURM_JOB_ID --format=%T)
if [ $code -ge 128 ] && [ "$state" = RUNNING ] && [ ${SLURM_RESTART_COUNT:-0} -lt {requeues} ]; then
  scontrol requeue $SLURM_JOB_ID
fi
exit $code"""


def to_build(chosen: Sequence[Cell], store: Store) -> set[str]:
    """Fingerprints of the artifacts that a sweep of these cells would build now."""
    nodes = distinct(chosen)
    states = store.statuses(nodes)
    left = {node.fingerprint for node in nodes if states[node.fingerprint].state != "done"}
    return left | {cell.nodes["eval"].fingerprint for cell in chosen if run.more_can_run(store, cell)}


def submit(chosen: Sequence[Cell], store: Store, jobs: Sequence[PlannedJob]) -> list[str]:
    """Submit the jobs in their order; returns their ids. Raises ``BadInput`` with what sbatch says where it refuses."""
    if shutil.which("sbatch") is None or shutil.which("srun") is None:
        raise BadInput(
            "no sbatch and srun here; run this where jobs of Slurm are submitted, or adg sweep, which runs the cells "
            "on this machine"
        )
    from submitit import SlurmExecutor

    needing = users(chosen)
    ids: list[str] = []
    for job in jobs:
        after = [*(ids[place] for place in job.after), *job.behind]
        executor = SlurmExecutor(folder=store.root / queue.FOLDER / "%j")
        executor.update_parameters(**parameters(job, after))
        cells = [chosen[place] for place in needing[job.builds[0].fingerprint]] if job.shared else [job.cell]
        fresh = [Cell(cell.config, cell.overrides) for cell in cells]  # without what is computed from them
        try:
            with contextlib.redirect_stderr(io.StringIO()):  # submitit prints what sbatch says, and raises it
                handle = executor.submit(work, job.name, fresh, [node.fingerprint for node in job.builds], job.last)
        except Exception as error:
            done = f"; {len(ids)} of {len(jobs)} jobs are in the queue, and the same command submits the others"
            raise BadInput(f"sbatch refused the job {job.name}: {_refusal(error)}{done if ids else ''}") from error
        ids.append(str(handle.job_id))
        queue.write_job(store, ids[-1], job.name, job.builds, after)
        print(printable(line(job, ids[-1], after)), flush=True)
    return ids


def _refusal(error: Exception) -> str:
    said = [text.removeprefix("sbatch: error: ") for text in str(error).splitlines() if text.strip()]
    return "; ".join(said) or type(error).__name__


def parameters(job: PlannedJob, after: Sequence[str]) -> dict[str, Any]:
    """What submitit is told of a job."""
    config: SlurmConfig = job.cell.config.slurm
    more = {
        **{str(name).lstrip("-").replace("_", "-"): value for name, value in config.options.items()},
        "requeue": True,
        "signal": f"USR2@{config.grace}",
        **({"kill-on-invalid-dep": "yes"} if after else {}),
    }
    partition = config.partition if job.gpus else config.cpu_partition or config.partition
    return {
        "job_name": job.name,
        "partition": partition or None,
        "account": config.account or None,
        "qos": config.qos or None,
        "constraint": config.constraint or None,
        "gres": ":".join(filter(None, ("gpu", config.gpu, str(job.gpus)))) if job.gpus else None,
        "cpus_per_task": config.cpus,
        "mem": f"{config.mem_gb}G" if config.mem_gb else None,
        "time": config.minutes,
        "dependency": "afterok:" + ":".join(after) if after else None,
        "setup": list(config.setup) or None,
        "srun_args": [f"--cpus-per-task={config.cpus}"],  # of its own, srun takes one
        "teardown": AGAIN.replace("{requeues}", str(config.requeues)).splitlines(),
        "stderr_to_stdout": True,
        "wckey": None,
        "additional_parameters": more,
    }


def line(job: PlannedJob, id_: str, after: Sequence[str]) -> str:
    """One line for a job."""
    needs = "no GPU" if not job.gpus else f"{job.gpus} GPU{'s' if job.gpus > 1 else ''}"
    waits = f"after {', '.join(after)}" if after else "at once"
    stages = ", ".join(dict.fromkeys(node.stage.name for node in job.builds))
    return f"  {id_:<9}{needs:<8} {waits:<20} {job.name}: {stages}"


def main() -> None:
    with plain_errors(__doc__, SWITCHES):
        places.importable()  # in the jobs, too
        chosen, store = asked_for(SWITCHES)
        for cell in chosen:
            run.refuse_suite(store, cell)
        refuse_same_names(chosen)
        early.check(chosen)
        wanted = to_build(chosen, store)
        in_hand = {key: id_ for key, id_ in queue.in_hand(queue.jobs(store)).items() if key in wanted}
        jobs = planned(chosen, wanted, in_hand)
        if asked("--dry-run"):
            for place, job in enumerate(jobs):
                print(printable(line(job, f"#{place + 1}", [*(f"#{of + 1}" for of in job.after), *job.behind])))
        else:
            submit(chosen, store, jobs)
        finished = sum(not wanted & {node.fingerprint for node in cell.nodes.values()} for cell in chosen)
        already = f", {len(set(in_hand.values()))} in the queue already" if in_hand else ""
        verb = "would be submitted" if asked("--dry-run") else "submitted"
        print(f"{len(chosen)} cells, {finished} finished; {len(jobs)} jobs {verb}{already}")
        if not asked("--dry-run") and (jobs or in_hand):
            print(f"adg status says how far they are; their logs are in {Path(store.root) / queue.FOLDER}")


if __name__ == "__main__":
    main()
