"""plan, status, report and the worker: what a person sees before, during and after a sweep."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from adg.artifacts.artifact import Job, Node, Stage
from adg.artifacts.store import Store
from adg.errors import BadInput
from adg.execution import ExecConfig
from experiments import gpus, plan, run, status
from experiments.cells import Cell, cells, distinct, refuse_same_names, report_folder
from experiments.report import rows, sweep
from experiments.worker import Runner


@dataclass(frozen=True)
class Nothing:
    word: str = "a"


def write_pid(job: Job) -> dict:
    (job.folder / "pid").write_text(str(os.getpid()))
    return {"pid": os.getpid()}


def write_gpus(job: Job) -> dict:
    (job.folder / "gpus").write_text(os.environ.get("CUDA_VISIBLE_DEVICES", "all"))
    return {"gpus": os.environ.get("CUDA_VISIBLE_DEVICES", "all")}


def linger(job: Job) -> dict:
    Path(job.config.word).write_text(str(os.getpid()))
    time.sleep(60)
    return {}


def refuse(job: Job) -> dict:
    raise BadInput("the file has no rows; add some")


def crash(job: Job) -> dict:
    raise ZeroDivisionError("one over nothing")


def vanish(job: Job) -> dict:
    os.kill(os.getpid(), 9)
    return {}


MODULE = "tests_worker_stages"
ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.fixture(autouse=True)
def importable(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """The builders above under a name that a spawned process can import."""
    folder = tmp_path_factory.mktemp("modules")
    (folder / f"{MODULE}.py").write_text(Path(__file__).read_text().split("MODULE =")[0])
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setenv("PYTHONPATH", f"{folder}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")


def node(stage: str, builder: str, gpus: str = "tensor_parallel", word: str = "a", spread: bool = False) -> Node:
    return Node(Stage(stage, 1, f"{MODULE}:{builder}", gpus=gpus, spread=spread), f"{stage}-{word}", Nothing(word))


def test_a_kind_of_gpu_stage_has_one_process_that_ends_when_another_kind_starts(tmp_path: Path) -> None:
    with Runner() as runner:
        store = Store(tmp_path, ExecConfig(isolation="process"), runner)
        first, again = (store.ensure(node("train", "write_pid", word=w)).info["pid"] for w in "ab")
        other = store.ensure(node("eval", "write_pid")).info["pid"]
        here = store.ensure(node("pool", "write_pid", gpus="")).info["pid"]
    assert first == again != other and os.getpid() not in (first, other) and here == os.getpid()
    deadline = time.time() + 20
    while any(os.path.exists(f"/proc/{pid}") for pid in (first, other)):
        assert time.time() < deadline, "the worker processes ended with the runner"
        time.sleep(0.05)


def test_two_cells_at_once_work_on_different_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpus, "listed", lambda: ("GPU-a", "GPU-b", "GPU-c"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,2,1")
    with Runner() as first, Runner() as second:

        def seen(runner: Runner, node: Node, **exec_: Any) -> str:
            return Store(tmp_path, ExecConfig(isolation="process", **exec_), runner).ensure(node).info["gpus"]

        a, b, c, d, e, f = (node("score", "write_gpus", word=word) for word in "abcdef")
        assert (seen(first, a), seen(second, b), seen(first, c)) == ("0", "2", "0")
        training = node("train", "write_gpus", "train_processes")
        assert seen(second, training, train_processes=2) == "2,1", "its own comes back before it takes others"
        shared = node("sample", "write_gpus", spread=True)
        assert seen(first, shared, distributed="ray") == "0,2,1", "Ray shares them out itself"
        assert seen(first, d, distributed="ray") == "0", "a stage that Ray does not know takes one as ever"
        many = node("sample", "write_gpus", word="replicas", spread=True)
        assert seen(second, many, replicas=2) == "2,1", "replicas have GPUs of their own"
        assert seen(second, node("score", "write_gpus", word="g"), replicas=2) == "2", "and other stages one as ever"
        assert seen(second, e, device="cpu") == "0,2,1"
        assert seen(second, dataclasses.replace(f, stage=dataclasses.replace(f.stage, gpus=""))) == "0,2,1"


def test_who_waits_for_an_artifact_holds_no_worker(tmp_path: Path) -> None:
    """Else two cells could wait for each other, one for an artifact and one for a GPU."""
    with Runner() as first, Runner() as second:
        holder = Store(tmp_path, ExecConfig(isolation="process"), first)
        waiter = Store(tmp_path, ExecConfig(isolation="process"), second)
        waiter.ensure(node("train", "write_pid", word="other"))
        assert second._pool is not None
        with holder._locked(node("train", "write_pid")):
            thread = threading.Thread(target=lambda: waiter.ensure(node("train", "write_pid")))
            thread.start()
            deadline = time.time() + 20
            while second._pool is not None:
                assert time.time() < deadline
                time.sleep(0.02)
        thread.join(60)
    assert waiter.complete(node("train", "write_pid"))


def test_a_worker_ends_when_what_started_it_is_killed(tmp_path: Path) -> None:
    """kill -9: the locks are free again, so nothing may go on writing."""
    said = tmp_path / "worker"
    script = (
        "from adg.execution import ExecConfig\nfrom adg.artifacts.artifact import Node, Stage\n"
        "from adg.artifacts.store import Store\n"
        f"from experiments.worker import Runner\nfrom {MODULE} import Nothing\n"
        "if __name__ == '__main__':\n"
        f"    node = Node(Stage('train', 1, '{MODULE}:linger', gpus='tensor_parallel'), 'a', Nothing({str(said)!r}))\n"
        f"    Store({str(tmp_path / 'runs')!r}, ExecConfig(isolation='process'), Runner()).ensure(node)\n"
    )
    (tmp_path / "host.py").write_text(script)
    path = f"{ROOT}{os.pathsep}{os.environ['PYTHONPATH']}"
    host = subprocess.Popen([sys.executable, str(tmp_path / "host.py")], env={**os.environ, "PYTHONPATH": path})
    deadline = time.time() + 60
    while not said.is_file() or not said.read_text():
        assert host.poll() is None and time.time() < deadline
        time.sleep(0.05)
    host.kill()
    host.wait()
    worker, deadline = Path(f"/proc/{said.read_text()}"), time.time() + 20
    while worker.exists() and "Z (zombie)" not in (worker / "status").read_text():
        assert time.time() < deadline, "the worker outlives the process that started it"
        time.sleep(0.05)


def test_without_a_gpu_everything_runs_here(tmp_path: Path) -> None:
    with Runner() as runner:
        store = Store(tmp_path, ExecConfig(device="cpu"), runner)
        assert store.ensure(node("train", "write_pid")).info["pid"] == os.getpid()


@pytest.mark.parametrize(
    ("builder", "kind", "message"),
    [
        ("refuse", "BadInput", "add some"),
        ("crash", "StageFailed", "ZeroDivisionError: one over nothing"),
        ("vanish", "HarnessError", "was killed"),
    ],
)
def test_a_failing_worker_leaves_its_reason_and_the_next_stage_runs(
    tmp_path: Path, builder: str, kind: str, message: str
) -> None:
    with Runner() as runner:
        store = Store(tmp_path, ExecConfig(isolation="process"), runner)
        with pytest.raises(Exception, match=message) as caught:
            store.ensure(node("train", builder))
        assert type(caught.value).__name__ == kind
        assert message in store.status(node("train", builder)).reason
        assert store.ensure(node("train", "write_pid", word="b"))


def test_plan_counts_shared_stages_once_and_status_says_missing(tmp_path: Path) -> None:
    chosen = cells(["profile=mini", f"exec.runs={tmp_path}"])
    nodes = distinct(chosen)
    text = plan.render(chosen, Store(tmp_path))
    assert f"{len(chosen)} cells, {len(nodes)} artifacts" in text
    table = {
        line.split()[0]: line.split()[1:5]
        for line in text.splitlines()[text.splitlines().index("") + 1 :]
        if len(line.split()) >= 5 and line.split()[1].isdigit()
    }
    assert table["pool"][:3] == ["3", "0", "3"] and table["answers"][:3] == ["6", "0", "6"]
    trained = [cell for cell in chosen if cell.selector.trains]
    assert table["adapter"][0] == str(len(trained)), "no two cells train alike"
    assert int(table["eval"][0]) == len(trained) + 2, "row 0 is one evaluation a backbone"
    assert int(table["subset"][0]) < len(chosen), "some subsets are shared by both backbones"
    shown = status.render(chosen, Store(tmp_path))
    assert shown.endswith(f"{len(chosen)} missing")


def test_plan_of_the_paper_needs_no_network_and_no_gpu(tmp_path: Path) -> None:
    chosen = cells(["profile=paper", f"exec.runs={tmp_path}"])
    text = plan.render(chosen, Store(tmp_path))
    assert "54 cells" in text and "no measured rate" in text
    assert list(tmp_path.iterdir()) == [], "planning writes nothing"


# -- the mini grid ---------------------------------------------------------------------------------------


def test_the_mini_grid_is_the_papers_table(tmp_path: Path) -> None:
    """Its rows, and a note for those whose model or annotations are not the original's."""
    mini = cells(["profile=mini", "pool=mini_cot", "backbone=smollm2_135m"])
    whole = cells(["profile=paper", "pool=cot", "backbone=llama3_8b"])
    assert [c.config.selector["name"] for c in mini] == [c.config.selector["name"] for c in whole]
    printed = sweep.write(mini, Store(tmp_path))
    text = (report_folder(mini, Store(tmp_path))[0] / "table.md").read_text()
    for selector, official in (("ifd", "the 7B model of the original"), ("superfiltering", "gpt2")):
        note = f"{selector}: the embedded backbone gives the losses, in place of {official}"
        assert text.count(f"- {note}\n") == printed.count(note) == 1
    printed = sweep.write(whole, Store(tmp_path))
    assert "in place of" not in printed


