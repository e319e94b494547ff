"""W&B for real, offline: what is sent, that it is sent once, and that its failures cost nothing."""

import json
import logging
import shutil
import socket
import time
from pathlib import Path

import pytest

from adg import live
from adg.errors import BadInput, NotRunnable
from experiments.trackers import follower
from experiments.trackers.wandb import resolve_mode
from experiments.tracking import CellInfo, TrackerConfig, track

RESULTS = {
    "partial": True,
    "tasks": {
        "gsm8k": {"status": "done", "value": 0.125, "stderr": 0.03, "n": 8},
        "humaneval": {"status": "not-run", "reason": "no sandbox", "value": None, "stderr": None, "n": 0},
    },
    "categories": {"reasoning": 0.125, "coding": None, "avg": None},
}
CURVE = [
    {"step": 1, "loss": 2.5, "learning_rate": 1e-4},
    {"step": 2, "loss": 2.0, "learning_rate": 5e-5},
    {"step": 2, "train_runtime": 3.5, "train_loss": 2.25},
]


def cell(**changes) -> CellInfo:
    values = {
        "name": "tiny/general/adg",
        "fingerprint": "0123456789abcdef" * 4,
        "group": "main",
        "backbone": "tiny",
        "pool": "general",
        "selector": "adg",
        "config": {"sampling": {"n": 5, "windows": ("last4",)}},
    }
    return CellInfo(**{**values, **changes})


def offline(tmp_path: Path) -> TrackerConfig:
    return TrackerConfig(names={"wandb": True}, mode="offline", dir=str(tmp_path / "runs"))


def send(cfg: TrackerConfig, tmp_path: Path, results=RESULTS, **changes) -> None:
    subset = tmp_path / "subset.jsonl"
    subset.write_text('{"id": 1}\n')
    with track(cfg, cell(**changes)) as record:
        record.training(CURVE)
        record.results(results)
        record.subset(subset, {"rows": 1})


def runs(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "runs" / "wandb").glob("*run-*-*"))


@pytest.fixture
def read(read_wandb):
    return read_wandb


def test_a_cell_becomes_one_offline_run_without_a_connection(tmp_path, read, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.1)
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{server.getsockname()[1]}")
        monkeypatch.setenv("WANDB_API_KEY", "5ec2e7" * 7)
        monkeypatch.setenv("WANDB_MODE", "disabled")  # the config wins over the environment
        send(offline(tmp_path), tmp_path)
        with pytest.raises(TimeoutError):
            server.accept()
    (folder,) = runs(tmp_path)
    run = read(folder)
    assert folder.name.endswith("-" + "0123456789abcdef" * 2)
    assert (run["id"], run["group"], run["name"]) == ("0123456789abcdef" * 2, "main", "tiny/general/adg")
    assert sorted(run["tags"]) == ["adg", "general", "partial", "tiny"]
    assert run["config"]["sampling"] == {"n": 5, "windows": ["last4"]}
    assert run["exit_code"] == 0
    losses = [(row["_step"], row["train/loss"]) for row in run["history"]]
    assert losses == [(1, 2.5), (2, 2.0)]
    assert run["history"][1]["train/train_loss"] == 2.25
    assert run["artifacts"] == [("subset", ["subset.jsonl"])]


def test_a_missing_score_is_no_number(tmp_path, read):
    send(offline(tmp_path), tmp_path)
    summary = read(runs(tmp_path)[0])["summary"]
    assert summary["score/gsm8k"] == 12.5
    assert 0 < summary["low/gsm8k"] < 12.5 < summary["high/gsm8k"] < 60  # of 1 in 8
    assert summary["items/gsm8k"] == 8
    assert summary["category/reasoning"] == 12.5
    assert summary["not_run/humaneval"] == "no sandbox"
    assert not {"score/humaneval", "items/humaneval", "category/coding", "category/avg"} & summary.keys()


def test_the_same_cell_is_sent_once(tmp_path):
    send(offline(tmp_path), tmp_path)
    (before,) = runs(tmp_path)
    stamp = next(before.glob("*.wandb")).stat().st_mtime_ns
    for process in follower.running():
        process.kill()
    follower.forget()
    send(offline(tmp_path), tmp_path)
    assert follower.running() == [], "a process was started for a cell that was sent already"
    (after,) = runs(tmp_path)
    assert after == before
    assert next(after.glob("*.wandb")).stat().st_mtime_ns == stamp


