"""The time that a sweep still takes: by stage, shared artifacts once, measured before assumed."""

from __future__ import annotations

from typing import Any

import pytest

from experiments import remaining

RIGHT = {task: {task: [1.0, 0.0]} for task in ("bbh", "gsm8k", "mmlu", "truthfulqa_mc2", "mbpp", "humaneval")}


@pytest.fixture
def sweep(study: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.delenv(remaining.FILE, raising=False)
    chosen = study.cells("selector=random,longest", "+profile.minutes.adapter=3", "+profile.minutes.eval=2")
    return chosen


def minutes(chosen: Any, number: int = 0, at_once: int = 1) -> float:
    found = remaining.seconds(number, at_once)
    assert found is not None
    return found / 60


def test_without_a_sweep_nothing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(remaining.FILE, raising=False)
    assert remaining.seconds(0, 1) is None


def test_what_cells_share_counts_once_and_what_is_finished_by_its_own_seconds(study: Any, sweep: Any) -> None:
    remaining.write_down(sweep, study.store)
    assumed = sweep[0].config.profile.minutes
    apart, shared = ("scores", "subset", "adapter", "eval", "heldout"), ("pool", "backbone")
    whole = sum(2 * assumed.get(stage, 0.0) for stage in apart) + sum(assumed.get(stage, 0.0) for stage in shared)
    assert minutes(sweep) == pytest.approx(whole)
    assert minutes(sweep, at_once=2) == pytest.approx(whole / 2)
    study.finish(sweep[0], RIGHT)  # in next to no time, and all that it needs
    left = minutes(sweep, number=1)
    assert left < 0.1 + assumed.get("heldout", 0.0), "the other cell takes what the first one took"


def test_what_is_finished_tells_how_long_other_stages_take(
    study: Any, sweep: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three minutes were assumed for a training and two for an evaluation; the first training took twelve."""
    remaining.write_down(sweep, study.store)
    assumed = sweep[0].config.profile.minutes
    seconds = {sweep[0].nodes["adapter"].folder: 720.0}
    monkeypatch.setattr(remaining, "_taken", lambda folder: seconds.get("/".join(folder.parts[-2:])))
    others = ("pool", "backbone", "scores", "scores", "subset", "subset", "heldout", "heldout", "eval", "eval")
    expected = 12 + 4 * sum(assumed.get(stage, 0.0) for stage in others)
    assert minutes(sweep) == pytest.approx(expected)
    quick = {sweep[0].nodes["pool"].folder: 999.0}
    seconds.clear(), seconds.update(quick)
    whole = sum(
        assumed.get(node.stage.name, 0.0) for node in {n.folder: n for c in sweep for n in c.nodes.values()}.values()
    )
    assert minutes(sweep) == pytest.approx(whole - assumed.get("pool", 0.0)), "a stage of no weight tells nothing"


def test_cells_that_came_before_are_not_waited_for(study: Any, sweep: Any) -> None:
    remaining.write_down(sweep, study.store)
    assert minutes(sweep, number=1) < minutes(sweep, number=0)
