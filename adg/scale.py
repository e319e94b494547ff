"""Scale-out over Ray Data: the shards of a stage spread over actors, one a GPU or several on CPUs.

An actor loads the model once and writes each shard where the stage looks for it (the artifacts folder must be on a
file system that all machines share), so a run that was cut short goes on with the shards that are missing, and the
result does not depend on how many actors there were.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from adg.errors import BadInput, HarnessError
from adg.execution import ExecConfig
from adg.progress import progress

ROOT = Path(__file__).resolve().parent.parent


class Worker(Protocol):
    """What an actor runs: made once with the arguments given to ``over_ray``, then called for every shard."""

    def work(self, row: dict[str, Any]) -> dict[str, Any]:
        """Write the shard that ``row`` describes; returns figures about it (JSON types)."""
        ...


def over_ray(
    rows: Sequence[dict[str, Any]], worker: type[Worker], arguments: tuple[Any, ...], exec_: ExecConfig, title: str
) -> list[dict[str, Any]]:
    """Call ``worker(*arguments).work(row)`` for every row, in no particular order; returns what the calls returned.

    Raises the worker's own error where it is one a person can act on, and ``BadInput`` when Ray is not installed or
    the cluster has fewer GPUs or cores than the actors need.
    """
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise BadInput(
            f"engine.distributed=ray needs the package ray[data] ({error}); install it or use engine.distributed=none"
        ) from error
    mine = not ray.is_initialized()
    if mine:
        ray.init(
            address=os.environ.get("RAY_ADDRESS"), include_dashboard=None if "RAY_ADDRESS" in os.environ else False,
            logging_level="ERROR", log_to_driver=False, runtime_env={"env_vars": environment()},
        )  # fmt: skip
    try:
        gpus = 0 if exec_.device == "cpu" else int(ray.cluster_resources().get("GPU", 0))
        each = exec_.tensor_parallel if gpus else 0
        actors = exec_.actors or (max(1, gpus // each) if each else 1)
        cores = int(ray.cluster_resources().get("CPU", 0))
        if actors * each > gpus or actors > cores:
            raise BadInput(
                f"exec.actors={actors} needs {actors * each} GPUs and {actors} cores, the cluster has {gpus} and "
                f"{cores}; lower exec.actors or exec.tensor_parallel"
            )
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        data = ray.data.from_items([{"row": dict(row)} for row in rows], override_num_blocks=len(rows)).map(
            _Actor, fn_constructor_args=(worker, arguments), num_gpus=each or None, num_cpus=1,
            compute=ray.data.ActorPoolStrategy(size=min(actors, len(rows))),
        )  # fmt: skip
        found = []
        with progress(len(rows), title, unit="shards") as bar:
            for row in data.iter_rows():
                found.append(row["done"])
                bar.update(1)
        return found
    except Exception as error:
        raise _own(error) or error from error
    finally:
        if mine:
            ray.shutdown()


class _Actor:
    def __init__(self, worker: type[Worker], arguments: tuple[Any, ...]) -> None:
        self.worker = worker(*arguments)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        return {"done": self.worker.work(row["row"])}


def environment() -> dict[str, str]:
    """What an actor's process needs to find this project and to compute as this process does."""
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    kept = {name: value for name, value in os.environ.items() if name.startswith(("HF_", "OMP_", "TOKENIZERS_"))}
    return {**kept, "PYTHONPATH": path}


def _own(error: BaseException | None) -> HarnessError | None:
    """The error of this project inside those that Ray wraps around it."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        if isinstance(error, HarnessError):
            return error
        error = getattr(error, "cause", None) or error.__cause__
    return None
