"""What an artifact is: ``Stage`` and ``Node`` name it before it exists, ``Job`` builds it, ``Artifact`` is the result.

Identity: the stage's name and version, the config (but for fields marked ``identity: False``) and the inputs'
fingerprints. The module of a builder, labels and how a stage is run do not count.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from adg import extras
from adg.artifacts import disk
from adg.artifacts.files import sha256_text
from adg.artifacts.sealed import Damaged, first_difference, read_sealed, require
from adg.errors import BadInput, HarnessError, NotRunnable

SCHEMA = "adg-artifact/2"  # of manifests that carry their own digest
UNSEALED = "adg-artifact/1"  # of manifests made before they did; they are found as ever
MANIFEST = "manifest.json"
WORK = "work"  # sub-folder of a folder being built that holds what only a resume needs
EARLIER = "earlier"  # in it: the complete artifact that is continued
UNLESS_DEFAULT = "unless default"  # metadata "identity" of an option that came later than artifacts without it


def plain(value: Any) -> Any:
    """``value`` as JSON types; raises ``TypeError`` on anything without a stable form.

    Dataclass fields with ``metadata={"identity": False}`` are left out, and those with ``{"identity": UNLESS_DEFAULT}``
    where they hold their default: an option that is added so leaves the identity of everything made before it alone.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value) if _is_identity(f, value)}
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        if value != value or value in (float("inf"), float("-inf")):
            raise TypeError(f"{value} has no stable identity")
        return value
    raise TypeError(f"{type(value).__name__} {value!r} has no stable identity")


def _is_identity(field: dataclasses.Field[Any], owner: Any) -> bool:
    rule = field.metadata.get("identity", True)
    default = field.metadata.get("default", field.default)  # where the value that is left out is set by a preset
    return bool(rule) and (rule != UNLESS_DEFAULT or getattr(owner, field.name) != default)


def canonical(value: Any) -> str:
    return json.dumps(plain(value), sort_keys=True, ensure_ascii=False, separators=(",", ":"))


@dataclass(frozen=True)
class Stage:
    """A kind of artifact: all that is said of it by name. Name and version are identity, the rest is how it is run.

    ``builder`` is "module:function", imported only when something is built. The function takes a ``Job`` and returns
    the manifest's ``info`` (counts, notes).
    ``place`` orders the stages of a cell: of those that could be built next the lowest comes first, and plans list them
    so. The selectors' own stages have the default, between what every cell knows and the scores.
    ``gpus`` names the option of ``exec`` that says how many GPUs the stage takes, "" where it runs no model. With a GPU
    such a stage runs in a worker process that ends when another kind starts.
    """

    name: str
    version: int
    builder: str
    place: int = 60
    gpus: str = ""
    spread: bool = False  # whether its work can be shared out (exec.replicas, exec.distributed=ray)
    work: str = ""  # what it does how often, for plans: "<answers, records, examples or items> to <do>"

    def gpus_of(self, how: Mapping[str, Any]) -> int:
        """GPUs that the stage takes with ``how``, the values of ``exec``, Ray's actors aside; 0: it runs no model."""
        if not self.gpus:
            return 0
        return int(how.get(self.gpus, 1)) * (int(how.get("replicas", 1)) if self.spread else 1)


def file_name(label: str) -> str:
    """``label`` as the beginning of a file's name: at most 80 bytes, of which a file system takes 255."""
    safe = "".join(c if c.isalnum() or c in "._+" else "-" for c in label)
    return safe.encode()[:80].decode(errors="ignore").strip("-")


@dataclass(frozen=True)
class Node:
    """An artifact named before it exists. ``config`` is its identity; inputs are keyed by role."""

    stage: Stage
    label: str
    config: Any
    inputs: Mapping[str, Node] = field(default_factory=dict)

    @functools.cached_property
    def payload(self) -> dict[str, Any]:
        """What is hashed, in readable form."""
        return {
            "stage": self.stage.name,
            "version": self.stage.version,
            "config": plain(self.config),
            "inputs": {role: node.fingerprint for role, node in sorted(self.inputs.items())},
        }

    @functools.cached_property
    def fingerprint(self) -> str:
        return sha256_text(canonical(self.payload))

    @property
    def lacks(self) -> str:
        """Why it can be planned and never be built, as its config says of itself: a checkpoint that no option names,
        say. "" where that is not known beforehand."""
        return str(getattr(self.config, "lacks", ""))

    @functools.cached_property
    def folder(self) -> str:
        """Relative path ``<stage>/<label>-<hash8>``."""
        return f"{self.stage.name}/{file_name(self.label)}-{self.fingerprint[:8]}"

    def walk(self) -> Iterator[Node]:
        """This node after everything it depends on, each once."""
        seen: set[str] = set()

        def visit(node: Node) -> Iterator[Node]:
            if node.fingerprint in seen:
                return
            seen.add(node.fingerprint)
            for _, parent in sorted(node.inputs.items()):
                yield from visit(parent)
            yield node

        yield from visit(self)


