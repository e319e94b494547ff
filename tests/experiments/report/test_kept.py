"""A report is kept where it would say the same, and made anew with whatever it is made from."""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from adg import places
from adg.artifacts.files import sha256_file
from adg.artifacts.sealed import read_sealed
from adg.artifacts.store import Store
from adg.errors import NotRunnable
from experiments import contamination, search_path
from experiments.cells import report_folder
from experiments.claims import rules
from experiments.report import kept, ledger, published, sweep, templates

Made = Callable[..., bool]
FEW = ("pool=mini_general", "selector=random,ifd")


@pytest.fixture
def made(shown_study: Any, monkeypatch: pytest.MonkeyPatch) -> Made:
    """Whether a report of these cells is made anew; what is printed and stands in its folder is the same if not."""
    making: list[object] = []
    make = sweep._make
    monkeypatch.setattr(sweep, "_make", lambda *given: making.append(given) or make(*given))

    def files(chosen: list[Any], store: Store) -> dict[Path, str]:
        folder, _ = report_folder(chosen, store)
        return {path: sha256_file(path) for path in folder.rglob("*") if path.is_file()}

    def anew(chosen: list[Any]) -> bool:
        making.clear()
        store = Store(shown_study.study.runs)
        before = files(chosen, store)
        printed = sweep.write(chosen, store)
        assert making or before == files(chosen, store)
        assert printed.endswith("cells/ (a page a cell)")
        return bool(making)

    return anew


@pytest.fixture
def finished(shown_study: Any) -> list[Any]:
    chosen = shown_study.chosen(*FEW)
    shown_study.finish(chosen)
    return chosen


def test_a_result_that_comes_is_shown(made: Made, shown_study: Any) -> None:
    chosen, store = shown_study.chosen(*FEW), Store(shown_study.study.runs)
    assert [made(chosen), made(chosen)] == [True, False]
    shown_study.finish(chosen[:1])
    assert [made(chosen), made(chosen)] == [True, False]
    shown_study.finish(chosen)
    assert [made(chosen), made(chosen)] == [True, False], "and another cannot be run"
    with pytest.raises(NotRunnable, match="other words"):
        store.refuse(chosen[1].nodes["scores"], NotRunnable("other words"))
    assert [made(chosen), made(chosen)] == [True, False]
    folder, _ = report_folder(chosen, store)
    assert "other words" in (folder / "table.md").read_text()
    printed = sweep.write(chosen, store)
    (folder / kept.NOTE).unlink()
    assert printed == sweep.write(chosen, store)


def test_a_damaged_result_is_found_and_a_mended_one_shown(made: Made, finished: list[Any]) -> None:
    assert made(finished)
    path = Store(finished[0].config.exec.runs).path(finished[0].nodes["eval"]) / "samples/bbh.parquet"
    content, times = path.read_bytes(), path.stat()
    path.write_bytes(content[:-9] + b"x" * 9)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert [made(finished), made(finished)] == [True, True], "it is looked at until it is mended"
    folder, _ = report_folder(finished, Store(finished[0].config.exec.runs))
    assert "differs from its digest" in (folder / "table.md").read_text()
    path.write_bytes(content)
    assert [made(finished), made(finished)] == [True, False]
    assert "differs from its digest" not in (folder / "table.md").read_text()


def test_a_manifest_that_is_damaged_or_gone_is_said(made: Made, finished: list[Any]) -> None:
    assert made(finished)
    manifest = Store(finished[0].config.exec.runs).path(finished[0].nodes["eval"]) / "manifest.json"
    content = manifest.read_bytes()
    manifest.write_bytes(content.replace(b"seconds", b"second5"))
    assert made(finished)
    manifest.unlink()
    assert made(finished)
    manifest.write_bytes(content)
    assert [made(finished), made(finished)] == [True, False]


