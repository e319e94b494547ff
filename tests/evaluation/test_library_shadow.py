"""The folder evaluate/ must never hide the library of that name, which lm-eval's coding tasks import."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

CHECK = "from importlib.util import find_spec; print(find_spec('evaluate').origin)"


def test_folder_is_no_package(root: Path) -> None:
    assert (root / "evaluate").is_dir()
    assert not list((root / "evaluate").rglob("__init__.py"))


def test_library_wins_in_this_process() -> None:
    import evaluate

    assert callable(evaluate.load)


@pytest.mark.parametrize("place", ["", "tests", "tests/evaluation", "evaluate"])
def test_library_wins_from_folders_of_the_project(root: Path, place: str) -> None:
    """With the folder and the project's root first on the path, as ``python -m`` and scripts have them."""
    paths = f"import sys; sys.path[:0] = [{str(root / place)!r}, {str(root)!r}]; "
    done = subprocess.run([sys.executable, "-c", paths + CHECK], cwd=root / place, capture_output=True, text=True)
    found = Path(done.stdout.strip())
    assert found.name == "__init__.py" and not found.is_relative_to(root / "evaluate"), done.stderr
