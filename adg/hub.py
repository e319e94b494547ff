"""The hub of models and data sets: fetching a repository at a pinned commit, and a mirror of it on a local disk.

Nothing here bears identity: a repository is identified by its name and commit, wherever its files lie.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from adg.errors import BadInput

SCHEMA = "adg-mirror/1"
MANIFEST = "manifest.json"  # of a mirror


def is_commit(revision: str | None) -> bool:
    """Whether ``revision`` is a full commit hash (40 hexadecimal digits); a branch or tag moves."""
    return re.fullmatch(r"[0-9a-f]{40}", revision or "") is not None


def download(
    repo: str,
    revision: str | None,
    kind: str = "dataset",
    file: str | None = None,
    patterns: Sequence[str] | None = None,
    ignored: Sequence[str] | None = None,
    offline: bool = False,
    remedy: str = "",
    **where: Any,
) -> Path:
    """The local folder of a repository at a commit, or one ``file`` of it; fetched unless ``offline``.

    ``kind`` is "model" or "dataset"; ``patterns`` and ``ignored`` choose among the files; ``where`` is the library's
    ``cache_dir`` or ``local_dir``. Raises ``BadInput`` with the command that fetches it, and ``remedy`` after that.
    """
    import httpx
    import huggingface_hub
    from huggingface_hub.errors import GatedRepoError, HFValidationError

    where = {"repo_type": kind, "revision": revision, "local_files_only": offline, **where}
    command = f"hf download {repo}{' --repo-type dataset' if kind == 'dataset' else ''} --revision {revision or 'main'}"
    try:
        if file is not None:
            return Path(huggingface_hub.hf_hub_download(repo, file, **where))
        where |= {"allow_patterns": list(patterns or ()) or None, "ignore_patterns": list(ignored or ()) or None}
        return Path(huggingface_hub.snapshot_download(repo, **where))
    except GatedRepoError as error:
        raise BadInput(
            f"{repo} is gated: accept its licence on its hub page, then run `hf auth login` and `{command}`"
        ) from error
    except (OSError, httpx.HTTPError, HFValidationError) as error:  # the hub's own errors are kinds of OSError
        first = next(iter(str(error).splitlines()), "")
        raise BadInput(
            f"{file + ' of ' if file else ''}{repo} at {revision} is not on this machine and could not be fetched"
            f"{' (exec.offline is set)' if offline else ''} ({type(error).__name__}: {first}); "
            f"with access to the hub run `{command}`{remedy}"
        ) from error


def read(mirror: Path) -> dict[str, Any]:
    """Key of a source -> ``{"folder", "rows", "files": {path: {"bytes", "sha256"}}}``; {} when there is no manifest."""
    try:
        content = json.loads((mirror / MANIFEST).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise BadInput(f"{mirror / MANIFEST} is not readable ({error}); delete it and fetch again") from error
    schema = content.get("schema") if isinstance(content, dict) else None
    if schema != SCHEMA:
        raise BadInput(
            f"{mirror / MANIFEST} has schema {schema!r}, expected {SCHEMA!r}; it is no mirror's, so move it elsewhere"
        )
    return content["sources"]


def check(benchmarks: Path, repo: str, revision: str | None, files: Mapping[str, str]) -> None:
    """Hold a data set in the folder ``benchmarks`` of a mirror against the mirror's manifest, where there is one.

    ``files``: path within the data set -> sha256. Raises ``BadInput`` naming the file or the revision that is wrong.
    """
    for entry in read(benchmarks.parent).values():
        if entry["folder"] != f"{benchmarks.name}/{repo}":
            continue
        if revision not in (None, entry["revision"]):
            raise BadInput(
                f"{benchmarks / repo} holds the revision {entry['revision']}, the suite expects {revision}; "
                f"delete it and run adg fetch again"
            )
        for path in sorted({*entry["files"], *files}):
            expected, actual = entry["files"].get(path, {}).get("sha256"), files.get(path)
            if expected != actual:
                raise BadInput(
                    f"{benchmarks / repo / path} has sha256 {str(actual)[:16]}, {MANIFEST} says "
                    f"{str(expected)[:16]}; adg fetch --repair fetches it again"
                )
