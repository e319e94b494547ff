"""Where the project's other folders lie: beside this package in a checkout, within it where a wheel was installed.

A wheel installs ``adg`` alone at the top level of an environment. ``baselines``, ``finetune``, ``experiments``,
``bench``, ``conf`` and ``evaluate``, names that others use too, stand in ``adg/_project``, and only the command's own
processes see them.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent
INSTALLED = PACKAGE / "_project"
ROOT = INSTALLED if INSTALLED.is_dir() else PACKAGE.parent


def importable() -> None:
    """Make the packages of the project importable by name, here and in the processes that this one starts.

    They go before whatever else has their names, a folder ``experiments`` of the user's, say.
    """
    path = str(ROOT)
    sys.path[:] = [path, *(entry for entry in sys.path if entry != path)]
    others = [entry for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry not in ("", path)]
    os.environ["PYTHONPATH"] = os.pathsep.join([path, *others])
