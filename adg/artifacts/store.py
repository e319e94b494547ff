"""The folder of artifacts: found by fingerprint, built once, locked while they are built.

An artifact is one folder whose ``manifest.json`` is written last: its presence means "complete". Nothing here bears
identity (see ``artifact.py``).
"""

from __future__ import annotations

import shutil
import time
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adg.artifacts.artifact import SCHEMA, WORK, Artifact, Node, plain, read_artifact, run_builder
from adg.artifacts.files import read_json, sha256_file, write_json
from adg.artifacts.provenance import git_state, library_versions, machine
from adg.errors import HarnessError, NotRunnable


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
        path = self.path(node)
        return path.with_name(path.name + ".partial")

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
        if artifact.fingerprint not in self._verified:
            artifact.verify()
            self._verified.add(artifact.fingerprint)
            shutil.rmtree(path / WORK, ignore_errors=True)  # left by a kill just after completion
        return artifact

    def complete(self, node: Node) -> bool:
        """Whether the artifact is there, by its manifest alone (no payload is read)."""
        artifact = read_artifact(self.path(node))
        return artifact is not None and artifact.fingerprint == node.fingerprint

    def status(self, node: Node) -> Status:
        """The state of one artifact, without building or verifying anything."""
        if self.complete(node):
            return Status("done", path=self.path(node))
        partial = self.partial(node)
        if partial.is_dir() and _held(self._lock_file(node)):
            return Status("running", path=partial)
        failure = read_json(partial / "failed.json")
        if failure is not None:
            return Status(failure.get("state", "failed"), failure["reason"], partial)
        for parent in node.inputs.values():
            above = self.status(parent)
            if above.state in ("failed", "upstream-failed"):
                return Status("upstream-failed", f"{parent.folder}: {above.reason}")
            if above.state == "not-run":
                return Status("not-run", above.reason)
        return Status("partial" if partial.is_dir() else "missing", path=partial if partial.is_dir() else None)

    def reopen(self, node: Node) -> None:
        """Turn a complete artifact back into an unfinished one, keeping its payload for the builder to build on."""
        with self._locked(node):
            if self.complete(node):
                (self.path(node) / "manifest.json").unlink()
                self.path(node).rename(self.partial(node))

    # -- building ------------------------------------------------------------------------------------

    def ensure(self, node: Node, on_build: Any = None) -> Artifact:
        """The artifact, built now if need be together with everything it depends on.

        ``on_build(node, event, seconds)`` is told "cached", "start", "done" or "failed" for each node reached.
        A stage that already failed in this process is not tried again.
        """
        found = self.find(node)
        if found is not None:
            if on_build:
                on_build(node, "cached", 0.0)
            return found
        if node.fingerprint in self._failed:
            raise self._failed[node.fingerprint]
        inputs = {role: self.ensure(parent, on_build) for role, parent in sorted(node.inputs.items())}
        if on_build and _held(self._lock_file(node)):
            on_build(node, "waiting", 0.0)
        with self._locked(node):
            found = self.find(node) or self._adopt(node)
            if found is not None:
                return found
            return self._build(node, inputs, on_build)

    def _build(self, node: Node, inputs: Mapping[str, Artifact], on_build: Any) -> Artifact:
        folder = self.partial(node)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "failed.json").unlink(missing_ok=True)
        started = time.time()
        if on_build:
            on_build(node, "start", 0.0)
        try:
            info = self.runner(node, folder, inputs, self.exec)
        except Exception as error:
            kept, state = self._keep_failure(node, error)
            if on_build:
                on_build(node, state, time.time() - started)
            if kept is error:
                raise
            raise kept from error
        for leftover in folder.rglob(".*.tmp"):  # of a kill inside write_atomic
            leftover.unlink()
        seconds = time.time() - started - getattr(self.runner, "waited", 0.0)  # for a GPU
        files = {
            p.relative_to(folder).as_posix(): {"bytes": p.stat().st_size, "sha256": sha256_file(p)}
            for p in sorted(folder.rglob("*"))
            if p.is_file() and p.relative_to(folder).parts[0] not in (WORK, "failed.json")
        }
        if not files:
            raise HarnessError(f"the stage {node.stage.name} wrote no file into {folder}")
        write_json(
            folder / "manifest.json",
            {
                "schema": SCHEMA,
                "stage": node.stage.name,
                "stage_version": node.stage.version,
                "label": node.label,
                "fingerprint": node.fingerprint,
                "payload": node.payload,
                "inputs": {
                    role: {"fingerprint": a.fingerprint, "folder": f"{a.path.parent.name}/{a.path.name}"}
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
        built = self._adopt(node, on_build, seconds)
        assert built is not None, f"{folder}/manifest.json was written just now"
        return built

    def _keep_failure(self, node: Node, error: Exception) -> tuple[Exception, str]:
        """Write ``failed.json``; returns what to raise whenever this process meets the node, and the state."""
        folder = self.partial(node)
        state = "not-run" if isinstance(error, NotRunnable) else "failed"
        reason = f"{error}" if isinstance(error, HarnessError) else f"{type(error).__name__}: {error}"
        write_json(
            folder / "failed.json",
            {
                "state": state,
                "reason": reason,
                "traceback": "".join(traceback.format_exception(error)),
                "when": _now(),
                "payload": node.payload,
            },
        )
        kept: Exception = error
        if not isinstance(error, HarnessError):
            kept = StageFailed(f"{node.folder}: {reason} (traceback in {folder}/failed.json)", node)
        self._failed[node.fingerprint] = kept
        return kept, state

    def refuse(self, node: Node, error: HarnessError) -> None:
        """Fail ``node`` before anything it needs is built, for a reason that is known already. Raises ``error``."""
        with self._locked(node):
            self.partial(node).mkdir(parents=True, exist_ok=True)
            self._keep_failure(node, error)
        raise error

    def _adopt(self, node: Node, on_build: Any = None, seconds: float = 0.0) -> Artifact | None:
        """Move a finished partial folder (its manifest is there) to its final name."""
        folder = self.partial(node)
        artifact = read_artifact(folder)
        if artifact is None or artifact.fingerprint != node.fingerprint:
            return None
        target = self.path(node)
        if self.complete(node):  # another machine's, which a network file system showed too late
            shutil.rmtree(folder)
        else:
            if target.exists():  # a folder without a valid manifest: somebody deleted part of it
                shutil.rmtree(target)
            folder.rename(target)
        found = self.find(node)
        if on_build:
            on_build(node, "done", seconds)
        return found

    def _lock_file(self, node: Node) -> Path:
        path = self.path(node)
        return path.with_name(path.name + ".lock")

    @contextmanager
    def _locked(self, node: Node) -> Iterator[None]:
        """A lock the system drops when its holder dies; a second process waits and then finds the result.

        Before it waits, its runner is closed: what that holds (a GPU) may be what the first process waits for.
        """
        from filelock import FileLock, Timeout

        path = self._lock_file(node)
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path)
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


def _held(lock: Path) -> bool:
    """Whether some process holds the lock now."""
    if not lock.exists():
        return False
    from filelock import FileLock, Timeout

    probe = FileLock(lock)
    try:
        probe.acquire(timeout=0)
    except Timeout:
        return True
    probe.release()
    return False


def _now(moment: float | None = None) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(moment))
