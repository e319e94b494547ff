"""The stages of the choice: ``scores`` (a score or a reason for every record) and ``subset`` (the rows, in order).

Order, ties, the exact budget and the tables on disk are handled here, once for all selectors (``contract.py``).
Identity: the selector's name, version and options, the seed where it draws, and the budget of a subset.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from adg.artifacts import files
from adg.artifacts.artifact import Artifact, Job, Node, Stage
from adg.pools import records as records_
from adg.selection.contract import ScoreTable, Selector, SelectorData, counted, select

SCORES = Stage("scores", 1, "adg.selection.stage:build_scores", place=70)
SUBSET = Stage("subset", 1, "adg.selection.stage:build_subset", place=80)


@dataclass(frozen=True)
class ScoresConfig:
    """Identity of a scores table: the selector's name, version and options."""

    name: str
    version: int
    options: Any
    kind: type[Selector] = field(metadata={"identity": False})  # the class that does it


@dataclass(frozen=True)
class SubsetConfig(ScoresConfig):
    """Identity of a subset: the same and the budget (None: the whole pool)."""

    budget: int | None = None


def scores_node(selector: Selector, features: Mapping[str, Node], pool: Node) -> Node:
    """The scores of a whole pool; ``features`` is what ``selector.inputs`` returns."""
    inputs = {"pool": pool, **features}
    owners = [n.label for role, n in inputs.items() if role != "pool"]
    label = "+".join([selector.name, owners[0] if owners else pool.label])
    config = ScoresConfig(selector.name, selector.version, selector.config, type(selector))
    return Node(SCORES, label, config, inputs)


def subset_node(selector: Selector, scores: Node, features: Mapping[str, Node], pool: Node, budget: int) -> Node:
    """The chosen subset of a pool for a budget."""
    inputs = {"pool": pool, "scores": scores, **features}
    size = None if selector.whole_pool else budget
    label = scores.label if size is None else f"{scores.label}+{size}"
    config = SubsetConfig(selector.name, selector.version, selector.config, type(selector), size)
    return Node(SUBSET, label, config, inputs)


def _open(job: Job) -> tuple[Selector, SelectorData]:
    selector = job.config.kind(job.config.options)
    features = {role: a for role, a in job.inputs.items() if role not in ("pool", "scores")}
    return selector, SelectorData(records_.load(job.inputs["pool"]), features, job.inputs["pool"])


def build_scores(job: Job) -> dict[str, Any]:
    """Stage "scores": ``scores.parquet`` with a row for every record of the pool."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    selector, data = _open(job)
    table = selector.scores(data)
    table.check(len(data.records))
    reasons = [table.invalid.get(i, "") for i in range(len(data.records))]
    columns = {"id": data.keys, "score": table.score, **table.parts, "invalid": reasons}
    pq.write_table(pa.table(columns), job.folder / "scores.parquet")
    return {
        "rows_in": len(data.records),
        "rows_out": int(table.valid.sum()),
        "invalid": counted(reasons_of(table)),
        **table.notes,
    }


def reasons_of(table: ScoreTable) -> list[str]:
    return [table.invalid[i] for i in sorted(table.invalid)]


def load_scores(artifact: Artifact) -> ScoreTable:
    """The table of a "scores" artifact, rows in canonical id order."""
    import pyarrow.parquet as pq

    table = pq.read_table(artifact.file("scores.parquet"))
    parts = {name: table[name].to_numpy() for name in table.column_names if name not in ("id", "score", "invalid")}
    invalid = {i: reason for i, reason in enumerate(table["invalid"].to_pylist()) if reason}
    return ScoreTable(table["score"].to_numpy(), parts, invalid)


def load_keys(artifact: Artifact) -> list[str]:
    """The id keys of the rows of a "scores" artifact."""
    import pyarrow.parquet as pq

    return pq.read_table(artifact.file("scores.parquet"), columns=["id"])["id"].to_pylist()


def build_subset(job: Job) -> dict[str, Any]:
    """Stage "subset": ``records.parquet`` in output order, ``subset.jsonl`` with all original fields, ``scores.jsonl``.

    ``scores.jsonl`` has a row for every record of the pool: id, score, its parts, selected (its place in the
    output order, or null) and the reason why not.
    """
    import pyarrow.parquet as pq

    selector, data = _open(job)
    table = load_scores(job.inputs["scores"])
    budget = len(data.records) if job.config.budget is None else job.config.budget
    rows = select(selector, data, table, budget)
    pool = pq.read_table(job.inputs["pool"].file("records.parquet"))
    pq.write_table(pool.take(rows), job.folder / "records.parquet")
    originals = records_.load_original(job.inputs["pool"])
    keys = data.keys
    files.write_lines(job.folder / "subset.jsonl", [originals[keys[i]] for i in rows])
    place = {int(row): i for i, row in enumerate(rows)}
    files.write_lines(
        job.folder / "scores.jsonl",
        [
            {
                "id": record.id,
                "score": None if i in table.invalid else float(table.score[i]),
                **{name: _json_value(column[i]) for name, column in table.parts.items()},
                "selected": place.get(i),
                "reason": "" if i in place else table.invalid.get(i) or "not among the chosen for this budget",
            }
            for i, record in enumerate(data.records)
        ],
    )
    chosen = [data.records[i] for i in rows]
    return {
        "rows_in": len(data.records),
        "rows_out": len(rows),
        "budget": budget,
        "shortfall": budget - len(rows),
        "invalid": counted(table.invalid.values()),
        "mean_output_characters": round(float(np.mean([len(r.output) for r in chosen])), 1) if chosen else None,
    }


def _json_value(value: Any) -> Any:
    value = value.item() if hasattr(value, "item") else value
    return None if isinstance(value, float) and not np.isfinite(value) else value
