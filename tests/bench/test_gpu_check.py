"""The check of a GPU: how it judges and what it says, its steps on the CPU, and how it goes on after a failure.

All steps together, vLLM's among them, are ``make gpu-check ARGS=--tiny``: some minutes, so by hand.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from adg.errors import BadInput, BadMeasurement
from bench.gpu_check import __main__ as gpu_check
from bench.gpu_check import compare, steps, table
from bench.gpu_check.graph import Graph, graph
from bench.gpu_check.options import Options, options
from bench.gpu_check.table import FAILED, NOT_RUN, OK, StepOutcome
from tests import processes

ABOUT = {
    "device": "NVIDIA H100",
    "driver": "570.1",
    "model": "SmolLM2",
    "date": "2026-01-01",
    "tiny": False,
    "overrides": [],
    "versions": {"torch": "2.13.0", "vllm": "0.32.0", "python": "3.11"},
    "git": {"commit": "0123456789abcdef", "dirty": True},
    "machine": {"system": "Linux", "cores": 16, "host": "h"},
}


WORDS = ("sampling.max_new_tokens=4", "finetune.learning_rate=0.05", "suite.limit=1", "suite.max_gen_toks=4")


@pytest.mark.parametrize(("dtype", "apart", "wrong"), [("float32", 2e-4, ""), ("float32", 0.02, "0.02 nats a token")])
def test_likelihoods_are_held_against_each_other_by_token(dtype: str, apart: float, wrong: str) -> None:
    ours = [-40.0, -30.0]
    verdict = compare.likelihoods(ours, [ours[0] - 20 * apart, ours[1] + 10 * apart], [20, 10], dtype)
    assert wrong in verdict.wrong and bool(verdict.wrong) == bool(wrong)
    assert "2 answers, 30 tokens" in verdict.said


def test_what_is_rounding_depends_on_the_precision() -> None:
    far = [-40.0], [-41.0], [20]
    assert compare.likelihoods(*far, "float32").wrong and not compare.likelihoods(*far, "bfloat16").wrong
    assert "not finite" in compare.likelihoods([float("nan")], [-1.0], [1], "bfloat16").wrong
    found = np.eye(3)[None]
    assert not compare.grams(found, found + 0.01, "bfloat16").wrong
    assert "0.01 from those of float64" in compare.grams(found, found + 0.01, "float32").wrong
    assert "not finite" in compare.grams(found * np.nan, found, "bfloat16").wrong


def test_every_tolerance_grows_as_the_precision_falls() -> None:
    fine, half, coarse = (compare.TOLERANCES[name] for name in ("float32", "float16", "bfloat16"))
    for name in ("nats", "gram", "choice", "score", "apart"):
        assert 0 < getattr(fine, name) <= getattr(half, name) <= getattr(coarse, name) < 0.5, name
    assert 1 > fine.begin >= half.begin >= coarse.begin >= 0.5


def outcomes() -> list[StepOutcome]:
    good: dict[str, Any] = {"said": "4 | 5 answers", "rate": "9 tokens/s", "dtype": "bfloat16", "wrong": ""}
    bad = {**good, "wrong": "log-likelihoods lie 3 nats apart", "rate": ""}
    memory = {"peak_gib": 12.34, "peak_of": "gpu"}
    return [
        table.outcome("sampling-vllm", "answers in vLLM", {**good, **memory}, 61.23, "again"),
        table.outcome("engines", "likelihoods", {**bad, **memory, "peak_of": "resident"}, 5.0, "do this"),
        StepOutcome("scoring", "scoring speed", NOT_RUN, wrong="the 8 minutes for all steps are over", then="longer"),
    ]


def test_the_table_has_every_step_its_reason_and_what_to_do() -> None:
    made = outcomes()
    assert [one.state for one in made] == [OK, FAILED, NOT_RUN]
    text, page, facts = table.terminal(made, ABOUT), table.markdown(made, ABOUT), table.document(made, ABOUT)
    for shown in (text, page):
        assert "GPU check: NVIDIA H100, SmolLM2, 2026-01-01" in shown and "driver 570.1" in shown
        assert "commit 0123456789 with changes" in shown and "vllm 0.32.0" in shown
        assert "12.3 GiB" in shown and "12.3 GiB of RAM" in shown and "9 tokens/s" in shown
        assert "3 steps in 1.1 minutes: 1 OK, 1 FAILED, 1 not run." in shown
    assert text.splitlines()[-2:] == ["  engines: do this", "  scoring: longer"]
    assert "| scoring | not run | – | – | – | – | the 8 minutes for all steps are over |" in page
    (row,) = [line for line in page.splitlines() if line.startswith("| sampling-vllm")]
    assert "4 \\| 5 answers" in row, "a column of its own would come of it"
    assert facts["works"] is False and facts["steps"][0]["peak_gib"] == 12.34
    assert json.loads(json.dumps(facts)) == facts
    assert table.works(made[:1]) and not table.works([]) and not table.works(made[:2]) and not table.works(made[2:])
    assert "All 1 steps work" in table.terminal(made[:1], ABOUT)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["selector=adg"], "selector is set by the check itself"),
        (["engine=hf"], "engine is set by the check itself"),
        (["backbone"], "'backbone' is no override"),
        (["--tinny"], "there is no option --tinny"),
        (["--only", "trainin"], r"--only names 'trainin' \(did you mean 'training'\?\)"),
        (["--tiny", "backbone.dtype=bfloat15"], "backbone.dtype is 'bfloat15'"),
        (["--minutes", "0"], "no whole number from 1 on"),
    ],
)
def test_what_is_wrong_is_refused_first(words: list[str], told: str, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=told):
        gpu_check.check([*words, "--out", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


def test_without_a_gpu_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(BadInput, match=r"no NVIDIA GPU is visible here .* ARGS=--tiny"):
        gpu_check.check(["--out", str(tmp_path / "out")])


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(BadInput, match="holds files that are not of a check"):
        gpu_check.check(["--tiny", "--out", str(tmp_path)])
    assert (tmp_path / "thesis.tex").exists()


def given(tmp_path: Path, *words: str) -> Options:
    return options(["--tiny", "--out", str(tmp_path), *words])


def test_a_step_that_takes_too_long_is_ended(tmp_path: Path) -> None:
    ended = gpu_check.run_step(given(tmp_path), "machine", 0.3, [])
    assert ended.state == FAILED and "was not done within 0 s and was ended" in ended.wrong
    assert "--minutes 80" in ended.then and "--only machine" in ended.then


def test_a_step_that_is_killed_is_one_outcome(tmp_path: Path) -> None:
    def kill() -> None:
        while not (started := [one for one in psutil.Process().children() if "bench.gpu_check.steps" in one.cmdline()]):
            time.sleep(0.01)
        started[0].kill()

    thread = threading.Thread(target=kill)
    thread.start()
    killed = gpu_check.run_step(given(tmp_path), "machine", 60, [])
    thread.join()
    assert killed.state == FAILED and "was killed by signal 9 (out of memory?); its last line: it said" in killed.wrong


def test_steps_are_not_begun_when_the_time_is_over(tmp_path: Path) -> None:
    over = Options(tiny=True, only=(), minutes=0, out=tmp_path, overrides=())
    made = gpu_check.run_steps(over, {}, {name: [] for name in steps.STEPS})
    assert [one.step for one in made] == list(steps.STEPS) and {one.state for one in made} == {NOT_RUN}


def test_the_limits_fit_into_what_is_given() -> None:
    assert {"sampling-vllm", "grams", "training", "evaluation-hf", "evaluation-vllm", "scoring"} <= set(steps.STEPS)
    assert all(step.seconds <= 150 for step in steps.STEPS.values())


@pytest.fixture(scope="module")
def checked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Graph]:
    """Of the tiny check what needs no vLLM, made in this process; its training changes the model visibly."""
    folder = tmp_path_factory.mktemp("check")
    asked = Options(True, (), 8, folder, WORDS)
    for name in ("model", "sampling-hf", "grams", "training", "evaluation-hf"):
        found = steps.run(name, asked)
        assert found["wrong"] == "" and found["said"] and found["peak_gib"] > 0, (name, found)
    yield graph(WORDS, True, folder / "artifacts")


@pytest.mark.slow
def test_an_adapter_that_one_backend_leaves_out_is_seen(checked: Graph) -> None:
    ours = checked.store.find(checked.nodes["evaluation, hf"])
    alone = checked.store.ensure(checked.nodes["evaluation, hf, alone"])
    assert ours is not None
    same = compare.backends(ours, ours, "bfloat16")
    assert same.wrong == "" and "mmlu 2 of 2 alike, choices within 0.0%" in same.said
    for dtype in compare.TOLERANCES:
        assert "log-likelihoods of choices lie" in compare.backends(ours, alone, dtype).wrong


@pytest.mark.slow
def test_benchmarks_that_did_not_run_are_no_success(checked: Graph, tmp_path: Path) -> None:
    """Here for want of consent, elsewhere for want of a sandbox; and without an adapter the backbone is evaluated."""
    asked = Options(True, (), 8, tmp_path, (*WORDS, "exec.run_model_code=false"))
    assert steps.run("model", asked)["wrong"] == ""
    found = steps.run("evaluation-hf", asked)
    assert found["wrong"].startswith("mbpp, humaneval not run: running model-written code needs consent")
    assert "without an adapter" in found["said"]
    part = graph(WORDS, True, tmp_path / "artifacts")
    whole, left = (each.store.find(checked.nodes["evaluation, hf, alone"]) for each in (checked, part))
    whole = whole or checked.store.ensure(checked.nodes["evaluation, hf, alone"])
    assert left is not None
    wrong = compare.backends(whole, left, "float32").wrong
    assert "mbpp was not run in hf" in wrong and "mmlu" not in wrong
    assert compare.backends(left, left, "float32").wrong == "", "the evaluations say it, and their figures agree"


@pytest.mark.slow
def test_matrices_of_other_records_are_seen(checked: Graph) -> None:
    from adg.embedding import stage as embedding_stage

    artifact = checked.store.find(checked.nodes["grams"])
    assert artifact is not None
    found = embedding_stage.load(artifact).grams[:, 0]
    assert compare.grams(found, found[::-1], "bfloat16").wrong


@pytest.mark.slow
def test_a_step_whose_inputs_are_missing_says_so_and_the_next_goes_on(root: Path, checked: Graph) -> None:
    folder = checked.store.root.parent
    line = ["-m", "bench.gpu_check", "--tiny", "--only", "engines,grams", "--out", str(folder), *WORDS]
    done = processes.run(line, cwd=root)
    assert done.returncode == 1, done.stderr[-2000:]
    facts = json.loads((folder / gpu_check.FACTS).read_text())
    assert [(one["step"], one["state"]) for one in facts["steps"]] == [("engines", FAILED), ("grams", OK)]
    assert "needs what the step sampling-vllm makes" in facts["steps"][0]["wrong"]
    assert f"make gpu-check ARGS='--only engines --tiny --out {folder} sampling.max_new_tokens=4" in done.stdout
    assert (folder / gpu_check.REPORT).read_text().startswith("## GPU check: CPU, tiny, ")


def test_a_result_without_common_benchmarks_is_no_agreement(tmp_path: Path) -> None:
    from adg.artifacts.artifact import Artifact

    settings = {"suite": "s", "backend": "hf", "lm_eval": "0", "prompt": "plain", "chat_template": False, "tasks": {}}
    (tmp_path / "results.json").write_text(json.dumps(settings))
    empty = Artifact(tmp_path, {"files": {"results.json": {}}, "info": {}, "fingerprint": "x"})
    with pytest.raises(BadMeasurement, match="no benchmark in common"):
        compare.backends(empty, empty, "float32")