@dataclass(frozen=True)
class Artifact:
    """A complete folder and its manifest."""

    path: Path
    manifest: Mapping[str, Any]

    @property
    def fingerprint(self) -> str:
        return self.manifest["fingerprint"]

    @property
    def info(self) -> Mapping[str, Any]:
        return self.manifest["info"]

    @property
    def digest(self) -> str:
        """Of what was built: all files but those that ``info`` calls ``aside``, and what it says was ``decided``.

        The fingerprint says what was to be built. Two builds of one fingerprint differ where a machine had a say (a
        GPU's rounding, a measured choice); then what is made from one does not fit the other.
        """
        aside = self.info.get("aside", ())
        files = {name: entry["sha256"] for name, entry in self.manifest["files"].items() if name not in aside}
        return sha256_text(canonical({"files": files, "decided": self.info.get("decided")}))

    def file(self, name: str) -> Path:
        if name not in self.manifest["files"]:
            raise HarnessError(f"{self.path} holds no '{name}'; it has {sorted(self.manifest['files'])}")
        return self.path / name

    def verify(self) -> None:
        """Compare every file with the digest in the manifest; raise ``Damaged`` on the first difference."""
        with disk.in_words(self.path):
            wrong = first_difference(self.path, self.manifest["files"])
        if wrong:
            raise Damaged(
                f"{wrong} although {self.path}/{MANIFEST} lists it as it was built; it was changed since",
                f"Delete the folder {self.path} and run the same command again",
            )


@dataclass
class Job:
    """What a builder gets: where to write, its config, its inputs, and how to run (not identity).

    ``work`` survives a kill, so a builder finds its own earlier work there (``Shards``), and is deleted when the
    artifact is complete. Everything else in ``folder`` becomes the payload, and is empty when a build begins.
    """

    node: Node
    folder: Path
    inputs: Mapping[str, Artifact]
    exec: Any

    @property
    def config(self) -> Any:
        return self.node.config

    @property
    def work(self) -> Path:
        path = self.folder / WORK
        path.mkdir(parents=True, exist_ok=True)
        return path

    def earlier(self) -> Artifact | None:
        """The artifact that this one continues (see ``Store.reopen``), verified; None where there is none.

        Raises ``Damaged`` where it is not as it was built.
        """
        artifact = read_artifact(self.folder / WORK / EARLIER)
        if artifact is None or artifact.fingerprint != self.node.fingerprint:
            return None
        artifact.verify()
        return artifact


def run_builder(node: Node, folder: Path, inputs: Mapping[str, Artifact], exec_: Any) -> dict[str, Any]:
    """Import and call a stage's builder in this process; returns the manifest's ``info``.

    Raises ``NotRunnable`` where the node ``lacks`` something, ``BadInput`` where it needs a library that is not
    installed.
    """
    if node.lacks:
        raise NotRunnable(node.lacks)
    module, _, name = node.stage.builder.partition(":")
    builder = getattr(importlib.import_module(module), name)
    try:
        return dict(builder(Job(node, folder, inputs, exec_)) or {})
    except ModuleNotFoundError as error:
        if told := extras.missing(error):
            raise BadInput(told) from error
        raise


def read_artifact(folder: Path) -> Artifact | None:
    """The artifact in a folder by its manifest alone; None where there is none.

    Raises ``Damaged`` where the manifest is not as it was written, or does not fit its own fingerprint.
    """
    path = folder / MANIFEST
    try:
        with disk.in_words(folder):
            manifest = read_sealed(path, unsealed=(UNSEALED,))
        if manifest is None:
            return None
        if manifest.get("schema") not in (SCHEMA, UNSEALED):
            raise Damaged(f"{path} has schema {manifest.get('schema')!r}, expected {SCHEMA!r}")
        require(path, manifest, {"fingerprint": str, "payload": dict, "inputs": dict, "files": dict, "info": dict})
        for name, entry in manifest["files"].items():
            require(path, {name: entry}, {name: dict})
            require(path, entry, {"bytes": int, "sha256": str})
        if sha256_text(canonical(manifest["payload"])) != manifest["fingerprint"]:
            raise Damaged(f"{path} is damaged: its fingerprint is not that of its payload")
    except Damaged as error:
        raise Damaged(error.what, f"Delete the folder {folder} and run the same command again") from error
    return Artifact(folder, manifest)
