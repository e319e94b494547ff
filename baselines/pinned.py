"""Files and folders that a selector reads from outside the pool: their content is part of a result's identity.

A path says nothing about a result and differs between machines, so a config names the path (not identity) and the
digest of what is there (identity); a wrong or missing digest is refused with the right one.
"""

from __future__ import annotations

from pathlib import Path

from adg.errors import BadInput
from adg.store import sha256_file, sha256_text


def file(option: str, path: str, sha256: str | None) -> Path:
    """The file at ``path``, checked against ``sha256``. ``option`` is the name of the config's option."""
    found = Path(path).expanduser()
    if not found.is_file():
        raise BadInput(f"selector.{option} is {path!r}, which is not a file; expected a path to one")
    return _checked(option, found, sha256_file(found), sha256)


def folder(option: str, path: str, sha256: str | None) -> Path:
    """The folder at ``path``, checked against ``sha256``: of the names and digests of all files in it."""
    found = Path(path).expanduser()
    if not found.is_dir():
        raise BadInput(f"selector.{option} is {path!r}, which is not a folder; expected a path to one")
    return _checked(option, found, folder_digest(found), sha256)


def folder_digest(path: Path) -> str:
    """One digest for the names and contents of the files below ``path``; hidden files and folders do not count."""
    files = sorted(p for p in path.rglob("*") if p.is_file() and not any(
        part.startswith(".") for part in p.relative_to(path).parts
    ))  # fmt: skip
    return sha256_text("\n".join(f"{sha256_file(p)}  {p.relative_to(path).as_posix()}" for p in files))


def _checked(option: str, path: Path, found: str, expected: str | None) -> Path:
    if expected != found:
        state = "is not set" if expected is None else f"is {expected}"
        raise BadInput(
            f"selector.{option}_sha256 {state}, but the content of {path} has {found}; it is part of the result's "
            f"identity, so add selector.{option}_sha256={found}, or restore the file that was meant"
        )
    return path