def test_new_content_replaces_the_run_of_the_cell(tmp_path, read):
    send(offline(tmp_path), tmp_path)
    better = json.loads(json.dumps(RESULTS))
    better["tasks"]["gsm8k"]["value"] = 0.5
    send(offline(tmp_path), tmp_path, results=better)
    (folder,) = runs(tmp_path)
    assert read(folder)["summary"]["score/gsm8k"] == 50.0


def test_cells_have_runs_of_their_own(tmp_path, read):
    send(offline(tmp_path), tmp_path)
    send(offline(tmp_path), tmp_path, fingerprint="f" * 64)
    assert {read(folder)["id"] for folder in runs(tmp_path)} == {"0123456789abcdef" * 2, "f" * 32}


def test_a_deleted_run_folder_is_written_again(tmp_path):
    send(offline(tmp_path), tmp_path)
    shutil.rmtree(runs(tmp_path)[0])
    send(offline(tmp_path), tmp_path)
    assert len(runs(tmp_path)) == 1


@pytest.mark.parametrize(("error", "state", "code"), [(ValueError, "failed", 1), (NotRunnable, "not-run", 0)])
def test_a_failed_cell_is_sent_as_such_and_its_error_passes(tmp_path, read, error, state, code):
    with pytest.raises(error, match="broken"), track(offline(tmp_path), cell()) as record:
        record.training(CURVE)
        raise error("broken")
    run = read(runs(tmp_path)[0])
    assert (run["summary"]["state"], run["exit_code"]) == (state, code)
    assert "broken" in run["summary"]["reason"]


def test_a_dead_server_costs_a_warning_and_leaves_an_offline_run(tmp_path, read, monkeypatch, caplog):
    monkeypatch.setenv("WANDB_API_KEY", "5ec2e7" * 7)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    cfg = TrackerConfig(names={"wandb": True}, mode="online", dir=str(tmp_path / "runs"), timeout=4.0)
    with caplog.at_level(logging.WARNING, "experiments.trackers"):
        with track(cfg, cell(config={"note": "key " + "5ec2e7" * 7}), [tmp_path / live.FILE]) as record:
            record.results(RESULTS)
            time.sleep(8)  # a cell at work: the tracker waits for the server meanwhile
        send(TrackerConfig(**{**cfg.__dict__, "timeout": 60.0}), tmp_path, fingerprint="f" * 64)
    first, second = runs(tmp_path)
    assert len(caplog.records) == 1 and "W&B was not reached" in caplog.text
    assert f"wandb sync {tmp_path / 'runs' / 'wandb'}/offline-run-*" in caplog.text and "adg sync" in caplog.text
    run = read(first if first.name.endswith(cell().id) else second)
    assert run["summary"]["score/gsm8k"] == 12.5
    assert run["config"]["note"] == "key (secret)"
    note = json.loads((tmp_path / "runs" / "wandb" / "cells" / f"{cell().id}.json").read_text())
    assert note["sent"] == "offline"
    leaked = [p for p in (tmp_path / "runs").rglob("*") if p.is_file() and b"5ec2e7" * 7 in p.read_bytes()]
    assert leaked == []


def test_figures_of_the_system_are_wandbs_own(tmp_path, read):
    with track(offline(tmp_path), cell(), [tmp_path / live.FILE]):
        time.sleep(5)
    (folder,) = runs(tmp_path)
    assert read(folder)["stats"] > 0
    (note,) = (tmp_path / "runs" / "tracking").glob("*.system.jsonl")
    assert json.loads(note.read_text().splitlines()[0])["memory_bytes"] > 0


def test_modes(monkeypatch, tmp_path):
    import wandb

    wandb.teardown()  # what it knows of keys of other tests
    auto, online = (TrackerConfig(names={"wandb": True}, mode=mode) for mode in ("auto", "online"))
    assert resolve_mode(auto) == "offline"
    with pytest.raises(BadInput, match=r"no W&B API key.*tracker\.mode=offline"):
        resolve_mode(online)
    monkeypatch.setenv("WANDB_API_KEY", "5ec2e7" * 7)
    assert resolve_mode(auto) == resolve_mode(online) == "online"
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert resolve_mode(auto) == "offline"
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert resolve_mode(auto) == "off"
    monkeypatch.delenv("WANDB_MODE")
    monkeypatch.setenv("WANDB_API_KEY", "short")
    with pytest.raises(BadInput, match="unusable"):
        resolve_mode(auto)


def test_none_writes_nothing(tmp_path):
    send(TrackerConfig(dir=str(tmp_path / "runs")), tmp_path)
    assert not (tmp_path / "runs").exists()
