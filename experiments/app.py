"""What every command does around its work: Hydra, errors in one line.

Nothing here bears identity.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from adg.artifacts import disk
from adg.errors import HarnessError
from experiments.compose import resolve
from experiments.config import Config
from experiments.explain import explain
from experiments.quoting import quoted
from experiments.schema import CONF, register


def task_overrides() -> tuple[str, ...]:
    """The overrides of the cell that runs now as a Hydra application."""
    from hydra.core.hydra_config import HydraConfig

    return tuple(HydraConfig.get().overrides.task)


def job() -> tuple[int, int]:
    """The number of the cell that runs now in its sweep, from 0, and how many run at once."""
    from hydra.core.hydra_config import HydraConfig

    hydra = HydraConfig.get()
    return hydra.job.num, max(1, int(hydra.launcher.get("n_jobs") or 1))


def hydra_app(main: Callable[[Config], int | None]) -> Callable[[], None]:
    """Wrap ``main`` as a Hydra application (multirun, launchers, --cfg, --help) with one-line errors."""

    def entry() -> None:
        import hydra

        register()
        sys.argv[1:] = quoted(sys.argv[1:])
        os.environ["HYDRA_FULL_ERROR"] = "1"  # errors reach this function instead of being printed by Hydra

        @hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
        def run(composed: Any) -> int:
            return main(resolve(composed)) or 0

        with plain_errors():
            run()

    return entry


@contextmanager
def plain_errors() -> Iterator[None]:
    """Print what a user can act on in one paragraph and exit with 1; anything else keeps its traceback."""
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    try:
        yield
    except HarnessError as error:
        sys.exit(f"error: {error}")
    except BrokenProcessPool:  # of joblib's launcher
        sys.exit("error: a process of this sweep was killed (out of memory?); the same command continues")
    except OSError as error:
        if (told := disk.explained(error, Path.cwd())) is None:
            raise
        sys.exit(f"error: {told}")
    except (HydraException, OmegaConfBaseException) as error:
        sys.exit(f"error: {explain(error, sys.argv[1:])}")
