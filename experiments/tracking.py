"""Weights & Biases, or a tracker of another package, behind one module: what crosses is a finished cell, as plain data.

The JSON on disk is the record, W&B a view of it. When a cell ends it is written as an offline run, once, under an id
made from its fingerprint, and with an account uploaded. A failure of W&B is a warning; it never costs a cell.

A tracker of another package is a function that it adds to the entry points ``adg.plugins.TRACKERS``. It is called with
the ``TrackerConfig``, the ``CellInfo`` and the ``CellOutcome`` of each cell that ends, as often as the cell is run; its
failures are warnings too.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from adg import plugins
from adg.artifacts.artifact import plain
from adg.artifacts.files import sha256_file, sha256_text, write_json
from adg.artifacts.provenance import git_state, library_versions
from adg.errors import BadInput, NotRunnable, nearest
from adg.evaluation import statistics
from adg.evaluation.benchmarks import binary
from adg.redaction import without_secrets

SCHEMA = "adg-tracking/1"
log = logging.getLogger(__name__)
_unreachable: set[tuple[str | None, str]] = set()  # (entity, project) that failed online in this process


@dataclass(frozen=True)
class TrackerConfig:
    """Where a cell is shown besides the files on disk. Never part of a cell's identity."""

    name: str = "none"  # wandb | none | one of another package
    project: str = "adg"
    entity: str | None = None
    mode: str = "auto"  # auto: WANDB_MODE where it is set, else online with an API key, offline without one
    dir: str = field(default="runs", metadata={"path": True})  # wandb adds a folder "wandb" to it
    timeout: float = 120.0  # seconds an upload may take; after that the run stays on disk
    options: dict[str, Any] = field(default_factory=dict)  # what a tracker of another package reads

    def __post_init__(self) -> None:
        names = ("wandb", "none", *plugins.found(plugins.TRACKERS))
        for name, allowed in (("name", names), ("mode", ("auto", "online", "offline"))):
            value = getattr(self, name)
            if value not in allowed:
                near = nearest(str(value), allowed)
                raise BadInput(f"tracker.{name} is {value!r}{near}; expected one of {', '.join(allowed)}")
        if self.options and self.name in ("wandb", "none"):
            raise BadInput(
                f"tracker.options are for trackers of other packages; tracker={self.name} reads none of them"
            )
        if not self.timeout > 0:
            raise BadInput(f"tracker.timeout is {self.timeout!r}; expected seconds above 0")


@dataclass(frozen=True)
class CellInfo:
    """What identifies and describes a cell: ``fingerprint`` in hex, ``group`` the sweep, ``config`` plain values."""

    name: str
    fingerprint: str
    group: str
    backbone: str
    pool: str
    selector: str
    variant: str = ""
    config: Mapping[str, Any] = field(default_factory=dict)

    @property
    def id(self) -> str:
        """The W&B run id: the first 32 hex digits of the fingerprint."""
        return self.fingerprint[:32]


