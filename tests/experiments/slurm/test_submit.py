"""What is told to sbatch, and what is refused before anything is submitted."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from adg.errors import BadInput
from experiments import run, submit
from experiments.cells import cells, distinct
from experiments.slurm.config import SlurmConfig
from experiments.slurm.jobs import PlannedJob, planned

OPTIONS = ("slurm.partition=big", "slurm.cpu_partition=small", "slurm.gpu=a100", "slurm.mem_gb=96", "slurm.minutes=90")


@pytest.fixture
def jobs(tmp_path: Path) -> list[PlannedJob]:
    line = ["profile=smoke", "selector=adg", "exec.device=cuda", *OPTIONS, "+slurm.options={nice: 5}"]
    chosen = cells([*line, f"exec.runs={tmp_path}"])
    return planned(chosen, {node.fingerprint for node in distinct(chosen)})


def test_a_job_asks_for_what_its_stages_need(jobs: list[PlannedJob]) -> None:
    told = {job.gpus: submit.parameters(job, ["3", "5"]) for job in jobs}
    assert (told[1]["gres"], told[1]["partition"]) == ("gpu:a100:1", "big")
    assert (told[0]["gres"], told[0]["partition"]) == (None, "small")
    for job in told.values():
        assert job["job_name"] == jobs[0].cell.name and job["dependency"] == "afterok:3:5"
        assert (job["mem"], job["time"]) == ("96G", 90)
        more = job["additional_parameters"]
        assert more == {"nice": 5, "requeue": True, "signal": "USR2@120", "kill-on-invalid-dep": "yes"}
        assert any("-lt 10" in line for line in job["teardown"])
    assert submit.parameters(jobs[0], [])["dependency"] is None


def test_a_name_of_one_seed_has_the_seed(tmp_path: Path) -> None:
    chosen = cells(["profile=smoke", "selector=random", "seeds=2", f"exec.runs={tmp_path}"])
    names = [job.name for job in planned(chosen, {node.fingerprint for node in distinct(chosen)}) if job.last]
    assert names == [cell.name for cell in chosen] and len(set(names)) == 2


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"minutes": 0}, r"slurm\.minutes is 0"),
        ({"requeues": -1}, r"slurm\.requeues is -1"),
        ({"options": {"job_name": "x"}}, "slurm.options sets job-name, which the plan decides"),
        ({"options": {"--gres": "gpu:2"}}, "slurm.options sets gres, which the plan decides"),
    ],
)
def test_what_the_plan_decides_is_not_set(options: dict[str, object], said: str) -> None:
    with pytest.raises(BadInput, match=said):
        SlurmConfig(**options)  # type: ignore[arg-type]


def test_options_of_slurm_are_no_part_of_a_cell(tmp_path: Path) -> None:
    (plain,) = cells(["profile=smoke", "selector=adg", f"exec.runs={tmp_path}"])
    (told,) = cells(["profile=smoke", "selector=adg", *OPTIONS, f"exec.runs={tmp_path}"])
    assert (plain.name, plain.fingerprint) == (told.name, told.fingerprint)


def test_the_launcher_that_it_replaces_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["adg", "-m", "profile=smoke", "hydra/launcher=submitit_slurm"])
    with pytest.raises(SystemExit, match=r"error: hydra/launcher=submitit_slurm is replaced by adg submit"):
        run.entry()


def test_without_slurm_it_says_where_to_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    line = ["adg", "profile=smoke", f"exec.runs={tmp_path / 'runs'}"]
    monkeypatch.setattr(sys, "argv", line)
    with pytest.raises(SystemExit, match=r"error: no sbatch and srun here; .* or adg sweep"):
        submit.main()
    monkeypatch.setattr(sys, "argv", [*line, "--dry-run"])
    submit.main()
    said = capsys.readouterr().out
    assert "tiny_random/mini_general/adg" in said and "2 cells, 0 finished" in said
    assert not (tmp_path / "runs").exists()
