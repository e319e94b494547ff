"""Other readings of a Gram matrix: values by hand and of the Vendi score's own package, and their properties."""

from __future__ import annotations

import math

import numpy as np
import pytest

from adg import geometry, seeds
from adg.errors import BadInput, BadMeasurement
from adg.selection import readings
from adg.selection.readings import READINGS, RIDGE

SAME, APART = np.ones((1, 4, 4)), np.eye(4)[None]
TWO_AND_TWO = np.kron(np.eye(2), np.ones((2, 2)))[None]  # two groups of two equal answers
THREE = np.array([[[1, 0.5, 0.2], [0.5, 1, 0.3], [0.2, 0.3, 1]]])
FOUR = np.array([[[1, 0.9, 0.1, 0.0], [0.9, 1, 0.2, 0.1], [0.1, 0.2, 1, 0.6], [0.0, 0.1, 0.6, 1]]])


def random_grams(n: int, k: int = 5, width: int = 8) -> np.ndarray:
    return geometry.gram(seeds.generator(0, "readings", n, k).normal(size=(n, k, width)))


@pytest.mark.parametrize(
    ("name", "same", "apart", "two"),
    [
        ("mean_distance", 0.0, 1.0, 4 / 6),
        ("vendi", 1.0, 4.0, 2.0),
        ("participation_ratio", 0.0, 3.0, 1.0),
        (
            "log_determinant",
            math.log(4 + RIDGE) + 3 * math.log(RIDGE),
            4 * math.log(1 + RIDGE),
            2 * (math.log(2 + RIDGE) + math.log(RIDGE)),
        ),
        ("cluster_entropy", 0.0, math.log(4), math.log(2)),
    ],
)  # by hand
def test_values_by_hand(name: str, same: float, apart: float, two: float) -> None:
    reading = READINGS[name]
    assert reading(SAME)[0] == pytest.approx(same, abs=1e-8)
    assert reading(APART)[0] == pytest.approx(apart, abs=1e-8)
    assert reading(TWO_AND_TWO)[0] == pytest.approx(two, abs=1e-8)


def test_the_vendi_score_is_that_of_its_package() -> None:
    """vendi-score 0.0.3, ``vendi.score_K`` of the same matrices."""
    assert readings.vendi(THREE)[0] == pytest.approx(2.650453510754784, abs=1e-12)
    assert readings.vendi(FOUR)[0] == pytest.approx(2.799804004944599, abs=1e-12)


def test_the_mean_distance_is_the_dispersion_alone() -> None:
    grams = random_grams(300)
    dispersion = geometry.divergence(grams, lam=0.0)
    np.testing.assert_allclose(readings.mean_distance(grams), 5 / 4 * dispersion, rtol=1e-10)


def test_answers_are_grouped_through_chains() -> None:
    chain = np.array([[[1, 0.96, 0.5, 0.1], [0.96, 1, 0.96, 0.1], [0.5, 0.96, 1, 0.1], [0.1, 0.1, 0.1, 1]]])
    expected = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert readings.cluster_entropy(chain)[0] == pytest.approx(expected)
    assert readings.cluster_entropy(chain, threshold=0.97)[0] == pytest.approx(math.log(4))
    assert readings.cluster_entropy(chain, threshold=0.05)[0] == pytest.approx(0.0)
    line = np.eye(7) + np.diag(np.full(6, 0.99), 1) + np.diag(np.full(6, 0.99), -1)  # a chain of seven
    assert readings.cluster_entropy(line[None])[0] == pytest.approx(0.0)


@pytest.mark.parametrize("name", READINGS)
def test_the_order_of_answers_and_records_does_not_matter(name: str) -> None:
    grams = random_grams(40)
    order, turned = seeds.generator(1, "order").permutation(5), grams[::-1]
    expected = READINGS[name](grams)
    np.testing.assert_allclose(READINGS[name](grams[:, order][:, :, order]), expected, atol=1e-9)
    np.testing.assert_allclose(READINGS[name](turned), expected[::-1], atol=1e-12)


@pytest.mark.parametrize("name", READINGS)
def test_wider_answers_read_higher(name: str) -> None:
    narrow = geometry.gram(seeds.generator(2, "narrow").normal(size=(50, 5, 8)) * 0.05 + 1.0)
    assert READINGS[name](random_grams(50)).min() > READINGS[name](narrow).max() or name == "participation_ratio"


@pytest.mark.parametrize("name", READINGS)
def test_what_cannot_be_read_is_refused(name: str) -> None:
    with pytest.raises(BadInput, match="2 or more"):
        READINGS[name](np.ones((3, 1, 1)))
    bad = random_grams(3)
    bad[1, 0, 0] = np.nan
    with pytest.raises(BadMeasurement, match="index 1"):
        READINGS[name](bad)
