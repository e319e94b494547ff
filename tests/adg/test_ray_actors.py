"""Sampling and scoring over Ray Data with real actors on CPUs: the same selection whatever their number."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from adg import ray_actors
from adg.artifacts.artifact import WORK
from adg.artifacts.store import Store
from adg.errors import BadInput, BadMeasurement
from adg.execution import ExecConfig
from experiments import cells
from tests import processes

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("engines")]
pytest.importorskip("ray")


WORKER = """
from pathlib import Path
from adg.errors import BadMeasurement

class Doubles:
    def __init__(self, factor):
        self.factor = factor

    def work(self, row):
        if row["n"] == 13:
            raise BadMeasurement("13 brings bad luck; ask for another number")
        Path(row["path"]).write_text(str(self.factor * row["n"]))
        return {"n": row["n"]}
"""
HERE = ExecConfig(device="cpu", distributed="ray", actors=2)


def command(tmp_path: Path, runs: Path, actors: int) -> list[str]:
    return [
        "-m",
        "experiments.select",
        "pool=local",
        f"pool.path={tmp_path / 'my.jsonl'}",
        "selector=adg",
        "backbone=tiny_random",
        "budget=12",
        f"out={runs}.jsonl",
        "sampling.max_new_tokens=4",
        "engine.distributed=ray",
        "engine.batch_size=4",
        f"exec.actors={actors}",
        f"exec.runs={runs}",
    ]


def digests(runs: Path) -> dict[str, str]:
    names = ("answers.parquet", "grams.npy", "instructions.npy", "subset.jsonl", "scores.jsonl")
    return {
        p.relative_to(runs).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest()
        for name in names
        for p in runs.glob(f"*/*/{name}")
    }


@pytest.fixture
def pool(tmp_path: Path) -> Path:
    """150 records: two shards of scoring, many batches of sampling."""
    rows = [{"id": i, "instruction": f"Name {i + 2} birds.", "output": "sparrow " * (i % 7 + 1)} for i in range(150)]
    (tmp_path / "my.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The Ray that is started where there is none, for all tests of one machine; its workers can import WORKER."""
    import ray

    folder = tmp_path_factory.mktemp("modules")
    (folder / "doubles.py").write_text(WORKER)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(folder))
        ray_actors._start(ray)
    yield folder
    ray.shutdown()


def test_every_row_is_worked_on_once(cluster: Path, tmp_path: Path) -> None:
    rows = [{"n": n, "path": str(tmp_path / f"{n}")} for n in range(7)]
    done = ray_actors.over_ray(rows, "doubles:Doubles", (2,), HERE, "test")
    assert sorted(row["n"] for row in done) == list(range(7))
    assert [(tmp_path / f"{n}").read_text() for n in range(7)] == [str(2 * n) for n in range(7)]


def test_the_workers_own_error_is_what_a_person_sees(cluster: Path, tmp_path: Path) -> None:
    rows = [{"n": n, "path": str(tmp_path / f"{n}")} for n in (1, 13)]
    with pytest.raises(BadMeasurement, match="13 brings bad luck"):
        ray_actors.over_ray(rows, "doubles:Doubles", (2,), HERE, "test")
    with pytest.raises(BadInput, match=r"exec\.actors=999"):
        ray_actors.over_ray(rows, "doubles:Doubles", (2,), ExecConfig(device="cpu", actors=999), "test")


