"""The folder of artifacts: found by fingerprint, built once, locked while they are built.

An artifact is one folder whose ``manifest.json`` is written last: its presence means "complete". Nothing here bears
identity (see ``artifact.py``).
"""

from __future__ import annotations

import shutil
import time
import traceback
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adg.artifacts import disk
from adg.artifacts.artifact import EARLIER, MANIFEST, SCHEMA, WORK, Artifact, Node, plain, read_artifact, run_builder
from adg.artifacts.files import flush_folder
from adg.artifacts.provenance import git_state, library_versions, machine
from adg.artifacts.sealed import Damaged, file_digests, read_sealed, require, write_sealed
from adg.command import stopping
from adg.errors import HarnessError, NotRunnable
from adg.progress import notice
from adg.redaction import without_secrets

FAILURE = "failed.json"
FAILURE_SCHEMA = "adg-failure/1"


@dataclass(frozen=True)
class Status:
    """``state`` is one of done, running, failed, upstream-failed, not-run, partial, missing."""

    state: str
    reason: str = ""
    path: Path | None = None


class StageFailed(HarnessError):
    """A stage failed in this process; its reason and traceback stand in the folder's ``failed.json``."""

    def __init__(self, message: str, node: Node) -> None:
        super().__init__(message)
        self.node = node


