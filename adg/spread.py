"""Whether the shards of a stage are shared out, and to whom: replicas on this machine, or Ray's actors on several."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from adg import ray_actors, replicas
from adg.execution import ExecConfig


def wanted(exec_: ExecConfig) -> bool:
    """Whether several workers are asked for."""
    return exec_.distributed == "ray" or exec_.replicas > 1


def over(
    rows: Sequence[dict[str, Any]], worker: str, arguments: tuple[Any, ...], exec_: ExecConfig, title: str
) -> list[dict[str, Any]]:
    """``ray_actors.over_ray`` or ``replicas.over_replicas``, as ``exec_`` says: ``work(row)`` for every row, once."""
    by = ray_actors.over_ray if exec_.distributed == "ray" else replicas.over_replicas
    return by(rows, worker, arguments, exec_, title)
