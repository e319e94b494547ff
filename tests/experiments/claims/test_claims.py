"""Verdicts of a study: planted differences are seen, missing cells are said, a fault changes the verdict."""

from __future__ import annotations

import csv
import io
import sys
from collections.abc import Callable
from typing import Any

import pytest

from experiments.claims import __main__ as command
from experiments.claims import effects, page, rules

TASKS = ("bbh", "gsm8k", "mmlu", "truthfulqa_mc2", "mbpp", "humaneval")
RULE, CLAIMS, DIGEST = rules.load()
BY_ID = {claim.id: claim for claim in CLAIMS}
ITEMS = 400


def scores(right: float, shift: int = 0) -> dict[str, dict[str, list[float]]]:
    """Six tasks of which a share is right; ``shift`` says which items."""
    count = round(right * ITEMS)
    return {task: {task: [float((i + shift) % ITEMS < count) for i in range(ITEMS)]} for task in TASKS}


@pytest.fixture
def finished(study: Any) -> Callable[..., list[Any]]:
    """Cells of random, all and ADG with the given shares of right answers."""

    def finish(**shares: float) -> list[Any]:
        chosen = study.cells(f"selector={','.join(['random', 'all', 'adg'])}")
        for place, cell in enumerate(chosen):
            share = shares.get(str(cell.config.selector["name"]))
            if share is not None:
                study.finish(cell, scores(share, 7 * place))
        return chosen

    return finish


def judged(study: Any, chosen: Any, claim: str = "C3") -> page.Judged:
    return page.judged(BY_ID[claim], chosen, study.store, RULE)


def test_a_planted_difference_is_seen_with_its_interval(study: Any, finished: Any) -> None:
    found = judged(study, finished(random=0.5, all=0.45, adg=0.6))
    assert [effect.value for effect in found.effects] == pytest.approx([10.0, 15.0])
    for effect in found.effects:
        assert effect.low < effect.lower < effect.value < effect.high and effect.items == 6 * ITEMS
        assert effect.seeds == 1 and len(effect.cells) == 2
    assert found.verdict == "supports at this scale" and found.weakest is found.effects[0]
    assert "budget 8" in found.fidelity["scaled down"]


def test_permuted_labels_change_the_verdict(study: Any, finished: Any) -> None:
    assert judged(study, finished(random=0.6, all=0.6, adg=0.5)).verdict == "contradicts at this scale"


def test_a_missing_cell_is_not_run_and_named(study: Any, finished: Any) -> None:
    chosen = finished(random=0.5, adg=0.6)
    found = judged(study, chosen)
    assert found.verdict == "not run"
    assert [bool(effect.missing) for effect in found.effects] == [False, True]
    assert "tiny_random/mini_general/all is missing" in found.effects[1].missing
    text = page.table([found], RULE, DIGEST).text
    assert any("C3: 1 of 2 differences are missing" in line for line in text)


def test_categories_are_compared_one_by_one(study: Any, finished: Any) -> None:
    found = judged(study, finished(random=0.5, all=0.45, adg=0.6), "C2")
    assert len(found.effects) == 6 and found.effects[0].label.startswith("reasoning: ")
    assert all(effect.items == 2 * ITEMS for effect in found.effects)


def test_pairs_differ_in_nothing_else(study: Any) -> None:
    chosen = study.cells("experiment=budget")
    names = [label for label, _ in effects.pairs(BY_ID["C7"], chosen)]
    assert len(names) == 4, "two budgets against two selectors"
    for name in names:
        ours, theirs = name.split(" against ")
        assert ours.split("budget=")[1] == theirs.split("budget=")[1]
    flat = [label for label, _ in effects.pairs(BY_ID["C7b"], study.cells("experiment=budget", "budget=4,8,16"))]
    assert flat == ["tiny_random/mini_general/adg/budget=16 against tiny_random/mini_general/adg/budget=8"]
    swept = study.cells("experiment=answers", "seed=1,2")
    pairs = list(effects.pairs(BY_ID["C6"], swept))
    assert len(pairs) == 3 and all(len(matched) == 2 for _, matched in pairs), "seeds are paired, not compared"


def test_every_experiment_gives_its_claims_their_pairs(study: Any) -> None:
    for claim in CLAIMS:
        if claim.pairs and claim.experiment != "chinese":
            wide = ["backbone=smollm2_135m,smollm2_qwen2", "backbone@selecting=smollm2_135m,smollm2_qwen2"]
            more = wide if claim.experiment == "cross_backbone" else []
            if claim.id in ("C1", "C2", "C3"):
                more = ["selector=all,random,adg"]
            assert list(effects.pairs(claim, study.cells(f"experiment={claim.experiment}", *more))), claim.id


def test_the_section_stands_first_and_says_what_rule_it_used(study: Any, finished: Any) -> None:
    chosen = finished(random=0.5, all=0.45, adg=0.6)
    (section,) = page.sections(chosen, study.store)
    assert section.name == "claims" and DIGEST[:12] in section.text[0]
    assert [row[0] for row in section.body] == ["C1", "C2", "C3"]
    assert page.sections(study.cells("experiment=stability"), study.store) == []


def test_the_command_prints_every_claim(
    study: Any, finished: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    finished(random=0.5, all=0.45, adg=0.6)
    monkeypatch.setattr(sys, "argv", ["x", "profile=smoke", f"exec.runs={study.runs}"])
    command.main()
    shown = capsys.readouterr().out
    assert all(f"\n{claim.id} " in shown for claim in CLAIMS) and "needs hours" not in shown.split("C10")[0]
    assert "NOT RUN" in shown and "reproduced" not in shown.split("Rule ")[0].lower()
    rows = list(csv.DictReader(io.StringIO((study.runs / "report" / "smoke-claims.csv").read_text(encoding="utf-8"))))
    assert [row["claim"] for row in rows] == [claim.id for claim in CLAIMS]
