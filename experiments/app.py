"""What the commands of ``experiments`` share: Hydra's application, help, what may stand on a command line.

Nothing here bears identity.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from adg.collector import collect_seldom
from adg.command import command, end_with, show_warnings, stoppable
from adg.errors import BadInput, HarnessError, nearest
from experiments import search_path
from experiments.config import Config
from experiments.explain import explain
from experiments.quoting import quoted
from experiments.resolve import resolve
from experiments.schema import register

JSON = {"--json": "one JSON document in place of text; figures are unrounded"}
OFTEN = {  # keys that people set, with what they mean
    "budget=1000": "rows that a selector chooses",
    "seed=42 seeds=3": "the root seed; a sweep at several",
    "pool.path=<file>": "with pool=local: a file of yours",
    "suite.limit=50": "at most so many items of each benchmark; the table says so",
    "selector.<option>=...": "an option of a selector, for ADG selector.lam=0.4",
    "exec.runs=<folder>": "where all that is built is kept and found again (runs)",
    "exec.device=cpu": "cpu or cuda; by itself the GPU, where there is one",
    "exec.run_model_code=true": "consent to programs that models write, in a sandbox (HumanEval, MBPP)",
}
LISTED = ("profile", "experiment", "backbone", "pool", "selector", "preset", "engine", "finetune", "suite", "tracker")


def task_overrides() -> tuple[str, ...]:
    """The overrides of the cell that runs now as a Hydra application."""
    from hydra.core.hydra_config import HydraConfig

    return tuple(HydraConfig.get().overrides.task)


def job() -> tuple[int, int]:
    """The number of the cell that runs now in its sweep, from 0, and how many run at once."""
    from hydra.core.hydra_config import HydraConfig

    hydra = HydraConfig.get()
    return hydra.job.num, max(1, int(hydra.launcher.get("n_jobs") or 1))


def hydra_app(main: Callable[[Config], int | None]) -> None:
    """Run ``main`` as a Hydra application (multirun, launchers, --cfg). Raises what it refuses first."""
    import hydra

    register()
    sys.argv[1:] = quoted(sys.argv[1:])
    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors reach this function instead of being printed by Hydra
    began = os.getpid()
    refused: list[HarnessError] = []

    @hydra.main(version_base="1.3", config_path=str(search_path.CONF), config_name="config")
    def run(composed: Any) -> int:
        if os.getpid() == began:
            return attempt(composed)
        show_warnings()  # in a process of a launcher
        collect_seldom()
        if os.getppid() == began:
            end_with(began)
        with stoppable(quiet=True):
            return attempt(composed)

    def attempt(composed: Any) -> int:
        try:  # Hydra would print the overrides first
            return main(resolve(composed)) or 0
        except HarnessError as error:
            refused.append(error)
            if os.getpid() != began:
                print(f"error: {error}", file=sys.stderr, flush=True)
            return 1

    run()
    if refused:
        raise refused[0]


def overrides(switches: Iterable[str] = ()) -> list[str]:
    """The overrides of the command line; ``-m`` may be left out or given. Raises ``BadInput`` for other switches than
    ``switches``."""
    known = ("--multirun", "--help", "--config-dir", *switches)
    for argument in sys.argv[1:]:
        if argument.startswith("-") and argument not in ("-m", "-h", *known):
            raise BadInput(f"{argument} is no switch of this command{nearest(argument, known)}; --help says what is")
    return [argument for argument in sys.argv[1:] if not argument.startswith("-")]


def asked(switch: str) -> bool:
    """Whether a switch stands on the command line."""
    return switch in sys.argv[1:]


def as_json(value: Any) -> str:
    """A document for other programs, in ASCII. Raises ``ValueError`` for a figure that is no number."""
    return json.dumps(value, indent=2, allow_nan=False)


def help_of(doc: str | None, switches: Mapping[str, str] | None = None) -> str:
    """The help of a command that takes overrides: its module's words, its switches and what an override may be."""
    options = [f"  {name:<26}{says}" for name, says in (switches or {}).items()]
    groups = [f"  {group}=" + "|".join(search_path.names(group)) for group in LISTED]
    return "\n".join(
        [
            (doc or "").strip(),
            *(["", "Options:", *options] if options else []),
            "",
            "Overrides are key=value; several values of a sweep are written a,b. Groups:",
            *(line if len(line) <= 120 else line[:117] + "..." for line in groups),
            "Keys that people set (all of them: adg run selector=<name> --cfg job):",
            *(f"  {key:<26}{says}" for key, says in OFTEN.items()),
            "Files of your own: --config-dir <folder>, laid out as conf/ is (or hydra.searchpath=[<folder>])",
        ]
    )


@contextmanager
def plain_errors(doc: str | None = None, switches: Mapping[str, str] | None = None) -> Iterator[None]:
    """Around a command: see ``adg.command.command``; errors of Hydra are put in words. ``doc`` and ``switches``: what
    --help prints."""
    with command(None if doc is None else help_of(doc, switches)):
        from hydra.errors import HydraException
        from omegaconf.errors import OmegaConfBaseException

        try:
            sys.argv[1:] = search_path.take(sys.argv[1:])
            yield
        except (HydraException, OmegaConfBaseException) as error:
            raise explain(error, sys.argv[1:]) from error
