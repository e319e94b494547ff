"""What may be set for jobs of Slurm, the section ``slurm``. No part of identity."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from adg import limits
from adg.errors import BadInput
from adg.limits import at_least

LIMITS = {
    **dict.fromkeys(("cpus", "minutes"), at_least(1)),
    **dict.fromkeys(("mem_gb", "grace", "requeues"), at_least(0)),
}
# options of sbatch that are decided by the plan
DECIDED = ("job-name", "dependency", "gres", "gpus", "array", "requeue", "signal", "kill-on-invalid-dep")


@dataclass(frozen=True)
class SlurmConfig:
    """How jobs are submitted; an empty text leaves the cluster's own choice."""

    partition: str = ""
    cpu_partition: str = ""  # of jobs that need no GPU; "": partition
    account: str = ""
    qos: str = ""
    constraint: str = ""
    gpu: str = ""  # the kind of GPU, as the cluster calls it in --gres: a100, h100
    cpus: int = 8
    mem_gb: int = 0  # 0: the cluster's own choice
    minutes: int = 1440  # a job may run; then it is queued again and goes on where it was
    grace: int = 120  # seconds before that at which it is told to end
    requeues: int = 10  # times that a job is queued again after an interruption
    setup: tuple[str, ...] = ()  # lines of shell before the work, such as "module load cuda"
    options: dict[str, Any] = field(default_factory=dict)  # further options of sbatch, by their long names

    def __post_init__(self) -> None:
        limits.check("slurm", self, LIMITS)
        object.__setattr__(self, "setup", tuple(self.setup))
        named = {str(name).strip("-").replace("_", "-") for name in self.options}
        for name in DECIDED:
            if name in named:
                raise BadInput(f"slurm.options sets {name}, which the plan decides for each job; leave it out")
