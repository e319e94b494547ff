"""Quota rules and the checks that no selector can skip."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adg.errors import BadInput, BadMeasurement
from adg.pools.records import Record
from adg.selection.contract import ScoreTable, Selector, SelectorData, make, select
from adg.selection.quotas import PARTS, across_strata, binwise, largest_remainder, top


def test_largest_remainder_by_hand() -> None:
    # shares of 5 over sizes 4, 3, 3: 2.0, 1.5, 1.5 -> the tie goes to the lower bin
    assert largest_remainder(np.array([4, 3, 3]), 5).tolist() == [2, 2, 1]
    assert largest_remainder(np.array([1, 1, 8]), 3).tolist() == [0, 0, 3]
    assert largest_remainder(np.array([2, 2]), 4).tolist() == [2, 2]


@given(st.lists(st.integers(1, 50), min_size=1, max_size=30), st.data())
def test_largest_remainder_properties(sizes: list[int], data: st.DataObject) -> None:
    budget = data.draw(st.integers(0, sum(sizes)))
    quotas = largest_remainder(np.array(sizes), budget)
    assert quotas.sum() == budget
    assert (quotas <= sizes).all() and (quotas >= 0).all()
    shares = np.array(sizes) * budget / sum(sizes)
    assert (np.abs(quotas - shares) < 1).all()


def test_binwise_by_hand() -> None:
    scores = np.array([0.1, 0.9, 0.5, 0.7, 0.3, 0.3])
    bins = np.array([0, 0, 0, 0, 1, 1])
    assert binwise(scores, bins, 3).tolist() == [1, 3, 4], "2 of bin 0, 1 of bin 1; the tie in bin 1 to the lower row"
    assert binwise(scores, bins, 3, part="bottom").tolist() == [2, 0, 5]
    assert binwise(scores, bins, 3, part="middle").tolist() == [3, 2, 4]


@settings(deadline=None)
@given(st.data())
def test_binwise_gives_every_budget_exactly(data: st.DataObject) -> None:
    n = data.draw(st.integers(1, 60))
    bins = np.array(data.draw(st.lists(st.integers(0, 8), min_size=n, max_size=n)))
    scores = np.array(data.draw(st.lists(st.sampled_from([0.0, 0.25, 0.5, 1.0]), min_size=n, max_size=n)))
    for part in PARTS:
        for budget in range(n + 1):
            rows = binwise(scores, bins, budget, part=part)
            assert len(rows) == len(set(rows.tolist())) == budget


def test_quotas_across_strata_by_hand() -> None:
    sizes = np.array([[3, 1, 0], [1, 1, 2], [2, 2, 0], [0, 1, 1]])
    # bin 0: shares 1.5 and 0.5 of 2, the tie goes to the lower stratum, which is then half a row ahead;
    # bin 1: 0.25, 0.25, 0.5 of 1, sums now -0.25, 0.75, 0.5: the second; bin 2: 0.5 and 0.5 of 1, sums 0.25, 0.25:
    # the first; bin 3: 0.5 and 0.5 of 1, sums of the others 0.75 and 1
    assert across_strata(sizes, np.array([2, 1, 1, 1])).tolist() == [[2, 0, 0], [0, 1, 0], [1, 0, 0], [0, 0, 1]]
    assert across_strata(sizes, sizes.sum(axis=1)).tolist() == sizes.tolist()
    one = np.array([[4, 3, 3]])
    assert across_strata(one, np.array([5])).tolist() == [largest_remainder(one[0], 5).tolist()]


def test_matched_choice_by_hand() -> None:
    scores = np.array([0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2])
    bins = np.array([0, 0, 0, 0, 1, 1, 1, 1])
    strata = np.array([0, 0, 0, 1, 1, 0, 1, 1])
    # two of each bin; of bin 0 stratum 0 holds 3 of 4 (share 1.5, taken up), of bin 1 stratum 1 does (share 1.5)
    assert binwise(scores, bins, 4).tolist() == [0, 1, 4, 5]
    assert binwise(scores, bins, 4, strata=strata).tolist() == [0, 1, 4, 6]
    assert binwise(scores, bins, 4, strata=strata, part="bottom").tolist() == [1, 2, 6, 7]
    assert binwise(scores, bins, 6, strata=strata).tolist() == [0, 1, 3, 5, 4, 6]


@settings(deadline=None, max_examples=200)
@given(st.data())
def test_matched_choice_keeps_the_quotas_of_bins_and_the_shares_of_strata(data: st.DataObject) -> None:
    n, many = data.draw(st.integers(1, 80)), data.draw(st.integers(2, 6))
    bins = np.array(data.draw(st.lists(st.integers(0, 8), min_size=n, max_size=n)))
    strata = np.array(data.draw(st.lists(st.integers(0, many - 1), min_size=n, max_size=n)))
    scores = np.array(data.draw(st.lists(st.sampled_from([0.0, 0.25, 0.5, 1.0]), min_size=n, max_size=n)))
    budget, part = data.draw(st.integers(0, n)), data.draw(st.sampled_from(PARTS))
    rows, plain = binwise(scores, bins, budget, part=part, strata=strata), binwise(scores, bins, budget, part=part)
    assert len(rows) == len(set(rows.tolist())) == budget
    np.testing.assert_array_equal(np.bincount(bins[rows], minlength=9), np.bincount(bins[plain], minlength=9))
    quotas, sizes = np.bincount(bins[rows], minlength=9), np.bincount(bins, minlength=9)
    due = np.zeros(many)
    for label in np.unique(bins):
        share = quotas[label] * np.bincount(strata[bins == label], minlength=many) / sizes[label]
        assert (np.abs(np.bincount(strata[rows[bins[rows] == label]], minlength=many) - share) < 1).all()
        due += share
    assert (np.abs(np.bincount(strata[rows], minlength=many) - due) < many).all()
    assert binwise(scores, bins, budget, part=part, strata=np.full(n, 3)).tolist() == plain.tolist()


def test_rounding_in_small_bins_does_not_move_the_strata() -> None:
    """A thousand bins with one row to give each: largest remainders alone would give all to the first stratum."""
    strata = np.tile([0, 0, 1, 1, 2], 1000)
    rows = binwise(np.linspace(1, 0, 5000), np.repeat(np.arange(1000), 5), 1000, strata=strata)
    assert np.bincount(strata[rows]).tolist() == [400, 400, 200]


def test_top_and_bottom_of_distinct_scores_do_not_meet() -> None:
    rng = np.random.default_rng(0)
    scores, bins = rng.random(200), rng.integers(0, 7, 200)
    high, low = binwise(scores, bins, 90), binwise(scores, bins, 90, part="bottom")
    assert not set(high.tolist()) & set(low.tolist())
    for label in range(7):
        members_high, members_low = high[bins[high] == label], low[bins[low] == label]
        assert scores[members_high].min() > scores[members_low].max()


def test_released_rule_matches_the_released_code(golden: Path) -> None:
    cases = json.loads((golden / "adg_selection.json").read_text())["cases"]
    for case in cases:
        scores = 0.6 * np.array(case["D"]) + 0.4 * np.array(case["I"])
        for part in PARTS:
            rows = binwise(scores, np.array(case["labels"]), case["final_count"], "released", part)
            assert rows.tolist() == case[part], (case["name"], part)


def test_released_rule_falls_short_and_small_bins_are_never_on_top() -> None:
    bins = np.array([0] * 10 + [1, 1] + [2] * 5)
    scores = np.linspace(0, 1, 17)
    rows = binwise(scores, bins, 12, "released")
    assert len(rows) == 4 and not set(rows.tolist()) & {10, 11}


def test_every_budget_over_real_instructions(shared_dir: Path) -> None:
    """52,002 rows: sampled budgets in each part, all exact."""
    import pyarrow.parquet as pq

    n = pq.read_metadata(shared_dir / "data/pools/alpaca.parquet").num_rows
    rng = np.random.default_rng(1)
    scores, bins = rng.random(n), rng.integers(0, 1000, n) ** 2 % 1000
    for budget in (1, 2, 999, 10_000, 25_000, n - 1, n):
        for part in PARTS:
            rows = binwise(scores, bins, budget, part=part)
            assert len(np.unique(rows)) == len(rows) == budget


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scores": np.array([0.1, np.nan, 0.2])}, "row 1 is not finite"),
        ({"bins": np.array([0, 1])}, r"shape \(3,\) and bins \(2,\)"),
        ({"budget": 4}, "budget 4 is outside"),
        ({"rule": "largest"}, "rule is 'largest'"),
        ({"part": "best"}, "part is 'best'"),
        ({"strata": np.zeros(2, int)}, r"strata have shape \(2,\)"),
        ({"strata": np.zeros(3, int), "rule": "released"}, "rule released; expected"),
    ],
)
def test_binwise_refuses(change: dict, message: str) -> None:
    arguments = {"scores": np.array([0.1, 0.3, 0.2]), "bins": np.zeros(3, int), "budget": 2, **change}
    with pytest.raises((BadInput, BadMeasurement), match=message):
        binwise(**arguments)


def test_top_breaks_ties_by_row() -> None:
    assert top(np.array([1.0, 2.0, 2.0, np.nan]), np.array([True, True, True, False]), 2).tolist() == [1, 2]


# -- the checks around a selector ------------------------------------------------------------------------


@dataclass(frozen=True)
class ToyConfig:
    rows: tuple[int, ...] = (0, 1)


class Toy(Selector):
    name = "toy"
    Config = ToyConfig

    def scores(self, data: SelectorData) -> ScoreTable:
        return ScoreTable(np.arange(len(data.records), dtype=float))

    def choose(self, data: SelectorData, table: ScoreTable, budget: int) -> np.ndarray:
        return np.array(self.config.rows)


DATA = SelectorData([Record(i, f"do {i}", "", f"done {i}") for i in range(4)])


@pytest.mark.parametrize(
    ("rows", "message"),
    [((0,), "returned 1 of 2"), ((0, 0), "1 distinct"), ((0, 4), "outside the pool"), ((0, 1, 2), "returned 3 of 2")],
)
def test_a_selector_that_breaks_the_contract_is_caught(rows: tuple[int, ...], message: str) -> None:
    selector = Toy(ToyConfig(rows))
    with pytest.raises(BadMeasurement, match=message):
        select(selector, DATA, selector.scores(DATA), 2)


def test_invalid_rows_are_never_selected_and_are_counted() -> None:
    selector = Toy(ToyConfig((0, 1)))
    table = ScoreTable(np.array([np.nan, 1.0, 2.0, 3.0]), invalid={0: "empty output"})
    with pytest.raises(BadMeasurement, match=r"without a score|outside the pool"):
        select(selector, DATA, table, 2)
    with pytest.raises(BadInput, match=r"only 3 of 4 records have a score \(1 x empty output\)"):
        select(selector, DATA, table, 4)


@pytest.mark.parametrize(
    "table",
    [
        ScoreTable(np.array([np.nan, 1.0, 2.0, 3.0])),
        ScoreTable(np.array([0.0, 1.0, 2.0, 3.0]), invalid={0: "failed"}),
        ScoreTable(np.array([0.0, 1.0, 2.0])),
        ScoreTable(np.arange(4.0), parts={"d": np.zeros(3)}),
    ],
)
def test_a_missing_score_never_passes_as_a_number(table: ScoreTable) -> None:
    with pytest.raises(BadMeasurement):
        table.check(4)


@pytest.mark.parametrize("budget", [0, -1, 5])
def test_budgets_outside_the_pool_are_refused(budget: int) -> None:
    selector = Toy(ToyConfig())
    with pytest.raises(BadInput, match="the pool holds 4"):
        select(selector, DATA, selector.scores(DATA), budget)


def test_unknown_selectors_and_options_name_the_nearest() -> None:
    with pytest.raises(BadInput, match="did you mean 'toy'"):
        make({"toy": Toy}, {"name": "toys"})
    with pytest.raises(BadInput, match=r"no option 'row' \(did you mean 'rows'\?\)"):
        make({"toy": Toy}, {"name": "toy", "row": 1})