def test_a_file_of_it_that_is_changed_or_gone_is_written_again(made: Made, finished: list[Any]) -> None:
    assert made(finished)
    folder, _ = report_folder(finished, Store(finished[0].config.exec.runs))
    for path in (min((folder / "cells").glob("*")), folder / "claims.csv"):
        path.unlink()
        assert [made(finished), made(finished)] == [True, False] and path.is_file()
    for name in ("index.html", kept.NOTE):
        content = (folder / name).read_text()
        (folder / name).write_text(content.replace("a", "b", 1))
        assert [made(finished), made(finished)] == [True, False] and (folder / name).read_text().count("a") > 9


def test_other_cells_or_settings_are_other_reports(finished: list[Any], tmp_path: Path) -> None:
    store, first = Store(finished[0].config.exec.runs), finished[0]
    shown = dataclasses.replace(first.config.experiment, sections=())
    there = [dataclasses.replace(first, config=dataclasses.replace(first.config, experiment=shown)), *finished[1:]]
    stated = dataclasses.replace(first.config.profile, statement="said otherwise")
    said = [dataclasses.replace(first, config=dataclasses.replace(first.config, profile=stated)), *finished[1:]]
    launched = dataclasses.replace(
        first, overrides=(*first.overrides, "hydra/launcher=joblib", "hydra.launcher.n_jobs=2")
    )
    assert kept.made_of([launched, *finished[1:]], store) == kept.made_of(finished, store), "wherever it was run"
    lists = [finished, finished[:-1], finished[::-1], there, said]
    assert len({*(kept.made_of(of, store) for of in lists), kept.made_of(finished, Store(tmp_path))}) == len(lists) + 1


def test_other_code_or_configuration_is_another_report(
    finished: list[Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Whatever is imported of the project counts, and the words, rules, figures and templates that it reads."""
    files = set(kept.code_files(search_path.folders()))
    packages = ("adg", "baselines", "finetune", "experiments")
    modules = {Path(of.__file__) for name, of in list(sys.modules.items()) if name.split(".")[0] in packages}  # type: ignore[arg-type]
    assert len(modules) > 100 and not {path for path in modules if places.ROOT in path.parents} - files
    assert {rules.FILE, published.FILE, ledger.FILE, *templates.FOLDER.glob("*.html")} <= files
    assert search_path.CONF / "profile" / "smoke.yaml" in files

    store = Store(finished[0].config.exec.runs)
    seen = {kept.made_of(finished, store)}
    (tmp_path / "code").mkdir()
    for name, text in (("claims.yaml", "rule: 1"), ("claims.yaml", "rule: 2"), ("page.html", "<p>"), ("a.py", "x = 1")):
        (tmp_path / "code" / name).write_text(text)
        monkeypatch.setattr(kept, "code_files", lambda folders: sorted((tmp_path / "code").iterdir()))
        kept._code.cache_clear()
        seen.add(kept.made_of(finished, store))
    kept._code.cache_clear()
    monkeypatch.setattr(kept.provenance, "git_state", lambda: {"commit": "f" * 40, "dirty": False})
    seen.add(kept.made_of(finished, store))
    monkeypatch.setattr(kept, "_drawn_by", lambda: ["0.0"])
    seen.add(kept.made_of(finished, store))
    assert len(seen) == 7
    kept._code.cache_clear()


def test_what_was_looked_for_and_not_found_counts_too(made: Made, finished: list[Any]) -> None:
    """A comparison of pool and benchmarks, of which a report prints counts once it is there."""
    assert made(finished)
    folder, _ = report_folder(finished, Store(finished[0].config.exec.runs))
    note = read_sealed(folder / kept.NOTE)
    assert note is not None
    assert note["artifacts"][contamination.node(finished[0]).folder] == [["missing"], False]
    for node in (node for cell in finished[:1] for node in cell.nodes.values()):
        told, _ = note["artifacts"][node.folder]
        assert told[0] == ("done" if Store(finished[0].config.exec.runs).complete(node) else "missing")
