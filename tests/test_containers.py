"""The recipes for containers: the same files and steps in both, and all that the project needs."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path

import pytest


@pytest.fixture
def recipes(root: Path) -> tuple[str, str]:
    return (root / "containers/Dockerfile").read_text(), (root / "containers/adg.def").read_text()


def test_both_copy_the_same_and_all_that_is_needed(root: Path, recipes: tuple[str, str]) -> None:
    docker, apptainer = recipes
    of_docker: set[str] = set()
    for line in re.findall(r"^COPY (.*)$", docker, re.MULTILINE):
        *sources, target = line.split()
        assert target in ("/tmp/system.sh", "/opt/adg/") or target == f"/opt/adg/{sources[0]}"
        of_docker |= set(sources)
    of_apptainer = dict(
        re.findall(r"^    (\S+) (/(?:opt/adg|tmp)/\S+)$", apptainer.split("%files")[1].split("%post")[0], re.MULTILINE)
    )
    assert set(of_apptainer) == of_docker
    assert all(target in (f"/opt/adg/{name}", "/tmp/system.sh") for name, target in of_apptainer.items())
    assert not {name for name in of_docker if not (root / name).exists()}
    settings = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["setuptools"]
    assert {"adg", "requirements", "Makefile", "pyproject.toml", *settings["package-dir"].values()} <= of_docker


def test_both_take_the_same_steps(root: Path, recipes: tuple[str, str]) -> None:
    steps = ("sh /tmp/system.sh", "make -C /opt/adg setup", "adg --version")
    for text in recipes:
        assert "debian:bookworm-slim" in text
        places = [text.index(step) for step in steps]
        assert places == sorted(places) and "ADG_BUILD" in text[: places[1]] + text[places[0] : places[1]]
    subprocess.run(["sh", "-n", root / "containers/system.sh"], check=True)
