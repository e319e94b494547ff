"""``adg sync``: what is on disk is brought up, once; cells that were never begun are left out."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from adg.artifacts.store import Store
from experiments import run, sync
from experiments.cells import cells

LINE = ["profile=smoke", "experiment.last=subset", "backbone=tiny_random", "selector=random,longest"]


def synced(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *line: str) -> str:
    monkeypatch.setattr(sys, "argv", ["adg sync", *line])
    sync.main()
    return capsys.readouterr().out


def test_a_study_that_ran_without_a_tracker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], read_wandb
) -> None:
    line = [*LINE, f"exec.runs={tmp_path}"]
    first, _ = cells(line)
    assert run.run_cell(first) == "done" and not (tmp_path / "wandb").exists()
    capsys.readouterr()
    asked = [*line, "tracker=wandb", "tracker.mode=offline"]
    assert synced(monkeypatch, capsys, *asked) == "wandb: 1 cells brought up\n"
    (folder,) = (tmp_path / "wandb").glob("offline-run-*")
    found = read_wandb(folder)
    subset = Store(tmp_path).find(first.nodes["subset"])
    assert subset is not None and found["summary"]["subset/rows_out"] == subset.info["rows_out"]
    assert (found["id"], found["summary"]["state"]) == (first.fingerprint[:32], "done")
    assert synced(monkeypatch, capsys, *asked) == "wandb: 1 cells there already\n"
    assert [path.name for path in (tmp_path / "wandb").glob("offline-run-*")] == [folder.name]


def test_nothing_to_bring_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    line = [*LINE, f"exec.runs={tmp_path}"]
    with pytest.raises(SystemExit, match="no tracker is chosen; name one"):
        synced(monkeypatch, capsys, *line)
    said = synced(monkeypatch, capsys, *line, "tracker=wandb", "tracker.mode=offline")
    assert said == f"no cell of these was begun in {tmp_path}\n"


def test_one_that_does_not_take_it_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    line = [*LINE, f"exec.runs={tmp_path}", "selector=random"]
    (cell,) = cells(line)
    path = run.record_path(cell, Store(tmp_path))
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"state": "failed", "reason": "a reason"}))
    (tmp_path / "wandb").write_text("in the way")
    with pytest.raises(SystemExit, match="1 cells were not taken"):
        synced(monkeypatch, capsys, *line, "tracker=wandb", "tracker.mode=offline")
