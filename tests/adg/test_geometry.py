"""Gram matrices and the two terms: official values, small cases worked by hand, properties, refusals."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adg import geometry
from adg.errors import BadInput, BadMeasurement


def vectors(seed: int, n: int = 7, k: int = 5, d: int = 9) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n, k, d))


cases = st.builds(vectors, st.integers(0, 10_000), st.integers(1, 6), st.integers(1, 8), st.integers(1, 12))


def test_official_values(golden: Path) -> None:
    values = json.loads((golden / "adg.json").read_text())
    for case in values["metrics"]:
        grams = geometry.gram([case["vectors"]])
        assert geometry.dispersion(grams)[0] == pytest.approx(case["dispersion"], abs=1e-6), case["name"]
        assert geometry.anisotropy(grams)[0] == pytest.approx(case["anisotropy"], abs=1e-6), case["name"]
        assert geometry.divergence(grams)[0] == pytest.approx(case["score"], abs=1e-6), case["name"]
    odd = values["asymmetric_gram"]
    assert geometry.dispersion([odd["gram"]])[0] == pytest.approx(odd["dispersion"], abs=1e-6)
    assert geometry.anisotropy([odd["gram"]])[0] == pytest.approx(odd["anisotropy"], abs=1e-6)


def test_three_orthogonal_answers() -> None:
    # mean (1,1,1)/3, each at squared distance 2/3 of it; two equal directions
    grams = geometry.gram(np.eye(3)[None])
    assert geometry.dispersion(grams) == pytest.approx([2 / 3])
    assert geometry.anisotropy(grams) == pytest.approx([1 / 2])
    assert geometry.divergence(grams, 0.25) == pytest.approx([0.75 * 2 / 3 + 0.25 / 2])


def test_three_answers_of_which_two_agree() -> None:
    # a, a, b with a.b = 0: mean distance (2 * 2/9 + 8/9) / 3 = 4/9, all on the line from a to b
    grams = geometry.gram([[[1, 0], [1, 0], [0, 1]]])
    assert geometry.dispersion(grams) == pytest.approx([4 / 9])
    assert geometry.anisotropy(grams) == pytest.approx([0.0], abs=1e-12)


def test_three_answers_with_unequal_axes() -> None:
    # opposite answers e, -e and one across: centred scatter has the eigenvalues 2 and 2/3
    grams = geometry.gram([[[1, 0], [-1, 0], [0, 1]]])
    assert geometry.dispersion(grams) == pytest.approx([8 / 9])
    assert geometry.anisotropy(grams) == pytest.approx([1 / 4])


@pytest.mark.parametrize("k", [1, 2, 3, 5, 10])
def test_identical_answers_have_no_spread_and_no_shape(k: int) -> None:
    for dtype in (np.float32, np.float64):
        grams = geometry.gram(np.tile(vectors(3, 40, 1, 50), (1, k, 1)).astype(dtype))
        assert not geometry.dispersion(grams).any() and not geometry.anisotropy(grams).any()
        assert not geometry.divergence(grams.astype(np.float32)).any()


def test_a_spread_below_rounding_is_none_in_both_terms() -> None:
    """Released code: both terms are 0 below a trace of 1e-12, so that such records tie and the lowest id wins."""
    base = vectors(9, 1, 1, 50)[0, 0]
    near, far = (np.stack([base, base, base + step * vectors(10, 1, 1, 50)[0, 0]]) for step in (1e-7, 1e-4))
    grams = geometry.gram([near, far])
    exact = np.trace(grams, axis1=1, axis2=2) - grams.sum(axis=(1, 2)) / 3
    assert 0 < exact[0] < 1e-12 < exact[1]
    assert geometry.dispersion(grams)[0] == 0 == geometry.anisotropy(grams)[0]
    assert geometry.dispersion(grams)[1] == pytest.approx(exact[1] / 3)


def test_records_of_identical_answers_tie(golden: Path) -> None:
    """Official: identical answers have D = I = 0, whatever the rounding of their vectors."""
    case = next(c for c in json.loads((golden / "adg.json").read_text())["metrics"] if c["name"] == "identical")
    assert (case["dispersion"], case["anisotropy"]) == (0, 0)
    copies = np.repeat(vectors(11, 200, 1, 64).astype(np.float32), 5, axis=1)
    assert len(set(geometry.divergence(geometry.gram(copies)).tolist())) == 1


@pytest.mark.parametrize("k", [3, 5, 10])
def test_bounds_are_reached(k: int) -> None:
    simplex = np.eye(k) - 1 / k
    grams = geometry.gram([simplex, np.eye(k)])
    assert geometry.dispersion(grams) == pytest.approx([1, 1 - 1 / k])
    assert geometry.anisotropy(grams) == pytest.approx([1 - 1 / (k - 1)] * 2)


@given(cases)
@settings(max_examples=60, deadline=None)
def test_bounds(v: np.ndarray) -> None:
    grams = geometry.gram(v)
    k = v.shape[1]
    spread, shape = geometry.dispersion(grams), geometry.anisotropy(grams)
    assert ((spread >= 0) & (spread <= 1 + 1e-12)).all()
    assert ((shape >= 0) & (shape <= (1 - 1 / (k - 1) if k > 1 else 0) + 1e-12)).all()
    assert np.array_equal(grams, grams.transpose(0, 2, 1))


@given(cases, st.integers(0, 1000))
@settings(max_examples=60, deadline=None)
def test_order_length_and_rotation_of_answers_do_not_matter(v: np.ndarray, seed: int) -> None:
    draw = np.random.default_rng(seed)
    _, k, d = v.shape
    rotation, _ = np.linalg.qr(draw.standard_normal((d, d)))
    changed = (v * draw.uniform(0.1, 10, (1, k, 1)))[:, draw.permutation(k)] @ rotation
    score = geometry.divergence(geometry.gram(v))
    assert np.allclose(geometry.divergence(geometry.gram(changed)), score, atol=1e-9)


@given(cases)
@settings(max_examples=30, deadline=None)
def test_every_answer_twice_changes_nothing(v: np.ndarray) -> None:
    once, twice = geometry.gram(v), geometry.gram(np.concatenate([v, v], axis=1))
    assert np.allclose(geometry.dispersion(once), geometry.dispersion(twice), atol=1e-9)
    assert np.allclose(geometry.anisotropy(once), geometry.anisotropy(twice), atol=1e-6)


@given(cases)
@settings(max_examples=30, deadline=None)
def test_equals_the_formula_written_out(v: np.ndarray) -> None:
    grams = geometry.gram(v)
    k = v.shape[1]
    centre = np.eye(k) - 1 / k
    for i, matrix in enumerate(grams):
        values = np.linalg.eigvalsh(centre @ matrix @ centre)
        total = values.sum()
        shape = 0.0 if total < 1e-12 else 1 - values[-1] / total
        assert geometry.dispersion(grams)[i] == pytest.approx(total / k, abs=1e-12)
        assert geometry.anisotropy(grams)[i] == pytest.approx(shape, abs=1e-9)


def test_fewer_answers_are_a_sub_matrix() -> None:
    v = vectors(1, 20, 10)
    assert np.allclose(geometry.divergence(geometry.gram(v)[:, :3, :3]), geometry.divergence(geometry.gram(v[:, :3])))


def test_lam_mixes_the_terms() -> None:
    grams = geometry.gram(vectors(2))
    assert np.array_equal(geometry.divergence(grams, 0.0), geometry.dispersion(grams))
    assert np.allclose(geometry.divergence(grams, 1.0), geometry.anisotropy(grams))
    for lam in (-0.1, 1.1, float("nan")):
        with pytest.raises(BadInput, match="lam"):
            geometry.divergence(grams, lam)


def test_the_score_is_the_two_terms_combined() -> None:
    grams = geometry.gram(vectors(6, 40))
    d, i = geometry.dispersion(grams), geometry.anisotropy(grams)
    for lam in (0, 0.1, 0.4, 0.7, 1):
        assert np.array_equal(geometry.combine(d, i, lam), (1 - lam) * d + lam * i)
        assert np.array_equal(geometry.divergence(grams, lam), geometry.combine(d, i, lam))
    assert np.isnan(geometry.combine(np.array([np.nan, 0.5]), np.array([np.nan, 0.5]), 0)).tolist() == [True, False]
    with pytest.raises(BadInput, match=r"lam is 1\.5"):
        geometry.combine(d, i, 1.5)


@pytest.mark.parametrize(("lam", "fewest"), [(0, 2), (0.4, 2), (1, 3), (1.0, 3)])
def test_fewer_answers_than_the_fewest_all_score_zero(lam: float, fewest: int) -> None:
    assert geometry.fewest_answers(lam) == fewest
    grams = geometry.gram(vectors(7, 20, 5))
    assert not geometry.divergence(grams[:, : fewest - 1, : fewest - 1], lam).any()
    assert (geometry.divergence(grams[:, :fewest, :fewest], lam) > 0).all()
    with pytest.raises(BadInput, match="lam is 2"):
        geometry.fewest_answers(2)


def test_chunks_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    v = vectors(4, 100)
    whole = geometry.divergence(geometry.gram(v))
    monkeypatch.setattr(geometry, "_CHUNK_VALUES", 60)
    assert np.array_equal(geometry.divergence(geometry.gram(v)), whole)


def test_a_zero_vector_stays_zero() -> None:
    grams = geometry.gram([[[3.0, 0.0], [0.0, 0.0]]])
    assert grams.tolist() == [[[1.0, 0.0], [0.0, 0.0]]]


def test_no_records_give_no_scores() -> None:
    assert geometry.divergence(geometry.gram(np.zeros((0, 5, 3)))).shape == (0,)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_values_that_are_not_finite_are_refused_by_index(bad: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(geometry, "_CHUNK_VALUES", 100)
    v = vectors(5, 30)
    v[17, 2, 3] = v[23, 0, 0] = bad
    with pytest.raises(BadMeasurement, match="index 17 "):
        geometry.gram(v)
    grams = geometry.gram(vectors(5, 30))
    grams[11, 1, 2] = bad
    for function in (geometry.dispersion, geometry.anisotropy, geometry.divergence):
        with pytest.raises(BadMeasurement, match="index 11 "):
            function(grams)


def test_wrong_shapes_are_refused() -> None:
    for function in (geometry.dispersion, geometry.anisotropy, geometry.divergence):
        for grams in (np.eye(5), np.zeros((4, 3, 5)), np.zeros((4, 0, 0)), [["a"]]):
            with pytest.raises(BadMeasurement, match="expected"):
                function(grams)
    with pytest.raises(BadMeasurement, match="expected"):
        geometry.gram(np.zeros((3, 4)))
    with pytest.raises(BadMeasurement, match="index 2 has shape"):
        geometry.gram([np.zeros((5, 3)), np.zeros((5, 3)), np.zeros((4, 3))])
