"""``experiments.power``: from assumptions before a study, from what was measured after."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from adg.artifacts.store import Store
from experiments import power
from experiments.cells import cells

TASKS = ("bbh", "gsm8k", "mmlu", "truthfulqa_mc2", "mbpp", "humaneval")


def test_before_the_papers_study(tmp_path: Path) -> None:
    text = power.lines(cells(["profile=paper", "selector=random,adg", "pool=cot"]), Store(tmp_path))
    assert "same 23,353 items" in text[0] and "accuracies assumed 0.5" in text[0]
    assert [line for line in text if "a difference of 1 point needs" in line] == text[2:] and len(text) == 5


def test_after_a_study_with_seeds(study: Any) -> None:
    chosen = study.cells("selector=random", "seed=1,2,3")
    for cell, right in zip(chosen, (40, 44, 48), strict=True):
        study.finish(cell, {task: {task: [float(i < right) for i in range(100)]} for task in TASKS})
    text = power.lines(chosen, study.store)
    assert "same 600 items" in text[0] and "measured accuracies" in text[0]
    assert text[1].startswith("seeds: tiny_random/mini_general/random varies by 4.00 points over 3 seeds")
    assert len(text) == 2


def test_without_sizes_it_says_so(study: Any) -> None:
    text = power.lines(study.cells("selector=random"), study.store)
    assert "known only once a cell" in text[0] and "no spread measured" in text[1]
