"""The controls: what must be seen is, what is not there is not, a planted fault changes the verdict, and nothing that
was not measured gives one."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from adg import seeds
from adg.artifacts.store import Store
from adg.errors import BadInput
from adg.evaluation import statistics
from adg.evaluation.statistics import Against
from adg.pools import records
from experiments.cells import Cell, cells
from experiments.compose import compose
from experiments.report import controls, sweep
from experiments.report.controls import FALSE_ALARM, NOT_RUN, NOT_SEEN, NOTHING, SEEN

pytestmark = pytest.mark.usefixtures("sections_in_common")

TASKS = ("bbh", "gsm8k", "mmlu", "truthfulqa_mc2", "mbpp", "humaneval")
ITEMS, ROWS = 60, 12
HARD = {"clean": 0.55, "corrupted": 0.3, "random": 0.45, "again": 0.45}  # share of items that are right
LOSS = {"clean": 1.8, "corrupted": 2.3, "random": 2.0, "again": 2.0}


@functools.cache
def composed() -> list[Cell]:
    return cells(["profile=smoke", "experiment=controls"])


def judged_by(estimand: str = "heldout_loss") -> list[Cell]:
    """The controls' cells, composed once, with another measure that decides."""
    named = [replace(cell.config, experiment=replace(cell.config.experiment, estimand=estimand)) for cell in composed()]
    return [replace(cell, config=config) for cell, config in zip(composed(), named, strict=True)]


@pytest.fixture
def finished(study: Any) -> Callable[..., list[Any]]:
    """The controls' cells with answers of models of a given strength: an item is right where the model's own draw, or
    one that all models share, is below the share of its kind. ``fault`` may change the scores of a cell."""

    def finish(
        right: Mapping[str, float] = HARD,
        loss: Mapping[str, float] = LOSS,
        fault: Callable[[str, str, list[float]], list[float]] = lambda choice, task, scores: scores,
        estimand: str = "heldout_loss",
    ) -> list[Cell]:
        chosen = judged_by(estimand)
        for cell in chosen:
            choice, seed = cell.config.experiment.choice, cell.config.seed
            scores = {}
            for task in TASKS:
                shared = seeds.generator(0, "item", task).random(ITEMS)
                own = seeds.generator(seed, "model", choice, task).random(ITEMS)
                alike = seeds.generator(0, "alike", task).random(ITEMS) < 0.7
                drawn = np.where(alike, shared, own) < right[choice]
                scores[task] = {task: fault(choice, task, drawn.astype(float).tolist())}
            study.finish(cell, scores)
            rows = seeds.generator(0, "rows").normal(0, 0.5, ROWS)
            noise = seeds.generator(seed, "noise", choice).normal(0, 0.05, ROWS)
            study.hold_out(cell, (rows + noise + loss[choice]).tolist())
        return chosen

    return finish


def verdicts(study: Any, chosen: list[Any]) -> list[str]:
    return [finding.verdict for finding in controls.findings(chosen, study.store)]


@pytest.mark.parametrize("estimand", ["heldout_loss", "avg", "gsm8k+mbpp", "mmlu"])
def test_what_is_there_is_seen_and_nothing_else(study: Any, finished: Any, estimand: str) -> None:
    chosen = finished(estimand=estimand)
    assert verdicts(study, chosen) == [SEEN, NOTHING]
    positive, negative = controls.findings(chosen, study.store)
    for finding in (positive, negative):
        entry = finding.measured[estimand]
        assert finding.seeds == 3 and entry.interval is not None and entry.smallest is not None
        assert set(finding.measured) == {*TASKS, "avg", "heldout_loss", estimand}
        assert f"p {entry.p:.4f}, 3 seeds" in finding.sentence and "could have seen" in finding.sentence
    assert positive.measured["heldout_loss"].difference == pytest.approx(0.5, abs=0.05)
    assert positive.measured["avg"].difference == pytest.approx(0.25, abs=0.05)
    assert abs(negative.measured[estimand].difference) < negative.measured[estimand].smallest
    (section,) = controls.sections(chosen, study.store, [])
    decides = [line for line in section.body if line[2] == "yes"]
    assert [line[-1] for line in decides] == [SEEN, NOTHING] and len(section.body) == 2 * len(positive.measured)
    assert section.brief == [positive.sentence, negative.sentence], "what a terminal shows"


def test_a_difference_the_other_way_round_is_not_what_must_be_seen(study: Any, finished: Any) -> None:
    assert verdicts(study, finished(loss={**LOSS, "clean": 2.3, "corrupted": 1.8})) == [NOT_SEEN, NOTHING]


def test_outputs_of_the_pool_shuffled_hide_the_positive_control(study: Any, finished: Any) -> None:
    """With all outputs exchanged behind the selector's back its clean rows are no better than the others."""
    same = {**LOSS, "clean": LOSS["corrupted"]}
    assert verdicts(study, finished(right={**HARD, "clean": HARD["corrupted"]}, loss=same)) == [NOT_SEEN, NOTHING]


