"""The figures the authors published, so that a table can show them beside ours. Percent, as printed.

Data and source stand in ``paper_figures.yaml``; a figure that was not published is None, never a guess.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import yaml

FILE = Path(__file__).with_name("paper_figures.yaml")
CATEGORIES = ("reasoning", "knowledge", "coding", "avg")


@functools.cache
def figures() -> dict[str, Any]:
    """The whole file: "source", "main", "cross_backbone", and the averages of the analyses."""
    return yaml.safe_load(FILE.read_text())


def source() -> str:
    """Where the figures come from, in one line."""
    return figures()["source"]


def figure(backbone: str | None, pool: str | None, selector: str) -> dict[str, float] | None:
    """``{"reasoning", "knowledge", "coding", "avg"}`` of a cell of the main table, or None.

    ``backbone`` and ``pool`` are the keys that a backbone's and a pool's config give as ``paper``.
    """
    values = figures()["main"].get(backbone, {}).get(pool, {}).get(selector)
    return None if values is None else dict(zip(CATEGORIES, values, strict=True))