class Store:
    """The folder of artifacts. ``runner`` decides in which process a builder is called."""

    def __init__(self, root: Path | str, exec_: Any = None, runner: Any = None) -> None:
        self.root = Path(root).absolute()
        self.exec = exec_
        self.runner = runner or run_builder
        self._failed: dict[str, Exception] = {}
        self._verified: set[str] = set()

    # -- looking things up ---------------------------------------------------------------------------

    def path(self, node: Node) -> Path:
        return self.root / node.folder

    def partial(self, node: Node) -> Path:
        return unfinished(self.path(node))

    def find(self, node: Node) -> Artifact | None:
        """The complete artifact, its payload verified once per process; None when there is none."""
        path = self.path(node)
        artifact = read_artifact(path)
        if artifact is None:
            return None
        if artifact.fingerprint != node.fingerprint:
            raise HarnessError(
                f"{path} belongs to {artifact.fingerprint[:16]} but {node.fingerprint[:16]} was "
                f"expected; move that folder away and run the same command again"
            )
        self.verify(artifact)
        return artifact

    def verify(self, artifact: Artifact) -> None:
        """Once per process: raise ``Damaged`` where a payload is not as it was built, or not from what is here."""
        if artifact.fingerprint not in self._verified:
            artifact.verify()
            self._made_from_what_is_here(artifact)
            self._verified.add(artifact.fingerprint)
            shutil.rmtree(artifact.path / WORK, ignore_errors=True)  # left by a kill just after completion

    def _made_from_what_is_here(self, artifact: Artifact) -> None:
        """Raise ``Damaged`` where an input that the artifact was made from was built again since, and otherwise."""
        for role, entry in artifact.manifest["inputs"].items():
            above = read_artifact(self.root / entry["folder"]) if "digest" in entry else None
            if above is not None and above.fingerprint == entry["fingerprint"] and above.digest != entry["digest"]:
                raise Damaged(
                    f"{artifact.path} was made from another build of its {role} than the one in {above.path}, "
                    f"which differs from it (built {above.manifest.get('finished', 'since')})",
                    f"Put the earlier {above.path} back, or delete the folder {artifact.path} and all that was made "
                    f"from it, and run the same command again",
                )

    def complete(self, node: Node) -> bool:
        """Whether the artifact is there, by its manifest alone (no payload is read)."""
        artifact = read_artifact(self.path(node))
        return artifact is not None and artifact.fingerprint == node.fingerprint

    def status(self, node: Node) -> Status:
        """The state of one artifact, without building or verifying anything."""
        return self.statuses([node])[node.fingerprint]

    def statuses(self, nodes: Iterable[Node]) -> dict[str, Status]:
        """The same of several, by fingerprint; each artifact that they or what they need name is looked at once."""
        known: dict[str, Status] = {}
        return {node.fingerprint: self._status(node, known) for node in nodes}

    def _status(self, node: Node, known: dict[str, Status]) -> Status:
        if node.fingerprint not in known:
            known[node.fingerprint] = self._look(node, known)
        return known[node.fingerprint]

    def _look(self, node: Node, known: dict[str, Status]) -> Status:
        try:
            if self.complete(node):
                return Status("done", path=self.path(node))
        except Damaged as error:
            return Status("failed", str(error), self.path(node))
        partial = self.partial(node)
        if partial.is_dir() and held(self._lock_file(node)):
            return Status("running", path=partial)
        failed = failure(partial / FAILURE)
        if failed is not None:
            return Status(*failed, partial)
        for parent in node.inputs.values():
            above = self._status(parent, known)
            if above.state in ("failed", "upstream-failed"):
                return Status("upstream-failed", f"{parent.folder}: {above.reason}")
            if above.state == "not-run":
                return Status("not-run", above.reason)
        return Status("partial" if partial.is_dir() else "missing", path=partial if partial.is_dir() else None)

    def reopen(self, node: Node) -> None:
        """Turn a complete artifact into an unfinished one; its builder finds what was there as ``job.earlier()``."""
        with self._locked(node):
            if self.complete(node):
                earlier = self.partial(node) / WORK / EARLIER
                shutil.rmtree(self.partial(node), ignore_errors=True)
                earlier.parent.mkdir(parents=True)
                self.path(node).rename(earlier)

    # -- building ------------------------------------------------------------------------------------

    def ensure(self, node: Node, on_build: Any = None) -> Artifact:
        """The artifact, built now if need be together with everything it depends on.

        ``on_build(node, event, seconds)`` is told "cached", "start", "done" or "failed" for each node reached.
        A stage that already failed in this process is not tried again.
        """
        artifact = self.find(node)
        if artifact is not None:
            if on_build:
                on_build(node, "cached", 0.0)
            return artifact
        if node.fingerprint in self._failed:
            raise self._failed[node.fingerprint]
        inputs = {role: self.ensure(parent, on_build) for role, parent in sorted(node.inputs.items())}
        if on_build and held(self._lock_file(node)):
            on_build(node, "waiting", 0.0)
        with self._locked(node), disk.in_words(self.root):
            artifact = self.find(node) or self._adopt(node)
            if artifact is not None:
                return artifact
            return self._build(node, inputs, on_build)

    def _build(self, node: Node, inputs: Mapping[str, Artifact], on_build: Any) -> Artifact:
        folder = self.partial(node)
        started = time.time()
        if on_build:
            on_build(node, "start", 0.0)
        try:
            _clear(folder)
            info = self.runner(node, folder, inputs, self.exec)
            seconds = time.time() - started - getattr(self.runner, "waited", 0.0)  # for a GPU
            self._write_manifest(node, inputs, info, started, seconds)
        except Exception as error:
            if stopping():  # a library's answer to a signal is no failure
                raise
            kept, state = self._keep_failure(node, error)
            if on_build:
                on_build(node, state, time.time() - started)
            if kept is error:
                raise
            raise kept from error
        built = self._adopt(node, on_build, seconds)
        assert built is not None, f"{folder}/{MANIFEST} was written just now"
        return built

    def _write_manifest(
        self, node: Node, inputs: Mapping[str, Artifact], info: Any, started: float, seconds: float
    ) -> None:
        """Say what a finished folder holds and where it came from; every file is on the disk before that."""
        folder = self.partial(node)
        for leftover in folder.rglob(".*.tmp"):  # of a kill inside write_atomic
            leftover.unlink()
        files = file_digests(folder, leave_out=(WORK, FAILURE))
        if not files:
            raise HarnessError(f"the stage {node.stage.name} wrote no file into {folder}")
        for path in [p for p in folder.rglob("*") if p.is_dir()]:
            flush_folder(path)
        write_sealed(
            folder / MANIFEST,
            {
                "schema": SCHEMA,
                "stage": node.stage.name,
                "stage_version": node.stage.version,
                "label": node.label,
                "fingerprint": node.fingerprint,
                "payload": node.payload,
                "inputs": {
                    role: {
                        "fingerprint": a.fingerprint,
                        "folder": f"{a.path.parent.name}/{a.path.name}",
                        "digest": a.digest,
                    }
                    for role, a in inputs.items()
                },
                "files": files,
                "info": info,
                "exec": plain(self.exec),
                "versions": library_versions(),
                "git": git_state(),
                "machine": machine(),
                "started": _now(started),
                "finished": _now(),
                "seconds": round(seconds, 3),
            },
        )

    def _keep_failure(self, node: Node, error: Exception) -> tuple[Exception, str]:
        """Write ``failed.json``; returns what to raise whenever this process meets the node, and the state."""
        folder = self.partial(node)
        error_ = disk.explained(error, folder) or error
        state = "not-run" if isinstance(error_, NotRunnable) else "failed"
        reason = f"{error_}" if isinstance(error_, HarnessError) else f"{type(error_).__name__}: {error_}"
        told: dict[str, Any] = without_secrets(
            {"state": state, "reason": reason, "traceback": "".join(traceback.format_exception(error))}
        )
        kept: Exception = error_
        if not isinstance(error_, HarnessError):
            kept = StageFailed(f"{node.folder}: {told['reason']} (traceback in {folder}/{FAILURE})", node)
        try:
            content = {"schema": FAILURE_SCHEMA, **told, "when": _now(), "payload": node.payload}
            write_sealed(folder / FAILURE, content)
        except OSError as unwritten:  # the very disk that is full; what failed is said all the same
            notice(f"{folder / FAILURE} could not be written ({unwritten.strerror})")
        self._failed[node.fingerprint] = kept
        return kept, state

    def refuse(self, node: Node, error: HarnessError) -> None:
        """Fail ``node`` before anything it needs is built, for a reason that is known already. Raises ``error``."""
        with self._locked(node):
            self._keep_failure(node, error)
        raise error

    def _adopt(self, node: Node, on_build: Any = None, seconds: float = 0.0) -> Artifact | None:
        """Move a finished partial folder (its manifest is there) to its final name; None where it is not finished.

        ``on_build`` is given where it was built just now; one left by a kill is verified first.
        """
        folder, target = self.partial(node), self.path(node)
        try:
            artifact = read_artifact(folder)
            if artifact is None or artifact.fingerprint != node.fingerprint:
                return None
            if on_build is None:
                artifact.verify()
        except Damaged as error:
            notice(f"{folder} was nearly finished and is built again: {error.what}")
            return None
        if self.complete(node):  # another machine's, which a network file system showed too late
            shutil.rmtree(folder)
        else:
            if target.exists():
                notice(f"{target} had no {MANIFEST} any more; what was left of it is replaced")
                shutil.rmtree(target)
            folder.rename(target)
            flush_folder(target.parent)
        artifact = self.find(node)
        if on_build:
            on_build(node, "done", seconds)
        return artifact

    def _lock_file(self, node: Node) -> Path:
        return lock_file(self.path(node))

    @contextmanager
    def _locked(self, node: Node) -> Iterator[None]:
        """A lock the system drops when its holder dies; a second process waits and then finds the result.

        Before it waits, its runner is closed: what that holds (a GPU) may be what the first process waits for.
        """
        from filelock import FileLock, Timeout

        path = self._lock_file(node)
        lock = FileLock(path)
        with disk.in_words(path.parent):
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                lock.acquire(timeout=0)
            except Timeout:
                if hasattr(self.runner, "close"):
                    self.runner.close()
                lock.acquire()
        try:
            yield
        finally:
            lock.release()


