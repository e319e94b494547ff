"""What holds for each tracker, read back from its own store: told live, once, and at no cost to the cell."""

import json
import logging
import os
import signal
import time
from pathlib import Path

from adg import live
from experiments.trackers import follower
from experiments.tracking import CellInfo, CellOutcome, Told, TrackerConfig, track

SECRET = "5ec2e7" * 7
TASK = {"status": "done", "value": 0.125, "stderr": 0.03, "n": 8}
RESULTS = {
    "partial": True,
    "tasks": {"gsm8k": TASK, "humaneval": {"status": "not-run", "reason": "no sandbox", "value": None, "n": 0}},
    "categories": {"reasoning": 0.125, "coding": None, "avg": None},
}


def steps(first: int, last: int) -> list[dict[str, float]]:
    return [{"step": step, "loss": 3.0 / step, "learning_rate": 1e-4} for step in range(first, last + 1)]


def cell(number: int = 0, **changes) -> CellInfo:
    values = {
        "group": "main",
        "backbone": "tiny",
        "pool": "general",
        "selector": "adg",
        "config": {"sampling": {"n": 5}},
    }
    return CellInfo(name=f"tiny/general/adg {number}", fingerprint=f"{number:032x}" * 2, **{**values, **changes})


def config(tracker: str, folder: Path, **changes) -> TrackerConfig:
    return TrackerConfig(**{"names": {tracker: True}, "mode": "offline", "dir": str(folder), **changes})


def outcome() -> CellOutcome:
    made = CellOutcome()
    made.training(steps(1, 5))
    made.results(RESULTS)
    return made


def eventually(question, seconds: float = 60.0) -> None:
    until = time.monotonic() + seconds
    while not question():
        assert time.monotonic() < until, "it was not told in time"
        time.sleep(0.3)


def test_steps_and_tasks_are_told_while_the_cell_is_at_work(tracker, read, tmp_path):
    work = tmp_path / "work" / live.FILE
    with track(config(tracker, tmp_path), cell(), [work]) as record:
        for row in steps(1, 3):
            live.tell(work, row)
        live.tell(work, {"task": "gsm8k", "summary": TASK})
        if tracker != "wandb":  # its file is written in blocks of 32 KB
            eventually(lambda: read(tmp_path).steps("score/gsm8k"))
            assert read(tmp_path).steps("train/loss") == [1, 2, 3]
            eventually(lambda: read(tmp_path).steps("system/memory_bytes"))
        record.training(steps(1, 5))
        record.results(RESULTS)
    kept = read(tmp_path)
    assert kept.steps("train/loss") == kept.steps("train/learning_rate") == [1, 2, 3, 4, 5]
    assert kept.values("score/gsm8k") == [12.5] and len(kept.values("low/gsm8k")) == 1
    assert kept.words["not_run/humaneval"] == "no sandbox" and kept.words["state"] == "done"
    assert not kept.values("score/humaneval") and not kept.values("category/avg")
    (system,) = (tmp_path / "tracking").glob("*.system.jsonl")
    first = json.loads(system.read_text().splitlines()[0])
    assert first["memory_bytes"] > 1e7 and first["seconds"] == 0


def test_a_killed_cell_goes_on_in_its_run_and_no_step_is_there_twice(tracker, read, tmp_path):
    work, cfg = tmp_path / "work" / live.FILE, config(tracker, tmp_path)
    told = Told(cfg, cell())
    with told.at_work([work]):
        for row in steps(1, 3):
            live.tell(work, row)
        eventually(lambda: read(tmp_path).runs == 1)
        if tracker != "wandb":
            eventually(lambda: read(tmp_path).steps("train/loss") == [1, 2, 3])
        follower.running()[0].kill()  # as the whole cell
    with track(cfg, cell(), [work]) as record:  # from the checkpoint after step 2 on
        for row in steps(3, 5):
            live.tell(work, row)
        live.tell(work, {"task": "gsm8k", "summary": TASK})
        time.sleep(2)
        record.training(steps(1, 5))
        record.results(RESULTS)
    kept = read(tmp_path)
    assert kept.runs == 1
    assert kept.steps("train/loss") == kept.steps("train/learning_rate") == [1, 2, 3, 4, 5]
    assert kept.values("score/gsm8k") == [12.5]
    for name in {name for name, _, _ in kept.points}:
        assert len(kept.steps(name)) == len(set(kept.steps(name))), name


def test_a_second_sync_adds_nothing(tracker, read, tmp_path):
    cfg = config(tracker, tmp_path)
    assert Told(cfg, cell()).end(outcome()) == {tracker: "told"}
    before = read(tmp_path)
    assert before.runs == 1 and before.steps("train/loss") == [1, 2, 3, 4, 5]
    assert Told(cfg, cell()).end(outcome()) == {tracker: "there"}
    (note,) = (tmp_path / tracker / "cells").glob("*.json")
    note.unlink()  # nothing is known but what the tracker itself has
    assert Told(cfg, cell()).end(outcome()) == {tracker: "told"}
    after = read(tmp_path)
    assert sorted(after.points) == sorted(before.points) and after.runs == 1
    assert Told(cfg, cell(1)).end(outcome()) == {tracker: "told"}
    assert read(tmp_path).runs == 2


def test_what_was_not_taken_is_brought_up_later(tracker, read, tmp_path, caplog, monkeypatch):
    monkeypatch.setenv("SOME_API_KEY", SECRET)
    (tmp_path / tracker).write_text("in the way")
    cfg, described = config(tracker, tmp_path), cell(config={"note": f"key {SECRET}"})
    with caplog.at_level(logging.WARNING, "experiments.trackers.follower"), track(cfg, described) as record:
        record.training(steps(1, 5))
    assert len(caplog.records) == 1 and f"tracker {tracker} failed" in caplog.text and "adg sync" in caplog.text
    (tmp_path / tracker).unlink()
    assert Told(cfg, described).end(outcome()) == {tracker: "told"}
    assert read(tmp_path).steps("train/loss") == [1, 2, 3, 4, 5]
    leaked = [path for path in tmp_path.rglob("*") if path.is_file() and SECRET.encode() in path.read_bytes()]
    assert leaked == []


def test_one_that_hangs_is_left_and_said_once(tmp_path, caplog):
    cfg = config("wandb", tmp_path, timeout=1.0)
    with caplog.at_level(logging.WARNING, "experiments.trackers.follower"):
        with track(cfg, cell(), [tmp_path / live.FILE]) as record:
            os.kill(follower.running()[0].process.pid, signal.SIGSTOP)
            record.training(steps(1, 3000))  # more than a pipe holds
            started = time.monotonic()
        assert time.monotonic() - started < 5
        started = time.monotonic()
        with track(cfg, cell(1), [tmp_path / live.FILE]) as record:
            record.training(steps(1, 5))
        assert time.monotonic() - started < 3
    assert len(caplog.records) == 1 and "did not answer within 1 s" in caplog.text
    assert follower.running() == []
