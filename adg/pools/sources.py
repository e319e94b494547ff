"""Where a pool's rows come from: a file, a folder of shards, a file or a data set of the hub.

The digest of what is read bears identity (of a hub's pool the repository and its commit), the path never does.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from adg import hub
from adg.artifacts.files import sha256_file, sha256_text
from adg.errors import BadInput
from adg.pools import json_files, tables
from adg.pools.config import FORMATS, PoolConfig
from adg.pools.misnamed import what_it_is
from adg.pools.rows import RawRow

MINI = Path(__file__).resolve().parents[1] / "mini" / "pools"
SUFFIXES = {
    ".parquet": "parquet",
    ".pq": "parquet",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".csv": "csv",
    ".tsv": "csv",
}
SPLITS = ("train", "test", "validation", "valid", "val", "dev", "eval")
_SPLIT = re.compile(rf"(?:^|[-_.])({'|'.join(SPLITS)})(?:[-_.]|$)")
EXPECTED = "<file.jsonl, .json, .parquet or .csv, or a folder of such files>"


@dataclass(frozen=True)
class RawPool:
    """What a source holds: its name, its rows, what could not be read, and the sha256 (None for a whole data set)."""

    source: str
    rows: list[RawRow]
    problems: list[str]
    sha256: str | None


def local_path(cfg: PoolConfig) -> Path:
    """The absolute path of a pool's file or folder, which exists."""
    written = str(cfg.path)
    if written.startswith("mini:"):
        path = MINI / written.removeprefix("mini:")
    else:
        try:
            path = Path(written).expanduser().absolute()
        except RuntimeError as error:  # "~name" of nobody
            raise BadInput(f"pool '{cfg.name}': pool.path={written}: {error}; write the folder's whole path") from error
    if not path.is_file() and not path.is_dir():
        beside = sorted(p.name for p in path.parent.glob("*.json*")) if written.startswith("mini:") else []
        raise BadInput(
            f"pool '{cfg.name}': no file {path}{f' (there are {beside})' if beside else ''}; "
            f"run again with pool.path={EXPECTED}"
        )
    return path


def files_of(path: Path, cfg: PoolConfig) -> list[Path]:
    """The files of a local pool in the order of their names: the file itself, or a folder's shards of one format.

    Where the names tell splits apart ("train-00000-of-00002.parquet", "test/a.parquet"), those of ``pool.split``.
    """
    if path.is_file():
        return [path]
    inside = [p for p in sorted(path.rglob("*")) if not any(part.startswith(".") for part in p.relative_to(path).parts)]
    known = [p for p in inside if p.is_file() and p.suffix.lower() in SUFFIXES]
    kinds = sorted({SUFFIXES[p.suffix.lower()] for p in known})
    if cfg.format != "auto":
        known = [p for p in known if SUFFIXES[p.suffix.lower()] == cfg.format]
    elif len(kinds) > 1:
        raise BadInput(
            f"pool '{cfg.name}': the folder {path} holds files of several formats ({', '.join(kinds)}); choose one "
            f"with pool.format={kinds[-1]}, or name a file: pool.path={known[0]}"
        )
    if not known:
        names = [p.name for p in inside[:10]]
        raise BadInput(
            f"pool '{cfg.name}': the folder {path} holds no data file, only {names}; set pool.path={EXPECTED}"
        )
    splits = {p: match.group(1) for p in known if (match := _SPLIT.search("-".join(p.relative_to(path).parts).lower()))}
    if len(set(splits.values())) > 1:
        known = [p for p in known if splits.get(p) == cfg.split]
        if not known:
            raise BadInput(
                f"pool '{cfg.name}': the folder {path} holds the splits {', '.join(sorted(set(splits.values())))}, and "
                f"not '{cfg.split}'; choose one with pool.split={sorted(set(splits.values()))[0]}"
            )
    return known


def digest_of(files: list[Path]) -> str:
    """The sha256 of one file's content; of several the sha256 of their digests, one a line."""
    return _joined([sha256_file(path) for path in files])


def _joined(digests: list[str]) -> str:
    return digests[0] if len(digests) == 1 else sha256_text("\n".join(digests))


def check_digest(digest: str, path: Path | str, cfg: PoolConfig) -> str:
    """``digest``, refused where the config names another."""
    if cfg.sha256 is not None and digest != cfg.sha256:
        raise BadInput(
            f"pool '{cfg.name}': {path} has sha256 {digest}, expected {cfg.sha256}; it is another file or "
            f"it changed. Get the right one, or set pool.sha256={digest} to accept it"
        )
    return digest


def file_format(wanted: str, path: Path) -> str:
    """``wanted`` made definite. A ".json" file may hold one object a line as well as a list."""
    if wanted != "auto":
        return wanted
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise BadInput(f"{path}: cannot tell the format from '{suffix}'; set pool.format to {', '.join(FORMATS)}")
    if suffix == ".json":
        with open(path, "rb") as file:
            return (
                "jsonl" if json_files.begins_with_lines(file.readline() + file.readline() + file.read(1024)) else "json"
            )
    return SUFFIXES[suffix]


def read(cfg: PoolConfig, offline: bool) -> RawPool:
    """Everything that the pool's source holds. Raises ``BadInput`` where it cannot be had or is no data at all."""
    if cfg.hub is None:
        source = str(cfg.path)
        path = Path(source)
        files = files_of(path, cfg)
    else:
        source = f"{cfg.hub}@{(cfg.revision or '')[:8]}" + (f"/{cfg.file}" if cfg.file else f" ({cfg.split})")
        path = _download(cfg, offline)
        if cfg.file is None:
            return RawPool(source, *tables.dataset(str(path), source, cfg.split), None)
        files = [path]
    rows: list[RawRow] = []
    problems: list[str] = []
    digests = []
    for file in files:
        name = str(file) if path.is_dir() else source
        data, digest = _bytes(file)
        digests.append(digest)
        more, wrong = _read_file(data, name, file, cfg)
        if path.is_dir():
            more = [RawRow(f"{file.relative_to(path)}: {where}", content) for where, content in more]
        rows += more
        problems += wrong
    return RawPool(source, rows, problems, check_digest(_joined(digests), path, cfg))


def _bytes(path: Path) -> tuple[bytes, str]:
    import hashlib

    try:
        data = path.read_bytes()
    except OSError as error:
        raise BadInput(f"{path} cannot be read ({error}); check pool.path and run the same command again") from error
    return data, hashlib.sha256(data).hexdigest()


def _read_file(data: bytes, name: str, path: Path, cfg: PoolConfig) -> tuple[list[RawRow], list[str]]:
    kind = file_format(cfg.format, path)
    if what := what_it_is(data, kind):
        raise BadInput(f"{name} is {what}")
    if kind == "parquet":
        return tables.parquet(data, name)
    if kind == "csv":
        return tables.comma_separated(data, name, cfg.fields.id)
    return json_files.json_lines(data, name) if kind == "jsonl" else json_files.json_list(data, name)


def _download(cfg: PoolConfig, offline: bool) -> Path:
    """Path of the pool's file, or of its whole repository, at the pinned commit in the hub's local cache."""
    if not hub.is_commit(cfg.revision):
        raise BadInput(
            f"pool '{cfg.name}' reads {cfg.hub} at revision {cfg.revision!r}; expected a full commit hash "
            f"(40 hexadecimal digits), because a branch moves. Set pool.revision=<commit>"
        )
    remedy = ", or use your own copy: pool.hub=null pool.path=<file>"
    return hub.download(str(cfg.hub), cfg.revision, file=cfg.file, offline=offline, remedy=remedy)