def test_a_checkpoint_that_is_missing_is_no_failure(tmp_path: Path) -> None:
    """scar in the plan, in its cell, in the status and in the table: "not run", with what to do."""
    asked = ["profile=smoke", "selector=scar", f"exec.runs={tmp_path}"]
    (cell,) = cells(asked)
    store = Store(tmp_path)
    assert run.run_cell(cell) == "not-run"
    assert "1 not-run" in status.render([cell], store) and "needs checkpoint" in status.render([cell], store)
    assert "not-run: needs checkpoint" in plan.render([cell], store)
    text = sweep.write([cell], store)
    assert "1 cell: 1 not run" in text and "FAILED" not in text
    table = tmp_path / "report" / "smoke-main+selector-scar" / "table.md"
    assert "not run: ranking: needs checkpoint" in table.read_text()


def test_the_record_of_a_failed_cell_holds_no_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MY_SERVICE_TOKEN", "a-secret-of-mine")

    def leak(*_: Any) -> None:
        raise ValueError("refused with token a-secret-of-mine")

    monkeypatch.setattr(run, "refuse_without_gpu", leak)
    (cell,) = cells(["profile=smoke", "selector=random", f"exec.runs={tmp_path}"])
    assert run.run_cell(cell) == "failed"
    (told,) = (tmp_path / "cells").glob("*.json")
    for text in (told.read_text(), capsys.readouterr().out):
        assert "refused with token (secret)" in text and "a-secret" not in text


