"""Weights & Biases: a run for each cell, live with an account, as a folder of ``<dir>/wandb`` without one.

Offline the run of a cell is always one folder: it is written from its beginning when a cell is taken up again, so that
``wandb sync`` finds no step twice. Online W&B says at which step the run goes on.
"""

from __future__ import annotations

import os
import shutil
import ssl
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from adg.artifacts.provenance import git_state, library_versions
from adg.errors import BadInput
from experiments.trackers.cell import Curve
from experiments.trackers.config import TrackerConfig
from experiments.trackers.run import Run

ANSWER = 10.0  # seconds that a server may take to answer at all
PATIENCE = 30.0  # seconds that it may take to begin a run
_unreachable: set[tuple[str | None, str]] = set()  # (entity, project) that failed online in this process


class WandbRun(Run):
    """Steps only grow at W&B; scores are its summary."""

    reads_system = False
    run: Any = None
    first = 0  # step from which on the server has nothing

    def begin(self) -> None:
        account = (self.cfg.entity, self.cfg.project)
        self.online = self.mode == "online" and account not in _unreachable
        self._clear()
        (self.folder / "wandb").mkdir(parents=True, exist_ok=True)
        if self.online and (why := _unreached() or self._go_online()):
            _unreachable.add(account)
            self.online = False
            self.warn(
                f"W&B was not reached ({why}); runs wait in {self.folder / 'wandb'} and are sent by `adg sync` with "
                f"this command's options, or by: wandb sync {self.folder / 'wandb'}/offline-run-*"
            )
            self._clear()
        if not self.online:
            self.run = self._init("offline")

    def _clear(self) -> None:
        """Delete what is on disk of the run: it is written again."""
        for old in (self.folder / "wandb").glob(f"*run-*-{self.cell.id}"):
            shutil.rmtree(old)

    def _go_online(self) -> str:
        """Begin the run at the server, or go on with it; returns why that cannot be."""
        import wandb

        try:
            self.run = self._init("online")
        except (wandb.errors.Error, OSError) as error:
            wandb.teardown()
            return f"{type(error).__name__}: {error}"
        self.first = self.run.starting_step
        return ""

    def _init(self, mode: Literal["online", "offline"]) -> Any:
        import wandb

        tags = [self.cell.backbone, self.cell.pool, self.cell.selector]
        return wandb.init(
            project=self.cfg.project,
            entity=self.cfg.entity,
            id=self.cell.id,
            name=self.cell.name[:128],
            group=self.cell.group,
            job_type="cell",
            tags=[tag[:64] for tag in tags],
            mode=mode,
            resume="allow" if mode == "online" else None,
            dir=self.folder,
            reinit="create_new",
            config={
                **self.cell.config,
                "cell": {"variant": self.cell.variant, "fingerprint": self.cell.fingerprint},
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
                init_timeout=min(PATIENCE, self.cfg.timeout / 2),
                x_disable_meta=True,  # no name or path of this machine
                x_disable_stats=not self.live,
                x_stats_pid=self.pid,  # of the process that works, and what it started
                x_stats_track_process_tree=True,
                x_save_requirements=False,
            ),
        )

    def add(self, rows: Curve) -> None:
        for step, numbers in rows:
            if step >= self.first:
                self.run.log(numbers, step=step)

    def settle(self, values: Mapping[str, Any]) -> None:
        self.run.summary.update(dict(values))

    def describe(self, words: Mapping[str, str]) -> None:
        """They are in the summary."""

    def close(self, state: str, files: Mapping[str, Path]) -> tuple[str, str]:
        import wandb

        if files:
            artifact = wandb.Artifact(f"subset-{self.cell.id[:16]}", type="subset", metadata={"cell": self.cell.name})
            for name, path in files.items():
                # The store never changes a finished file, so no second copy of it is made.
                artifact.add_file(str(path.absolute()), name=name, policy="immutable", skip_cache=True)
            self.run.log_artifact(artifact)
        if self.run.summary.get("partial"):
            self.run.tags = (*self.run.tags, "partial")
        place = str(Path(self.run.dir).parent)
        self.run.finish(exit_code=int(state in ("failed", "interrupted")))
        wandb.teardown()  # finish() returns before the service has written the file to its end; this waits for it
        return place, "online" if self.online else "offline"


def _unreached() -> str:
    """Why no connection to the server can be made; "" where it answers, whatever it says."""
    import wandb

    try:
        urllib.request.urlopen(wandb.setup().settings.base_url, timeout=ANSWER).close()
    except (ssl.SSLError, urllib.error.HTTPError):
        return ""
    except OSError as error:
        reason = getattr(error, "reason", error)
        return "" if isinstance(reason, ssl.SSLError) else str(reason)
    return ""


def resolve_mode(cfg: TrackerConfig) -> str:
    """ "online", "offline" or "off", without opening a connection. Raises ``BadInput`` where mode=online has no key."""
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
