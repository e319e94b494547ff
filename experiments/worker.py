"""Where a stage runs: with a GPU, in a worker process that ends when another kind of stage starts.

Frameworks do not give all GPU memory back while their process lives, so each kind of GPU stage gets a process of
its own, reused while the kind stays the same, on GPUs that no other cell uses. Without a GPU stages run in this process
and heavy imports are paid once.
"""

from __future__ import annotations

import os
import signal
import threading
import traceback
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import active_children, get_context, parent_process, resource_tracker
from pathlib import Path
from typing import Any

from adg import collector, command
from adg.artifacts import disk
from adg.artifacts.artifact import Artifact, Node, run_builder
from adg.errors import HarnessError
from adg.execution import ExecConfig
from experiments import gpus


class RemoteFailure(Exception):
    """An exception of a worker process, as text: its type, message and traceback."""


def _run(node: Node, folder: Path, inputs: Mapping[str, Artifact], exec_: ExecConfig) -> dict[str, Any]:
    try:
        return run_builder(node, folder, inputs, exec_)
    finally:
        collector.collect()  # models hold themselves in cycles


def _remote(node: Node, folder: Path, inputs: Mapping[str, Artifact], exec_: ExecConfig) -> dict[str, Any]:
    try:
        return _run(node, folder, inputs, exec_)
    except HarnessError:
        raise
    except Exception as error:
        if (told := disk.explained(error, folder)) is not None:
            raise told from None
        raise RemoteFailure(f"{type(error).__name__}: {error}\n{traceback.format_exc()}") from None


def _begin(names: list[str] | None) -> None:
    """In a worker: see only the GPUs ``names`` (None: all that are visible)."""
    if names is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(names)
    command.ignore_signals()  # a cluster sends them to every process: this one's end would look like a failure
    command.show_warnings()
    collector.collect_seldom()
    _end_with_parent()


def _end_with_parent() -> None:
    """In a worker: end when the process that started it ends, however that happens. It held the locks."""

    def wait() -> None:
        parent = parent_process()
        if parent is not None:
            parent.join()
        os._exit(70)

    threading.Thread(target=wait, daemon=True).start()


def _track_resources() -> None:
    """Start multiprocessing's cleaner now, deaf to what Slurm sends before a job's end as it is to a SIGTERM."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2})  # a process that is started inherits it
    resource_tracker.ensure_running()
    signal.pthread_sigmask(signal.SIG_SETMASK, before)


class Runner:
    """Calls builders, each in the process where it belongs. Use as a context manager."""

    def __init__(self) -> None:
        # Read when torch is first imported: OpenMP threads that wait for work sleep instead of spinning, which on a
        # machine that is busy with anything else multiplies the time of every stage.
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
        self._kind: tuple[str, int] | None = None
        self._pool: ProcessPoolExecutor | None = None
        self._lease: gpus.Lease | None = None
        self.waited = 0.0  # seconds that the last call waited for a GPU

    def __call__(self, node: Node, folder: Path, inputs: Mapping[str, Artifact], exec_: ExecConfig) -> dict[str, Any]:
        self.waited = 0.0
        isolated = exec_.isolation == "process" or (
            exec_.isolation == "auto" and exec_.device != "cpu" and bool(gpus.visible())
        )
        if not (node.stage.gpus and isolated):
            return _run(node, folder, inputs, exec_)
        kind = (node.stage.name, self._gpus(node, exec_))
        if self._pool is None or self._kind != kind:
            self.close()
            if kind[1]:
                self._lease = gpus.Lease(kind[1])
                self.waited = self._lease.waited
            self._kind = kind
            _track_resources()
            self._pool = ProcessPoolExecutor(
                1,
                mp_context=get_context("spawn"),
                initializer=_begin,
                initargs=(self._lease.names if self._lease else None,),
            )
        try:
            with command.holding_signals():
                work = self._pool.submit(_remote, node, folder, dict(inputs), exec_)
            return work.result()
        except BrokenProcessPool as error:
            self.close()
            raise HarnessError(
                f"the process that worked on {node.folder} was killed (out of memory?); what it had finished is kept. "
                f"Run the same command again, with a smaller exec.tokens_per_batch, exec.eval_batch_size or "
                f"exec.train_micro_batch if memory was short"
            ) from error
        except BaseException as error:
            if not isinstance(error, Exception):  # stopped by the user or a cluster: nobody waits for the stage's end
                for process in active_children():
                    process.kill()
            if not isinstance(error, HarnessError):
                self.close()  # the process may be gone or its memory in an unknown state
            raise

    @staticmethod
    def _gpus(node: Node, exec_: ExecConfig) -> int:
        """How many GPUs the worker of a stage is given; 0: it is not restricted (no GPU, or Ray shares them out)."""
        by_ray = exec_.distributed == "ray" and node.stage.spread
        if exec_.device == "cpu" or by_ray or not gpus.visible():
            return 0
        return node.stage.gpus_of(vars(exec_))

    def close(self) -> None:
        """End the worker process, which gives its memory and its GPUs back."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
            self._pool = None
        if self._lease is not None:
            self._lease.close()
            self._lease = None

    def __enter__(self) -> Runner:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()
