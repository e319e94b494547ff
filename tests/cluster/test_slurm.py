"""A small real study as jobs of a real Slurm of one node, jobs of it killed in the middle of a stage.

make test-cluster        (some minutes; needs Debian's slurm-wlm and munge)
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

VARIANT = "engine.batch_size=2, finetune.epochs=4"
STUDY = ("profile=smoke", "selector=adg,cluster_random", *VARIANT.split(", "), "finetune.save_steps=1")
CELLS = tuple(f"tiny_random/mini_general/{selector}/{VARIANT}" for selector in ("adg", "cluster_random"))
CLUSTER = ("slurm.partition=gpu", "slurm.cpu_partition=cpu", "slurm.cpus=1")
ON_CPUS = ("exec.device=cpu", *CLUSTER)  # one process a cell: most of the time goes into imports
pytestmark = pytest.mark.timeout(5400)
PATIENCE = 900.0  # seconds, on a machine that does much else


class Cluster:
    """One study of its own on the node."""

    def __init__(self, node: Mapping[str, str], root: Path, runs: Path) -> None:
        self.root, self.runs = root, runs
        self.env = {**node, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(root), "CUDA_VISIBLE_DEVICES": ""}

    def adg(self, *words: str, code: int = 0) -> str:
        line = [sys.executable, "-m", "adg", words[0], *STUDY, f"exec.runs={self.runs}", *words[1:]]
        done = subprocess.run(line, cwd=self.root, env=self.env, capture_output=True, text=True, check=False)
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr

    def submit(self, *more: str) -> list[str]:
        """The ids of the jobs."""
        said = self.adg("submit", *more)
        return [words[0] for line in said.splitlines() if (words := line.split()) and words[0].isdigit()][:-1]

    def status(self, *more: str) -> dict[str, dict[str, Any]]:
        return {cell["name"]: cell for cell in json.loads(self.adg("status", "--json", *more))["cells"]}

    def slurm(self, *line: str) -> str:
        return subprocess.run(line, env=self.env, capture_output=True, text=True, check=True).stdout

    def queue(self, field: str) -> dict[str, str]:
        """A field of squeue of each job by id; those that are over are left out."""
        said = self.slurm("squeue", "--noheader", f"--Format=jobid:20,{field}:120")
        return {row[:20].strip(): row[20:].strip() for row in said.splitlines()}

    def of(self, stage: str) -> str:
        """The id of the first job that builds this stage."""
        for path in sorted((self.runs / "slurm").glob("*/job.json"), key=lambda path: int(path.parent.name)):
            if any(folder.startswith(f"{stage}/") for folder in json.loads(path.read_text())["builds"].values()):
                return path.parent.name
        raise AssertionError(f"no job builds {stage}")

    def log(self, job: str) -> str:
        return (self.runs / "slurm" / job / f"{job}_0_log.out").read_text()

    def state(self, job: str) -> dict[str, Any]:
        return json.loads((self.runs / "slurm" / job / "state.json").read_text())

    def manifest(self, stage: str, named: str) -> dict[str, Any]:
        (path,) = (path for path in (self.runs / stage).glob("*/manifest.json") if named in path.parent.name)
        return json.loads(path.read_text())

    def digests(self) -> dict[str, str]:
        """The digest of every file of every artifact."""
        found = {}
        for path in sorted(self.runs.glob("*/*/manifest.json")):
            for name, entry in json.loads(path.read_text())["files"].items():
                found[f"{path.parent.relative_to(self.runs)}/{name}"] = entry["sha256"]
        return found

    def open(self, whether: bool) -> None:
        """Whether the queue lets jobs begin."""
        for name in ("gpu", "cpu"):
            self.slurm("scontrol", "update", f"PartitionName={name}", f"State={'UP' if whether else 'DOWN'}")

    def kill(self, job: str) -> None:
        """End all processes of a job's work at once, as a machine does that has no memory left."""
        for path in Path("/proc").glob("[0-9]*/environ"):
            try:
                own = f"SLURM_JOB_ID={job}\0".encode() in path.read_bytes()
                words = (path.parent / "cmdline").read_bytes()
            except OSError:  # it has ended
                continue
            if own and b"submitit.core._submit" in words and b"srun" not in words:
                os.kill(int(path.parent.name), signal.SIGKILL)


def until(what: str, holds: Callable[[], Any], pause: float = 0.5) -> Any:
    end = time.monotonic() + PATIENCE
    while not (value := holds()):
        assert time.monotonic() < end, f"{what}: not after {PATIENCE:g} s"
        time.sleep(pause)
    return value


@pytest.fixture(scope="module")
def whole(node: Mapping[str, str], root: Path, tmp_path_factory: pytest.TempPathFactory) -> Cluster:
    """The study that nothing disturbs; it begins now, beside the other one."""
    study = Cluster(node, root, tmp_path_factory.mktemp("whole"))
    study.submit(*ON_CPUS)
    return study


