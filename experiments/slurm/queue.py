"""Where submitted jobs stand: what was written down when they were submitted, what they write, what the queue says.

Each job has a folder ``slurm/<id>/`` beside the artifacts: ``job.json`` says what it builds, ``state.json`` is the
job's own and says how far it got and how often it was begun again; its log lies there too. Where there is no
``squeue`` (on another machine that sees the folder) the files alone tell. Nothing here bears identity.
"""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adg.artifacts.artifact import Node
from adg.artifacts.files import read_json, write_json
from adg.artifacts.store import Status, Store
from adg.errors import BadInput

FOLDER = "slurm"
JOB, STATE = "job.json", "state.json"
LIVE = ("running", "requeued", "queued")  # of what is in the queue, the most telling first
PENDING = ("PENDING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "RESV_DEL_HOLD", "SPECIAL_EXIT")
OVER = ("BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "TIMEOUT")
FORMAT = "jobid:20,state:20,restartcnt:12,reason:60"  # of squeue


@dataclass(frozen=True)
class KnownJob:
    """``state``: queued, running, requeued (in the queue again after an interruption), interrupted, done, not-run or
    failed. ``restarts``: how often it was begun again. ``waits``: for what, in Slurm's word; "" where it is unknown."""

    id: str
    name: str
    state: str
    builds: frozenset[str]
    after: tuple[str, ...]
    restarts: int = 0
    waits: str = ""

    @property
    def live(self) -> bool:
        return self.state in LIVE

    def words(self) -> str:
        """Which job it is, how often it was begun again, what it waits for."""
        said = f"job {self.id}"
        if self.restarts:
            said += f", {again(self.restarts)}"
        if self.state in ("queued", "requeued"):
            if self.waits == "Dependency" and self.after:
                return f"{said}, after {'job' if len(self.after) == 1 else 'jobs'} {', '.join(self.after)}"
            return said + (f", waits: {self.waits}" if self.waits not in ("", "None") else "")
        return said


def again(restarts: int) -> str:
    """How often a job was begun again, in words."""
    return f"queued again {restarts} {'time' if restarts == 1 else 'times'}"


# -- what is written ---------------------------------------------------------------------------------------
def write_job(store: Store, job: str, name: str, builds: Iterable[Node], after: Iterable[str]) -> None:
    """Keep what a submitted job builds, and after which jobs."""
    nodes = {node.fingerprint: node.folder for node in builds}
    about = {"name": name, "builds": nodes, "after": list(after), "submitted": time.time()}
    write_json(store.root / FOLDER / job / JOB, about)


def write_state(store: Store, job: str, state: str, restarts: int, **more: Any) -> None:
    """Keep how far a job got; called by the job itself."""
    write_json(store.root / FOLDER / job / STATE, {"state": state, "restarts": restarts, "when": time.time(), **more})


# -- what is read ------------------------------------------------------------------------------------------
def jobs(store: Store) -> list[KnownJob]:
    """Every job that was submitted for these artifacts, the newest first."""
    written = {path.parent.name: read_json(path) for path in (store.root / FOLDER).glob(f"*/{JOB}")}
    newest = sorted(
        ((id_, about) for id_, about in written.items() if about is not None), key=lambda item: -item[1]["submitted"]
    )
    queue = _squeue([id_ for id_, _ in newest])
    return [_known(store, id_, about, queue) for id_, about in newest]


def _known(store: Store, id_: str, about: dict[str, Any], queue: dict[str, tuple[str, int, str]] | None) -> KnownJob:
    own = _own(store, id_, about)
    state, restarts, waits = own.get("state", "queued"), int(own.get("restarts", 0)), ""
    if queue is not None:
        said = queue.get(id_)
        if said is None or said[0] in OVER:
            # a job that was killed without a word, or never began
            state = "interrupted" if state in ("running", "queued") else state
        elif said[0] in PENDING:
            state, restarts, waits = "requeued" if said[1] else "queued", said[1], said[2]
        else:
            state, restarts = "running", said[1]
    return KnownJob(id_, about["name"], state, frozenset(about["builds"]), tuple(about["after"]), restarts, waits)


def _own(store: Store, id_: str, about: dict[str, Any]) -> dict[str, Any]:
    """What the job itself wrote; of an earlier job of that number, on another cluster, nothing."""
    path: Path = store.root / FOLDER / id_ / STATE
    own = read_json(path) or {}
    return own if own.get("name", about["name"]) == about["name"] else {}


def _squeue(ids: Sequence[str]) -> dict[str, tuple[str, int, str]] | None:
    """State, restarts and reason of those jobs that the queue knows; None where there is no queue to ask."""
    if not ids or shutil.which("squeue") is None:
        return None if ids else {}
    line = ["squeue", "--noheader", "--states=all", f"--jobs={','.join(ids)}", f"--Format={FORMAT}"]
    try:
        done = subprocess.run(line, capture_output=True, encoding="utf-8", timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    if done.returncode:
        return {} if "Invalid job id" in done.stderr else None
    found = {}
    for row in done.stdout.splitlines():
        id_, state, restarts, reason = row[:20].strip(), row[20:40].strip(), row[40:52].strip(), row[52:].strip()
        if id_ in ids:
            found[id_] = (state, int(restarts) if restarts.isdigit() else 0, reason)
    return found


def in_hand(known: Iterable[KnownJob]) -> dict[str, str]:
    """The artifacts that jobs in the queue build, by fingerprint, with the ids of these."""
    return {fingerprint: job.id for job in known if job.live for fingerprint in job.builds}


def seen(
    status: Status, node: Node, left: Collection[str], known: Sequence[KnownJob]
) -> tuple[Status, KnownJob | None]:
    """How a cell stands whose artifact ``node`` tells ``status`` and whose artifacts ``left`` are not there, with its
    jobs in view: those in the queue go before what stopped it earlier, and an interruption is said to be one."""
    if status.state == "done":
        return status, None
    wanted = {node.fingerprint} if status.state in ("failed", "not-run", "running") else {*left, node.fingerprint}
    found = sorted((job for job in known if job.builds & wanted), key=lambda job: node.fingerprint not in job.builds)
    for state in LIVE if status.state != "running" else LIVE[:1]:
        for job in found:
            if job.state == state:
                return Status(state, job.words(), status.path), job
    newest = next((job for job in known if node.fingerprint in job.builds), None)
    if newest is not None and newest.state == "interrupted" and status.state in ("partial", "missing"):
        said = f"{newest.words()}; its log is in {FOLDER}/{newest.id}, adg submit continues"
        return Status("interrupted", said, status.path), newest
    return status, None


def restarts_now(environment: dict[str, str]) -> int:
    """How often the job that this process belongs to was begun again. Raises ``BadInput`` for no number."""
    said = environment.get("SLURM_RESTART_COUNT", "0")
    if not said.isdigit():
        raise BadInput(f"SLURM_RESTART_COUNT is {said!r}; expected a whole number, as Slurm sets it")
    return int(said)
