"""Averages: what is missing stays missing, and the published averages come out."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adg.evaluation import aggregate

SIX = ("bbh", "gsm8k", "mmlu", "truthfulqa_mc2", "humaneval", "mbpp")


def test_a_row_worked_by_hand() -> None:
    tasks = dict(zip(SIX, (60.0, 50.0, 64.0, 46.0, 30.0, 40.0), strict=True))
    assert aggregate.categories(tasks) == {
        "reasoning": 55.0,
        "knowledge": 55.0,
        "coding": 35.0,
        "avg": pytest.approx(145 / 3),
    }


@pytest.mark.parametrize("missing", SIX)
def test_a_missing_task_makes_its_category_and_the_average_missing(missing: str) -> None:
    for gap in ({}, {missing: None}):
        tasks = {task: 0.5 for task in SIX if task != missing} | gap
        found = aggregate.categories(tasks)
        assert found["avg"] is None
        assert sorted(found.values(), key=str) == [0.5, 0.5, None, None]


def test_nothing_measured() -> None:
    assert set(aggregate.categories({}).values()) == {None}
    assert aggregate.mean([]) is None


def test_a_suite_of_other_tasks_has_their_mean_and_no_categories() -> None:
    assert aggregate.categories({"cmmlu": 0.25, "ceval-valid": 0.75}) == {"avg": 0.5}
    assert aggregate.categories({"cmmlu": 0.25, "ceval-valid": None}) == {"avg": None}
    assert aggregate.weights(["cmmlu", "ceval-valid"]) == {"cmmlu": 0.5, "ceval-valid": 0.5}
    six = dict.fromkeys(SIX, 0.5)
    assert aggregate.categories(six | {"cmmlu": 0.0}) == aggregate.categories(six), "the paper's average is its six"


@pytest.mark.parametrize("missing", [None, *SIX])
def test_weights_give_the_average(missing: str | None) -> None:
    tasks = {task: i / 7 for i, task in enumerate(SIX) if task != missing}
    weights, average = aggregate.weights(tasks), aggregate.categories(tasks)["avg"]
    found = None if weights is None else sum(w * tasks[task] for task, w in weights.items())
    assert found == (None if missing else pytest.approx(average))


def test_zero_is_a_score() -> None:
    assert aggregate.categories(dict.fromkeys(SIX, 0.0))["avg"] == 0.0


scores = st.lists(st.floats(0, 1), min_size=2, max_size=30)


@given(st.lists(scores, min_size=1, max_size=5))
def test_pooled_mean_is_the_mean_over_all_items(parts: list[list[float]]) -> None:
    every = [score for part in parts for score in part]
    pooled = aggregate.pooled([math.fsum(part) / len(part) for part in parts], [len(part) for part in parts])
    assert pooled == pytest.approx(math.fsum(every) / len(every), abs=1e-9)


@given(scores)
def test_pooled_error_of_one_subtask_is_its_own(part: list[float]) -> None:
    error = aggregate.standard_error(part)
    assert aggregate.pooled_standard_error([error], [len(part)]) == pytest.approx(error, abs=1e-9)


def test_errors_agree_with_lm_eval() -> None:
    metrics = pytest.importorskip("lm_eval.api.metrics")
    parts = [[0.0, 1.0, 1.0, 0.0], [1.0, 1.0, 0.0], [0.25, 0.5]]
    errors = [aggregate.standard_error(part) for part in parts]
    assert errors == pytest.approx([metrics.mean_stderr(part) for part in parts])
    sizes = [len(part) for part in parts]
    assert aggregate.pooled_standard_error(errors, sizes) == pytest.approx(metrics.pooled_sample_stderr(errors, sizes))


def test_one_item_has_no_error() -> None:
    assert aggregate.standard_error([1.0]) is None
    assert aggregate.pooled_standard_error([0.1, None], [5, 1]) is None
