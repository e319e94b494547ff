"""Data parallel replicas with real processes: the same work whatever their number, one clear error when one dies."""

from __future__ import annotations

import hashlib
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from adg import replicas
from adg.artifacts.artifact import Artifact
from adg.artifacts.store import Store
from adg.errors import BadInput, BadMeasurement, HarnessError
from adg.execution import ExecConfig
from experiments import cells
from tests import processes

WORKER = """
import os, signal, time
from pathlib import Path
from adg.errors import BadMeasurement

class Doubles:
    def __init__(self, folder, factor):
        self.folder, self.factor = Path(folder), factor

    def work(self, row):
        if row.get("bad") and self.together("bad"):
            raise BadMeasurement("13 brings bad luck; ask for another number")
        if row.get("breaks"):
            raise ValueError("no such number")
        if row.get("dies") and self.together("dies"):
            os.kill(os.getpid(), signal.SIGKILL)
        if row.get("waits"):
            self.together("waits")
            time.sleep(row["waits"])
        (self.folder / str(row["n"])).write_text(str(self.factor * row["n"]))
        seen = os.environ.get("CUDA_VISIBLE_DEVICES"), sorted(os.sched_getaffinity(0))
        return {"n": row["n"], "pid": os.getpid(), "gpus": seen[0], "cores": seen[1]}

    def together(self, name):
        \"\"\"Wait until another replica is at its row too.\"\"\"
        (self.folder / f"at-{name}").touch()
        while len(list(self.folder.glob("at-*"))) < 2:
            time.sleep(0.01)
        return True

    def close(self):
        (self.folder / f"closed-{os.getpid()}").touch()
"""
TWO = ExecConfig(device="cpu", replicas=2)


