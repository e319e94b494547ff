"""Digests of whole files, fast where they are large: several at once, and remembered while a file stays untouched.

A digest is part of an identity wherever a result depends on a file outside of the store; the memory is not. It is a
small file of this user (``$ADG_CACHE/digests.json``, by default in ``~/.cache/adg``) that may be deleted at any time.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from adg.artifacts.files import sha256_file, sha256_text, write_json
from adg.errors import BadInput

LARGE = 1 << 20  # bytes from which a digest is worth remembering
SETTLED = 2.0  # seconds since a file's last change after which another change would show in its times
KEPT = 4096  # files remembered, those looked up last


def of_files(paths: Iterable[Path]) -> dict[Path, str]:
    """The sha256 of the whole content of each file.

    A large file is read once: its digest is known again by path, size, device, inode and the times of the last change
    of content and of status (a copy that puts the former back changes the latter). Raises ``BadInput`` for a file that
    changed while it was read.
    """
    paths = list(paths)
    memory = _remembered()
    before = {path: state(path) for path in paths}
    digests = {
        path: entry["sha256"]
        for path in paths
        if (entry := memory.get(str(path.absolute()))) and entry["state"] == before[path]
    }
    unknown = [path for path in paths if path not in digests]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        digests |= dict(zip(unknown, pool.map(sha256_file, unknown), strict=True))
    news = {}
    for path in unknown:
        if state(path) != before[path]:
            raise BadInput(f"{path} changed while it was read; run the same command again when nothing writes to it")
        size, changed = before[path][0], max(before[path][-2:]) / 1e9
        if size >= LARGE and abs(time.time() - changed) > SETTLED:
            news[str(path.absolute())] = {"state": before[path], "sha256": digests[path]}
    if news:
        _remember(news)
    return {path: digests[path] for path in paths}


def state(path: Path) -> list[int]:
    """What tells whether a file was changed, without reading it. Raises ``OSError`` where there is none."""
    stat = path.stat()
    return [stat.st_size, stat.st_dev, stat.st_ino, stat.st_mtime_ns, stat.st_ctime_ns]


def cache() -> Path:
    """The folder of this user for what may be deleted at any time."""
    return Path(os.environ.get("ADG_CACHE") or "~/.cache/adg").expanduser()


def _file() -> Path:
    return cache() / "digests.json"


def _remembered() -> dict[str, dict[str, Any]]:
    """What was written down; nothing where the file is missing, unreadable or damaged (it has a digest of its own)."""
    try:
        content = json.loads(_file().read_text(encoding="utf-8"))
        return content["files"] if sha256_text(json.dumps(content["files"])) == content["sha256"] else {}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _remember(news: dict[str, dict[str, Any]]) -> None:
    """Add to the file; where it cannot be written, the files are read again next time."""
    entries = {path: entry for path, entry in _remembered().items() if path not in news} | news
    kept = dict(list(entries.items())[-KEPT:])
    try:
        write_json(_file(), {"sha256": sha256_text(json.dumps(kept)), "files": kept})
    except OSError:
        return
