"""A folder of configurations outside of the project is found by every command alike."""

from __future__ import annotations

import importlib
import json
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from adg import plugins
from adg.errors import BadInput
from experiments import search_path
from experiments.cells import cells
from experiments.compose import compose
from tests import processes

ROWS = [{"question": f"Say {i}.", "reply": "word " * (i + 1)} for i in range(8)]
POOL = "# Rows of a test.\nname: own_rows\npath: {}\nfields: {{instruction: question, output: reply}}\n"


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Path]:
    """A folder laid out as conf/ is, with a pool, and an experiment that ends with the choice."""
    folder = tmp_path / "my conf"
    for group in ("pool", "experiment"):
        (folder / group).mkdir(parents=True)
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    (folder / "pool" / "own_rows.yaml").write_text(POOL.format(rows))
    (folder / "experiment" / "own_choice.yaml").write_text(
        "# @package _global_\nhydra:\n  sweeper:\n    params:\n      pool: own_rows,mini_cot\n"
        "      selector: random,longest\nexperiment: {name: own_choice, last: subset, sections: []}\n"
    )
    yield folder
    search_path.take([])


@pytest.fixture
def said(root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """What a command prints, and with what error it ends."""

    def run(module: str, *arguments: str) -> str:
        if module in ("run", "select"):  # Hydra closes the logs there are: absl's closes what pytest writes to
            return processes.run(["-m", f"experiments.{module}", *arguments], cwd=root).stdout
        monkeypatch.setattr(sys, "argv", [module, *arguments])
        monkeypatch.setenv("ADG_SWEEP_CELLS", "0")  # a sweep sets it, for its own processes
        command = importlib.import_module(f"experiments.{module}")
        try:
            (command.entry if hasattr(command, "entry") else command.main)()
        except SystemExit as left:
            return capsys.readouterr().out + str(left.code)
        return capsys.readouterr().out

    return run


def test_every_command_finds_a_folder_of_its_own(own: Path, said: Callable[..., str], tmp_path: Path) -> None:
    """The same words after each command: those that choose, those that show, those that judge."""
    runs = f"exec.runs={tmp_path / 'runs'}"
    study = ["--config-dir", str(own), "profile=smoke", "experiment=own_choice", "selector=random", "pool=own_rows"]
    study += [runs, "budget=3"]
    assert "to do: pool, scores, subset" in said("plan", *study)
    assert "done in" in said("run", *study, "-m")
    assert re.search(r"tiny_random/own_rows/random\S* +done\n", said("status", *study))
    assert re.search(r"tiny_random/own_rows/random\S* +cached\n", said("plan", *study))
    assert "own_rows" in said("report.__main__", *study)
    out = tmp_path / "three.jsonl"
    chosen = ["pool=own_rows", "selector=random", "budget=3", runs, f"out={out}"]
    said("select", f"hydra.searchpath=['{own}']", *chosen)
    assert len(out.read_text().splitlines()) == 3


@pytest.mark.parametrize(
    ("module", "selector", "expected"),
    [
        ("samples", "random", "error: tiny_random/own_rows/random has no evaluation"),
        ("compare", "adg,random", "own_rows"),
        ("claims.__main__", "adg,random", "published alone"),
    ],
)
def test_commands_that_read_evaluations_find_it_too(
    own: Path, said: Callable[..., str], tmp_path: Path, module: str, selector: str, expected: str
) -> None:
    study = [f"--config-dir={own}", "profile=smoke", f"selector={selector}", "pool=own_rows", f"exec.runs={tmp_path}"]
    printed = said(module, *study)
    assert expected in printed and "not known" not in printed


def test_a_folder_is_named_in_three_ways(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(own.parent)
    rest = ["-m", "pool=own_rows"]
    for words in (["--config-dir", "my conf"], ["--config-dir=my conf"], ["hydra.searchpath=['my conf']"]):
        assert search_path.take([*words, *rest]) == rest
        assert search_path.folders() == (search_path.CONF, own)
    found = cells(["profile=smoke", "pool=own_rows,mini_cot", "selector=random,longest"])
    assert [cell.name.split("/")[1:] for cell in found[:2]] == [["own_rows", "random"], ["own_rows", "longest"]]
    assert search_path.take(rest) == rest and search_path.folders() == (search_path.CONF,), "of one command alone"
    with pytest.raises(BadInput, match="pool=own_rows is not known"):
        compose(["pool=own_rows"])


def test_what_cannot_be_meant_is_refused(own: Path, tmp_path: Path) -> None:
    for words, reason in (
        (["--config-dir"], "--config-dir is followed by nothing"),
        (["--config-dir", str(tmp_path / "gone")], "there is no folder .*gone"),
        (["--config-dir", str(own / "pool")], "holds none of the groups .*my conf may be meant"),
        (["hydra.searchpath=conf"], "names no list of folders; expected 'hydra.searchpath="),
        (["hydra.searchpath=[http://a]"], "expected a folder, or pkg://package.folder"),
        (["hydra.searchpath=[pkg://no_such_package.conf]"], "there is no folder no_such_package.conf"),
    ):
        with pytest.raises(BadInput, match=reason):
            search_path.take(words)
    (own / "pool" / "mini_cot.yaml").write_text("# Another.\nname: mini_cot\n")
    with pytest.raises(BadInput, match=r"my conf/pool/mini_cot\.yaml and .*conf/pool/mini_cot\.yaml have one name"):
        search_path.take(["--config-dir", str(own)])
    (own / "pool" / "mini_cot.yaml").write_bytes((search_path.CONF / "pool" / "mini_cot.yaml").read_bytes())
    search_path.take(["--config-dir", str(own)])


def test_the_path_of_a_file_in_a_package() -> None:
    assert Path(search_path.in_package("adg/mini/pools/cot.jsonl")).is_file()
    config = compose(["pool=local", "pool.path=${package:adg/mini/pools/cot.jsonl}"])
    assert str(config.pool.path).endswith("adg/mini/pools/cot.jsonl")
    for place, reason in (("no_such_package/a", "no such package"), ("adg/mini/gone", "holds no mini/gone")):
        with pytest.raises(BadInput, match=reason):
            search_path.in_package(place)


def test_packages_that_add_what_they_cannot_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The entry points of two packages, as an installer leaves them."""
    for name, lines in (("one", "a = no_such_module:A\nb = json:dumps"), ("two", "a = other:A")):
        info = tmp_path / f"{name}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[adg.test]\n{lines}\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(BadInput, match=r"the packages one and two both add 'a' to adg\.test"):
        plugins.found("adg.test")
    (tmp_path / "two-1.0.dist-info" / "entry_points.txt").unlink()
    points = plugins.found("adg.test")
    assert plugins.load(points["b"]) is json.dumps
    with pytest.raises(BadInput, match=r"'a' that the package one .* cannot be loaded \(ModuleNotFoundError"):
        plugins.load(points["a"])
