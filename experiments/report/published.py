"""The figures the authors published, so that a table can show them beside ours. Percent, as printed.

Data and source stand in ``published.yaml``; a figure that was not published is None, never a guess.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import yaml

from adg.errors import BadInput, nearest
from adg.evaluation.benchmarks import CATEGORIES

FILE = Path(__file__).with_name("published.yaml")


@functools.cache
def figures() -> dict[str, Any]:
    """The whole file: "source", "main", "analyses", "selection_cost_hours_4gpu"."""
    return yaml.safe_load(FILE.read_text(encoding="utf-8"))


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


def option(name: str) -> str:
    """The option that the analysis ``name`` sweeps, "" where it publishes none."""
    return _analysis(name).get("option", "")


def analysis(
    name: str, backbone: str | None, pool: str | None, selector: str, value: str, by: str | None = None
) -> dict[str, float] | None:
    """The published figures of one cell of an analysis (mostly the average alone), or None.

    ``value`` is that of the swept option, ``by`` the ``paper`` key of the backbone that chose the subset.
    """
    published = _analysis(name)
    if pool != ANALYSED[1]:
        return None
    if "rows" in published:
        values = published["rows"].get(backbone, {}).get(by)
        return None if values is None else dict(zip(CATEGORIES, values, strict=True))
    if backbone != ANALYSED[0]:
        return None
    value = published.get("same", {}).get(value, value)
    known = {str(key): average for key, average in published.get("averages", {}).get(selector, {}).items()}
    return {"avg": known[value]} if value in known else None


def remarks(name: str) -> list[str]:
    """What was published beside an analysis and cannot stand in its rows; ``name`` may be "" or "main"."""
    published = {} if name in ("", "main") else _analysis(name)
    if "remark" not in published:
        return []
    rows = [f"{row} {', '.join(f'{x:.2f}' for x in values)}" for row, values in published["figures"].items()]
    return [f"{published['remark']}: {'; '.join(rows)}."]


def averages(name: str) -> dict[str, dict[Any, float]]:
    """The published averages (percent) of an analysis, by selector and value of the option that it sweeps."""
    return _analysis(name)["averages"]


def _analysis(name: str) -> dict[str, Any]:
    known = figures()["analyses"]
    if name not in known:
        raise BadInput(
            f"experiment.published is {name!r}{nearest(name, list(known))}; expected main, {', '.join(known)}"
        )
    return known[name]
