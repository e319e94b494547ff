"""Shards: the finished parts of a stage's work, kept in its ``work`` folder so that a run cut short repeats none.

The one format for all stages: arrays, a table of rows and JSON facts, under a key that says what was worked on, with a
digest over all of it. A shard is read back exactly as it was saved or made again. No part of identity.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from adg.artifacts.artifact import canonical
from adg.artifacts.files import sha256_text, write_atomic, write_npy
from adg.errors import HarnessError
from adg.progress import notice

MAGIC = b"adg-shard/1 "  # then 64 hex digits of the sha256 of all bytes after the line's end, which are an .npz file


@dataclass(frozen=True)
class Shard:
    """What one part of the work gave."""

    facts: dict[str, Any] = field(default_factory=dict)  # JSON types
    arrays: Mapping[str, np.ndarray] = field(default_factory=dict)
    table: Any = None  # a pyarrow.Table


class Shards:
    """The shards of one kind in a folder. A key is a value of JSON types; it is stored, and compared when read."""

    def __init__(self, work: Path, kind: str) -> None:
        self.work, self.kind = work, kind

    def path(self, key: Any) -> Path:
        return self.work / f"{self.kind}-{sha256_text(canonical(key))[:32]}.shard"

    def save(self, key: Any, shard: Shard) -> None:
        """Write a shard to the disk; a kill leaves all of it or nothing."""
        entries = {f"array.{name}": values for name, values in shard.arrays.items()}
        entries["head"] = _as_bytes(json.dumps({"key": key, "facts": shard.facts}).encode())
        if shard.table is not None:
            entries["table"] = _as_bytes(parquet(shard.table))
        sink = io.BytesIO()
        np.savez(sink, **entries)  # type: ignore[arg-type]
        body = sink.getvalue()
        write_atomic(self.path(key), MAGIC + hashlib.sha256(body).hexdigest().encode() + b"\n" + body)

    def find(self, key: Any) -> Shard | None:
        """The shard under ``key``; None where the work is to be done, because it is not there or was damaged.

        A damaged one is deleted, and a line on the screen says so.
        """
        path = self.path(key)
        content = _read(path)
        if content is not None and canonical(content[0]) == canonical(key):
            return content[1]
        if path.is_file():
            notice(f"{path} is damaged; that part of the work is done again")
            path.unlink()
        return None

    def read(self, key: Any) -> Shard:
        """The shard under ``key``, which was there a moment ago. Raises ``HarnessError`` where it is not any more."""
        shard = self.find(key)
        if shard is None:
            raise HarnessError(
                f"{self.path(key)} was written and cannot be read back; is the disk all right, and the folder (of "
                f"exec.runs) shared by all machines that work on it? Run the same command again to do that part again"
            )
        return shard

    def absent(self, keys: Iterable[Any]) -> list[int]:
        """Which of ``keys``, by their place, have no whole shard."""
        return [place for place, key in enumerate(keys) if self.find(key) is None]

    def every(self) -> Iterator[Shard]:
        """All whole shards of this kind in the folder, whatever their keys; damaged ones as in ``find``."""
        for path in sorted(self.work.glob(f"{self.kind}-*.shard")):
            content = _read(path)
            if content is not None and self.path(content[0]) == path:
                yield content[1]
            else:
                notice(f"{path} is damaged; that part of the work is done again")
                path.unlink()

    def assemble(self, target: Path, keys: Sequence[Any], name: str, shape: tuple[int, ...], dtype: Any) -> None:
        """Write the arrays ``name`` of all ``keys``, one after the other, as one .npy file of ``shape``.

        One shard is in memory at a time. Raises ``HarnessError`` where one cannot be read back.
        """
        write_npy(target, (self.read(key).arrays[name] for key in keys), shape, dtype)


def parquet(table: Any) -> bytes:
    """A pyarrow table as the bytes of a parquet file."""
    import pyarrow.parquet as pq

    sink = io.BytesIO()
    pq.write_table(table, sink)
    return sink.getvalue()


def _as_bytes(data: bytes) -> np.ndarray:
    return np.frombuffer(data, dtype=np.uint8)


def _read(path: Path) -> tuple[Any, Shard] | None:
    """Key and content of a shard's file; None where it is missing or its digest does not fit."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    start = len(MAGIC) + 65
    if data[:start] != MAGIC + hashlib.sha256(data[start:]).hexdigest().encode() + b"\n":
        return None
    with np.load(io.BytesIO(data[start:]), allow_pickle=False) as entries:
        head = json.loads(entries["head"].tobytes())
        arrays = {name.removeprefix("array."): entries[name] for name in entries.files if name.startswith("array.")}
        table = pq.read_table(pa.BufferReader(entries["table"].tobytes())) if "table" in entries.files else None
    return head["key"], Shard(head["facts"], arrays, table)