@pytest.mark.timeout(1500)
def test_one_and_two_actors_and_a_run_cut_short_choose_the_same(cluster: Path, root: Path, pool: Path) -> None:
    import ray

    one, two = pool / "one", pool / "two"

    def choose(runs: Path, actors: int) -> None:
        cell = cells.cells([*command(pool, runs, actors)[2:], "profile=own"])[0]
        Store(runs, cell.config.exec).ensure(cell.nodes["subset"])

    choose(one, 1)
    env = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "RAY_ADDRESS": ray.get_runtime_context().gcs_address}
    process = processes.start(command(pool, two, 1), cwd=root, env=env, quiet=True)
    deadline = time.time() + 600
    while len(list(two.glob(f"answers/*.partial/{WORK}/*.shard"))) < 3 and process.poll() is None:
        assert time.time() < deadline
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    kept = len(list(two.glob(f"answers/*.partial/{WORK}/*.shard")))
    choose(two, 2)
    assert digests(one) == digests(two) and len(digests(one)) == 5
    (manifest,) = two.glob("answers/*/manifest.json")
    found = json.loads(manifest.read_text())
    assert found["info"]["resumed_batches"] >= kept > 0
    assert (found["exec"]["distributed"], found["exec"]["actors"]) == ("ray", 2)


def test_no_secret_goes_to_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    kept = ray_actors.environment()
    assert kept["RAY_worker_niceness"] == "0", "15 by default: behind everything else on the machine"
    assert kept["HF_HUB_OFFLINE"] == "1" and "hf_secret" not in str(kept)


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def listens(port: int) -> bool:
    with socket.socket() as one:
        return one.connect_ex(("127.0.0.1", port)) == 0


JOIN = """
import os, sys
os.environ["HOME"] = sys.argv[1]
from adg import ray_actors
from adg.errors import HarnessError
from adg.execution import ExecConfig
rows = [{"n": n, "path": f"{sys.argv[1]}/{n}"} for n in range(3)]
try:
    print(sorted(one["n"] for one in ray_actors.over_ray(rows, "doubles:Doubles", (2,), ExecConfig(device="cpu"), "")))
except HarnessError as error:
    print(f"{type(error).__name__}: {error}")
"""


def test_a_cluster_with_a_token_is_joined_with_it_and_refuses_others_at_once(tmp_path: Path, root: Path) -> None:
    """A head started as on a cluster; a driver with the token, one without, and one at an address where none is."""
    (tmp_path / "doubles.py").write_text(WORKER)
    port, token = free_port(), "0123456789abcdef0123456789abcdef"
    clean = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    clean |= {"PYTHONPATH": f"{root}{os.pathsep}{tmp_path}"}
    head = {**clean, "HOME": str(tmp_path), "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token}
    start = ["--head", f"--port={port}", "--num-cpus=2", "--include-dashboard=false", "--disable-usage-stats"]
    program = [str(Path(sys.executable).with_name("ray"))]
    # sockets have short names, so that a folder of pytest's is too long
    with tempfile.TemporaryDirectory(prefix="ray-") as folder:
        cluster = subprocess.Popen([*program, "start", *start, f"--temp-dir={folder}", "--block"], env=head)

        def join(**more: str) -> tuple[str, float]:
            env, began = {**clean, "RAY_ADDRESS": f"127.0.0.1:{port}", **more}, time.time()
            told = processes.run(["-c", JOIN, tmp_path], env=env)
            return told.stdout.strip().splitlines()[-1], time.time() - began

        try:
            deadline = time.time() + 120
            while not listens(port):
                assert time.time() < deadline and cluster.poll() is None
                time.sleep(0.1)
            while "BadInput: no Ray cluster answers" in (found := join(RAY_AUTH_TOKEN=token)[0]):
                assert time.time() < deadline and cluster.poll() is None
            assert found == "[0, 1, 2]"
            refused, _ = join()
            assert "does not let this process in without a token" in refused and "RAY_AUTH_TOKEN" in refused
            refused, _ = join(RAY_AUTH_TOKEN=token[::-1])
            assert "does not let this process in with the token found here" in refused
        finally:
            cluster.terminate()
            cluster.wait(timeout=60)


def test_an_address_where_nothing_listens_is_said() -> None:
    with pytest.raises(BadInput, match="no Ray cluster answers at RAY_ADDRESS=127"):
        ray_actors._refuse_unreachable(f"127.0.0.1:{free_port()}")
