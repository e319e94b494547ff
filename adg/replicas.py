"""Data parallel replicas on one machine: processes that each hold the model on GPUs of their own and share the shards.

An engine of vLLM is one process's, and nothing of a request needs the others' weights, so a replica is the engine that
a stage would run by itself. What is made does not depend on how many there are, nor on which of them made it: each
shard has its own seed. A run that was cut short goes on with the shards that are missing.
"""

from __future__ import annotations

import os
import signal
import traceback
from collections import deque
from collections.abc import Sequence
from multiprocessing import connection, get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from adg import collector, command, workers
from adg.artifacts import disk
from adg.backbones import loading
from adg.errors import BadInput, HarnessError
from adg.execution import ExecConfig
from adg.progress import notice, progress

LOOK = 1.0  # seconds between two looks whether a silent replica lives
DONE, REFUSED, BROKE = "done", "refused", "broke"  # what a replica says: a shard is made, why it is not


def over_replicas(
    rows: Sequence[dict[str, Any]], worker: str, arguments: tuple[Any, ...], exec_: ExecConfig, title: str
) -> list[dict[str, Any]]:
    """Call ``work(row)`` of a worker for every row, in no particular order; returns what the calls gave.

    ``worker`` is "module:class", made with ``arguments`` in each of ``exec_.replicas`` processes (no more than there
    are rows). Where one fails or dies the others finish the rows that they are at, and then its error is raised.
    Raises ``BadInput`` where fewer GPUs are visible than ``exec_.replicas`` times ``exec_.tensor_parallel``.
    """
    places = shares(exec_)
    if len(rows) < len(places):
        notice(f"{len(rows)} of {len(places)} replicas have work: there are no more batches (engine.batch_size)")
    waiting, results, failure = deque(rows), list[dict[str, Any]](), None
    replicas = [_Replica(number, place, worker, arguments, exec_) for number, place in enumerate(places[: len(rows)])]
    try:
        for replica in replicas:
            replica.give(waiting.popleft())
        with progress(len(rows), title, unit="shards") as bar:
            while busy := [replica for replica in replicas if replica.busy]:
                heard = connection.wait([replica.connection for replica in busy], LOOK)
                for replica in busy:
                    if replica.connection not in heard and replica.process.is_alive():
                        continue
                    try:
                        results.append(replica.result())
                    except HarnessError as error:
                        failure = failure or error
                        continue
                    bar.update(1)
                    if waiting and failure is None:
                        replica.give(waiting.popleft())
        for replica in replicas if failure is None else ():
            replica.dismiss()
    finally:
        for replica in replicas:
            replica.end()
    if failure is not None:
        raise failure
    return results


def shares(exec_: ExecConfig) -> list[list[str]]:
    """The GPUs of each replica, as ``CUDA_VISIBLE_DEVICES`` names them, or on a CPU the numbers of its cores.

    Raises ``BadInput`` where there are too few GPUs.
    """
    count = exec_.replicas
    if loading.device(exec_) == "cpu":
        cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
        if len(cores) < count:  # they take turns
            return [list(map(str, cores))] * count
        return [list(map(str, cores[i * len(cores) // count : (i + 1) * len(cores) // count])) for i in range(count)]
    import torch

    visible, each = torch.cuda.device_count(), exec_.tensor_parallel
    if count * each > visible:
        raise BadInput(
            f"engine.replicas={count} with exec.tensor_parallel={each} needs {count * each} GPUs, {visible} are "
            f"visible; lower one of them, or widen CUDA_VISIBLE_DEVICES"
        )
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = list(map(str, range(visible))) if named is None else [part.strip() for part in named.split(",")]
    return [names[i * each : (i + 1) * each] for i in range(count)]


class _Replica:
    """One of the processes, as the one that started it sees it."""

    def __init__(
        self, number: int, place: list[str], worker: str, arguments: tuple[Any, ...], exec_: ExecConfig
    ) -> None:
        self.gpus = place if loading.device(exec_) == "cuda" else []
        self.name = f"replica {number + 1} of {exec_.replicas}" + (f" (GPU {','.join(place)})" if self.gpus else "")
        self.busy = False
        context = get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(
            target=_serve,
            args=(theirs, os.getpid(), self.gpus, [] if self.gpus else place, worker, arguments, exec_.runs),
            daemon=False,  # vLLM starts processes of its own where a model is split over GPUs
        )
        with command.holding_signals():
            self.process.start()
        theirs.close()

    def give(self, row: dict[str, Any]) -> None:
        """Let it work on a row."""
        self.busy = True
        try:
            self.connection.send(row)
        except OSError:  # it is dead, which ``result`` says
            pass

    def result(self) -> dict[str, Any]:
        """What came of the row that it was given. Raises its error, or that it died."""
        self.busy = False
        try:
            said, *told = self.connection.recv() if self.connection.poll() else (None,)
        except (EOFError, OSError):
            said = None
        if said == DONE:
            done: dict[str, Any] = told[0]
            return done
        kept = "what was finished is kept, and the same command goes on from there"
        if said == REFUSED:
            raise workers.error_of(*told)
        if said == BROKE:
            what, trace = told
            raise HarnessError(f"{self.name} failed: {what}; {kept}") from RuntimeError(f"in {self.name}:\n{trace}")
        self.process.join(LOOK)
        code = self.process.exitcode
        how = f"was killed by {signal.Signals(-code).name}" if code is not None and code < 0 else f"ended with {code}"
        raise HarnessError(
            f"{self.name} {how} (out of memory?); {kept}. If memory was short, lower engine.replicas"
            + (", exec.gpu_memory" if self.gpus else "")
        )

    def dismiss(self) -> None:
        """There is nothing more to do: it closes its engine and ends."""
        self.connection.close()
        self.process.join(30)

    def end(self) -> None:
        """See that it is gone."""
        if self.process.is_alive():
            self.process.kill()
        self.process.join()
        self.connection.close()


def _serve(
    asked: Connection,
    parent: int,
    gpus: list[str],
    cores: list[str],
    worker: str,
    arguments: tuple[Any, ...],
    runs: str,
) -> None:
    """In a replica: make the worker on its share of the machine and work on rows until there are no more."""
    if gpus:
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(gpus)
    elif cores:
        os.sched_setaffinity(0, map(int, cores))
    command.ignore_signals()
    command.show_warnings()
    collector.collect_seldom()
    command.end_with(parent)
    made: workers.Worker | None = None
    try:
        while True:
            try:
                row = asked.recv()
            except EOFError:  # no more rows
                break
            made = made or workers.make(worker, arguments)
            asked.send((DONE, made.work(row)))
    except HarnessError as error:
        asked.send((REFUSED, type(error).__name__, str(error)))
    except Exception as error:
        if (told := disk.explained(error, Path(runs))) is not None:
            asked.send((REFUSED, type(told).__name__, str(told)))
        else:
            asked.send((BROKE, f"{type(error).__name__}: {error}", traceback.format_exc()))
    finally:
        if made is not None:
            made.close()