def test_a_sweep_for_gpus_stops_where_there_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before anything is built or fetched; a cell that is finished needs no GPU any more."""
    monkeypatch.setattr(gpus, "listed", lambda: ())
    (cell,) = cells(["profile=smoke", "selector=random", "exec.device=cuda", f"exec.runs={tmp_path}"])
    assert run.run_cell(cell) == "failed"
    assert [path.name for path in tmp_path.iterdir()] == ["cells"]
    (told,) = (tmp_path / "cells").glob("*.json")
    assert "no NVIDIA GPU is visible" in told.read_text()
    monkeypatch.setattr(Store, "complete", lambda self, node: True)
    run.refuse_without_gpu(Store(tmp_path), cell)


def test_what_runs_no_model_needs_no_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A random subset is neither refused where there is no GPU nor does it wait for one."""

    def only_selected(runs: Path) -> Cell:
        (cell,) = cells(["profile=smoke", "selector=random", "exec.device=cuda", f"exec.runs={runs}"])
        experiment = dataclasses.replace(cell.config.experiment, last="subset")
        return Cell(dataclasses.replace(cell.config, experiment=experiment))

    def refuse_lease(count: int) -> None:
        raise AssertionError("a GPU was taken")

    for listed in ((), ("GPU-a",)):
        monkeypatch.setattr(gpus, "listed", lambda listed=listed: listed)
        monkeypatch.setattr(gpus, "Lease", refuse_lease)
        cell = only_selected(tmp_path / str(len(listed)))
        assert list(cell.nodes) == ["pool", "scores", "subset"]
        assert run.run_cell(cell) == "done"


def test_two_cells_of_one_name_are_refused(tmp_path: Path) -> None:
    for folder in "ab":
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "my.jsonl").write_text(f'{{"instruction": "{folder}", "output": "b"}}\n')
    paths = ",".join(str(tmp_path / folder / "my.jsonl") for folder in "ab")
    common = ["profile=smoke", "pool=local", "selector=random", "budget=1"]
    with pytest.raises(BadInput, match=r"my\.jsonl; they differ in pool\.path"):
        refuse_same_names(cells([*common, f"pool.path={paths}"]))
    refuse_same_names(cells([*common, f"pool.path={tmp_path / 'a' / 'my.jsonl'}", "seed=1,2", "exec.threads=1,2"]))