def test_shared_stages_are_jobs_of_their_own_and_only_models_ask_for_gpus(
    node: Mapping[str, str], root: Path, tmp_path: Path
) -> None:
    study = Cluster(node, root, tmp_path / "runs")
    ids = study.submit(*CLUSTER, "+slurm.options={begin: now+1hour}")
    names, gpus, after = study.queue("name"), study.queue("tres-per-node"), study.queue("dependency")
    assert {names[id_] for id_ in ids} >= set(CELLS) and all("/" in names[id_] for id_ in ids)
    answers, scores, adapter = (study.of(stage) for stage in ("answers", "scores", "adapter"))
    assert gpus[answers] == gpus[adapter] == "gres:gpu:1" and gpus[scores] == "N/A"
    assert names[answers].startswith("grams/") and f"afterok:{answers}(" in after[study.of("bins")]
    assert f"afterok:{scores}(" in after[adapter] and names[scores] == names[adapter] == CELLS[0]
    assert {cell["state"] for cell in study.status().values()} == {"queued"}
    assert study.adg("submit", *CLUSTER).startswith("2 cells, 0 finished; 0 jobs submitted")
    study.slurm("scancel", *ids)
    until("cancelled", lambda: not set(ids) & set(study.queue("state")), 0.2)
    assert {cell["state"] for cell in study.status().values()} == {"interrupted"}
    assert not list(study.runs.rglob("failed.json"))


def test_what_is_killed_in_the_middle_of_a_stage_is_queued_again_and_goes_on(
    whole: Cluster, node: Mapping[str, str], root: Path, tmp_path: Path
) -> None:
    study = Cluster(node, root, tmp_path / "runs")
    ids = study.submit(*ON_CPUS)
    names = study.queue("name")
    assert [names[id_] for id_ in ids[1:]] == list(CELLS) and names[ids[0]].startswith("bins/")

    # killed while it samples
    answers = study.of("answers")
    shards = until("a shard", lambda: list((study.runs / "answers").glob("*.partial/work/answers-*.shard")), 0.01)
    study.open(False)
    study.kill(answers)
    kept = list(shards[0].parent.glob("answers-*.shard"))
    assert 0 < len(kept) < 12
    until("requeued", lambda: study.queue("state").get(answers) == "PENDING", 0.1)
    told = study.status()[CELLS[0]]
    assert (told["state"], told["stage"]) == ("requeued", "answers"), told
    assert told["job"] == {"id": answers, "state": "requeued", "restarts": 1}
    assert f"job {answers}, queued again 1 time" in told["reason"]
    study.open(True)
    until("the next attempt", lambda: study.state(answers)["restarts"] == 1)
    until("running", lambda: study.status()[CELLS[0]]["state"] == "running", 0.1)

    # told to end while it trains, as before the time limit, and queued again by hand
    adapter = study.of("adapter")
    steps = "*+adg+*.partial/work/**/checkpoint-2"  # with which the first is whole
    until("the second checkpoint", lambda: list((study.runs / "adapter").glob(steps)), 0.01)
    study.open(False)
    study.slurm("scancel", "--signal=USR2", adapter)
    until("interrupted", lambda: study.state(adapter)["state"] == "interrupted", 0.1)
    until("requeued", lambda: study.status()[CELLS[0]]["state"] == "requeued", 0.1)
    study.open(True)
    until("training again", lambda: study.state(adapter)["restarts"] == 1)
    study.slurm("scontrol", "requeue", adapter)

    until("the end", lambda: all(cell["state"] == "done" for cell in study.status().values()), 2)
    assert not list(study.runs.rglob("failed.json"))
    sampled = study.manifest("answers", "tiny_random")["info"]
    assert sampled["resumed_batches"] >= len(kept) and sampled["batches"] == 12
    assert study.manifest("adapter", "+adg+")["info"]["resumed_at_step"] >= 1
    assert "queued again 2 times" in study.log(adapter)

    until("the undisturbed one", lambda: all(cell["state"] == "done" for cell in whole.status().values()), 2)
    assert whole.manifest("answers", "tiny_random")["info"]["resumed_batches"] == 0
    assert study.digests() == whole.digests() and len(study.digests()) > 20
    logs = [path.read_text() for path in whole.runs.glob("slurm/*/*_log.out")]
    assert len(logs) == len(ids) and not any("waiting" in log for log in logs)
    assert whole.submit(*ON_CPUS) == []


def test_what_fails_takes_the_jobs_behind_it_out_of_the_queue(
    node: Mapping[str, str], root: Path, tmp_path: Path
) -> None:
    study = Cluster(node, root, tmp_path / "runs")
    wrong = ("budget=1000",)
    ids = study.submit(*ON_CPUS, *wrong)
    until("the end", lambda: not set(ids) & set(study.queue("state")))
    for told in study.status(*wrong).values():
        assert told["state"] == "failed" and "holds 24 records" in told["reason"] and told["job"] is None
    assert not (study.runs / "answers").exists()


def test_what_sbatch_refuses_is_one_line(node: Mapping[str, str], root: Path, tmp_path: Path) -> None:
    study = Cluster(node, root, tmp_path / "runs")
    said = study.adg("submit", "slurm.partition=nowhere", code=1)
    assert said.startswith("error: sbatch refused the job ") and said.count("\n") == 1 and "partition" in said
