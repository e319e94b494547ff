"""Rows of several seeds, differences with interval and corrected p: by hand, simulated, and with a seed missing."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from adg import seeds
from adg.errors import BadInput
from adg.evaluation import statistics
from adg.evaluation.statistics import Against
from experiments.report import as_csv, as_html, as_markdown, as_terminal, repeated, rows, sweep
from experiments.report.table import Table

pytestmark = pytest.mark.usefixtures("sections_in_common")

TASKS = ("bbh", "gsm8k", "mmlu", "truthfulqa_mc2", "mbpp", "humaneval")
Scores = dict[str, dict[str, list[float]]]


def right(counts: list[int], items: int = 20, shift: int = 0) -> Scores:
    """Six tasks of which so many items are right, in the order of the tasks."""
    return {
        task: {task: [float((i + shift) % items < count) for i in range(items)]}
        for task, count in zip(TASKS, counts, strict=True)
    }


@pytest.fixture
def shown(study: Any) -> Callable[..., Table]:
    """The table of these cells; a cell without scores stays missing."""

    def table(scores: dict[str, Scores], *overrides: str) -> Table:
        chosen = study.cells(*overrides)
        for cell in chosen:
            name = cell.name.removeprefix("tiny_random/mini_general/").removeprefix("tiny_random/")
            if name in scores:
                study.finish(cell, scores[name])
        every = [rows.row(cell, study.store) for cell in chosen]
        found, sections = repeated.table_rows(chosen, every, study.store)
        return Table("Main table", "smoke", "smoke: says nothing", found, sections=sections, cells=every)

    return table


STUDY = ("selector=untrained,random,longest,adg", "seeds=3")
SCORES = {
    "untrained": right([4] * 6),
    "random": right([8] * 6, shift=3),
    "random/seed=43": right([10] * 6, shift=3),
    "random/seed=44": right([9] * 6, shift=3),
    "longest": right([9] * 6, shift=5),
    "adg": right([12, 10, 12, 12, 12, 12], shift=7),
    "adg/seed=43": right([14, 12, 12, 12, 12, 12], shift=7),
    "adg/seed=44": right([13, 11, 12, 12, 12, 12], shift=7),
}


def lines(table: Table) -> dict[str, dict[str, str]]:
    return {row["selector"]: row for row in csv.DictReader(io.StringIO(as_csv.comma_separated(table)))}


def test_means_over_seeds_and_items_by_hand(shown: Callable[..., Table]) -> None:
    found = lines(shown(SCORES, *STUDY))
    assert list(found) == ["untrained", "random", "longest", "adg"]
    adg = found["adg"]
    # BBH: 12, 14 and 13 of 20; GSM8K: 10, 12 and 11 of 20; the rest 12 of 20
    assert (adg["bbh"], adg["gsm8k"], adg["mmlu"]) == ("65.0000", "55.0000", "60.0000")
    assert (adg["reasoning"], adg["knowledge"], adg["coding"], adg["avg"]) == ("60.0000",) * 4
    assert (adg["seeds"], adg["seeds_done"], adg["seeds_of"]) == ("seed 42, 43, 44", "3", "3")
    assert (found["random"]["avg"], found["longest"]["seeds_of"]) == ("45.0000", "")
    # 60 - 45, 60 - 20, 45 - 45
    assert (adg["to_random"], adg["to_untrained"], found["longest"]["to_random"]) == ("15.0000", "40.0000", "0.0000")
    for row, other in ((adg, "random"), (adg, "untrained"), (found["longest"], "random")):
        low, value, high = (float(row[f"to_{other}{end}"]) for end in ("_low", "", "_high"))
        assert low < value < high
    assert [found[name]["to_random_holm_over"] for name in found] == ["3", "", "3", "3"]
    assert [found[name]["to_untrained_holm_over"] for name in found] == ["", "3", "3", "3"]


def test_holm_over_the_rows_of_a_block(shown: Callable[..., Table]) -> None:
    found = lines(shown(SCORES, *STUDY))
    plain = [float(found[name]["to_untrained_p"]) for name in ("random", "longest", "adg")]
    expected = statistics.holm(plain)
    assert [float(found[n]["to_untrained_p_holm"]) for n in ("random", "longest", "adg")] == pytest.approx(
        expected, abs=1e-4
    )
    assert expected != plain


def test_every_form_shows_seeds_intervals_and_corrected_p(shown: Callable[..., Table]) -> None:
    table = shown(SCORES, *STUDY)
    markdown, page, terminal = as_markdown.markdown(table), as_html.page(table), as_terminal.terminal(table)
    for text in (markdown, page, terminal):
        assert "adg (3 seeds)" in text and "longest (" not in text and "+15.00" in text and "8 cells: 8 done" in text
    assert "| +15.00 [" in markdown and " p 0." in markdown and "## Each seed" in markdown and "Holm" in markdown
    assert '<td class="score">+15.00<small>[' in page and "<h2>Each seed</h2>" in page
    second = terminal.split("Average against")[1]
    (line,) = [line for line in second.splitlines() if line.startswith("  adg (3 seeds)")]
    assert "+15.00 [" in line and "+40.00 [" in line and line.count(" p 0.") == 2
    assert max(map(len, terminal.splitlines())) <= as_terminal.WIDTH
    (each,) = table.sections
    assert [row[2:5] for row in each.body][:2] == [["random", "42", "done"], ["random", "43", "done"]]
    assert [row[-1] for row in each.body] == ["40.00", "50.00", "45.00", "58.33", "61.67", "60.00"]


def test_a_missing_seed_is_counted_and_never_averaged_over_in_silence(shown: Callable[..., Table]) -> None:
    table = shown({name: scores for name, scores in SCORES.items() if name != "adg/seed=43"}, *STUDY)
    adg = lines(table)["adg"]
    assert (adg["seeds_done"], adg["seeds_of"], adg["bbh"]) == ("2", "3", "62.5000")  # of 12 and 13
    for text in (as_markdown.markdown(table), as_html.page(table), as_terminal.terminal(table)):
        assert "adg (2 of 3 seeds)" in text and "8 cells: 7 done, 1 missing" in text
    assert "tiny_random / mini_general / adg: 2 of 3 seeds, without 43." in table.sections[0].text
    between_means = (58.3333 + 60) / 2 - 45
    assert float(adg["to_random"]) == pytest.approx(between_means, abs=1e-3)
    none = lines(shown({}, STUDY[0], "seeds=[50,51,52]"))["adg"]
    assert none["state"] == "missing" and "none of 3 seeds" in none["reason"] and none["avg"] == "missing"


def test_seeds_that_did_not_answer_the_same_items_are_no_mean(study: Any) -> None:
    chosen = study.cells("selector=adg", "seeds=2")
    study.finish(chosen[0], right([5] * 6))
    study.finish(chosen[1], right([5] * 6), prompt="Other")
    every = [rows.row(cell, study.store) for cell in chosen]
    ((row,), _) = repeated.table_rows(chosen, every, study.store)
    assert row.state == "failed" and "items_hash of bbh" in row.reason and row.results is None


def test_the_report_writes_each_seed_as_a_file(study: Any) -> None:
    chosen = study.cells("selector=random", "seeds=2")
    for cell in chosen:
        study.finish(cell, right([5] * 6))
    text = sweep.write(chosen, study.store)
    assert "random (2 seeds)" in text and "seeds.csv" in text
    (written,) = (study.runs / "report").glob("*/seeds.csv")
    assert [row["seed"] for row in csv.DictReader(written.open())] == ["42", "43"]


def test_other_items_cannot_be_held_against_each_other() -> None:
    draw = seeds.generator(0, "test")
    with pytest.raises(BadInput, match="other tasks or items"):
        statistics.compare({"own": [np.zeros((2, 5))]}, draw, 10, against=Against({"own": [np.zeros((1, 6))]}))


# -- coverage on simulated cells, whose expected scores are known ---------------------------------------

STUDIES, RESAMPLES = 800, 300
HARD = 0.3  # between items


def simulated(draw: np.random.Generator, base: float, spread: float, trainings: int, hard: np.ndarray) -> np.ndarray:
    """Right and wrong answers, (studies, trainings, items), whose expected mean is ``base``; 0: not trained."""
    varied = draw.normal(0, spread, (STUDIES, trainings, 1)) if trainings else np.zeros((STUDIES, 1, 1))
    chance = np.clip(base + hard + varied, 0, 1)
    return np.asarray(draw.random(chance.shape) < chance, float)


def covered(intervals: list[statistics.Interval | None], truth: float) -> float:
    return float(np.mean([found is not None and found.low <= truth <= found.high for found in intervals]))


def each(scores: np.ndarray) -> dict[str, list[np.ndarray]]:
    """Every study as a task, so that one call makes the intervals of all."""
    return {str(i): [of] for i, of in enumerate(scores)}


MEANS = [(2, 0.01, 72), (3, 0.0, 72), (3, 0.02, 600), (5, 0.01, 72)]  # trainings, spread between them, items


@pytest.mark.parametrize(("trainings", "spread", "items"), MEANS)
def test_the_interval_of_a_mean_over_seeds_covers_what_it_says(trainings: int, spread: float, items: int) -> None:
    """Two seeds may be covered more often."""
    draw = seeds.generator(0, "test", "mean", trainings, items, str(spread))
    scores = simulated(draw, 0.5, spread, trainings, draw.uniform(-HARD, HARD, (STUDIES, 1, items)))
    found = statistics.resample(each(scores), draw, RESAMPLES)
    share = covered([found[name].interval for name in each(scores)], 0.5)
    assert 0.93 <= share <= (0.97 if trainings > 2 else 1)


DIFFERENCES = [
    *((3, 3, True, spread, 72) for spread in (0.0, 0.02)),
    *((3, 3, False, spread, 72) for spread in (0.0, 0.01, 0.02)),
    *((3, 1, False, spread, 72) for spread in (0.0, 0.01, 0.02)),
    *((3, 3, False, 0.02, 600), (3, 1, False, 0.02, 600)),
    *((3, 0, False, 0.01, 72), (2, 1, False, 0.01, 72)),
]  # trainings of either side (0: not trained), the same seeds or others, spread, items (six tasks of 12 or 100)


@pytest.mark.parametrize(("ours", "theirs", "paired", "spread", "items"), DIFFERENCES)
def test_the_interval_of_a_difference_covers_what_it_says(
    ours: int, theirs: int, paired: bool, spread: float, items: int
) -> None:
    """Of three seeds against the same three (paired), three others, one, and a model that was not trained; of two
    against one, which may be covered more often."""
    draw = seeds.generator(0, "test", "difference", ours, theirs, str(paired), items, str(spread))
    hard = draw.uniform(-HARD, HARD, (STUDIES, 1, items))
    scores = simulated(draw, 0.55, spread, ours, hard)
    other = simulated(draw, 0.5, spread, theirs, hard)
    against = None if paired else Against(each(other), fixed=not theirs)
    found = statistics.compare(each(scores - other if paired else scores), draw, RESAMPLES, against=against)
    share = covered([found[name].interval for name in each(scores)], 0.05)
    assert 0.93 <= share <= (0.97 if ours > 2 else 1)
