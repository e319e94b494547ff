"""JSON files that carry their own digest, and digests of a folder's files: damage is found when they are read.

Nothing here bears identity. A digest says that a file is as it was written, not that nobody wrote another one.
"""

from __future__ import annotations

import json
import os
from collections.abc import Container, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from adg.artifacts.files import sha256_file, sha256_text, write_json
from adg.errors import HarnessError

DIGEST = "digest"  # key of a sealed file under which the digest of everything else stands


class Damaged(HarnessError):
    """A file is not as it was written: ``what`` names it, ``remedy`` is the sentence that says what to do."""

    def __init__(self, what: str, remedy: str = "") -> None:
        super().__init__(f"{what}. {remedy}" if remedy else what)
        self.what = what


def write_sealed(path: Path, content: Mapping[str, Any]) -> None:
    """Write ``content`` as readable JSON with a digest of its own, atomically."""
    write_json(path, {**content, DIGEST: _digest(content)})


def read_sealed(path: Path, unsealed: Container[str | None] = ()) -> dict[str, Any] | None:
    """The content of a file that ``write_sealed`` wrote, without its digest; None where there is no file.

    Raises ``Damaged`` where the file is not as it was written. One without a digest is taken where its "schema" (None:
    it has none) is among ``unsealed``: it was written before files had digests.
    """
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except IsADirectoryError as error:
        raise Damaged(f"{path} is a folder, expected a file") from error
    except ValueError as error:  # no JSON or no UTF-8
        raise Damaged(f"{path} is damaged: no valid JSON ({error})") from error
    if not isinstance(content, dict):
        raise Damaged(f"{path} is damaged: it holds {_kind(content)}, expected an object")
    digest = content.pop(DIGEST, None)
    if digest is None and content.get("schema") in unsealed:
        return content
    if digest is None:
        raise Damaged(f"{path} is damaged: it has no digest of its own")
    if digest != _digest(content):
        raise Damaged(f"{path} is damaged: it differs from its own digest; it was changed after it was written")
    return content


def require(path: Path, content: Mapping[str, Any], kinds: Mapping[str, type | tuple[type, ...]]) -> None:
    """Raise ``Damaged`` unless ``content`` of the file ``path`` has every key of ``kinds`` with a value of its kind."""
    for key, kind in kinds.items():
        if key not in content:
            raise Damaged(f"{path} is damaged: '{key}' is missing")
        if not isinstance(content[key], kind):
            expected = " or ".join(k.__name__ for k in (kind if isinstance(kind, tuple) else (kind,)))
            raise Damaged(f"{path} is damaged: '{key}' is {_kind(content[key])}, expected {expected}")


def file_digests(folder: Path, leave_out: Iterable[str] = ()) -> dict[str, dict[str, Any]]:
    """Relative path -> size and sha256 of every file below ``folder`` (names at its top in ``leave_out`` aside).

    Each file is flushed to the disk, so that what the digests are written into never outlives what it describes.
    """
    skipped = set(leave_out)
    paths = [p for p in sorted(folder.rglob("*")) if p.is_file() and p.relative_to(folder).parts[0] not in skipped]

    def entry(path: Path) -> dict[str, Any]:
        digest = sha256_file(path)
        with open(path, "rb") as file:
            os.fsync(file.fileno())
        return {"bytes": path.stat().st_size, "sha256": digest}

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return dict(zip((p.relative_to(folder).as_posix() for p in paths), pool.map(entry, paths), strict=True))


def first_difference(folder: Path, files: Mapping[str, Mapping[str, Any]]) -> str:
    """What is wrong with the first of ``files`` (of ``file_digests``) below ``folder`` that is not as it was, or ""."""
    for name, entry in files.items():
        path = folder / name
        if not path.is_file():
            return f"{path} is missing"
        if path.stat().st_size != entry["bytes"] or sha256_file(path) != entry["sha256"]:
            return f"{path} differs from its digest (expected sha256 {entry['sha256'][:12]}…)"
    return ""


def _digest(content: Mapping[str, Any]) -> str:
    """sha256 of ``content`` as it comes back from a JSON file, whatever the order of its keys."""
    plain = json.loads(json.dumps(content, default=str))
    return sha256_text(json.dumps(plain, sort_keys=True, separators=(",", ":")))


def _kind(value: Any) -> str:
    return {dict: "an object", list: "a list", str: "a text", bool: "true or false", type(None): "null"}.get(
        type(value), "a number"
    )
