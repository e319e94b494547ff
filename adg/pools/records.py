"""A record, its key, the canonical order, and the tables that hold records on disk.

A record's key is what everything later is joined by; its position never counts.
"""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adg.artifacts.artifact import Artifact
from adg.artifacts.files import write_atomic

COLUMNS = ("id", "instruction", "input", "output")
HELD_OUT = "heldout.parquet"  # of a pool: rows that only the held-out loss reads
CORRUPTED = "corrupted.jsonl"  # of a pool: the rows whose outputs were exchanged


@dataclass(frozen=True)
class Record:
    """One row of a pool. ``input`` and ``output`` are "" when the row has none."""

    id: int | str
    instruction: str
    input: str = ""
    output: str = ""

    @property
    def key(self) -> str:
        return key(self.id)

    @property
    def characters(self) -> int:
        """What ``pool.max_chars`` counts."""
        return len(self.instruction) + len(self.input) + len(self.output)


def key(id: int | str) -> str:
    """The id as text, unique over integers and strings: 12 -> ``12``, "12" -> ``"12"``."""
    return json.dumps(id, ensure_ascii=False) if isinstance(id, str) else str(int(id))


def from_key(text: str) -> int | str:
    """The inverse of :func:`key`."""
    return json.loads(text)


def order(id: int | str) -> tuple[int, int, str]:
    """Sort key of the canonical order: integers ascending, then strings by code point."""
    return (1, 0, id) if isinstance(id, str) else (0, id, "")


def dropping(records: Sequence[Record]) -> str:
    """The options, as typed, that leave these records and all longer ones out of their pool."""
    return f"pool.max_chars={max(1, min(record.characters for record in records) - 1)} pool.over_long=drop"


def load(artifact: Artifact) -> list[Record]:
    """The pool's records in canonical order."""
    return load_rows(artifact.file("records.parquet"))


def load_held_out(artifact: Artifact) -> list[Record]:
    """The rows that are held out of the pool (``pool.heldout``), in canonical order; [] where none is."""
    return load_rows(artifact.file(HELD_OUT)) if HELD_OUT in artifact.manifest["files"] else []


def load_original(artifact: Artifact) -> dict[str, dict[str, Any]]:
    """Key -> the row as it came, with every field it had."""
    lines = artifact.file("original.jsonl").read_bytes().splitlines()  # bytes: only line ends split
    return {entry["id"]: entry["row"] for entry in map(json.loads, lines)}


def load_left_out(artifact: Artifact) -> dict[str, str]:
    """Key -> why a row of the source is not among the records: it was dropped, held out, or not drawn."""
    left_out = {
        entry["id"]: f"dropped: {entry['reason']}"
        for entry in map(json.loads, artifact.file("dropped.jsonl").read_bytes().splitlines())
    }
    if "not_drawn.jsonl" in artifact.manifest["files"]:
        lines = artifact.file("not_drawn.jsonl").read_bytes().splitlines()
        left_out |= dict.fromkeys((json.loads(line)["id"] for line in lines), "not drawn (pool.rows)")
    left_out |= dict.fromkeys((record.key for record in load_held_out(artifact)), "held out (pool.heldout)")
    return left_out


def load_corrupted(artifact: Artifact) -> dict[str, str]:
    """Key of each row whose output was exchanged (``pool.corrupt``) -> key of the row whose output it has."""
    if CORRUPTED not in artifact.manifest["files"]:
        return {}
    lines = artifact.file(CORRUPTED).read_bytes().splitlines()
    return {entry["id"]: entry["output_of"] for entry in map(json.loads, lines)}


def load_rows(path: Path) -> list[Record]:
    """Records of a file with the columns of ``records.parquet``, in the file's order."""
    import pyarrow.parquet as pq

    columns = pq.read_table(path, columns=list(COLUMNS)).to_pydict()
    rows = zip(*(columns[name] for name in COLUMNS), strict=True)
    return [Record(from_key(text), *rest) for text, *rest in rows]


def save_rows(path: Path, records: Sequence[Record]) -> None:
    """Write records, in the order given, as ``records.parquet`` holds them."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = {"id": [r.key for r in records]} | {n: [getattr(r, n) for r in records] for n in COLUMNS[1:]}
    buffer = io.BytesIO()
    pq.write_table(pa.table({name: pa.array(values, pa.string()) for name, values in columns.items()}), buffer)
    write_atomic(path, buffer.getvalue())
