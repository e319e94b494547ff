"""Where jobs stand: by their files alone, and with what the queue says."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from adg.artifacts.store import Status, Store
from experiments import status
from experiments.cells import Cell
from experiments.slurm import queue

# what squeue of Slurm 22.05 printed
ROW = "{:<20}{:<20}{:<12}{:<60}"


@pytest.fixture
def cell(study: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cell:
    """Its pool and backbone are job 11's, the rest is job 12's; there is no squeue."""
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    (made,) = study.cells("selector=adg")
    first = [made.nodes[role] for role in ("pool", "backbone")]
    queue.write_job(study.store, "11", "backbone/tiny", first, [])
    queue.write_job(study.store, "12", made.name, [node for node in made.nodes.values() if node not in first], ["11"])
    return made


def says(tmp_path: Path, *rows: str, code: int = 0, error: str = "") -> None:
    """A squeue that prints these rows."""
    (tmp_path / "bin").mkdir(exist_ok=True)
    script = tmp_path / "bin" / "squeue"
    printed = "\n".join(rows)
    script.write_text(f"#!/bin/sh\n/bin/cat <<'END'\n{printed}\nEND\necho '{error}' >&2\nexit {code}\n")
    script.chmod(0o755)
    assert os.access(script, os.X_OK)


def told(cell: Cell, store: Store) -> tuple[str, str, str]:
    """Stage, state and reason."""
    role, found, _ = status.with_jobs(cell, store, queue.jobs(store))
    return role, found.state, found.reason


def test_without_a_queue_the_files_tell(cell: Cell, study: Any, tmp_path: Path) -> None:
    assert told(cell, study.store) == ("pool", "queued", "job 11")
    queue.write_state(study.store, "11", "running", 0, name="backbone/tiny")
    assert told(cell, study.store) == ("pool", "running", "job 11")
    for role in ("pool", "backbone"):
        study.store.ensure(cell.nodes[role])
    queue.write_state(study.store, "11", "done", 0, name="backbone/tiny")
    assert told(cell, study.store) == ("answers", "queued", "job 12")
    queue.write_state(study.store, "12", "interrupted", 2, name=cell.name)
    assert told(cell, study.store) == (
        "answers",
        "interrupted",
        "job 12, queued again 2 times; its log is in slurm/12, adg submit continues",
    )


def test_the_queue_says_what_waits_runs_and_is_queued_again(cell: Cell, study: Any, tmp_path: Path) -> None:
    behind = ROW.format("12", "PENDING", "0", "Dependency")
    says(tmp_path, ROW.format("11", "PENDING", "0", "Resources"), behind, ROW.format("99", "RUNNING", "0", "None"))
    assert told(cell, study.store) == ("pool", "queued", "job 11, waits: Resources")
    says(tmp_path, ROW.format("11", "RUNNING", "0", "None"), behind)
    assert told(cell, study.store) == ("pool", "running", "job 11")
    says(tmp_path, ROW.format("11", "PENDING", "1", "BeginTime"), behind)
    assert told(cell, study.store) == ("pool", "requeued", "job 11, queued again 1 time, waits: BeginTime")
    says(tmp_path, behind)
    assert told(cell, study.store) == ("answers", "queued", "job 12, after job 11")
    assert queue.in_hand(queue.jobs(study.store)).keys() == {
        node.fingerprint for role, node in cell.nodes.items() if role not in ("pool", "backbone")
    }


def test_what_was_killed_without_a_word_is_interrupted_and_no_failure(cell: Cell, study: Any, tmp_path: Path) -> None:
    queue.write_state(study.store, "11", "running", 0, name="backbone/tiny")
    says(tmp_path, code=1, error="slurm_load_jobs error: Invalid job id specified")
    assert told(cell, study.store) == ("pool", "interrupted", "job 11; its log is in slurm/11, adg submit continues")
    says(tmp_path, ROW.format("11", "CANCELLED", "0", "None"), ROW.format("12", "CANCELLED", "0", "None"))
    assert told(cell, study.store)[1] == "interrupted"
    assert queue.in_hand(queue.jobs(study.store)) == {}


def test_a_failure_stays_one_until_a_job_of_the_stage_is_in_the_queue(cell: Cell, study: Any, tmp_path: Path) -> None:
    node = cell.nodes["answers"]
    failed = Status("failed", "no memory")
    left = {node.fingerprint for node in cell.nodes.values()}
    other = queue.KnownJob("1", "x", "queued", frozenset([cell.nodes["eval"].fingerprint]), ())
    assert queue.seen(failed, node, left, [other]) == (failed, None)
    again = queue.KnownJob("2", "x", "queued", frozenset([node.fingerprint]), ())
    assert queue.seen(failed, node, left, [other, again])[0].state == "queued"


def test_a_job_of_another_cluster_with_the_same_number_says_nothing(cell: Cell, study: Any, tmp_path: Path) -> None:
    queue.write_state(study.store, "11", "failed", 3, name="another")
    assert told(cell, study.store) == ("pool", "queued", "job 11")


def test_json_names_the_job(cell: Cell, study: Any, tmp_path: Path) -> None:
    (found,) = status.facts([cell], study.store)["cells"]
    assert found["job"] == {"id": "11", "state": "queued", "restarts": 0} and found["state"] == "queued"
    json.dumps(found)
