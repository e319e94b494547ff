"""``experiments.power``: from assumptions before a study, from what was measured after."""

from __future__ import annotations

import math
import statistics
from pathlib import Path
from typing import Any

import pytest

from adg.artifacts.store import Store
from experiments import plan, power
from experiments.cells import cells

TASKS = ("bbh", "gsm8k", "mmlu", "truthfulqa_mc2", "mbpp", "humaneval")


def test_before_the_papers_study(tmp_path: Path) -> None:
    chosen, store = cells(["profile=paper", "selector=random,adg", "pool=cot"]), Store(tmp_path)
    text = power.lines(chosen, store)
    assert "same 23,353 items" in text[0] and text[0].count("accuracies assumed 0.5") == 2
    assert [line for line in text if "a difference of 1 point needs" in line] == text[2:5] and len(text) == 6
    assert "one seed, so that training variance is left out" in text[5]
    said = power.line(chosen, store)
    assert "23,353 items, accuracies assumed 0.5, correlation of items assumed 0.5" in said
    assert said.endswith("0.80 points between seeds, assumed: a difference of 1 point needs 13 seeds an arm")
    assert f"  power: {said}" in plan.render(chosen, store).splitlines()


def test_more_seeds_show_smaller_differences(tmp_path: Path) -> None:
    smallest = []
    for seeds in ("1", "1,2,3", "1,2,3,4,5,6"):
        known = power.study(
            cells(["profile=paper", "selector=random,adg", "pool=cot", f"seed={seeds}"]), Store(tmp_path)
        )
        assert known.seeds == len(seeds.split(",")) and known.spread_known == "assumed"
        smallest.append(known.smallest(min(known.errors.values())))
    assert smallest[1] > smallest[2] > smallest[0], "one seed leaves out what several show"


def test_after_a_study_with_seeds(study: Any) -> None:
    chosen = study.cells("selector=random", "seed=1,2,3")
    for cell, right in zip(chosen, (40, 44, 48), strict=True):
        study.finish(cell, {task: {task: [float(i < right) for i in range(100)]} for task in TASKS})
    text = power.lines(chosen, study.store)
    assert "same 600 items" in text[0] and "measured accuracies" in text[0]
    assert text[1].startswith("seeds: tiny_random/mini_general/random varies by 4.00 points over 3 seeds")
    assert "3 seeds, 4.00 points between them, measured" in text[2] and len(text) == 3


def test_pairs_of_finished_cells_take_the_place_of_assumptions(study: Any) -> None:
    """Six tasks of 100 items: 20 of each change to the better in one cell and to the worse in the other."""
    chosen = study.cells("selector=random,longest")
    for cell, start in zip(chosen, (0, 20), strict=True):
        right = range(start, start + 40)
        study.finish(cell, {task: {task: [float(i in right) for i in range(100)]} for task in TASKS})
    (how, error), *others = power.study(chosen, study.store).errors.items()
    assert how == "paired differences of 1 finished pairs of cells" and not others
    changes = [1.0] * 20 + [-1.0] * 20 + [0.0] * 60
    assert error == pytest.approx(100 * statistics.stdev(changes) / 10 / math.sqrt(6), rel=0.05)
    assert "600 items, paired differences" in power.line(chosen, study.store)


def test_without_sizes_it_says_so(study: Any) -> None:
    chosen = study.cells("selector=random")
    text = power.lines(chosen, study.store)
    assert "known only once a cell" in text[0] and "no spread measured" in text[1] and len(text) == 5
    assert power.line(chosen, study.store).startswith("what its items can show is known once a cell is evaluated; 0.80")
