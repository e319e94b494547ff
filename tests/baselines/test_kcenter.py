"""K-center: points worked by hand, groups against every distance in every step, copies, order, the first centre."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adg.errors import BadInput
from adg.pools.records import Record
from adg.selection.contract import SelectorData, select
from baselines import kcenter
from baselines.kcenter import Kcenter, KcenterConfig, farthest_first


def exhaustive(points: np.ndarray, budget: int, first: list[int]) -> list[int]:
    """Every distance to every chosen row in every step; the lowest row wins, and copies of chosen rows come last."""
    points, out = points.astype(np.float64), list(first)
    matrix = ((points[:, None] - points[None]) ** 2).sum(axis=2)
    while len(out) < budget:
        nearest = matrix[:, out].min(axis=1)
        nearest[out] = -1
        out.append(int(np.argmax(nearest)))
    return out


def test_a_line_by_hand() -> None:
    line = np.array([[0.0], [1.0], [2.0], [6.0], [10.0]])
    assert farthest_first(line, 5, [0]).tolist() == [0, 4, 3, 2, 1], "10 is farthest from 0, then 6 is 4 from 10"
    assert farthest_first(line, 3, [2]).tolist() == [2, 4, 3]


def test_ties_go_to_the_lowest_row_and_copies_come_last() -> None:
    points = np.array([[0, 0], [1, 0], [-1, 0], [0, 1], [1, 0], [0, 0]], dtype=np.float32)
    assert farthest_first(points, 6, [0]).tolist() == [0, 1, 2, 3, 4, 5]
    assert farthest_first(points, 6, [5]).tolist() == [5, 1, 2, 3, 0, 4]


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_groups_equal_exhaustive_on_a_grid_with_copies(data: st.DataObject) -> None:
    n = data.draw(st.integers(1, 25))
    value = st.integers(-3, 3)
    points = np.array(data.draw(st.lists(st.lists(value, min_size=2, max_size=2), min_size=n, max_size=n)))
    budget = data.draw(st.integers(1, n))
    first = [data.draw(st.integers(0, n - 1))]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kcenter, "GROUP", data.draw(st.sampled_from([1, 4, 50])))
        assert farthest_first(points, budget, first).tolist() == exhaustive(points, budget, first)


@pytest.mark.parametrize("group", [1, 7, 100])
def test_groups_equal_exhaustive(group: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kcenter, "GROUP", group)
    monkeypatch.setattr(kcenter, "CHUNK", 64)
    rng = np.random.default_rng(4)
    points = rng.normal(size=(300, 12)).astype(np.float32)
    points[200:240] = points[:40]
    assert farthest_first(points, 280, [7, 3]).tolist() == exhaustive(points, 280, [7, 3])


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 10_000))
def test_permuting_the_rows_permutes_the_choice(seed: int) -> None:
    rng = np.random.default_rng(seed)
    points, order = rng.normal(size=(90, 5)), rng.permutation(90)
    place = np.argsort(order)
    assert order[farthest_first(points[order], 30, [int(place[11])])].tolist() == (
        farthest_first(points, 30, [11]).tolist()
    )


@pytest.mark.parametrize(("budget", "first"), [(0, []), (3, [0]), (1, [0, 1]), (2, [0, 0])])
def test_impossible_demands_are_refused(budget: int, first: list[int]) -> None:
    with pytest.raises(BadInput, match="expected 1 <= first <= budget <= n"):
        farthest_first(np.eye(2), budget, first)


def chosen(data: SelectorData, budget: int, **options: object) -> list:
    selector = Kcenter(KcenterConfig(vectors="backbone", **options))
    return [data.records[i].id for i in select(selector, data, selector.scores(data), budget)]


def test_the_first_is_nearest_to_the_mean_and_a_record_without_a_vector_is_invalid(embedded: Callable) -> None:
    data = embedded([[1, 0.1], [0, 0], [1, 1], [1, 1], [0.1, 1]])
    table = Kcenter(KcenterConfig(vectors="backbone")).scores(data)
    assert table.invalid == {1: "its text is empty"} and table.score[2] == table.score[3]
    assert chosen(data, 1) == [2], "2 and 3 tie"
    assert chosen(data, 4) == [2, 0, 4, 3]
    with pytest.raises(BadInput, match=r"only 4 of 5 records have a score \(1 x its text is empty\)"):
        chosen(data, 5)


def test_random_records_first_by_seed_and_id(embedded: Callable) -> None:
    points = np.random.default_rng(1).normal(size=(40, 6))
    pool = [Record(i, "q", "", "a") for i in range(40)]
    data = embedded(points, pool)
    ids = chosen(data, 12, start=10)
    assert chosen(data, 12, start=10) == ids != chosen(data, 12, start=10, seed=7)
    assert chosen(data, 10, start=10) == ids[:10] and chosen(data, 3, start=10) == ids[:3]
    some = [i for i in range(40) if i in ids[:10] or i % 2]
    assert chosen(embedded(points[some], [pool[i] for i in some]), 10, start=10) == ids[:10], "a draw of its own each"


@pytest.mark.parametrize(
    "options",
    [
        {"start": -1},
        {"vectors": "mine"},
        {"vectors": "encoder", "vector_pooling": "first"},
        {"vector_tokens": 0},
        {"vectors": "bins", "vector_text": "record"},
        {"vectors": "encoder", "vector_text": "x"},
        {"encoder_sha256": "0"},
    ],
)
def test_options_are_checked(options: dict) -> None:
    with pytest.raises(BadInput):
        KcenterConfig(**options)
