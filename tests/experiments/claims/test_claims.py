"""Verdicts of a study: planted differences are seen, missing cells are said, a fault changes the verdict."""

from __future__ import annotations

import csv
import io
import math
import statistics
import sys
from collections.abc import Callable
from typing import Any

import pytest

from adg.evaluation import power
from experiments import compare
from experiments.claims import __main__ as command
from experiments.claims import effects, page, rules
from experiments.report import repeated, rows

pytestmark = pytest.mark.usefixtures("sections_in_common")

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
        assert effect.seeds == (1, 1) and len(effect.cells) == 2
    assert found.verdict == "supports at this scale" and found.weakest is found.effects[0]
    assert "budget 8" in found.fidelity["scaled down"]


@pytest.mark.parametrize(("dead", "verdict"), [(2, "contradicts at this scale"), (3, "inconclusive")])
@pytest.mark.parametrize("score", [0.0, 1.0])
def test_where_benchmarks_cannot_move_nothing_is_judged(study: Any, dead: int, verdict: str, score: float) -> None:
    chosen = study.cells("selector=random,all,adg")
    for cell in chosen:
        of = scores(0.5 if cell.config.selector["name"] == "adg" else 0.6)
        still = {task: {task: [score] * ITEMS} for task in TASKS[:dead]}
        study.finish(cell, {**of, **still})
    found = judged(study, chosen)
    assert found.verdict == verdict
    assert [effect.unseen != "" for effect in found.effects] == [dead == 3] * 2
    if dead == 3:
        assert "every item of BBH, GSM8K, MMLU scores alike" in " ".join(page.sections(chosen, study.store)[0].text)


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


SEEDS = {"untrained": 0.2, "random": 0.5, "longest": 0.52, "adg": 0.6}


def seeded(study: Any, *overrides: str) -> list[Any]:
    """Untrained and longest at one seed, random and ADG at three, all finished."""
    chosen = study.cells(f"selector={','.join(SEEDS)}", "seeds=3", *overrides)
    for place, cell in enumerate(chosen):
        study.finish(cell, scores(SEEDS[str(cell.config.selector["name"])] + 0.01 * (place % 3), 7 * place))
    return list(chosen)


def test_a_difference_is_the_same_in_claims_table_and_comparison(study: Any) -> None:
    """Three seeds against the same three, against one, and against a model that was not trained."""
    chosen = seeded(study)
    table, _ = repeated.table_rows(chosen, [rows.row(cell, study.store) for cell in chosen], study.store)
    (shown,) = [row for row in table if row.selector == "adg"]
    held = {pairing.theirs: pairing for pairing in compare.pairings(chosen, study.store)}
    claimed = effects.estimate(BY_ID["C1"], chosen, study.store, RULE)
    assert [effect.label.rsplit("/")[-1] for effect in claimed] == ["random", "longest"]
    assert [effect.seeds for effect in claimed] == [(3, 3), (3, 1)]
    for effect in claimed:
        entry = held[effect.label.rsplit("/")[-1]].tasks["avg"]
        assert (effect.value, effect.low, effect.high) == pytest.approx(
            [100 * x for x in (entry.difference, *entry.interval)]
        )
        assert effect.smallest == pytest.approx(100 * entry.smallest)
    for other in ("random", "untrained"):
        assert shown.differences[other] == held[other].tasks["avg"], "value, interval and p to the last digit"
    assert page._seeds(claimed[1]) == "3 against 1" and page._seeds(claimed[0]) == "3"
    ends = [line.split(": ", 1)[1] for line in compare.render([*held.values()]).splitlines() if " against " in line]
    assert ends[1:] == ["adg against random (3 seeds)", "adg against longest (3 seeds against 1)"]


