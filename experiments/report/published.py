"""The figures the authors published, so that a table can show them beside ours. Percent, as printed.

Data and source stand in ``published.yaml``; a figure that was not published is None, never a guess.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from adg.evaluation.benchmarks import CATEGORIES

FILE = Path(__file__).with_name("published.yaml")


@functools.cache
def figures() -> dict[str, Any]:
    """The whole file: "source", "main", "cross_backbone", and the averages of the analyses."""
    return yaml.safe_load(FILE.read_text())


def source() -> str:
    """Where the figures come from, in one line."""
    return figures()["source"]


def figure(backbone: str | None, pool: str | None, selector: str) -> dict[str, float] | None:
    """By category (``CATEGORIES``) the figures of a cell of the main table, or None.

    ``backbone`` and ``pool`` are the keys that a backbone's and a pool's config give as ``paper``.
    """
    values = figures()["main"].get(backbone, {}).get(pool, {}).get(selector)
    return None if values is None else dict(zip(CATEGORIES, values, strict=True))


ANALYSED = ("llama3_8b", "alpaca_gpt4")  # backbone and pool of the paper's single analyses


def analysis(
    experiment: str,
    backbone: str | None,
    pool: str | None,
    selector: str,
    swept: Mapping[str, Any],
    by: str | None = None,
) -> dict[str, float] | None:
    """The published figures of one cell of an analysis (mostly the average alone), or None.

    ``swept`` holds the cell's overrides by key, ``by`` is the ``paper`` key of the backbone that chose the subset.
    """
    if pool != ANALYSED[1]:
        return None
    if experiment == "cross_backbone":
        values = figures()["cross_backbone"].get(backbone, {}).get(by)
        return None if values is None else dict(zip(CATEGORIES, values, strict=True))
    if backbone != ANALYSED[0]:
        return None
    average: float | None = None
    if experiment == "answers":
        counts = {str(count): value for count, value in figures()["sample_count_avg"].items()}
        average = counts.get(str(swept.get("selector.answers")))
    elif experiment == "layers":
        window = swept.get("selector.window")
        average = figures()["layer_window_avg"].get("28-31" if window == "last4" else window)
    elif experiment == "budget":
        published = figures()["budget_avg"]
        budgets = dict(zip(map(str, published["budgets"]), published.get(selector, ()), strict=False))
        average = budgets.get(str(swept.get("budget")))
    return None if average is None else {"avg": average}
