"""Overlap between a pool and the benchmarks: which training records hold text of which benchmark items, and where.

Texts are compared word by word after case, punctuation and width are taken away. Whatever is found is shown with the
words in common; nothing is ever left out of a pool here.

An item's text counts as found in a record in one of three ways:

- ``ngram``: ``ngram`` words in a row in common (13 as in Brown et al. 2020, appendix C);
- ``whole``: a text of fewer words, but at least ``shortest``, that stands in the record as a whole. Questions only:
  a short answer such as "Paris" proves nothing;
- ``near``: at least ``similarity`` of the item's runs of ``shingle`` words stand somewhere in the record (containment,
  Broder 1997), computed exactly, not from a sketch.

Words in a row that occur in more than ``template`` items of a task belong to the task's form, not to an item, and are
no evidence, and a short question that two items share ("Which of the following statements is true?") names neither.
An item that stands in the test and in the training split is two items, each alone among its own.
An item that has no words of its own is counted as unchecked.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from adg.artifacts.artifact import Artifact, Job, Node, Stage
from adg.artifacts.files import write_json
from adg.evaluation import items
from adg.evaluation.benchmarks import BENCHMARKS
from adg.evaluation.config import SuiteConfig
from adg.evaluation.overlap import FIELDS, MATCHES, ContaminationConfig, Index
from adg.progress import progress

STAGE = Stage("contamination", 2, "adg.evaluation.contamination:build", place=110)
BATCH = 4096  # records compared at a time


@dataclass(frozen=True)
class Contamination:
    """What makes two comparisons of one pool the same."""

    options: ContaminationConfig
    benchmarks: dict[str, dict[str, Any]]  # task -> data set, its revision or digest, named subtasks
    unknown: tuple[str, ...] = ()  # tasks of the suite whose columns are not known, so that nothing was compared
    root: str | None = field(default=None, metadata={"identity": False})


def node(pool: Node, suite: SuiteConfig, options: ContaminationConfig = ContaminationConfig()) -> Node:
    """The comparison of ``pool`` with every benchmark of ``suite``. Raises ``BadInput`` when local data is missing."""
    digests = suite.digests()
    benchmarks = {
        name: {
            "repo": task.repo,
            "data": digests.get(task.repo, task.revision),
            "subtasks": None if task.subtasks is None else list(task.subtasks),
        }
        for name, task in suite.tasks.items()
        if name in BENCHMARKS
    }
    unknown = tuple(name for name in suite.tasks if name not in BENCHMARKS)
    config = Contamination(options, benchmarks, unknown, None if suite.root is None else str(suite.root))
    return Node(STAGE, f"{pool.label}+{suite.name}", config, {"pool": pool})


def build(job: Job) -> dict[str, Any]:
    """Payload: ``overlaps.parquet``, a row for each record, item and field of the item that overlap, and
    ``summary.json``: task -> kind of split -> counts."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    config: Contamination = job.config
    root = None if config.root is None else Path(config.root)
    splits: dict[str, list[items.Split]] = {}
    for task, data in config.benchmarks.items():
        revision = None if root is not None else data["data"]
        folder = items.locate(data["repo"], revision, root, job.exec.offline)
        splits[task] = list(items.read(task, folder, data["subtasks"]))
    index = Index(splits, config.options)
    rows: list[dict[str, Any]] = []
    file = pq.ParquetFile(job.inputs["pool"].file("records.parquet"))
    with progress(file.metadata.num_rows, "comparing with benchmarks", "records") as bar:
        for batch in file.iter_batches(BATCH, columns=["id", "instruction", "input", "output"]):
            rows += index.compare(
                [(r["id"], f"{r['instruction']}\n{r['input']}", r["output"]) for r in batch.to_pylist()]
            )
            bar.update(batch.num_rows)
    columns = {name: pa.string() for name in ("id", "part", "task", "kind", "config", "split")}
    kinds = {
        "item": pa.int32(),
        "field": pa.string(),
        "match": pa.string(),
        "words": pa.int32(),
        "similarity": pa.float64(),
        "span": pa.string(),
    }
    pq.write_table(
        pa.Table.from_pylist(rows, schema=pa.schema([*(columns | kinds).items()])),
        job.folder / "overlaps.parquet",
        compression="zstd",
    )
    summary = {"records": file.metadata.num_rows, "unknown": list(config.unknown), "tasks": index.counts()}
    write_json(job.folder / "summary.json", summary)
    return {
        "rows_in": file.metadata.num_rows,
        "rows_out": file.metadata.num_rows,
        "failed": [],
        "overlaps": len(rows),
        "records_with_overlap": len({row["id"] for row in rows}),
    }


def overlaps(artifact: Artifact) -> list[dict[str, Any]]:
    """The rows of ``overlaps.parquet``. ``item`` is the row in its config's split, ``span`` the longest run of words
    in common, ``words`` its length, ``similarity`` (of near duplicates) the share of the item's own runs of words that
    the record holds."""
    import pyarrow.parquet as pq

    return pq.read_table(artifact.file("overlaps.parquet")).to_pylist()


def count(
    artifact: Artifact, rows: Sequence[Mapping[str, Any]], ids: Iterable[str] | None = None
) -> dict[str, dict[str, dict[str, int]]]:
    """Task -> "test" or "train" -> ``items`` of the benchmark, how many were ``checked``, how many of them overlap
    with a record (``overlap``; by ``question``, ``answer``, ``ngram``, ``whole``, ``near``: an item may count under
    several), and with how many ``records``.

    ``rows`` are those of :func:`overlaps`; ``ids`` (id keys) restricts the records to a subset's.
    """
    tasks = json.loads(artifact.file("summary.json").read_text(encoding="utf-8"))["tasks"]
    wanted = None if ids is None else set(ids)
    hit: dict[tuple[str, str], dict[str, set[Any]]] = {}
    for row in rows:
        if wanted is None or row["id"] in wanted:
            sets = hit.setdefault((row["task"], row["kind"]), {})
            item = (row["config"], row["split"], row["item"])
            for name in ("overlap", row["field"], row["match"]):
                sets.setdefault(name, set()).add(item)
            sets.setdefault("records", set()).add(row["id"])
    return {
        task: {
            kind: {
                **totals,
                **{
                    name: len(hit.get((task, kind), {}).get(name, ()))
                    for name in ("overlap", *FIELDS, *MATCHES, "records")
                },
            }
            for kind, totals in kinds.items()
        }
        for task, kinds in tasks.items()
    }
