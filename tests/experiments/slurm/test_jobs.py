"""The jobs of a study: shared artifacts first, each built once, GPUs only for what runs a model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from adg.artifacts.store import Store
from experiments import submit
from experiments.cells import Cell, cells, distinct
from experiments.slurm.jobs import PlannedJob, planned


def all_of(chosen: Sequence[Cell]) -> set[str]:
    return {node.fingerprint for node in distinct(chosen)}


def reached(jobs: Sequence[PlannedJob], place: int) -> set[int]:
    """The jobs that are over when this one begins."""
    return {place, *(far for near in jobs[place].after for far in reached(jobs, near))}


@pytest.fixture(scope="module")
def paper(tmp_path_factory: pytest.TempPathFactory) -> list[Cell]:
    return cells(["profile=paper", f"exec.runs={tmp_path_factory.mktemp('runs')}"])


def test_each_artifact_is_built_once_and_after_what_it_reads(paper: list[Cell]) -> None:
    jobs = planned(paper, all_of(paper))
    built = {node.fingerprint: place for place, job in enumerate(jobs) for node in job.builds}
    assert sum(len(job.builds) for job in jobs) == len(built) == len(all_of(paper))
    for place, job in enumerate(jobs):
        assert all(before < place for before in job.after)
        for position, node in enumerate(job.builds):
            for parent in node.inputs.values():
                at = built[parent.fingerprint]
                assert parent in job.builds[:position] if at == place else at in reached(jobs, place)


def test_no_job_holds_a_gpu_for_what_runs_no_model_or_for_what_others_share(paper: list[Cell]) -> None:
    jobs = planned(paper, all_of(paper))
    for job in jobs:
        assert {bool(node.stage.gpus) for node in job.builds} == {bool(job.gpus)}
    needing = submit.users(paper)
    for job in jobs:
        assert job.shared == (len(needing[job.builds[0].fingerprint]) > 1)
        assert len({needing[node.fingerprint] for node in job.builds}) == 1


def test_a_job_bears_the_name_of_its_cell(paper: list[Cell]) -> None:
    jobs = planned(paper, all_of(paper))
    ending = [job.name for job in jobs if job.last]
    trained = [cell.name for cell in paper if "adapter" in cell.nodes]
    assert len(ending) == len(set(ending)) and set(trained) == set(ending)
    for job in jobs:
        assert job.name == (job.builds[-1].folder if job.shared else job.cell.name)


def test_answers_that_cells_share_are_a_job_before_theirs(tmp_path: Path) -> None:
    chosen = cells(["profile=smoke", "selector=adg,cluster_random", "exec.device=cuda", f"exec.runs={tmp_path}"])
    jobs = planned(chosen, all_of(chosen))
    (answers,) = [place for place, job in enumerate(jobs) if any(n.stage.name == "answers" for n in job.builds)]
    assert jobs[answers].shared and jobs[answers].gpus == 1
    for place, job in enumerate(jobs):
        if not job.shared:
            assert answers in reached(jobs, place)


def test_several_gpus_are_asked_for_where_a_stage_takes_them(tmp_path: Path) -> None:
    line = ["exec.device=cuda", "exec.train_processes=4", "exec.tensor_parallel=2", f"exec.runs={tmp_path}"]
    for replicas in (1, 3):
        chosen = cells(["profile=smoke", "selector=adg", f"engine.replicas={replicas}", *line])
        counts = {node.stage.name: job.gpus for job in planned(chosen, all_of(chosen)) for node in job.builds}
        assert (counts["answers"], counts["eval"], counts["adapter"], counts["scores"]) == (2 * replicas, 2, 4, 0)


def test_on_cpus_a_cell_is_one_job(tmp_path: Path) -> None:
    chosen = cells(["profile=smoke", "exec.device=cpu", f"exec.runs={tmp_path}"])
    jobs = planned(chosen, all_of(chosen))
    assert [job.name for job in jobs[1:]] == [cell.name for cell in chosen] and all(job.last for job in jobs[1:])
    assert {node.stage.name for node in jobs[0].builds} == {"pool", "backbone"}


def test_what_is_there_or_in_the_queue_is_not_built_again(tmp_path: Path) -> None:
    chosen = cells(["profile=smoke", "exec.device=cpu", f"exec.runs={tmp_path}"])
    first, *others = planned(chosen, all_of(chosen))
    queued = {node.fingerprint: "17" for node in first.builds}
    again = planned(chosen, all_of(chosen), queued)
    assert [job.name for job in again] == [job.name for job in others]
    assert all(job.behind == ("17",) and job.after == () for job in again)
    left = all_of(chosen) - queued.keys()
    assert [job.behind for job in planned(chosen, left)] == [(), ()]
    assert planned(chosen, set()) == []


def test_what_is_to_be_built_is_what_is_not_there(tmp_path: Path) -> None:
    chosen = cells(["profile=smoke", "exec.device=cpu", f"exec.runs={tmp_path}"])
    store = Store(tmp_path, chosen[0].config.exec)
    store.ensure(chosen[0].nodes["pool"])
    assert submit.to_build(chosen, store) == all_of(chosen) - {chosen[0].nodes["pool"].fingerprint}
