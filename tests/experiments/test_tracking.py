"""W&B for real, offline: what is sent, that it is sent once, and that its failures cost nothing."""

import json
import logging
import socket
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest

from adg.errors import BadInput, NotRunnable
from experiments import tracking
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


@pytest.fixture(autouse=True)
def environment(monkeypatch, tmp_path):
    """No account, no settings of the person who runs the tests, no sockets to anywhere."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_BASE_URL", "NETRC", "WANDB_ENTITY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(tracking, "_unreachable", set())


@pytest.fixture
def no_sockets(monkeypatch):
    class Refusing(socket.socket):
        def __init__(self, family=socket.AF_INET, *args, **kwargs):
            if family in (socket.AF_INET, socket.AF_INET6):
                raise AssertionError("a socket was opened")
            super().__init__(family, *args, **kwargs)

    monkeypatch.setattr(socket, "socket", Refusing)


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
    return TrackerConfig(name="wandb", mode="offline", dir=str(tmp_path / "runs"))


def send(cfg: TrackerConfig, tmp_path: Path, results=RESULTS, **changes) -> None:
    subset = tmp_path / "subset.jsonl"
    subset.write_text('{"id": 1}\n')
    with track(cfg, cell(**changes)) as record:
        record.training(CURVE)
        record.results(results)
        record.subset(subset, {"rows": 1})


def runs(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "runs" / "wandb").glob("*run-*-*"))


def read(folder: Path) -> dict:
    """The transaction log of a run: LevelDB-style blocks of protocol buffers."""
    from wandb.proto import wandb_internal_pb2

    data = next(folder.glob("*.wandb")).read_bytes()
    found: dict = {"summary": {}, "history": [], "artifacts": [], "config": {}}
    position, record = 7, b""
    while position + 7 <= len(data):
        left = 32768 - position % 32768
        if left < 7:
            position += left
            continue
        _, length, kind = struct.unpack("<IHB", data[position : position + 7])
        record += data[position + 7 : position + 7 + length]
        position += 7 + length
        if kind not in (1, 4):
            continue
        parsed = wandb_internal_pb2.Record.FromString(record)
        record = b""
        which = parsed.WhichOneof("record_type")
        if which == "run":
            found.update(
                id=parsed.run.run_id,
                group=parsed.run.run_group,
                tags=list(parsed.run.tags),
                name=parsed.run.display_name,
            )
            found["config"] = {u.key: json.loads(u.value_json) for u in parsed.run.config.update}
        elif which == "summary":
            for update in parsed.summary.update:
                found["summary"][update.key or "/".join(update.nested_key)] = json.loads(update.value_json)
        elif which == "history":
            found["history"].append(
                {i.key or "/".join(i.nested_key): json.loads(i.value_json) for i in parsed.history.item}
            )
        elif which == "artifact":
            found["artifacts"].append((parsed.artifact.type, [c.path for c in parsed.artifact.manifest.contents]))
        elif which == "exit":
            found["exit_code"] = parsed.exit.exit_code
    return found


def test_a_cell_becomes_one_offline_run_without_a_socket(tmp_path, no_sockets, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "disabled")  # the config wins over the environment
    send(offline(tmp_path), tmp_path)
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


def test_a_missing_score_is_no_number(tmp_path):
    send(offline(tmp_path), tmp_path)
    summary = read(runs(tmp_path)[0])["summary"]
    assert summary["score/gsm8k"] == 12.5
    assert 0 < summary["low/gsm8k"] < 12.5 < summary["high/gsm8k"] < 60  # of 1 in 8
    assert summary["items/gsm8k"] == 8
    assert summary["category/reasoning"] == 12.5
    assert summary["not_run/humaneval"] == "no sandbox"
    assert not {"score/humaneval", "items/humaneval", "category/coding", "category/avg"} & summary.keys()


def test_the_same_cell_is_sent_once(tmp_path, monkeypatch):
    send(offline(tmp_path), tmp_path)
    (before,) = runs(tmp_path)
    stamp = next(before.glob("*.wandb")).stat().st_mtime_ns

    import wandb

    def again(*args, **kwargs):
        raise AssertionError("wandb.init was called for a cell that was sent already")

    with monkeypatch.context() as patch:
        patch.setattr(wandb, "init", again)
        send(offline(tmp_path), tmp_path)
    (after,) = runs(tmp_path)
    assert after == before
    assert next(after.glob("*.wandb")).stat().st_mtime_ns == stamp


def test_new_content_replaces_the_run_of_the_cell(tmp_path):
    send(offline(tmp_path), tmp_path)
    better = json.loads(json.dumps(RESULTS))
    better["tasks"]["gsm8k"]["value"] = 0.5
    send(offline(tmp_path), tmp_path, results=better)
    (folder,) = runs(tmp_path)
    assert read(folder)["summary"]["score/gsm8k"] == 50.0


def test_cells_have_runs_of_their_own(tmp_path):
    send(offline(tmp_path), tmp_path)
    send(offline(tmp_path), tmp_path, fingerprint="f" * 64)
    assert {read(folder)["id"] for folder in runs(tmp_path)} == {"0123456789abcdef" * 2, "f" * 32}


def test_a_deleted_run_folder_is_written_again(tmp_path):
    import shutil

    send(offline(tmp_path), tmp_path)
    shutil.rmtree(runs(tmp_path)[0])
    send(offline(tmp_path), tmp_path)
    assert len(runs(tmp_path)) == 1


@pytest.mark.parametrize(("error", "state", "code"), [(ValueError, "failed", 1), (NotRunnable, "not-run", 0)])
def test_a_failed_cell_is_sent_as_such_and_its_error_passes(tmp_path, error, state, code):
    with pytest.raises(error, match="broken"), track(offline(tmp_path), cell()) as record:
        record.training(CURVE)
        raise error("broken")
    run = read(runs(tmp_path)[0])
    assert (run["summary"]["state"], run["exit_code"]) == (state, code)
    assert "broken" in run["summary"]["reason"]


def test_a_dead_server_costs_a_warning_and_leaves_an_offline_run(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("WANDB_API_KEY", "5ec2e7" * 7)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    cfg = TrackerConfig(name="wandb", mode="online", dir=str(tmp_path / "runs"), timeout=4.0)
    with caplog.at_level(logging.WARNING, "experiments.tracking"):
        send(cfg, tmp_path, config={"note": "key " + "5ec2e7" * 7})
    (folder,) = (f for f in runs(tmp_path) if f.name.startswith("offline-run-"))
    run = read(folder)
    assert run["summary"]["score/gsm8k"] == 12.5
    assert run["config"]["note"] == "key (secret)"
    assert f"wandb sync {tmp_path / 'runs' / 'wandb'}/offline-run-*" in caplog.text
    assert len(caplog.records) == 1
    note = json.loads((tmp_path / "runs" / "wandb" / "cells" / f"{cell().id}.json").read_text())
    assert note["sent"] == "offline" and note["sync"] == f"wandb sync {folder}"
    started = time.monotonic()
    send(cfg, tmp_path, fingerprint="f" * 64)  # the next cell does not wait for the server again
    assert time.monotonic() - started < 2
    assert len(runs(tmp_path)) == 2
    leaked = [p for p in (tmp_path / "runs").rglob("*") if p.is_file() and b"5ec2e7" * 7 in p.read_bytes()]
    assert leaked == []


def test_a_failure_of_wandb_itself_keeps_the_cell(tmp_path, monkeypatch, caplog):
    import wandb

    def broken(*args, **kwargs):
        raise OSError("no space left on device")

    with monkeypatch.context() as patch, caplog.at_level(logging.WARNING, "experiments.tracking"):
        patch.setattr(wandb, "init", broken)
        send(offline(tmp_path), tmp_path)
    assert "no space left" in caplog.text
    send(offline(tmp_path), tmp_path)  # offered again the next time
    assert len(runs(tmp_path)) == 1


def test_modes(monkeypatch, tmp_path):
    auto, online = (TrackerConfig(name="wandb", mode=mode) for mode in ("auto", "online"))
    assert tracking.resolve_mode(TrackerConfig()) == "off"
    assert tracking.resolve_mode(auto) == "offline"
    with pytest.raises(BadInput, match=r"no W&B API key.*tracker\.mode=offline"):
        tracking.resolve_mode(online)
    monkeypatch.setenv("WANDB_API_KEY", "5ec2e7" * 7)
    assert tracking.resolve_mode(auto) == tracking.resolve_mode(online) == "online"
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert tracking.resolve_mode(auto) == "offline"
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert tracking.resolve_mode(auto) == "off"
    monkeypatch.delenv("WANDB_MODE")
    monkeypatch.setenv("WANDB_API_KEY", "short")
    with pytest.raises(BadInput, match="unusable"):
        tracking.resolve_mode(auto)


def test_none_writes_nothing(tmp_path):
    send(TrackerConfig(dir=str(tmp_path / "runs")), tmp_path)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("change", "named"),
    [({"name": "mlflow"}, "tracker.name"), ({"mode": "on"}, "tracker.mode"), ({"timeout": 0.0}, "tracker.timeout")],
)
def test_wrong_values_are_refused_by_name(change, named):
    with pytest.raises(BadInput, match=named):
        TrackerConfig(**change)


def test_importing_the_module_does_not_import_wandb(root):
    code = "import sys, experiments.tracking; sys.exit('wandb' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=root, check=True)
