"""SuperFiltering.D: which records go on, facility location among them, ties and texts of the released code."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from adg.backbones import stage as backbone_stage
from adg.backbones.config import BackboneConfig
from adg.errors import BadInput
from adg.selection.contract import ScoreTable, SelectorData, select
from baselines.facility_location import greedy
from baselines.superfiltering import Superfiltering, SuperfilteringConfig
from baselines.superfiltering_d import SuperfilteringD, SuperfilteringDConfig


@pytest.fixture
def world(
    measured: Callable, golden_pool: list, golden_tokenizer: Callable, embedded: Callable
) -> Callable[..., tuple[SuperfilteringD, SelectorData, np.ndarray]]:
    """The selector, the golden pool with losses under the formula model, and random vectors (copies are copies)."""
    points = np.random.default_rng(6).normal(size=(160, 5)).astype(np.float32)
    points[[140, 141, 142]] = points[[3, 3, 17]]

    def made(**options: Any) -> tuple[SuperfilteringD, SelectorData, np.ndarray]:
        selector = SuperfilteringD(SuperfilteringDConfig(**options))
        losses = measured(Superfiltering(SuperfilteringConfig()), golden_pool, golden_tokenizer(False))
        data = embedded(points, golden_pool)
        return selector, dataclasses.replace(data, features={**data.features, **losses.features}), points

    return made


def test_scores_are_superfilterings(world: Callable) -> None:
    selector, data, _ = world()
    table, plain_table = selector.scores(data), Superfiltering(SuperfilteringConfig()).scores(data)
    np.testing.assert_array_equal(table.score, plain_table.score)
    assert table.invalid == plain_table.invalid and int(table.valid.sum()) == 53


@pytest.mark.parametrize(("options", "number"), [({}, 30), ({"candidates": 20}, 20), ({"candidates": 3}, 3)])
def test_the_largest_ifd_go_on(world: Callable, options: dict, number: int) -> None:
    selector, data, points = world(**options)
    table = selector.scores(data)
    rows = np.sort(np.argsort(-np.nan_to_num(table.score, nan=-1.0), kind="stable")[:number])
    found = select(selector, data, table, 3)
    assert found.tolist() == rows[greedy(points[rows], 3, "distance")].tolist()


def test_all_that_pass_where_ten_for_each_are_too_many(world: Callable) -> None:
    selector, data, points = world()
    table = selector.scores(data)
    rows = np.flatnonzero(table.valid)
    for budget in (6, 53):
        expected = rows[greedy(points[rows], budget, "distance")].tolist()
        assert select(selector, data, table, budget).tolist() == expected
    with pytest.raises(BadInput, match=r"only 53 of 160 records have a score"):
        select(selector, data, table, 54)


def test_a_lower_limit_instead_of_a_number(world: Callable) -> None:
    selector, data, points = world(lower=0.9)
    table = selector.scores(data)
    plain_table = Superfiltering(SuperfilteringConfig()).scores(data)
    above = np.flatnonzero(np.nan_to_num(plain_table.score, nan=0.0) > 0.9)
    assert np.flatnonzero(table.valid).tolist() == above.tolist() and len(above) == 36
    assert set(table.invalid.values()) >= {"IFD not above 0.9", "IFD not below 1"}
    expected = above[greedy(points[above], 5, "distance")].tolist()
    assert select(selector, data, table, 5).tolist() == expected


def test_released_ties_go_to_the_highest_id(world: Callable) -> None:
    found = {}
    for variant in ("corrected", "released"):
        selector, data, _ = world(variant=variant, threshold=1e6)
        table = selector.scores(data)
        found[variant] = select(selector, data, table, int(table.valid.sum())).tolist()
    twins = [pair for pair in ([3, 140], [3, 141], [140, 141], [17, 142]) if set(pair) <= set(found["released"])]
    assert len(twins) == 4, "the golden pool's copies"
    for low, high in twins:
        assert found["corrected"].index(low) < found["corrected"].index(high)
        assert found["released"].index(low) > found["released"].index(high)


def test_released_ties_count_in_the_order_of_ifd(embedded: Callable) -> None:
    """Of records with one vector the official code takes the last of its list, which is the smallest IFD."""
    data = embedded(np.ones((3, 4)))
    table = ScoreTable(np.array([0.92, 0.90, 0.95]))
    for variant, expected in (("released", [1, 0, 2]), ("corrected", [0, 1, 2])):
        selector = SuperfilteringD(SuperfilteringDConfig(variant=variant))
        assert selector.choose(data, table, 3).tolist() == expected


def test_texts_and_options() -> None:
    assert SuperfilteringDConfig().defaults(own=False) == ("record", "mean")
    assert SuperfilteringDConfig(variant="released").defaults(own=True) == ("lines", "mean")
    for options in (
        {"variant": "x"},
        {"candidates": 0},
        {"lower": 1.0},
        {"lower": -0.1},
        {"lower": 0.9, "candidates": 5},
        {"kernel": "x"},
        {"threshold": 0.0},
        {"vectors": "x"},
    ):
        with pytest.raises(BadInput):
            SuperfilteringDConfig(**options)


def test_fewer_candidates_than_the_budget_are_refused(world: Callable) -> None:
    selector, data, _ = world(candidates=4)
    with pytest.raises(BadInput, match=r"selector\.candidates is 4 but the budget 5"):
        select(selector, data, selector.scores(data), 5)


def test_the_table_says_what_stands_in_for_the_official_models() -> None:
    embedded = backbone_stage.node(BackboneConfig(name="tiny_random", builder="tiny_random", dtype="float32"))
    note = SuperfilteringD(SuperfilteringDConfig()).note(embedded)
    assert "losses, in place of gpt2" in note and "vectors, in place of sentence-transformers/all-MiniLM-L6-v2" in note
    assert SuperfilteringD(SuperfilteringDConfig(vectors="encoder", scorer="gpt2")).note(embedded) == ""
