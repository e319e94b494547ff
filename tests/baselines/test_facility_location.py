"""Facility location: lazy and blockwise against the whole matrix, both kernels, copies, order, ties."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adg.errors import BadInput
from adg.selection.contract import select
from baselines import facility_location
from baselines.facility_location import FacilityLocation, FacilityLocationConfig, greedy


def similarities(points: np.ndarray, kernel: str) -> np.ndarray:
    """The whole matrix, as the kernels are defined."""
    unit = points.astype(np.float64)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    if kernel == "cosine":
        return (1 + np.clip(unit @ unit.T, -1, 1)) / 2
    distances = np.sqrt(((unit[:, None] - unit[None]) ** 2).sum(axis=2))
    return np.exp(-distances / points.shape[1])


def exhaustive(points: np.ndarray, budget: int, kernel: str = "cosine", ties: str = "lowest") -> list[int]:
    """Every gain in every step; gains that differ by rounding alone are ties."""
    matrix = similarities(points, kernel)
    covered, left, out = np.zeros(len(matrix)), np.ones(len(matrix), dtype=bool), []
    for _ in range(budget):
        gains = np.where(left, np.maximum(matrix - covered, 0).sum(axis=1), -1)
        equal = np.flatnonzero(gains >= gains.max() - 1e-12)
        best = int(equal[0] if ties == "lowest" else equal[-1])
        covered = np.maximum(covered, matrix[best])
        left[best] = False
        out.append(best)
    return out


def clustered(seed: int, n: int, d: int, copies: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    points = (rng.normal(size=(9, d))[rng.integers(0, 9, n)] + 0.4 * rng.normal(size=(n, d))).astype(np.float32)
    points[n - copies :] = points[:copies]
    return points


@pytest.mark.parametrize("kernel", ["cosine", "distance"])
@pytest.mark.parametrize("pairs", [0, 3_000, 20_000, 2**24])
@pytest.mark.parametrize("copies", [0, 30])
def test_lazy_equals_the_whole_matrix(kernel: str, pairs: int, copies: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(facility_location, "BLOCK", 16)
    monkeypatch.setattr(facility_location, "CHUNK", 50)
    points = clustered(3, 170, 10, copies)
    expected = exhaustive(points, 140, kernel)
    assert greedy(points, 140, kernel, pairs=pairs).tolist() == expected
    assert greedy(points, 170, kernel, pairs=pairs).tolist()[:140] == expected


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_ties_and_copies_on_a_few_directions(data: st.DataObject) -> None:
    n = data.draw(st.integers(1, 14))
    direction = st.sampled_from([(1, 0), (0, 1), (-1, 0), (0, -1), (1, 1), (2, 2)])
    points = np.array(data.draw(st.lists(direction, min_size=n, max_size=n)), dtype=np.float32)
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    budget, ties = data.draw(st.integers(1, n)), data.draw(st.sampled_from(["lowest", "highest"]))
    pairs = data.draw(st.sampled_from([0, 2**24]))
    assert greedy(points, budget, "cosine", ties, pairs).tolist() == exhaustive(points, budget, "cosine", ties)


@pytest.mark.parametrize("n", [200, 300])
def test_more_ties_than_a_block_holds(n: int) -> None:
    assert greedy(np.eye(n, dtype=np.float32), n // 2, pairs=5000).tolist() == list(range(n // 2))


def test_groups_of_copies_by_hand() -> None:
    points = np.eye(3)[[0, 1, 1, 2, 2, 2]]
    assert greedy(points, 6).tolist() == [3, 1, 0, 2, 4, 5], "gains 4.5, 1, 0.5, then nothing"
    assert greedy(points, 6, ties="highest").tolist() == [5, 2, 0, 4, 3, 1]


@pytest.mark.parametrize("kernel", ["cosine", "distance"])
def test_permuting_the_rows_permutes_the_choice(kernel: str) -> None:
    """Up to ties, which two rows have that are each other's nearest: every choice has the largest gain of its step."""
    for seed in range(10):
        points = clustered(seed, 120, 6)
        order = np.random.default_rng(seed).permutation(120)
        matrix = similarities(points, kernel)
        firsts = []
        for found in (greedy(points, 60, kernel), order[greedy(points[order], 60, kernel)]):
            covered, left = np.zeros(120), np.ones(120, dtype=bool)
            for row in found:
                gains = np.where(left, np.maximum(matrix - covered, 0).sum(axis=1), -1)
                assert gains[row] >= gains.max() - 1e-9
                covered, left[row] = np.maximum(covered, matrix[row]), False
            firsts.append(found[:8].tolist())
        assert firsts[0] == firsts[1]


def test_two_rows_that_are_each_others_nearest_tie() -> None:
    points = np.array([[1, 0, 0], [1, 0, 0.1], [1, 0, -0.1], [0, 1, 0.3], [0.3, 1, 0]])
    assert greedy(points, 2)[1] == 3 == greedy(points[[0, 1, 2, 4, 3]], 2)[1], "the lowest of rows 3 and 4"


def test_rounded_similarities_keep_the_kernel() -> None:
    cosines = np.linspace(-1, 1, 41)
    for kernel, expected in (
        ("cosine", (1 + cosines) / 2),
        ("distance", (np.exp(-np.sqrt(2 - 2 * cosines) / 8) - np.exp(-2 / 8)) / (1 - np.exp(-2 / 8))),
    ):
        found = facility_location.similarity(cosines.copy(), kernel, 8)
        assert (found == np.rint(found)).all() and found[0] == 0 and found[-1] == facility_location.GRID
        np.testing.assert_allclose(found / facility_location.GRID, expected, atol=1e-9)


def test_first_bounds_are_above_every_first_gain() -> None:
    for kernel in ("cosine", "distance"):
        points = clustered(8, 80, 7)
        state = facility_location._Gains(points, np.ones(80, dtype=np.int64), kernel)
        assert (state.first_bounds() >= state.block(np.arange(80))).all()


def test_budgets_out_of_range_are_refused() -> None:
    for budget in (0, 3):
        with pytest.raises(BadInput, match="expected 1 to n"):
            greedy(np.eye(2), budget)


def test_the_selector(embedded: Callable) -> None:
    points = clustered(5, 30, 4)
    points[7] = 0
    data = embedded(points)
    selector = FacilityLocation(FacilityLocationConfig(vectors="backbone"))
    table = selector.scores(data)
    rows = [i for i in range(30) if i != 7]
    unit = points[rows] / np.linalg.norm(points[rows], axis=1, keepdims=True)
    np.testing.assert_allclose(table.score[rows], (unit @ unit.T).mean(axis=1), atol=1e-6)
    assert table.invalid == {7: "its text is empty"}
    found = select(selector, data, table, 29).tolist()
    assert found == [rows[i] for i in exhaustive(points[rows], 29)]
    assert found[0] == int(np.nanargmax(table.score))
    assert select(selector, data, table, 1).tolist() == found[:1]
    with pytest.raises(BadInput, match=r"selector.kernel is 'rbf'"):
        FacilityLocationConfig(kernel="rbf")
