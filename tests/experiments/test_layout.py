"""The shape of the project: which package may import which, and the library that must not be shadowed."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ALLOWED = {
    "adg": {"adg"},
    "baselines": {"adg", "baselines", "finetune"},
    "finetune": {"adg", "finetune"},
    "experiments": {"adg", "baselines", "finetune", "experiments"},
}
OURS = {*ALLOWED, "evaluate"}
HEAVY = {"torch", "transformers", "vllm", "trl", "peft", "lm_eval", "wandb", "datasets", "sklearn", "scipy", "ray"}


def imports(path: Path, top_level_only: bool = False) -> set[str]:
    tree = ast.parse(path.read_text())
    nodes = tree.body if top_level_only else ast.walk(tree)
    found = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.split(".")[0])
    return found


@pytest.mark.parametrize("package", sorted(ALLOWED))
def test_imports_point_one_way(root: Path, package: str) -> None:
    for path in (root / package).rglob("*.py"):
        extra = (imports(path) & set(ALLOWED)) - ALLOWED[package]
        assert not extra, f"{path.relative_to(root)} imports {extra}"


@pytest.mark.parametrize("package", sorted(ALLOWED))
def test_heavy_libraries_are_imported_where_used(root: Path, package: str) -> None:
    for path in (root / package).rglob("*.py"):
        heavy = imports(path, top_level_only=True) & HEAVY
        assert not heavy, f"{path.relative_to(root)} imports {heavy} at its top"


def test_plan_status_and_report_need_no_heavy_library(root: Path) -> None:
    code = (
        "import sys, experiments.plan, experiments.status, experiments.report\n"
        "from experiments.cells import cells\ncells(['profile=paper'])\n"
        f"sys.exit(', '.join(sorted(set(sys.modules) & {HEAVY!r})) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("where", [".", "tests", "evaluate/.."])
def test_import_evaluate_finds_the_library(root: Path, where: str) -> None:
    assert not (root / "evaluate" / "__init__.py").exists()
    code = "import sys; sys.path.insert(0, ''); import evaluate; evaluate.load"
    done = subprocess.run([sys.executable, "-c", code], cwd=root / where, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
