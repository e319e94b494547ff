"""What installed packages add to the project, found by their entry points (``importlib.metadata``).

Nothing here bears identity: a selector is identified by its name, version and options, wherever its code lies.
"""

from __future__ import annotations

import functools
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from adg.errors import BadInput

SELECTORS = "adg.selectors"  # name = "package.module:Class", a ``Selector``
CONFIGS = "adg.configs"  # name = "package.folder", a folder of configuration files laid out as conf/ is
BENCHMARKS = "adg.benchmarks"  # lm-eval's name of the task = "package.module:NAME", a ``Benchmark``
TRACKERS = "adg.trackers"  # name = "package.module:function", which is told of each finished cell


@functools.cache
def found(group: str) -> dict[str, EntryPoint]:
    """The entry points of a group by name, in the order of their names.

    Raises ``BadInput`` where two packages use one name.
    """
    points: dict[str, EntryPoint] = {}
    for point in sorted(entry_points(group=group), key=lambda point: (point.name, package(point))):
        first = points.setdefault(point.name, point)
        if first.value != point.value:
            raise BadInput(
                f"the packages {package(first)} and {package(point)} both add '{point.name}' to {group}; "
                f"uninstall one of them, or rename its entry point"
            )
    return points


def load(point: EntryPoint) -> Any:
    """What an entry point names. Raises ``BadInput`` with the package and the reason where it cannot be had."""
    try:
        return point.load()
    except Exception as error:  # whatever a package of others does when it is imported
        raise refused(point, f"cannot be loaded ({type(error).__name__}: {error})") from error


def refused(point: EntryPoint, why: str) -> BadInput:
    """The error for an entry point that is not what its group is for."""
    name = package(point)
    return BadInput(
        f"'{point.name}' that the package {name} adds to {point.group} ({point.value}) {why}; repair that package, or "
        f"uninstall it (pip uninstall {name})"
    )


def package(point: EntryPoint) -> str:
    """The name of the package that an entry point belongs to."""
    return point.dist.name if point.dist is not None else "of no name"


def versions() -> dict[str, str]:
    """The version of every package that adds something."""
    points = (point for group in (SELECTORS, CONFIGS, BENCHMARKS, TRACKERS) for point in found(group).values())
    return {point.dist.name: point.dist.version for point in points if point.dist is not None}