def test_an_adapter_that_is_not_applied_hides_the_positive_control(study: Any, finished: Any) -> None:
    """All cells are then the untrained backbone: every item and every row alike."""
    chosen = judged_by()
    for cell in chosen:
        study.finish(cell, {task: {task: [float(i < 20) for i in range(ITEMS)]} for task in TASKS})
        study.hold_out(cell, [2.0 + i / 10 for i in range(ROWS)])
    assert verdicts(study, chosen) == [NOT_SEEN, NOTHING]
    assert controls.findings(chosen, study.store)[0].measured["heldout_loss"].p == 1.0


@pytest.mark.parametrize("task", ["mmlu", "mbpp"])
def test_permuted_labels_of_one_benchmark_hide_its_difference(study: Any, finished: Any, task: str) -> None:
    """Right is then whatever the permutation hits, whoever answers."""

    def permuted(choice: str, of: str, scores: list[float]) -> list[float]:
        if of != task:
            return scores
        return (seeds.generator(1, "labels", of).random(ITEMS) < 0.25).astype(float).tolist()

    assert verdicts(study, finished(fault=permuted, estimand=task)) == [NOT_SEEN, NOTHING]


def test_a_difference_between_two_draws_is_a_false_alarm(study: Any, finished: Any) -> None:
    chosen = finished(loss={**LOSS, "again": 2.6})
    assert verdicts(study, chosen) == [SEEN, FALSE_ALARM]


def test_what_was_not_measured_gives_no_verdict(study: Any, finished: Any) -> None:
    chosen = judged_by()
    assert verdicts(study, chosen) == [NOT_RUN, NOT_RUN]
    text = controls.sections(chosen, study.store, [])[0].text
    assert "oracle/clean rows is missing at pool" in text[1] and "not run" in text[2]
    finished()
    assert verdicts(study, [cell for cell in chosen if cell.config.experiment.choice != "again"]) == [SEEN, NOT_RUN]


def test_the_main_report_says_how_the_controls_came_out(study: Any, finished: Any) -> None:
    main = study.cells()
    assert (
        controls.note(main, study.store) == "controls: not run; make reproduce PROFILE=smoke ARGS=experiment=controls"
    )
    assert "controls: not run; make reproduce" in sweep.write(main, study.store)
    chosen = finished()
    sweep.write(chosen, study.store)
    said = f"controls: positive {SEEN}; negative {NOTHING}; ../smoke-controls/index.html"
    assert controls.note(main, study.store) == said
    assert said in sweep.write(main, study.store)
    page = (study.runs / "report" / "smoke-main" / "index.html").read_text(encoding="utf-8")
    assert '<a href="../smoke-controls/index.html">../smoke-controls/index.html</a>' in page
    table = (study.runs / "report" / "smoke-main" / "table.md").read_text(encoding="utf-8")
    assert "[../smoke-controls/index.html](../smoke-controls/index.html)" in table
    other = controls.note(study.cells("budget=5"), study.store)
    assert other == 'controls: not run; make reproduce PROFILE=smoke ARGS="experiment=controls budget=5"'


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("experiment.estimand=average", "expected avg, heldout_loss, or benchmarks"),
        ("experiment.estimand=gsm8k+avg", "experiment.estimand names 'avg'"),
        ("pool.heldout=0", "no row is held out; set pool.heldout"),
        ("selector=adg", "experiment=controls decides which selectors"),
    ],
)
def test_settings_that_cannot_be_judged_are_refused(override: str, said: str) -> None:
    with pytest.raises(BadInput, match=said):
        compose(["profile=smoke", "experiment=controls", override])


def test_the_cells_are_those_that_the_controls_speak_of(tmp_path: Any) -> None:
    chosen = cells(["profile=mini", "experiment=controls", f"exec.runs={tmp_path}"])
    assert len({cell.last.fingerprint for cell in chosen}) == len(chosen) == 12
    pools = {cell.config.experiment.choice: cell.nodes["pool"].fingerprint for cell in chosen}
    assert pools["clean"] == pools["corrupted"] != pools["random"] == pools["again"]
    store = Store(tmp_path, chosen[0].config.exec)
    corrupted, clean = (store.ensure(cell.nodes["pool"]) for cell in (chosen[0], chosen[-1]))
    assert len(records.load_corrupted(corrupted)) == 24 and records.load_corrupted(clean) == {}
    assert records.load_held_out(corrupted) == records.load_held_out(clean) != []


def test_intervals_and_false_alarms_of_such_differences_are_as_many_as_they_say() -> None:
    """The held-out losses of three seeds a side, whose models differ by training alone, 0.1 from seed to seed."""
    hits = alarms = 0
    for study in range(1000):
        draw = seeds.generator(study, "controls", "coverage")
        loss = draw.normal(0, 1, (1, 1, 32)) + draw.normal(0, 0.1, (2, 3, 1)) + draw.normal(0, 0.15, (2, 3, 32))
        found = statistics.compare({"loss": [loss[0]]}, draw, 400, against=Against({"loss": [loss[1]]}))["loss"]
        assert found.interval is not None and found.p is not None
        hits += found.interval.low <= 0 <= found.interval.high
        alarms += found.p <= 0.05
    assert 0.93 <= hits / 1000 <= 0.97 and 0.03 <= alarms / 1000 <= 0.07
