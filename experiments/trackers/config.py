"""Which trackers are told of a cell, and how; whether they can be is known before any work.

Never part of a cell's identity.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any

from adg import extras, plugins
from adg.errors import BadInput, nearest

OURS = {  # its module here, and what must be installed for it
    "wandb": ("wandb",),
    "tensorboard": ("tensorboard",),
    "trackio": ("trackio",),
    "mlflow": ("mlflow", "sqlalchemy"),
}


@dataclass(frozen=True)
class TrackerConfig:
    """Where a cell is shown besides the files on disk. Never part of a cell's identity.

    A file of ``conf/tracker`` adds its name to ``names``, so that ``tracker=[wandb,tensorboard]`` is both; ``name`` is
    one more, of a file that says it so.
    """

    names: dict[str, bool] = field(default_factory=dict)  # wandb, tensorboard, trackio, mlflow, of another package
    name: str = "none"
    project: str = "adg"
    entity: str | None = None  # of W&B
    mode: str = "auto"  # of W&B; auto: WANDB_MODE where it is set, else online with an API key, offline without one
    dir: str = field(default="runs", metadata={"path": True})  # each tracker adds a folder of its own name to it
    timeout: float = 120.0  # seconds a tracker may take at a cell's end; then the run waits for `adg sync`
    options: dict[str, Any] = field(default_factory=dict)  # what a tracker of another package reads

    def __post_init__(self) -> None:
        names = (*OURS, *plugins.found(plugins.TRACKERS))
        for key, value, allowed in (
            ("name", self.name, (*names, "none")),
            *(("names", name, names) for name in self.names),
            ("mode", self.mode, ("auto", "online", "offline")),
        ):
            if value not in allowed:
                near = nearest(str(value), allowed)
                raise BadInput(f"tracker.{key} is {value!r}{near}; expected one of {', '.join(allowed)}")
        if self.options and not self.others:
            raise BadInput(
                f"tracker.options are for trackers of other packages; tracker={'+'.join(self.ours) or 'none'} reads "
                f"none of them"
            )
        if not self.timeout > 0:
            raise BadInput(f"tracker.timeout is {self.timeout!r}; expected seconds above 0")

    @property
    def chosen(self) -> tuple[str, ...]:
        """All of them, this project's own first."""
        asked = {name for name, on in {**self.names, self.name: True}.items() if on}
        return tuple(name for name in (*OURS, *plugins.found(plugins.TRACKERS)) if name in asked)

    @property
    def ours(self) -> tuple[str, ...]:
        """Those of this project."""
        return tuple(name for name in self.chosen if name in OURS)

    @property
    def others(self) -> tuple[str, ...]:
        """Those of other packages."""
        return tuple(name for name in self.chosen if name not in OURS)


def check(cfg: TrackerConfig) -> None:
    """Raise ``BadInput`` naming what to install where a tracker's library is not there."""
    for name in cfg.ours:
        for library in OURS[name]:
            if find_spec(library) is None:
                told = extras.missing(ModuleNotFoundError(name=library))
                raise BadInput(f"tracker={name}: {told}; or choose another, tracker=none without one")
