"""A report is made anew only where it would say something else.

What it was made from stands beside it: the code, the cells, what was looked up in the folder of artifacts and what that
told, the digests of its files. Where one of these is not as it was, the report is made anew; which are looked at comes
from the making itself, so that none can be forgotten. Nothing here bears identity.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from adg import places
from adg.artifacts import provenance
from adg.artifacts.artifact import canonical
from adg.artifacts.files import sha256_file, sha256_text
from adg.artifacts.sealed import read_sealed, write_sealed
from adg.artifacts.store import Store
from adg.artifacts.watched import Look, unchanged
from adg.errors import HarnessError
from experiments import search_path
from experiments.cells import Cell
from experiments.report import controls

NOTE = ".made-of.json"
PACKAGES = ("baselines", "finetune", "experiments")  # beside adg
CODE = (".py", ".yaml", ".html", ".css", ".js")
DRAWN_BY = ("matplotlib", "jinja2", "markupsafe")  # beside the libraries that manifests record


def made_of(chosen: Sequence[Cell], store: Store) -> str:
    """Changes with all that a report is made from beside artifacts: to be asked for before it is made."""
    cells = [[repr(cell.config), cell.asked] for cell in chosen]
    made_by = [provenance.git_state(), provenance.machine(), provenance.library_versions(), _drawn_by()]
    code = [_code(search_path.folders()), *sorted({_file(type(cell.selector)) for cell in chosen})]
    return sha256_text(canonical([str(store.root), cells, made_by, code, controls.beside(chosen, store)]))


def printed(of: str, store: Store, folder: Path) -> str | None:
    """What was said of the report in ``folder`` when it was made, where it would be the same again; None where not."""
    try:
        note = read_sealed(folder / NOTE)
        if note is None or note["made_of"] != of:
            return None
        looked = {name: Look(*look) for name, look in note["artifacts"].items()}
        if not all(unchanged(store, name, look) for name, look in looked.items()):
            return None
        if any(sha256_file(folder / name) != digest for name, digest in note["files"].items()):
            return None
    except (HarnessError, OSError):
        return None
    return str(note["printed"])


def write_down(of: str, folder: Path, looked: Mapping[str, Look], files: Iterable[str], text: str) -> None:
    """Say of the report in ``folder`` what it was made from; ``text`` is what is printed of it."""
    artifacts = {name: [look.told, look.payload] for name, look in looked.items()}
    digests = {name: sha256_file(folder / name) for name in files}
    write_sealed(folder / NOTE, {"made_of": of, "artifacts": artifacts, "files": digests, "printed": text})


def _file(kind: type) -> str:
    """The digest of the file of a class, which may be of another package."""
    path = getattr(sys.modules.get(kind.__module__), "__file__", None)
    return sha256_file(Path(path)) if path else kind.__module__


def _drawn_by() -> list[str]:
    found = []
    for name in DRAWN_BY:
        try:
            found.append(version(name))
        except PackageNotFoundError:
            found.append("")
    return found


def code_files(folders: Iterable[Path]) -> list[Path]:
    """The project's files that say what is computed and shown, and those of configuration in ``folders``."""
    packages = (places.PACKAGE, *(places.ROOT / name for name in PACKAGES))
    files = {path for package in packages for path in package.rglob("*") if path.suffix in CODE}
    return sorted(files | {path for folder in folders for path in folder.rglob("*.yaml")})


@functools.cache
def _code(folders: tuple[Path, ...]) -> str:
    return sha256_text(canonical([[str(path), sha256_file(path)] for path in code_files(folders)]))