class CellOutcome:
    """What a cell reports while it runs; it is sent when the cell ends."""

    def __init__(self) -> None:
        self.state = "done"
        self.reason = ""
        self.curve: list[tuple[int, dict[str, float]]] = []
        self.summary: dict[str, Any] = {}
        self.partial = False
        self.files: dict[str, Path] = {}
        self.digests: dict[str, str] = {}

    def training(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """The rows of ``training.jsonl``: each has a "step"; its other numbers become ``train/<name>``."""
        steps: dict[int, dict[str, float]] = {}
        for row in rows:
            numbers = {f"train/{key}": value for key, value in row.items() if key != "step" and _number(value)}
            steps.setdefault(int(row["step"]), {}).update(numbers)
        self.curve = sorted(steps.items())

    def results(self, results: Mapping[str, Any]) -> None:
        """The scores of an evaluation in percent. A task without a score leaves its reason and no number."""
        self.partial = bool(results.get("partial"))
        self.summary["partial"] = self.partial
        for task, entry in results["tasks"].items():
            if entry.get("value") is None:
                self.summary[f"not_run/{task}"] = entry.get("reason") or entry.get("status") or "missing"
                continue
            self.summary[f"score/{task}"] = 100 * entry["value"]
            ends = statistics.score_interval(entry["value"], entry.get("stderr"), entry["n"], binary(task))
            if ends is not None:
                self.summary |= {f"low/{task}": 100 * ends.low, f"high/{task}": 100 * ends.high}
            self.summary[f"items/{task}"] = entry["n"]
        for name, value in results["categories"].items():
            if value is not None:
                self.summary[f"category/{name}"] = 100 * value

    def subset(self, path: Path, facts: Mapping[str, Any] | None = None) -> None:
        """The subset's file, kept as an artifact, and facts such as its size."""
        self.files[path.name] = path
        self.digests[path.name] = sha256_file(path)
        self.summary.update({f"subset/{key}": value for key, value in (facts or {}).items()})


@contextmanager
def track(cfg: TrackerConfig, cell: CellInfo) -> Iterator[CellOutcome]:
    """Report one cell: fill the ``CellOutcome`` inside the block, it is sent when the block ends.

    An exception passes through after the run was sent as failed. The same cell with the same content is sent once,
    however often it is run; new content replaces the run on disk and goes to the server under the same id.
    Raises ``BadInput`` at the start when ``mode=online`` and no API key is there, or a tracker cannot be loaded.
    """
    send = _sender(cfg)
    record = CellOutcome()
    try:
        yield record
    except Exception as error:
        record.state = "not-run" if isinstance(error, NotRunnable) else "failed"
        record.reason = f"{type(error).__name__}: {error}"
        send(cell, record)
        raise
    send(cell, record)


def _sender(cfg: TrackerConfig) -> Callable[[CellInfo, CellOutcome], None]:
    """What is told of a cell that has ended."""
    if cfg.name not in ("wandb", "none"):
        tell = plugins.load(plugins.found(plugins.TRACKERS)[cfg.name])
        return lambda cell, record: _tell(tell, cfg, cell, record)
    mode = resolve_mode(cfg)
    return lambda cell, record: _send(cfg, cell, record, mode)


def _tell(tell: Callable[..., None], cfg: TrackerConfig, cell: CellInfo, record: CellOutcome) -> None:
    """Tell a tracker of another package, without secrets. What goes wrong in it is a warning."""
    record.summary, record.reason = without_secrets((record.summary, record.reason))
    try:
        tell(cfg, dataclasses.replace(cell, config=without_secrets(plain(cell.config))), record)
    except Exception as error:
        log.warning("tracker %s failed for %s (%s: %s)", cfg.name, cell.name, type(error).__name__, error)
        log.debug("tracker failed", exc_info=True)


def resolve_mode(cfg: TrackerConfig) -> str:
    """ "online", "offline" or "off", without opening a connection."""
    if cfg.name == "none":
        return "off"
    if cfg.mode == "offline":
        return "offline"
    chosen = os.environ.get("WANDB_MODE", "") if cfg.mode == "auto" else ""
    if chosen in ("offline", "dryrun"):
        return "offline"
    if chosen == "disabled":
        return "off"
    if _has_credentials():
        return "online"
    if cfg.mode == "online":
        raise BadInput(
            "tracker.mode is 'online' but no W&B API key was found; run `wandb login` or set WANDB_API_KEY, "
            "or use tracker.mode=offline"
        )
    return "offline"


def _has_credentials() -> bool:
    """Whether wandb.init would find an API key or identity token (environment, netrc); asks nobody."""
    import wandb
    from wandb.sdk.lib import wbauth

    try:
        found = wbauth.authenticate_session(
            host=wandb.setup().settings.base_url, source="adg", prompt=False, update_session=False
        )
    except wandb.errors.AuthenticationError as error:
        raise BadInput(
            f"the W&B API key is unusable ({error}); run `wandb login`, or use tracker.mode=offline or tracker=none"
        ) from error
    return found is not None


def _send(cfg: TrackerConfig, cell: CellInfo, record: CellOutcome, mode: str) -> None:
    """Write the run and upload it, unless that was done; what is where stands in ``<dir>/wandb/cells/<id>.json``."""
    if mode == "off":
        return
    folder = Path(cfg.dir).absolute() / "wandb"
    note = folder / "cells" / f"{cell.id}.json"
    config, summary, reason = without_secrets((plain(cell.config), record.summary, record.reason))
    content = {
        "cell": cell.name,
        "group": cell.group,
        "project": cfg.project,
        "entity": cfg.entity,
        "config": config,
        "summary": {**summary, "state": record.state, **({"reason": reason} if reason else {})},
        "curve": record.curve,
        "files": record.digests,
    }
    digest = sha256_text(json.dumps(content, sort_keys=True, ensure_ascii=False))
    entry: dict[str, Any] = {"schema": SCHEMA, "id": cell.id, "cell": cell.name, "digest": digest}
    before = _note(note)
    kept = before.get("folder") if before.get("digest") == digest else None
    if before.get("sent") == "online" and kept is not None:
        return
    # Whatever goes wrong inside W&B, the cell is finished and on disk: keep the reason, warn, go on.
    try:
        if kept is None or not Path(kept).is_dir():
            kept = str(_write_run(cfg, cell, record, content, folder))
        write_json(note, {**entry, "sent": "offline", "folder": kept, "sync": f"wandb sync {kept}"})
        if mode == "online" and (cfg.entity, cfg.project) not in _unreachable:
            _upload(Path(kept), note.with_suffix(".log"), cfg.timeout)
            write_json(note, {**entry, "sent": "online", "folder": kept})
    except _NotUploaded as error:
        _unreachable.add((cfg.entity, cfg.project))
        log.warning(
            "%s; nothing more is sent by this process, the runs wait in %s; send them later with: "
            "wandb sync %s/offline-run-*",
            error,
            folder,
            folder,
        )
    except Exception as error:
        log.warning(
            "W&B failed for %s (%s: %s); the cell itself is complete on disk and is offered to W&B again the "
            "next time it runs",
            cell.name,
            type(error).__name__,
            error,
        )
        log.debug("W&B failed", exc_info=True)


class _NotUploaded(Exception):
    """A run on disk did not reach the server."""


def _note(path: Path) -> dict[str, Any]:
    try:
        note = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return note if isinstance(note, dict) and note.get("schema") == SCHEMA else {}


def _write_run(
    cfg: TrackerConfig, cell: CellInfo, record: CellOutcome, content: Mapping[str, Any], folder: Path
) -> Path:
    """The run as wandb keeps it on disk; an older one of the same id is replaced. Opens no network socket."""
    import wandb

    for old in folder.glob(f"offline-run-*-{cell.id}"):
        shutil.rmtree(old)
    folder.mkdir(parents=True, exist_ok=True)
    tags = [cell.backbone, cell.pool, cell.selector, *(["partial"] if record.partial else [])]
    run = wandb.init(
        project=cfg.project,
        entity=cfg.entity,
        id=cell.id,
        name=cell.name[:128],
        group=cell.group,
        job_type="cell",
        tags=[tag[:64] for tag in tags],
        mode="offline",
        dir=folder.parent,
        reinit="create_new",
        config={
            **content["config"],
            "cell": {"variant": cell.variant, "fingerprint": cell.fingerprint},
            "git": git_state(),
            "versions": library_versions(),
        },
        settings=wandb.Settings(
            silent=True,
            console="off",  # nothing of the terminal is captured or decorated
            disable_code=True,
            save_code=False,
            disable_job_creation=True,
            disable_git=True,
            x_disable_meta=True,
            x_disable_machine_info=True,
            x_disable_stats=True,
            x_save_requirements=False,
        ),
    )
    code = 1
    try:
        for step, numbers in content["curve"]:
            run.log(dict(numbers), step=step)
        run.summary.update(content["summary"])
        if record.files:
            artifact = wandb.Artifact(f"subset-{cell.id[:16]}", type="subset", metadata={"cell": cell.name})
            for name, path in record.files.items():
                # The store never changes a finished file, so no second copy of it is made.
                artifact.add_file(str(path.absolute()), name=name, policy="immutable", skip_cache=True)
            run.log_artifact(artifact)
        code = 1 if record.state == "failed" else 0
    finally:
        run.finish(exit_code=code)
        wandb.teardown()  # finish() returns before the service has written the file to its end; this waits for it
    return Path(run.dir).parent


def _upload(run: Path, output: Path, timeout: float) -> None:
    """``wandb sync`` in a process of its own, because it retries a dead server for ever; raises ``_NotUploaded``."""
    command = [sys.executable, "-m", "wandb", "sync", str(run)]
    environment = {k: v for k, v in os.environ.items() if k != "WANDB_MODE"} | {"WANDB_DIR": str(run.parent.parent)}
    try:
        with open(output, "wb") as file:
            done = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                env=environment,
                timeout=timeout,
                check=False,
            )
    except subprocess.TimeoutExpired:
        raise _NotUploaded(f"W&B did not take {run.name} within {timeout:g} s (see {output})") from None
    if not list(run.glob("*.wandb.synced")):
        raise _NotUploaded(f"W&B did not take {run.name}, exit code {done.returncode} (see {output})")


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
