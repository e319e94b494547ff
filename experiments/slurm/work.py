"""What a job of a study does: build its artifacts, and say how far it got.

An interruption (the time limit, preemption, a kill) ends the process with a status of 128 and more; the lines of shell
after it put the job into the queue again, and the next attempt goes on from the shards and checkpoints that are there.
Nothing here bears identity.
"""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Collection, Sequence

from adg import command, screen
from adg.artifacts.artifact import Node
from adg.errors import HarnessError, NotRunnable
from adg.pools.notices import notices
from experiments import run
from experiments.cells import Cell
from experiments.slurm import queue
from experiments.worker import Runner


class JobFailed(HarnessError):
    """A job could not build what it is for; the jobs that depend on it are taken out of the queue."""


def work(name: str, cells: Sequence[Cell], builds: Collection[str], last: bool) -> None:
    """Build the artifacts with the fingerprints ``builds``, which all ``cells`` need; with ``last`` the rest of their
    one cell too. The process ends with exit status 1 where that fails."""
    for number in (signal.SIGTERM, signal.SIGUSR2):
        signal.signal(number, signal.SIG_DFL)  # submitit's own handlers would go on, or take it for a failure
    with command.command():
        store = run.store_of(cells[0].config)
        job, restarts = os.environ["SLURM_JOB_ID"], queue.restarts_now(dict(os.environ))

        def say(state: str) -> None:
            queue.write_state(store, job, state, restarts, name=name, host=socket.gethostname())

        say("running")
        run.say(f"job {job} on {socket.gethostname()}" + (f", {queue.again(restarts)}" if restarts else ""))
        with command.at_stop(lambda: say("interrupted")):
            unknown = set(builds) - {node.fingerprint for node in cells[0].nodes.values()}
            if unknown:
                say("failed")
                raise JobFailed(f"the project's code changed since job {job} was submitted; run adg submit again")
            state = run.run_cell(cells[0]) if last else build(cells, builds)
            say(state)
        if state == "failed" or (state == "not-run" and not last):
            raise JobFailed(f"{name} was not built; repair the cause and run adg submit again")


def build(cells: Sequence[Cell], builds: Collection[str]) -> str:
    """Build artifacts that all of these cells need; returns "done", "not-run" or "failed".

    What is known to stop a cell is said in its own artifact now, as in a sweep; it is a failure where it stops all.
    """
    cell = cells[0]
    store = run.store_of(cell.config)

    def on_build(node: Node, event: str, seconds: float) -> None:
        run.say_event("", cell, node, event, seconds)

    try:
        with Runner() as runner, screen.line(cell.name):
            store.runner, store.exec = runner, cell.config.exec
            for role, node in cell.nodes.items():
                if node.fingerprint not in builds:
                    continue
                known = store.complete(node)
                artifact = store.ensure(node, on_build)
                if role == "pool" and not known:
                    for line in notices(artifact.info):
                        run.say(f"      {line}")
                refused = []
                for other in cells:
                    try:
                        run.refuse_early(store, other, role, artifact)
                    except HarnessError as error:
                        refused.append(error)
                if len(refused) == len(cells):
                    raise refused[0]
    except NotRunnable as error:
        run.say(f"    not run: {error}")
        return "not-run"
    except Exception as error:
        if command.stopping():
            raise
        run.say(f"    FAILED: {run.told(error, store)}")
        return "failed"
    return "done"
