"""Scale-out over Ray Data: the shards of a stage spread over actors, one a GPU or several on CPUs.

An actor loads the model once and writes each shard where the stage looks for it (the artifacts folder must be on a
file system that all machines share), so a run that was cut short goes on with the shards that are missing, and the
result does not depend on how many actors there were.
"""

from __future__ import annotations

import json
import logging
import os
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from adg import places, workers
from adg.errors import BadInput, HarnessError
from adg.execution import SECRET_NAMES, ExecConfig
from adg.progress import progress

TOKEN = ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")  # where Ray looks for a cluster's token, in this order
TOKEN_FILE = ".ray/auth_token"  # then there, in the home folder
TRIES = "3"  # to join a cluster
SECONDS = 5.0  # until an address counts as unreachable


def over_ray(
    rows: Sequence[dict[str, Any]], worker: str, arguments: tuple[Any, ...], exec_: ExecConfig, title: str
) -> list[dict[str, Any]]:
    """Call ``work(row)`` of a worker for every row (JSON types), in no particular order; returns what the calls gave.

    ``worker`` is "module:class", imported by the actors and made with ``arguments``. Raises the worker's own error
    where it is one a person can act on, and ``BadInput`` when Ray is not installed, the cluster of RAY_ADDRESS cannot
    be joined, or it has fewer GPUs or cores than the actors need.
    """
    for name, value in _joining(os.environ).items():  # Ray reads them once, when it is imported
        os.environ.setdefault(name, value)
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise BadInput(
            f"engine.distributed=ray needs the package ray[data] ({error}); install it or use engine.distributed=none"
        ) from error
    mine = not ray.is_initialized()
    if mine:
        _start(ray)
    try:
        gpus = 0 if exec_.device == "cpu" else int(ray.cluster_resources().get("GPU", 0))
        cores = int(ray.cluster_resources().get("CPU", 0))
        each = exec_.tensor_parallel if gpus else 0
        actors = exec_.actors or (max(1, gpus // each) if each else 1)
        if actors * each > gpus or actors > cores:
            raise BadInput(
                f"exec.actors={actors} needs {actors * each} GPUs and {actors} cores, the cluster has {gpus} and "
                f"{cores}; lower exec.actors or exec.tensor_parallel"
            )
        ray.data.DataContext.get_current().enable_progress_bars = False
        logging.getLogger("ray.data").setLevel(logging.WARNING)
        data = ray.data.from_items([{"row": json.dumps(row)} for row in rows], override_num_blocks=len(rows)).map(
            _Actor,
            fn_constructor_args=(worker, arguments),
            num_gpus=each or None,
            num_cpus=1,
            compute=ray.data.ActorPoolStrategy(size=min(actors, len(rows))),
        )
        results = []
        with progress(len(rows), title, unit="shards") as bar:
            for row in data.iter_rows():
                if row["error"]:
                    raise workers.error_of(row["error"], row["result"])
                results.append(json.loads(row["result"]))
                bar.update(1)
        return results
    finally:
        if mine:
            ray.shutdown()


def _joining(env: Mapping[str, str]) -> dict[str, str]:
    """What Ray must be told before it joins the cluster of RAY_ADDRESS: that there is a token, which it uses on its
    own for clusters of this machine only, and to give up soon (it tries 20 times, a second each)."""
    if "RAY_ADDRESS" not in env:
        return {}
    token = any(env.get(name) for name in TOKEN) or (Path.home() / TOKEN_FILE).is_file()
    return {"RAY_NUM_REDIS_GET_RETRIES": TRIES, **({"RAY_AUTH_MODE": "token"} if token else {})}


def _start(ray: Any) -> None:
    """Join the cluster of RAY_ADDRESS, or start one here; ``BadInput`` where it does not let us in."""
    address = os.environ.get("RAY_ADDRESS")
    if address is not None:
        _refuse_unreachable(address)
    try:
        ray.init(
            address=address,
            include_dashboard=None if address else False,
            logging_level="ERROR",
            log_to_driver=False,
            runtime_env={"env_vars": environment()},
        )
    except (ConnectionError, RuntimeError, ray.exceptions.RayError) as error:
        if address is None:
            raise
        with_token = "with the token found here" if os.environ.get("RAY_AUTH_MODE") == "token" else "without a token"
        raise BadInput(
            f"the Ray cluster at RAY_ADDRESS={address} does not let this process in {with_token} "
            f"({str(error).splitlines()[0]}); set {TOKEN[0]} to the cluster's token or put it into ~/{TOKEN_FILE} "
            f"(`ray get-auth-token` on its head prints it), check that both run the same version of Ray "
            f"({ray.__version__} here), or unset RAY_ADDRESS to start a cluster on this machine"
        ) from error


def _refuse_unreachable(address: str) -> None:
    """``BadInput`` where nothing listens at a host and port; other forms of an address are Ray's to read."""
    host, colon, port = address.rpartition(":")
    if not colon or not port.isdigit() or "/" in host:
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=SECONDS).close()
    except OSError as error:
        raise BadInput(
            f"no Ray cluster answers at RAY_ADDRESS={address} ({error}); start one there (`ray start --head`), correct "
            f"the address, or unset RAY_ADDRESS to start a cluster on this machine"
        ) from error


class _Actor:
    """Holds the worker. Its errors for a person travel as text: what Ray raises in their place has lost them."""

    def __init__(self, worker: str, arguments: tuple[Any, ...]) -> None:
        self.named, self.arguments = worker, arguments
        self.worker: workers.Worker | None = None

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        try:
            if self.worker is None:
                self.worker = workers.make(self.named, self.arguments)
            return {"error": "", "result": json.dumps(self.worker.work(json.loads(row["row"])))}
        except HarnessError as error:
            return {"error": type(error).__name__, "result": str(error)}


def environment() -> dict[str, str]:
    """What an actor's process needs to find this project and to compute as this process does.

    Ray writes these into its logs, so no secret is among them; actors read local files only.
    """
    folders = [str(places.ROOT), str(places.PACKAGE.parent), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    path = os.pathsep.join(dict.fromkeys(filter(None, folders)))
    kept = {
        name: value
        for name, value in os.environ.items()
        if name.startswith(("HF_", "OMP_", "TOKENIZERS_")) and not SECRET_NAMES.search(name)
    }
    # Ray gives its workers the lowest priority, so that whatever else a machine does would come before the work itself
    return {**kept, "PYTHONPATH": path, "RAY_worker_niceness": "0"}
