"""Each tracker's own store, read back with its own library."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import sqlite3
import struct
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from experiments.trackers import follower
from experiments.trackers.config import OURS


@dataclass
class Kept:
    """What a store has of a project: (name, step, value) as often as it is there, words and state of the last run."""

    points: list[tuple[str, int, float]] = field(default_factory=list)
    words: dict[str, str] = field(default_factory=dict)
    runs: int = 0

    def steps(self, name: str) -> list[int]:
        return sorted(step for found, step, _ in self.points if found == name)

    def values(self, name: str) -> list[float]:
        return [value for found, _, value in self.points if found == name]


def wandb(runs: Path) -> Kept:
    kept = Kept()
    for folder in sorted((runs / "wandb").glob("*run-*-*")):
        if not list(folder.glob("*.wandb")):  # just being made
            continue
        run = wandb_run(folder)
        kept.runs += 1
        for row in run["history"]:
            kept.points += [(name, row["_step"], value) for name, value in row.items() if not name.startswith("_")]
        for name, value in run["summary"].items():
            if isinstance(value, str):
                kept.words[name] = value
            elif "/" in name and not name.startswith(("train/", "_")):
                kept.points.append((name, 0, value))
    return kept


def wandb_run(folder: Path) -> dict[str, Any]:
    """The transaction log of a run: LevelDB-style blocks of protocol buffers."""
    from wandb.proto import wandb_internal_pb2

    data = next(folder.glob("*.wandb")).read_bytes()
    found: dict[str, Any] = {"summary": {}, "history": [], "artifacts": [], "config": {}, "stats": 0}
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
            found["config"] |= {u.key: json.loads(u.value_json) for u in parsed.run.config.update}
        elif which == "summary":
            for update in parsed.summary.update:
                found["summary"][update.key or "/".join(update.nested_key)] = json.loads(update.value_json)
        elif which == "history":
            found["history"].append(
                {i.key or "/".join(i.nested_key): json.loads(i.value_json) for i in parsed.history.item}
            )
        elif which == "stats":
            found["stats"] += 1
        elif which == "artifact":
            found["artifacts"].append((parsed.artifact.type, [c.path for c in parsed.artifact.manifest.contents]))
        elif which == "exit":
            found["exit_code"] = parsed.exit.exit_code
    return found


def tensorboard(runs: Path) -> Kept:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    kept = Kept()
    for folder in {path.parent for path in (runs / "tensorboard").glob("*/*/events.*")}:
        there = EventAccumulator(str(folder), size_guidance={"scalars": 0, "tensors": 0}).Reload()
        kept.runs += 1
        for name in there.Tags()["scalars"]:
            kept.points += [(name, event.step, event.value) for event in there.Scalars(name)]
        for name in there.Tags()["tensors"]:
            kept.words[name] = there.Tensors(name)[-1].tensor_proto.string_val[0].decode()
    return kept


def trackio(runs: Path) -> Kept:
    """In a process of its own: the library reads where its files are once."""
    code = (
        "import json\nfrom trackio.sqlite_storage import SQLiteStorage as S\n"
        "print(json.dumps([S.get_logs('adg', run['name']) for run in S.get_run_records('adg')]))"
    )
    env = {**os.environ, "TRACKIO_DIR": str(runs / "trackio")}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    kept = Kept()
    for rows in json.loads(done.stdout.splitlines()[-1]):
        kept.runs += 1
        for row in rows:
            for name, value in row.items():
                if isinstance(value, str):
                    kept.words[name] = value
                elif name != "step":
                    kept.points.append((name, row["step"], value))
    return kept


def mlflow(runs: Path) -> Kept:
    """Its tables themselves: a client would make them where they are not there yet."""
    kept = Kept()
    if not (runs / "mlflow" / "mlflow.db").exists():
        return kept
    with contextlib.closing(sqlite3.connect(f"file:{runs}/mlflow/mlflow.db?mode=ro", uri=True)) as database:
        try:
            kept.runs = len(database.execute("select run_uuid from runs").fetchall())
            kept.points = database.execute("select key, step, value from metrics").fetchall()
            kept.words = dict(database.execute("select key, value from tags").fetchall())
        except sqlite3.OperationalError:  # no tables yet
            return Kept()
    return kept


READERS = {"wandb": wandb, "tensorboard": tensorboard, "trackio": trackio, "mlflow": mlflow}


@pytest.fixture(scope="module", params=sorted(OURS))
def tracker(request: pytest.FixtureRequest) -> str:
    """Each tracker that is installed; the others are skipped by name."""
    for library in OURS[request.param]:
        try:
            importlib.import_module(library)
        except ModuleNotFoundError:
            pytest.skip(f"{request.param}: {library} is not installed")
    return str(request.param)


@pytest.fixture
def read(tracker: str):
    return READERS[tracker]


@pytest.fixture
def read_wandb():
    return wandb_run


@pytest.fixture(autouse=True)
def environment(monkeypatch, tmp_path_factory):
    """No account and no settings of the person who runs the tests."""
    monkeypatch.setenv("HOME", str(tmp_path_factory.getbasetemp()))
    for name in list(os.environ):
        if name.startswith(("WANDB_", "MLFLOW_", "TRACKIO_")) or name == "NETRC":
            monkeypatch.delenv(name)
    yield
    for process in follower.running():
        process.kill()
    follower.forget()