@pytest.fixture(autouse=True)
def modules(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The worker above under a name that a replica can import."""
    folder = tmp_path_factory.mktemp("modules")
    (folder / "doubles.py").write_text(WORKER)
    monkeypatch.syspath_prepend(str(folder))
    return folder


def over(folder: Path, rows: list[dict[str, Any]], exec_: ExecConfig = TWO) -> list[dict[str, Any]]:
    return replicas.over_replicas(rows, "doubles:Doubles", (str(folder), 2), exec_, "test")


def written(folder: Path) -> set[int]:
    return {int(path.name) for path in folder.iterdir() if path.name.isdigit()}


def test_every_row_is_worked_on_once_and_every_replica_closes_its_engine(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [{"n": n} for n in range(9)]
    rows[0]["waits"] = rows[1]["waits"] = 0.01  # so that both have work
    (tmp_path / "at-other").touch()
    done = over(tmp_path, rows)
    assert sorted(row["n"] for row in done) == sorted(written(tmp_path)) == list(range(9))
    pids = {row["pid"] for row in done}
    assert len(pids) == 2 and os.getpid() not in pids
    assert {path.name for path in tmp_path.glob("closed-*")} == {f"closed-{pid}" for pid in pids}
    cores = {tuple(row["cores"]) for row in done}
    if len(os.sched_getaffinity(0)) > 1:
        assert sorted(core for share in cores for core in share) == sorted(os.sched_getaffinity(0)), "shared out"


def test_no_more_replicas_than_rows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert [row["n"] for row in over(tmp_path, [{"n": 3}])] == [3]
    assert "1 of 2 replicas have work" in "".join(capsys.readouterr())


def test_a_workers_own_error_is_raised_once_the_others_are_done_with_their_rows(tmp_path: Path) -> None:
    rows = [{"n": 0, "bad": True}, {"n": 1, "waits": 1.0}, *({"n": n} for n in range(2, 9))]
    with pytest.raises(BadMeasurement, match="13 brings bad luck"):
        over(tmp_path, rows)
    assert written(tmp_path) == {1}, "finished, and nothing more was begun"


def test_what_nobody_foresaw_names_the_replica_and_keeps_its_traceback(tmp_path: Path) -> None:
    with pytest.raises(HarnessError, match=r"replica 1 of 2 failed: ValueError: no such number; .* is kept") as caught:
        over(tmp_path, [{"n": 0, "breaks": True}])
    assert "line" in str(caught.value.__cause__) and "doubles.py" in str(caught.value.__cause__)


def test_a_replica_that_dies_is_one_error_and_costs_its_own_row_alone(tmp_path: Path) -> None:
    rows = [{"n": 0, "dies": True}, {"n": 1, "waits": 1.0}, {"n": 2}]
    with pytest.raises(HarnessError, match=r"replica 1 of 2 was killed by SIGKILL \(out of memory\?\).* goes on"):
        over(tmp_path, rows)
    assert written(tmp_path) == {1}


def test_replicas_end_with_what_started_them(tmp_path: Path, modules: Path, root: Path) -> None:
    code = (
        "from adg import replicas; from adg.execution import ExecConfig\n"
        f"rows = [{{'n': n, 'waits': 600}} for n in range(2)]\n"
        f"replicas.over_replicas(rows, 'doubles:Doubles', ({str(tmp_path)!r}, 2), "
        "ExecConfig(device='cpu', replicas=2), 'test')"
    )
    paths = {"PYTHONPATH": f"{root}{os.pathsep}{modules}"}
    process = processes.start(["-c", code], env={**os.environ, **paths}, quiet=True)
    import psutil

    deadline = time.time() + 60
    while not (tmp_path / "at-waits").exists():
        assert time.time() < deadline and process.poll() is None
        time.sleep(0.05)
    started = psutil.Process(process.pid).children(recursive=True)
    assert len(started) >= 2
    process.send_signal(signal.SIGKILL)
    process.wait()
    _, alive = psutil.wait_procs(started, 20)
    assert not alive


@pytest.fixture
def four(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As on a machine where torch sees four GPUs."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    yield


def test_each_has_gpus_of_its_own(four: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert replicas.shares(ExecConfig(replicas=2, tensor_parallel=2)) == [["0", "1"], ["2", "3"]]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,GPU-b,7,MIG-c")
    assert replicas.shares(ExecConfig(replicas=3)) == [["5"], ["GPU-b"], ["7"]]
    (tmp_path / "at-other").touch()
    done = over(tmp_path, [{"n": 0, "waits": 0.01}, {"n": 1, "waits": 0.01}], ExecConfig(replicas=2))
    assert {row["n"]: row["gpus"] for row in done} == {0: "5", 1: "GPU-b"}
    with pytest.raises(BadInput, match=r"replicas=3 with exec.tensor_parallel=2 needs 6 GPUs, 4 are visible"):
        replicas.shares(ExecConfig(replicas=3, tensor_parallel=2))


def test_replicas_and_rays_actors_are_not_both_asked_for() -> None:
    with pytest.raises(BadInput, match=r"set exec\.actors=2 in place of engine\.replicas"):
        ExecConfig(replicas=2, distributed="ray")


def made(tmp_path: Path, name: str, *overrides: str) -> tuple[str, dict[str, str], Artifact]:
    """Answers and matrices with these overrides: the subset's fingerprint, the payloads' digests, the answers."""
    common = ["profile=smoke", "selector=adg", "sampling.max_new_tokens=4", "engine.batch_size=4", "exec.device=cpu"]
    (cell,) = cells.cells([*common, f"exec.runs={tmp_path / name}", *overrides])
    store = Store(tmp_path / name, cell.config.exec)
    store.ensure(cell.nodes["grams"])
    digests = {
        path.relative_to(store.root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for file in ("answers.parquet", "grams.npy", "instructions.npy")
        for path in store.root.glob(f"*/*/{file}")
    }
    answers = store.find(cell.nodes["answers"])
    assert answers is not None and len(digests) == 3
    return cell.nodes["subset"].fingerprint, digests, answers


@pytest.mark.slow
def test_answers_and_matrices_are_those_of_one_process(tmp_path: Path) -> None:
    alone, shared = made(tmp_path, "one"), made(tmp_path, "two", "engine.replicas=2")
    assert alone[:2] == shared[:2]
    assert (alone[2].manifest["exec"]["replicas"], shared[2].manifest["exec"]["replicas"]) == (1, 2)


def test_a_signal_that_comes_while_a_replica_starts_does_not_end_it(tmp_path: Path, modules: Path, root: Path) -> None:
    """A terminal sends Ctrl-C to all processes of a command; those that still import are ended by what started them."""
    code = (
        "import os, signal; from adg import command, replicas; from adg.execution import ExecConfig\n"
        "signal.signal(signal.SIGINT, lambda number, frame: None)\n"
        "start = replicas.get_context('spawn').Process.start\n"
        "def struck(self):\n"
        "    start(self)\n"
        "    os.kill(self.pid, signal.SIGINT)\n"
        "replicas.get_context('spawn').Process.start = struck\n"
        f"print(len(replicas.over_replicas([{{'n': 1}}, {{'n': 2}}], 'doubles:Doubles', ({str(tmp_path)!r}, 2), "
        "ExecConfig(device='cpu', replicas=2), 'test')))"
    )
    paths = {"PYTHONPATH": f"{root}{os.pathsep}{modules}"}
    done = processes.run(["-c", code], env={**os.environ, **paths})
    assert done.stdout.strip() == "2" and "Traceback" not in done.stderr, done.stderr[-2000:]
