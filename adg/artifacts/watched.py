"""What was looked up in a folder of artifacts, so that it can be seen later whether a look would tell the same.

Nothing here bears identity.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from adg.artifacts.artifact import MANIFEST, Artifact, Node, read_artifact
from adg.artifacts.files import sha256_file
from adg.artifacts.store import FAILURE, Store, failure, held, lock_file, unfinished
from adg.errors import HarnessError


@dataclass
class Look:
    """What was told of an artifact when it was first looked up, and whether its payload was asked for."""

    told: list[str]
    payload: bool = False


class Watched(Store):
    """Another store, of which it is written down what is looked up, by the artifact's folder."""

    def __init__(self, store: Store) -> None:
        vars(self).update(vars(store))
        self.looked: dict[str, Look] = {}

    def path(self, node: Node) -> Path:
        if node.folder not in self.looked:
            self.looked[node.folder] = Look(told(self.root, node.folder))
        return super().path(node)

    def find(self, node: Node) -> Artifact | None:
        try:
            artifact = super().find(node)
        except HarnessError:
            self.looked[node.folder] = Look(["damaged"])  # which is told of nothing: it is looked at again
            raise
        self.looked[node.folder].payload = True
        return artifact


def told(root: Path, folder: str) -> list[str]:
    """What a look at the artifact in ``folder`` tells, in words that change with it: the digest of its manifest, or how
    far it is and why it is not there."""
    path = root / folder
    if (path / MANIFEST).is_file():
        return ["done", sha256_file(path / MANIFEST)]
    partial = unfinished(path)
    if partial.is_dir() and held(lock_file(path)):
        return ["running"]
    return ["partial" if partial.is_dir() else "missing", *(failure(partial / FAILURE) or ())]


def unchanged(store: Store, folder: str, look: Look) -> bool:
    """Whether a look at the artifact in ``folder`` would tell the same now. A payload that was asked for is verified as
    ``Store.find`` does it; raises ``Damaged`` where it is not as it was built."""
    if look.payload and (artifact := read_artifact(store.root / folder)) is not None:
        store.verify(artifact)
    return told(store.root, folder) == look.told
