"""The metric of the coding tasks: the meaning of the original, and every reference solution passes."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from adg.errors import BadMeasurement
from adg.evaluation import code_eval
from adg.evaluation.code_eval import CodeEval, pass_at
from adg.evaluation.config import EMBEDDED
from adg.sandbox import host as sandbox
from adg.sandbox.host import Sandbox

needs_sandbox = pytest.mark.skipif(isinstance(sandbox.available(), str), reason=f"{sandbox.available()}")
GOOD, BAD, TEST = "def add(a, b): return a + b", "def add(a, b): return a * b", "assert add(2, 3) == 5"


@pytest.fixture
def metric() -> Iterator[CodeEval]:
    box = sandbox.available()
    assert not isinstance(box, str)
    metric = CodeEval()
    with metric.confined(box):
        yield metric


@needs_sandbox
def test_answers_in_the_form_the_tasks_read(metric: CodeEval) -> None:
    scores, results = metric.compute(references=[TEST, TEST], predictions=[[GOOD], [BAD]], k=[1])
    assert scores == {"pass@1": 0.5}
    assert results[0][0][1]["passed"] and results[0][0][1]["result"] == "passed"
    assert results[1][0][1]["result"].startswith("failed: AssertionError")


@needs_sandbox
def test_pass_at_k_needs_k_candidates(metric: CodeEval) -> None:
    scores, _ = metric.compute(references=[TEST], predictions=[[GOOD, BAD]], k=[1, 2, 3])
    assert scores == {"pass@1": 0.5, "pass@2": 1.0}


@pytest.mark.parametrize(
    ("k", "total", "correct", "expected"),
    [
        (1, 5, 0, 0.0),
        (1, 5, 5, 1.0),
        (1, 4, 1, 0.25),
        (2, 4, 1, 0.5),
        (2, 4, 2, 1 - 1 / 6),
        (3, 4, 2, 1.0),
    ],
)
def test_pass_at(k: int, total: int, correct: int, expected: float) -> None:
    assert pass_at(k, total, correct) == pytest.approx(expected)


def test_without_consent_nothing_runs() -> None:
    metric = CodeEval()
    with pytest.raises(BadMeasurement, match="run_model_code"):
        metric.compute(references=[TEST], predictions=[[GOOD]], k=[1])


@needs_sandbox
def test_prefetched_programs_run_once(metric: CodeEval, monkeypatch: pytest.MonkeyPatch) -> None:
    metric.prefetch([(GOOD, TEST), (BAD, TEST), (GOOD, TEST)])
    monkeypatch.setattr(Sandbox, "run", lambda *a, **k: pytest.fail("ran again"))
    assert metric.outcome(GOOD, TEST).passed and not metric.outcome(BAD, TEST).passed


def test_library_finds_this_metric_only_meanwhile() -> None:
    import evaluate

    before = evaluate.load
    with code_eval.installed():
        assert evaluate.load("code_eval") is code_eval.METRIC
    assert evaluate.load is before


# -- reference solutions ------------------------------------------------------------------------------


def humaneval(rows: list[dict]) -> dict[str, tuple[str, str]]:
    return {
        r["task_id"]: (r["prompt"] + r["canonical_solution"], f"{r['test']}\ncheck({r['entry_point']})") for r in rows
    }


def mbpp(rows: list[dict]) -> dict[int, tuple[str, str]]:
    return {r["task_id"]: (r["code"], "\n".join(r["test_list"][:3])) for r in rows}


def run(pairs: dict, capsys: pytest.CaptureFixture[str], name: str) -> dict:
    """Errors of those that fail."""
    box = sandbox.available()
    assert not isinstance(box, str)
    begun = time.monotonic()
    outcomes = box.map(list(pairs.values()))
    with capsys.disabled():
        print(
            f"\n  {name}: {sum(o.passed for o in outcomes)} of {len(pairs)} reference solutions pass, "
            f"{time.monotonic() - begun:.1f} s"
        )
    return {key: outcome.error for key, outcome in zip(pairs, outcomes, strict=True) if not outcome.passed}


@needs_sandbox
def test_reference_solutions_of_the_mini_sets_pass(capsys: pytest.CaptureFixture[str]) -> None:
    def rows(place: str) -> list[dict]:
        return [json.loads(line) for line in (EMBEDDED / place).read_text().splitlines()]

    solutions = humaneval(rows("openai/openai_humaneval/openai_humaneval/test.jsonl"))
    assert run(solutions, capsys, "mini HumanEval") == {}
    folder = "google-research-datasets/mbpp/full"
    for split in ("train", "test", "validation", "prompt"):
        assert run(mbpp(rows(f"{folder}/{split}.jsonl")), capsys, f"mini MBPP {split}") == {}
    assert len(solutions) >= 4


@needs_sandbox
def test_empty_answers_to_the_mini_sets_fail() -> None:
    rows = [
        json.loads(line)
        for line in (EMBEDDED / "openai/openai_humaneval/openai_humaneval/test.jsonl").read_text().splitlines()
    ]
    box = sandbox.available()
    pairs = [(r["prompt"] + "    pass\n", test) for r, (_, test) in zip(rows, humaneval(rows).values(), strict=True)]
    assert not any(outcome.passed for outcome in box.map(pairs))


@needs_sandbox
@pytest.mark.slow
def test_reference_solutions_of_the_real_sets(shared_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """All of HumanEval; all of MBPP but one that is too slow and one that needs set-up code lm-eval leaves out."""
    import pyarrow.parquet as pq

    base = shared_dir / "data" / "benchmarks"
    file = next((base / "openai/openai_humaneval").rglob("test-*.parquet"))
    assert run(humaneval(pq.read_table(file).to_pylist()), capsys, "HumanEval") == {}
    file = next((base / "google-research-datasets/mbpp/full").rglob("test-*.parquet"))
    failed = run(mbpp(pq.read_table(file).to_pylist()), capsys, "MBPP")
    assert set(failed) <= {123, 367} and 367 in failed
    assert "timed out" in failed.get(123, "timed out") and "NameError" in failed[367]
