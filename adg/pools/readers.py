"""Raw rows out of files and data sets of the hub, each with its line, and what could not be read.

Nothing here bears identity: the digest of what was read does.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
from pathlib import Path
from typing import Any

from adg import hub
from adg.errors import BadInput
from adg.pools.config import PoolConfig

MINI = Path(__file__).resolve().parents[1] / "mini" / "pools"
Raw = list[tuple[str, Any]]  # where a row stands ("line 4", "row 4"; from 1) and the row


def local_file(cfg: PoolConfig) -> Path:
    """The absolute path of a pool's file, which exists."""
    given = str(cfg.path)
    path = MINI / given.removeprefix("mini:") if given.startswith("mini:") else Path(given).expanduser().absolute()
    if not path.is_file():
        beside = sorted(p.name for p in path.parent.glob("*.json*")) if given.startswith("mini:") else []
        raise BadInput(
            f"pool '{cfg.name}': no file {path}{f' (there are {beside})' if beside else ''}; "
            f"run again with pool.path=<file.json, .jsonl or .parquet>"
        )
    return path


def check_digest(digest: str, path: Path | str, cfg: PoolConfig) -> str:
    if cfg.sha256 is not None and digest != cfg.sha256:
        raise BadInput(
            f"pool '{cfg.name}': {path} has sha256 {digest}, expected {cfg.sha256}; it is another file or "
            f"it changed. Get the right one, or set pool.sha256={digest} to accept it"
        )
    return digest


def file_format(wanted: str, path: Path) -> str:
    """``wanted`` made definite. A ".json" file that starts with no bracket is taken as one object a line."""
    if wanted != "auto":
        return wanted
    suffix = path.suffix.lower()
    if suffix in (".parquet", ".pq"):
        return "parquet"
    if suffix in (".jsonl", ".ndjson"):
        return "jsonl"
    if suffix == ".json":
        with open(path, "rb") as file:
            return "json" if file.read(1024).removeprefix(b"\xef\xbb\xbf").lstrip()[:1] in (b"[", b"") else "jsonl"
    raise BadInput(f"{path}: cannot tell the format from '{suffix}'; set pool.format to json, jsonl or parquet")


def read_source(cfg: PoolConfig, offline: bool) -> tuple[str, Raw, list[str], str | None]:
    """Name of the source, its rows, what could not be read, and the file's sha256 (None for a whole dataset)."""
    if cfg.hub is None:
        path, source = Path(str(cfg.path)), str(cfg.path)
    else:
        source = f"{cfg.hub}@{(cfg.revision or '')[:8]}" + (f"/{cfg.file}" if cfg.file else f" ({cfg.split})")
        path = _download(cfg, offline)
        if cfg.file is None:
            return source, read_dataset(str(path), source, cfg.split), [], None
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise BadInput(f"{path} cannot be read ({error}); check pool.path and run the same command again") from error
    digest = check_digest(hashlib.sha256(data).hexdigest(), path, cfg)
    kind = file_format(cfg.format, Path(path))
    if kind == "parquet":
        return source, _parquet(data, source), [], digest
    raw, problems = _jsonl(data, source) if kind == "jsonl" else _json(data, source)
    return source, raw, problems, digest


def _download(cfg: PoolConfig, offline: bool) -> Path:
    """Path of the pool's file, or of its whole repository, at the pinned commit in the hub's local cache."""
    if not hub.is_commit(cfg.revision):
        raise BadInput(
            f"pool '{cfg.name}' reads {cfg.hub} at revision {cfg.revision!r}; expected a full commit hash "
            f"(40 hexadecimal digits), because a branch moves. Set pool.revision=<commit>"
        )
    remedy = ", or use your own copy: pool.hub=null pool.path=<file>"
    return hub.download(str(cfg.hub), cfg.revision, file=cfg.file, offline=offline, remedy=remedy)


def read_dataset(folder: str, source: str, split: str) -> Raw:
    """Rows of a dataset repository already on disk: loading by folder keeps the pin when there is no network."""
    import datasets

    try:
        rows = datasets.load_dataset(folder, split=split).to_list()
    except (ValueError, FileNotFoundError, datasets.exceptions.DatasetsError) as error:
        raise BadInput(
            f"{source}: datasets cannot load it ({error}); check pool.split, or name a file of the "
            f"repository with pool.file"
        ) from error
    return [(f"row {i}", row) for i, row in enumerate(rows, 1)]


def _parquet(data: bytes, source: str) -> Raw:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        rows = pq.read_table(io.BytesIO(data)).to_pylist()
    except (pa.ArrowInvalid, OSError) as error:
        raise BadInput(f"{source} is not a readable parquet file ({error}); check pool.path or pool.format") from error
    return [(f"row {i}", row) for i, row in enumerate(rows, 1)]


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


_DECODER = json.JSONDecoder(parse_constant=_no_constant)


def _jsonl(data: bytes, source: str) -> tuple[Raw, list[str]]:
    """One object a line; blank lines are passed over. Only line feeds end a line (U+2028 is text)."""
    raw: Raw = []
    problems = []
    for number, line in enumerate(data.removeprefix(b"\xef\xbb\xbf").split(b"\n"), 1):
        if not line.strip():
            continue
        try:
            row = _DECODER.decode(line.decode())
        except (ValueError, RecursionError) as error:
            problems.append(f"{source}: line {number}: malformed ({error})")
            row = UNREADABLE
        raw.append((f"line {number}", row))
    return raw, problems


UNREADABLE = object()  # stands for a malformed line, so that positions of later rows do not shift


def _json(data: bytes, source: str) -> tuple[Raw, list[str]]:
    """A list of objects, decoded one by one so that each has its line; reading ends at the first malformed one."""
    raw: Raw = []
    try:
        text = data.removeprefix(b"\xef\xbb\xbf").decode()
    except UnicodeDecodeError as error:
        return raw, [f"{source}: not UTF-8 ({error})"]
    space = re.compile(r"[ \t\r\n]*")

    def skip(position: int) -> int:
        return space.match(text, position).end()  # type: ignore[union-attr]

    at = skip(0)
    if text[at : at + 1] != "[":
        return raw, [
            f"{source}: expected a list of objects, found {text[at : at + 20]!r}; "
            f"for one object a line set pool.format=jsonl"
        ]
    line, counted, at = 1, 0, skip(at + 1)
    while text[at : at + 1] != "]" or raw:
        line, counted = line + text.count("\n", counted, at), at
        try:
            row, at = _DECODER.raw_decode(text, at)
        except (ValueError, RecursionError) as error:
            return raw, [f"{source}: line {line}: malformed ({error}); nothing after it was read"]
        raw.append((f"line {line}", row))
        at = skip(at)
        if text[at : at + 1] == "]":
            break
        if text[at : at + 1] != ",":
            line += text.count("\n", counted, at)
            return raw, [
                f"{source}: line {line}: malformed (expected ',' or ']', found {text[at : at + 10]!r}); "
                f"nothing after it was read"
            ]
        at = skip(at + 1)
    if text[skip(at + 1) :]:
        return raw, [f"{source}: malformed (text after the closing bracket: {text[skip(at + 1) :][:20]!r})"]
    return raw, []
