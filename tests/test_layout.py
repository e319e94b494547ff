"""The shape of the project, held: who may import whom, what every file must have, the table of stages in the docs."""

from __future__ import annotations

import ast
import dataclasses
import functools
import graphlib
import importlib
import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

from adg.artifacts.artifact import Stage
from adg.execution import ExecConfig
from tests import processes

ROOT = Path(__file__).resolve().parent.parent
ALLOWED = {  # package -> the packages that it may import
    "adg": {"adg"},
    "baselines": {"adg", "baselines", "finetune"},
    "finetune": {"adg", "finetune"},
    "experiments": {"adg", "baselines", "finetune", "experiments"},
    "evaluate": {"adg", "baselines", "finetune", "experiments"},
    "bench": {"adg", "baselines", "finetune", "experiments", "bench"},
}
INSIDE_ADG = (  # each room of adg imports only what stands above it: imports follow the data
    "places",
    "errors",
    "plugins",
    "printable",
    "extras",
    "collector",
    "command",
    "limits",
    "options",
    "seeds",
    "screen",
    "progress",
    "live",
    "batching",
    "geometry",
    "hub",
    "execution",
    "redaction",
    "workers",
    "ray_actors",
    "sandbox",
    "artifacts",
    "pools",
    "backbones",
    "replicas",
    "spread",
    "prompts",
    "answers",
    "embedding",
    "selection",
    "evaluation",
    "tasktypes",
    "api",
    "__main__",
)
DOCUMENTS = (
    "README.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "docs/architecture.md",
    "docs/benchmarks.md",
    "docs/extending.md",
    "docs/faq.md",
    "docs/glossary.md",
    "docs/installing.md",
    "docs/newcomer.md",
    "docs/pilot.md",
    "docs/practitioner.md",
    "docs/researcher.md",
    "docs/running.md",
)
HEAVY = {"torch", "transformers", "vllm", "trl", "peft", "lm_eval", "datasets", "sklearn", "scipy", "ray"}
HEAVY |= {"wandb", "tensorboard", "trackio", "mlflow"}
LONGEST_FILE = 400  # lines
LONGEST_FUNCTION = 92
SHORTEST_DOCSTRING = 15  # characters


@functools.cache
def sources() -> dict[str, tuple[Path, ast.Module]]:
    """Module name -> its file and its syntax tree, for every package of the project."""
    modules = {}
    for package in (*ALLOWED, "requirements"):
        for path in sorted((ROOT / package).rglob("*.py")):
            name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
            modules[name] = (path, ast.parse(path.read_text(), str(path)))
    return modules


def imported(nodes: list[ast.stmt] | Iterator[ast.AST]) -> Iterator[tuple[str, str]]:
    """(module, member or "") of every import among the nodes; a member that is a module of ours counts as a module."""
    for node in nodes:
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, ""
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "relative imports are not used here"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield (inner, "") if inner in sources() else (str(node.module), alias.name)


def imports_of(name: str) -> set[str]:
    """Modules of the project that a module imports anywhere, inside functions too; not itself."""
    return {module for module, _ in imported(ast.walk(sources()[name][1])) if module in sources()} - {name}


@pytest.mark.parametrize("package", sorted(ALLOWED))
def test_imports_point_one_way(package: str) -> None:
    for name in sources():
        if name.split(".")[0] == package:
            extra = {module.split(".")[0] for module in imports_of(name)} - ALLOWED[package]
            assert not extra, f"{name} imports {extra}"


def test_inside_adg_imports_follow_the_data() -> None:
    order = {room: position for position, room in enumerate(INSIDE_ADG)}
    for name in sources():
        room, _, _ = name.removeprefix("adg.").partition(".")
        if not name.startswith("adg.") or room == "mini":
            continue
        assert room in order, f"adg/{room}: say in INSIDE_ADG what it may import"
        for module in imports_of(name):
            other = module.removeprefix("adg.").split(".")[0]
            assert other == room or order[other] < order[room], f"{name} imports {module}, which comes after it"


def test_no_circle_between_files() -> None:
    graphlib.TopologicalSorter({name: imports_of(name) for name in sources()}).prepare()  # CycleError names the circle


def test_no_private_member_of_another_module() -> None:
    for name, (_, tree) in sources().items():
        modules = {}
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom):
                for alias in node.names:
                    inner = f"{node.module}.{alias.name}"
                    if inner in sources():
                        modules[alias.asname or alias.name] = inner
                    elif node.module in sources():
                        assert not alias.name.startswith("_"), f"{name} imports {alias.name} of {node.module}"
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in modules:
                private = node.attr.startswith("_") and not node.attr.startswith("__")
                assert not private, f"{name}:{node.lineno} uses {node.attr} of {modules[node.value.id]}"


