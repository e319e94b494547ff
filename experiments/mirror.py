"""A folder with everything that a study takes from the hub, so that it can run where there is no network.

``hub/`` is a cache of the hub as its own library keeps it (models, pools), ``benchmarks/<owner>/<data set>/`` what
``suite.data_root`` reads. ``manifest.json`` names every file with its digest; an entry is written when its repository
is complete and was looked at, so that its presence means "complete".
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from adg import hub
from adg.artifacts.artifact import Node
from adg.artifacts.files import sha256_file, write_json
from adg.backbones import content
from adg.backbones import stage as backbone_stage
from adg.errors import BadInput, HarnessError
from adg.evaluation import items
from adg.evaluation.benchmarks import BENCHMARKS
from adg.evaluation.config import SuiteConfig, TaskConfig
from adg.hub import MANIFEST, SCHEMA, read
from adg.pools import sources as pool_sources
from adg.pools import stage as pool_stage
from adg.pools import tables
from adg.pools.config import PoolConfig

MODEL, POOL, BENCHMARK = "model", "pool", "benchmark"
FAILED = "failed"


@dataclass(frozen=True)
class Source:
    """A repository at a commit and what is needed of it; ``checks`` are what its rows are counted by."""

    kind: str
    repo: str
    revision: str
    patterns: tuple[str, ...] | None = None  # files that are fetched; None: all
    ignored: tuple[str, ...] = ()
    checks: tuple[Any, ...] = field(default=(), compare=False)  # a PoolConfig, or (task, TaskConfig) pairs

    @property
    def name(self) -> str:
        return f"{self.kind} {self.repo} at {self.revision[:12]}"

    @property
    def key(self) -> str:
        """Its entry in the manifest."""
        return "/".join([self.kind, self.repo, self.revision, *(self.patterns or ())])


def sources(nodes: Iterable[Node], suites: Iterable[SuiteConfig]) -> list[Source]:
    """What these artifacts and suites take from the hub, each repository once; what is local is left out."""
    needed: dict[str, Source] = {}
    for node in nodes:
        config = node.config
        if node.stage is backbone_stage.STAGE and config.source == "hub":
            source = Source(
                MODEL,
                config.origin["hub"],
                config.origin["revision"],
                content.DOWNLOADED,
                content.NOT_DOWNLOADED,
            )
            needed.setdefault(source.key, source)
        elif node.stage is pool_stage.STAGE and config.hub is not None:
            patterns = None if config.file is None else (config.file,)
            source = Source(POOL, config.hub, config.revision or "", patterns, checks=(config,))
            needed.setdefault(source.key, source)
    for suite in suites:
        for name, task in suite.tasks.items() if suite.root is None else ():
            source = Source(BENCHMARK, task.repo, task.revision, checks=((name, task),))
            known = needed.get(source.key, source)
            more = () if any(name == task_name for task_name, _ in known.checks) else source.checks
            needed[source.key] = replace(known, checks=(*known.checks, *more))
    return list(needed.values())


def fetch(source: Source, mirror: Path) -> Path:
    """Download a repository into the mirror, continuing what was begun; returns its folder. Raises ``HarnessError``."""
    # a benchmark stands as plain files where suite.data_root finds it, everything else in a cache of the hub's kind
    where: dict[str, Any] = {"cache_dir": mirror / "hub"}
    if source.kind == BENCHMARK:
        where = {"local_dir": mirror / "benchmarks" / source.repo}
    kind = "model" if source.kind == MODEL else "dataset"
    return hub.download(source.repo, source.revision, kind, patterns=source.patterns, ignored=source.ignored, **where)


def looked_at(source: Source, folder: Path) -> int | None:
    """Load what was fetched and count its rows, or None for a model, which has none.

    Raises ``BadInput`` when rows or weights are missing.
    """
    if source.kind == MODEL:
        content.check_folder(folder, "the download is incomplete; run the same command again")
        return None
    total = 0
    for check in source.checks:
        counted, expected = _pool(check, folder) if source.kind == POOL else _benchmark(check[0], check[1], folder)
        if expected is not None and counted != expected:
            raise BadInput(
                f"{source.name}: {folder} holds {counted:,} rows, expected {expected:,}; it is another data "
                f"set or revision. Delete {folder} and run the same command again"
            )
        total += counted
    return total


def _pool(config: PoolConfig, folder: Path) -> tuple[int, int | None]:
    if config.file is None:
        rows, problems = tables.dataset(str(folder), f"{folder}", config.split)
    else:
        local = replace(config, path=str(folder / config.file), hub=None, revision=None, file=None)
        raw = pool_sources.read(local, offline=True)
        rows, problems = raw.rows, raw.problems
    if problems:
        raise BadInput(problems[0])
    return len(rows), config.expected_rows


def _benchmark(task: str, config: TaskConfig, folder: Path) -> tuple[int, int | None]:
    """Items of the split that is scored; a task whose columns are not known here has nothing to count."""
    if task not in BENCHMARKS:
        return 0, None
    count = sum(len(split.items) for split in items.read(task, folder, config.subtasks) if split.test)
    return count, config.items if config.subtasks is None else None


def enter(source: Source, folder: Path, rows: int | None, mirror: Path) -> None:
    """Write the entry of a complete repository, with the digest of every file."""
    files = {
        path.relative_to(folder).as_posix(): {"bytes": path.stat().st_size, "sha256": sha256_file(path)}
        for path in _files(folder)
    }
    if not files:
        raise BadInput(f"{source.name}: {folder} holds no file; run the same command again")
    entry = {
        "kind": source.kind,
        "repo": source.repo,
        "revision": source.revision,
        "rows": rows,
        "folder": folder.relative_to(mirror).as_posix(),
        "files": files,
    }
    write_json(mirror / MANIFEST, {"schema": SCHEMA, "sources": {**read(mirror), source.key: entry}})


def _files(folder: Path) -> list[Path]:
    return sorted(
        path
        for path in folder.rglob("*")
        if path.is_file() and not any(p.startswith(".") for p in path.relative_to(folder).parts)
    )


def check_inside(source: Source, entry: Mapping[str, Any], mirror: Path) -> None:
    """Raise ``BadInput`` where an entry of the manifest names a folder or a file outside the mirror.

    What ``--repair`` deletes is then ours, whatever was written into the manifest or linked into the mirror.
    """
    home = mirror.resolve()
    folder = mirror / entry["folder"]
    for path in (folder, *(folder / name for name in entry["files"]), *(_files(folder) if folder.is_dir() else ())):
        plain = ".." not in path.relative_to(mirror).parts if path.is_relative_to(mirror) else False
        if not plain or not path.resolve().is_relative_to(home):
            raise BadInput(
                f"{source.name}: {mirror / MANIFEST} names {path}, which leads out of the mirror; nothing was deleted. "
                f"Take that entry out of the manifest, or the link out of the mirror, and run the same command again"
            )


def damaged(source: Source, entry: Mapping[str, Any], mirror: Path) -> list[tuple[Path, str]]:
    """The files of an entry that are missing or differ from their digest, with what is wrong; [] when it is whole.

    Where a repository is read as a whole, a file that the manifest does not name counts as well.
    """
    folder = mirror / entry["folder"]
    extra = _files(folder) if source.patterns is None else []
    wrong = [
        (path, "is not in the manifest") for path in extra if path.relative_to(folder).as_posix() not in entry["files"]
    ]
    for name, expected in entry["files"].items():
        path = folder / name
        if not path.is_file():
            wrong.append((path, "is missing"))
        elif path.stat().st_size != expected["bytes"]:
            wrong.append((path, f"has {path.stat().st_size:,} bytes, expected {expected['bytes']:,}"))
        elif (digest := sha256_file(path)) != expected["sha256"]:
            wrong.append((path, f"has sha256 {digest[:16]}…, expected {expected['sha256'][:16]}…"))
    return wrong


def remove(path: Path) -> None:
    """Delete a file, and what it points to where the cache keeps contents and names apart."""
    target = path.resolve()
    path.unlink(missing_ok=True)
    target.unlink(missing_ok=True)


@dataclass(frozen=True)
class Brought:
    """What became of a source: "fetched", "verified", "missing", "damaged" or "failed", its rows (None of a model, or
    where they were not counted), and what is wrong."""

    source: Source
    state: str
    rows: int | None = None
    problems: Sequence[str] = ()

    @property
    def line(self) -> str:
        counted = "" if self.rows is None else f", {self.rows:,} rows"
        return f"  {self.state.upper() if self.state == FAILED else self.state:<9} {self.source.name}{counted}"


def fill(
    wanted: Sequence[Source], mirror: Path, download: bool, repair: bool, say: Callable[[Brought], None]
) -> list[Brought]:
    """Bring every source into the mirror, or with ``download`` off only verify it; ``say`` hears of each.

    A source that the manifest holds is verified by its digests and loaded again, not downloaded. With ``repair``
    damaged files are deleted and fetched anew.
    """
    all_brought = []
    for source in wanted:
        try:
            brought = _bring(source, mirror, download, repair)
        except HarnessError as error:
            brought = Brought(source, FAILED, problems=[str(error)])
        say(brought)
        all_brought.append(brought)
    return all_brought


def _bring(source: Source, mirror: Path, download: bool, repair: bool) -> Brought:
    entry = read(mirror).get(source.key)
    if entry is None and not download:
        wrong_here = f"{source.name} is not in {mirror / MANIFEST}; run the same command without --verify"
        return Brought(source, "missing", problems=[wrong_here])
    if entry is not None:
        check_inside(source, entry, mirror)
        wrong = damaged(source, entry, mirror)
        if not wrong:
            return Brought(source, "verified", looked_at(source, mirror / entry["folder"]))
        if not (repair and download):
            told = [f"{path} {what}; --repair deletes and fetches it again" for path, what in wrong]
            return Brought(source, "damaged", problems=told)
        for path, _ in wrong:
            remove(path)
    folder = fetch(source, mirror)
    rows = looked_at(source, folder)
    enter(source, folder, rows, mirror)
    return Brought(source, "fetched", rows)