def unfinished(path: Path) -> Path:
    """Where the artifact of ``path`` is while it is built."""
    return path.with_name(path.name + ".partial")


def lock_file(path: Path) -> Path:
    """What whoever builds the artifact of ``path`` holds."""
    return path.with_name(path.name + ".lock")


def _clear(folder: Path) -> None:
    """Leave nothing in a folder to be built but its scratch, which its builder verifies; the rest is the payload."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in folder.iterdir():
        if path.name != WORK:
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def failure(path: Path) -> tuple[str, str] | None:
    """State and reason in a ``failed.json``; None where there is none. A damaged one counts as failed, and says so."""
    try:
        content = read_sealed(path, unsealed=(None,))  # the form of earlier versions
        if content is None:
            return None
        require(path, content, {"state": str, "reason": str})
    except Damaged as error:
        return "failed", f"{error}; run the same command again"
    return content["state"], content["reason"]


def held(lock: Path) -> bool:
    """Whether some process holds the lock now."""
    if not lock.exists():
        return False
    from filelock import FileLock, Timeout

    probe = FileLock(lock)
    try:
        probe.acquire(timeout=0)
    except Timeout:
        return True
    except OSError:  # a folder of somebody else, which this user may only read
        return False
    probe.release()
    return False


def _now(moment: float | None = None) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(moment))
