"""Files written whole or not at all, their digests, and strict JSON. No part of identity."""

from __future__ import annotations

import datetime
import decimal
import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from adg.errors import BadInput


def sha256_text(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def sha256_file(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_json(path: Path) -> dict[str, Any] | None:
    """The object in a file; None where there is no file. Raises ``BadInput`` when it holds anything else."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise BadInput(f"{path} is not valid JSON ({error}); delete it and run the same command again") from error
    if not isinstance(content, dict):
        raise BadInput(f"{path} holds no JSON object; delete it and run the same command again")
    return content


def write_atomic(path: Path, data: bytes) -> None:
    """Write, flush to disk, rename: a kill leaves the old file or the new one, never half of it."""
    with _replaced(path) as file:
        file.write(data)


def write_npy(path: Path, parts: Iterable[np.ndarray], shape: tuple[int, ...], dtype: Any) -> None:
    """Write ``parts``, one after the other, as one array of ``shape`` in .npy form; one part is in memory at a time."""
    header = {"descr": np.lib.format.dtype_to_descr(np.dtype(dtype)), "fortran_order": False, "shape": shape}
    with _replaced(path) as file:
        np.lib.format.write_array_header_1_0(file, header)
        for part in parts:
            file.write(np.ascontiguousarray(part, dtype=dtype).tobytes())


@contextmanager
def _replaced(path: Path) -> Iterator[Any]:
    """A file to write that takes the place of ``path`` once it is whole and on the disk; gone where that fails."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    flush_folder(path.parent)


def new_npy(path: Path, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """A new .npy file of ``shape`` to be filled in place, as an array in memory that the disk backs.

    Its space is taken at once: a disk that fills up later would end the process by a signal, not by an error.
    """
    array = np.lib.format.open_memmap(path, "w+", dtype, shape)
    with open(path, "r+b") as file:
        os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    return array


def flush_folder(folder: Path) -> None:
    """Flush which files a folder holds, after one was written or renamed, where the file system can do that."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError:
        pass
    finally:
        os.close(handle)


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as readable JSON, atomically."""
    write_atomic(path, (json.dumps(value, indent=2, ensure_ascii=False, default=str) + "\n").encode())


def write_lines(path: Path, entries: Iterable[Any]) -> None:
    """Write JSON Lines atomically, what JSON cannot hold as ``_line`` says."""
    write_atomic(path, b"".join(_line(entry) for entry in entries))


def _line(entry: Any) -> bytes:
    """One line of strict JSON. Dates become ISO text, decimals text, NaN and infinities null."""
    try:
        text = json.dumps(entry, ensure_ascii=False, allow_nan=False, default=_jsonable)
    except ValueError:
        text = json.dumps(_finite(entry), ensure_ascii=False, default=_jsonable)
    try:
        return text.encode() + b"\n"
    except UnicodeEncodeError:
        return json.dumps(_finite(entry), default=_jsonable).encode() + b"\n"


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _finite(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_finite(v) for v in value]
    return None if isinstance(value, float) and value - value != 0 else value


def _jsonable(value: Any) -> str:
    if isinstance(value, (datetime.date, datetime.time)):
        return value.isoformat()
    if isinstance(value, (decimal.Decimal, datetime.timedelta)):
        return str(value)
    raise BadInput(
        f"a field of the pool holds {type(value).__name__} {value!r:.40}, which is not JSON; "
        f"write the pool again without that column"
    )
