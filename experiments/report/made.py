"""When, by what and where a report and the results in it were made, from the manifests. Nothing here bears identity."""

from __future__ import annotations

import shlex
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

from adg.artifacts import provenance
from adg.artifacts.artifact import Artifact, read_artifact
from adg.artifacts.sealed import Damaged
from adg.artifacts.store import Store
from adg.redaction import without_secrets
from experiments.cells import Cell, distinct


def facts(found: Sequence[Artifact]) -> list[tuple[str, str]]:
    """(what, said) of these artifacts in the order in which a page shows it; of several values each with how many have
    it."""
    said = [
        ("written", f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC"),
        ("by", _commit(provenance.git_state())),
        ("command", command()),
        ("on", _machine(provenance.machine())),
    ]
    if not found:
        return said
    finished = sorted(str(artifact.manifest.get("finished", "")) for artifact in found)
    span = dict.fromkeys(moment[:16].replace("T", " ") for moment in (finished[0], finished[-1]) if moment)
    said += [
        ("results", f"{len(found)} artifacts" + f", finished {' to '.join(span)} UTC" * bool(span)),
        ("made by", _counted(_commit(artifact.manifest.get("git") or {}) for artifact in found)),
        ("made on", _counted(_machine(artifact.manifest.get("machine") or {}) for artifact in found)),
        ("with", _versions([artifact.manifest.get("versions") or {} for artifact in found])),
    ]
    return said


def command() -> str:
    """The command that runs now, without secrets."""
    main = sys.modules["__main__"]
    name = main.__spec__.name.removesuffix(".__main__") if main.__spec__ else ""
    program = ["python", "-m", name] if name else [sys.argv[0].rpartition("/")[2]]
    return str(without_secrets(shlex.join([*program, *sys.argv[1:]])))


def artifacts(chosen: Sequence[Cell], store: Store) -> dict[str, Artifact]:
    """Every complete artifact of these cells by its fingerprint, by its manifest alone."""
    found = {}
    for node in distinct(chosen):
        with suppress(Damaged):  # its row says so
            artifact = read_artifact(store.path(node))
            if artifact is not None and artifact.fingerprint == node.fingerprint:
                found[node.fingerprint] = artifact
    return found


def _commit(state: Mapping[str, Any]) -> str:
    if not state:
        return "no commit"
    return f"commit {state['commit'][:12]}" + (" with changes" if state.get("dirty") else "")


def _machine(of: Mapping[str, Any]) -> str:
    return f"{of['host']}, {of['cores']} cores, {of['system']}" if of else "not recorded"


def _counted(values: Iterable[str]) -> str:
    counts = Counter(values)
    if len(counts) == 1:
        return next(iter(counts))
    return "; ".join(f"{value} ({count})" for value, count in counts.most_common())


def _versions(every: Sequence[Mapping[str, str]]) -> str:
    names = dict.fromkeys(name for versions in every for name in versions)
    return ", ".join(f"{name} {_counted(v[name] for v in every if name in v)}" for name in names)