def test_the_smallest_visible_effect_of_few_seeds_is_that_of_their_test(study: Any) -> None:
    """All items of a seed score alike, so that seeds are all that varies: Student's test sees it in 80 % of studies."""
    for count, values in ((2, (0.5, 0.54)), (3, (0.5, 0.54, 0.49))):
        chosen = study.cells("selector=random,adg", f"seeds={count}", f"seed={100 * count}")
        for cell in chosen:
            ours = values[cell.config.seed % 100] if cell.config.selector["name"] == "adg" else 0.3
            study.finish(cell, {task: {task: [ours] * 40} for task in TASKS})
        (effect,) = effects.estimate(BY_ID["C1"], chosen, study.store, RULE)
        spread = 100 * statistics.stdev(values) / math.sqrt(2)  # ``seen`` takes both arms to vary
        assert power.seen(effect.smallest, spread, count) == pytest.approx(RULE.power, abs=0.01)


def test_a_missing_seed_is_counted_and_no_verdict_is_given(study: Any) -> None:
    chosen = study.cells("selector=random,all,adg", "seeds=3")
    for cell in chosen:
        if cell.config.selector["name"] != "adg" or cell.config.seed != 43:
            study.finish(cell, scores(0.5))
    found = judged(study, chosen)
    assert found.verdict == "not run"
    assert {effect.missing for effect in found.effects} == {
        "tiny_random/mini_general/adg/seed=43 is missing at answers (2 of 3 seeds are done)"
    }
    (held, *_) = compare.pairings(chosen, study.store)
    assert held.reason == found.effects[0].missing and not held.refused


def labels(claim: str, chosen: Any) -> list[str]:
    return [f"{ours[0].family} against {theirs[0].family}" for ours, theirs in effects.pairs(BY_ID[claim], chosen)]


def test_pairs_differ_in_nothing_else(study: Any) -> None:
    chosen = study.cells("experiment=budget")
    names = labels("C7", chosen)
    assert len(names) == 4, "two budgets against two selectors"
    for name in names:
        ours, theirs = name.split(" against ")
        assert ours.split("budget=")[1] == theirs.split("budget=")[1]
    flat = labels("C7b", study.cells("experiment=budget", "budget=4,8,16"))
    assert flat == ["tiny_random/mini_general/adg/budget=16 against tiny_random/mini_general/adg/budget=8"]
    swept = study.cells("experiment=answers", "seed=1,2")
    pairs = list(effects.pairs(BY_ID["C6"], swept))
    assert len(pairs) == 3 and all(len(side) == 2 for pair in pairs for side in pair), "seeds are no pairs"
    three = [f"{key}=smollm2_135m,smollm2_qwen2,tiny_random" for key in ("backbone", "backbone@selecting")]
    transfer = list(effects.pairs(BY_ID["C8"], study.cells("experiment=cross_backbone", *three)))
    assert len(transfer) == 6 and all(len(ours) == len(theirs) == 1 for ours, theirs in transfer)


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
    (brief,) = section.brief
    assert brief.startswith("claims: ") and all(f"{row[0]}" in brief and row[-2] in brief for row in section.body)
    assert page.sections(study.cells("experiment=stability"), study.store) == []


def test_the_command_prints_every_claim(
    study: Any, finished: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    finished(random=0.5, all=0.45, adg=0.6)
    selectors = "selector=untrained,random,all,adg"  # not for all experiments of the claims
    monkeypatch.setattr(sys, "argv", ["x", "profile=smoke", selectors, f"exec.runs={study.runs}"])
    command.main()
    shown = capsys.readouterr().out
    assert all(f"\n{claim.id} " in shown for claim in CLAIMS) and "needs hours" not in shown.split("C10")[0]
    assert "points, 95 % interval [+" in shown and " over 1 seed and 2,400 items, smallest visible " in shown
    assert "\ntask_types: selector=untrained selects nothing" in shown
    assert "NOT RUN" in shown and "No interval" not in shown and "reproduced" not in shown.split("Rule ")[0].lower()
    rows = list(csv.DictReader(io.StringIO((study.runs / "report" / "smoke-claims.csv").read_text(encoding="utf-8"))))
    assert [row["claim"] for row in rows] == [claim.id for claim in CLAIMS]