@pytest.mark.parametrize("selector", ["deita", "kmq"])
def test_missing_annotations_are_noticed_before_anything_expensive(tmp_path: Path, selector: str) -> None:
    asked = ["profile=smoke", f"selector={selector}", "selector.quality=nowhere", f"exec.runs={tmp_path}"]
    (cell,) = cells(asked)
    store = Store(tmp_path)
    assert run.run_cell(cell) == "not-run"
    assert not {"answers", "grams", "vectors"} & {path.name for path in tmp_path.iterdir()}
    assert "1 not-run" in status.render([cell], store) and "'nowhere'" in status.render([cell], store)
    assert "not-run: needs" in plan.render([cell], store)
    assert "not run: annotated: needs" in sweep.write([cell], store)


def test_a_part_of_a_study_does_not_overwrite_its_table(tmp_path: Path) -> None:
    def folder(*asked: str) -> str:
        return report_folder(cells(["profile=smoke", *asked]), Store(tmp_path))[0].name

    assert folder() == folder("exec.threads=1", "preset=paper") == "smoke-main"
    assert folder("selector=adg") == "smoke-main+selector-adg"
    assert folder("seed=1,2") == "smoke-main+seed-1-2"
    assert folder("experiment=terms") == "smoke-terms"
    many = ("n=7", "max_new_tokens=5", "temperature=0.5", "top_p=0.5", "top_k=3")
    long = folder(*(f"sampling.{key}" for key in many))
    assert len(long) < 110 and long != folder("sampling.n=7")


def test_equal_subsets_of_two_selectors_stay_two(tmp_path: Path) -> None:
    """The whole pool as "all" and as a draw of all its records: the same rows, trained and evaluated apart."""
    asked = ["profile=smoke", "selector=all,random", "budget=24", f"exec.runs={tmp_path}"]
    nodes = [cell.nodes for cell in cells(asked)]
    subsets = [Store(tmp_path, ExecConfig(device="cpu")).ensure(n["subset"]) for n in nodes]
    lines = [sorted(a.file("subset.jsonl").read_text().splitlines()) for a in subsets]
    assert lines[0] == lines[1] and len(lines[0]) == 24
    for role in ("scores", "subset", "adapter", "eval"):
        assert nodes[0][role].fingerprint != nodes[1][role].fingerprint
        assert nodes[0][role].folder != nodes[1][role].folder


def test_stages_that_selectors_add_have_their_place_in_the_plan(tmp_path: Path) -> None:
    chosen = cells(["profile=smoke", "selector=adg,tshirt,selectit", f"exec.runs={tmp_path}"])
    chosen += cells(["profile=smoke", "selector=ifd", "selector.pre_experience=true", f"exec.runs={tmp_path}"])
    text = plan.render(chosen, Store(tmp_path))
    stages = [line.split()[0] for line in text.splitlines() if len(line.split()) > 4 and line.split()[1].isdigit()]
    assert stages[:5] == ["pool", "backbone", "answers", "grams", "bins"]
    assert stages[-5:] == ["scores", "subset", "adapter", "eval", "heldout"]
    assert set(stages[5:-5]) == {"deltas", "selectit-ratings", "experience", "tuned", "losses"}
    assert stages == [stage.name for stage in plan.in_order(n.stage for n in distinct(chosen))]


def test_where_things_are_is_no_variant_and_a_preset_is(tmp_path: Path) -> None:
    common = ("profile=paper", "backbone=llama3_8b", "pool=alpaca_gpt4", "selector=adg", f"exec.runs={tmp_path}")

    def shown(*more: str) -> tuple[str, object]:
        (cell,) = cells([*common, *more])
        return cell.name, rows.row(cell, Store(tmp_path)).paper

    plain, figure = shown()
    assert figure is not None
    assert shown("suite.data_root=mini:", "exec.tensor_parallel=2", "engine.distributed=ray") == (plain, figure)
    assert shown("engine.replicas=4") == (plain, figure)
    for override in ("preset=released", "finetune=full", "seed=2"):
        assert shown(override) == (f"{plain}/{override}", figure), "the same published figure stands beside it"
    assert shown("budget=5000") == (f"{plain}/budget=5000", None)
    text = sweep.write(cells(["profile=paper", "preset=released", f"exec.runs={tmp_path}"]), Store(tmp_path))
    assert "Main table (preset=released)" in text and "paper-main+preset-released/" in text
    assert "needs a pinned revision of gpt2" in plan.render(
        cells([*common[:3], "selector=superfiltering"]), Store(tmp_path)
    )