@pytest.mark.parametrize("package", sorted(ALLOWED))
def test_heavy_libraries_are_imported_where_used(package: str) -> None:
    for name, (_, tree) in sources().items():
        if name.split(".")[0] == package and package not in ("bench", "evaluate"):
            heavy = {module.split(".")[0] for module, _ in imported(tree.body)} & HEAVY
            assert not heavy, f"{name} imports {heavy} at its top"


def test_every_module_says_what_it_is() -> None:
    for name, (_, tree) in sources().items():
        docstring = ast.get_docstring(tree) or ""
        assert len(docstring) >= SHORTEST_DOCSTRING and "TODO" not in docstring, f"{name} has no docstring"


def test_files_and_functions_stay_short() -> None:
    for name, (path, tree) in sources().items():
        lines = len(path.read_text().splitlines())
        assert lines <= LONGEST_FILE, f"{path.relative_to(ROOT)} has {lines} lines: one idea a file"
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef):
                length = int(node.end_lineno or 0) - node.lineno + 1
                assert length <= LONGEST_FUNCTION, f"{name}.{node.name} has {length} lines: one thing a function"


def test_a_class_name_stands_for_one_class() -> None:
    places = defaultdict(list)
    for name, (_, tree) in sources().items():
        for node in tree.body:
            if isinstance(node, ast.ClassDef):
                places[node.name].append(name)
    assert not {cls: modules for cls, modules in places.items() if len(modules) > 1}


def test_the_formatter_is_never_switched_off() -> None:
    for path in ROOT.glob("[!.]*/**/*.py"):
        assert not re.search(r"#\s*fmt:\s*(skip|off)", path.read_text()), path


@functools.cache
def declared_stages() -> dict[Stage, str]:
    """Every ``Stage`` that a module of the project holds, and the file of its builder."""
    stages = {}
    for name in sources():
        if name.split(".")[0] not in ("adg", "baselines", "finetune", "experiments") or name.endswith("__main__"):
            continue
        for value in vars(importlib.import_module(name)).values():
            if isinstance(value, Stage):
                module, _, function = value.builder.partition(":")
                path, tree = sources()[module]
                functions = [node.name for node in tree.body if isinstance(node, ast.FunctionDef)]
                assert function in functions, f"stage {value.name}: {value.builder} does not exist"
                stages[value] = str(path.relative_to(ROOT))
    return stages


def test_the_table_of_stages_is_that_of_the_code() -> None:
    """The same stages, in the order in which a cell goes through them."""
    text = (ROOT / "docs" / "architecture.md").read_text()
    table = re.findall(r"^\| ([\w-]+) \|.*\| `([\w/]+\.py)` \|$", text, re.MULTILINE)
    assert len(table) == len(set(table)) and set(table) == {(s.name, path) for s, path in declared_stages().items()}
    places = {stage.name: stage.place for stage in declared_stages()}
    assert [places[name] for name, _ in table] == sorted(places[name] for name, _ in table)


def test_stages_are_told_apart_by_their_names() -> None:
    """A name is a folder, a line of a plan and the key of its times: no two stages share one."""
    names = [stage.name for stage in declared_stages()]
    assert len(names) == len(set(names)) > 15
    options = {field.name for field in dataclasses.fields(ExecConfig)}
    for stage in declared_stages():
        assert stage.gpus in ("", *options), stage.name
        assert stage.work.split(" ")[0] in ("", "answers", "records", "examples", "held-out", "items"), stage.name


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_path_that_a_document_names_exists(document: str) -> None:
    text = (ROOT / document).read_text()
    folders = "adg|baselines|bench|conf|docs|evaluate|experiments|finetune|requirements|tests"
    named = re.findall(rf"(?<![\w/.-])((?:{folders})/[\w./-]*)(?!\S*[<*{{])", text)
    to_write = {name for name, colon in re.findall(r"`([\w./]+)`(:?)$", text, re.MULTILINE) if colon}
    missing = {name for name in named if not (ROOT / name.rstrip(".")).exists()} - to_write
    assert not missing, f"{document} names what is not there"


def test_plan_status_and_report_need_no_heavy_library(root: Path) -> None:
    code = (
        "import sys, experiments.plan, experiments.status, experiments.report.sweep\n"
        "from experiments.cells import cells\ncells(['profile=paper'])\n"
        f"sys.exit(', '.join(sorted(set(sys.modules) & {HEAVY!r})) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("where", [".", "tests", "evaluate/.."])
def test_import_evaluate_finds_the_library(root: Path, where: str) -> None:
    assert not (root / "evaluate" / "__init__.py").exists()
    code = (
        "import sys\nfor name in [name for name in sys.modules if name.split('.')[0] == 'evaluate']:\n"
        "    del sys.modules[name]\n"
        "sys.path.insert(0, '')\nimport evaluate\nevaluate.load"
    )
    done = processes.run(["-c", code], cwd=root / where)
    assert done.returncode == 0, done.stderr
