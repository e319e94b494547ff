"""What a score goes by: rank correlations, shares of pairs and quadrants by hand, and what is not defined."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adg import seeds
from adg.errors import BadInput, BadMeasurement
from adg.selection.diagnostics import agreement, diagnose, in_words
from adg.selection.divergence import DivergenceConfig

D = np.array([0.10, 0.12, 0.14, 0.16, 0.18])
I = np.array([0.70, 0.30, 0.50, 0.20, 0.10])  # noqa: E741 - the method's own name
S = 0.6 * D + 0.4 * I  # 0.340, 0.192, 0.284, 0.176, 0.148: the order is I's


def test_values_by_hand() -> None:
    found = diagnose(S, D, I, 2, {"length": np.array([5.0, 4.0, 3.0, 2.0, 1.0]), "gone": None}, np.array([0, 3]))
    assert found.names == ("s", "D", "I", "length", "gone")
    # ranks of s 5 3 4 2 1, of D 1 2 3 4 5: squared differences 16, 1, 1, 4, 16, so 1 - 6 * 38 / (5 * 24) = -0.9
    np.testing.assert_allclose(found.correlations[0][:4], [1.0, -0.9, 1.0, 0.9], atol=1e-12)
    assert found.correlations[0][4] is None and found.correlations[4] == (None,) * 5
    assert found.anisotropy.pairs == pytest.approx(1.0) and found.anisotropy.tau == pytest.approx(1.0)
    assert found.anisotropy.top == 1.0
    assert found.dispersion.pairs == pytest.approx(0.1)  # of ten pairs rows 1 and 2 alone are ordered as by D
    assert found.dispersion.tau == pytest.approx(-0.8)
    assert found.dispersion.top == 0.0 and found.dispersion.chance == 0.4
    # medians 0.14 and 0.3: row 2 is high in both, row 3 and 4 in D, row 0 and 1 in I
    assert found.pool == (1, 2, 2, 0) and found.chosen == (0, 1, 1, 0)
    assert found.means == {"length": (3.0, 3.5)}


def test_the_weight_of_each_term_by_hand() -> None:
    found = diagnose(S, D, I, 2)
    assert found.spread == pytest.approx((0.6 * 0.02 * np.sqrt(2), 0.4 * np.sqrt(0.0464)))
    even = 0.02 * np.sqrt(2) / (0.02 * np.sqrt(2) + np.sqrt(0.0464))
    assert found.even == pytest.approx(even)
    words = in_words(found)
    assert "as I does at +1.00 and as D does at -0.90" in words and "100 % of pairs are ordered as by I alone" in words
    assert "I moves the sum 5.1 times as far as D. They would move it alike at lam = 0.12." in words
    balanced = diagnose((1 - even) * D + even * I, D, I, 2, lam=even)
    assert balanced.spread is not None and balanced.spread[0] == pytest.approx(balanced.spread[1])
    assert "weighs" not in in_words(diagnose(S, D, I, 2, lam=None)), "another reading is no weighted sum"
    assert in_words(diagnose(np.ones(5), D, I, 2)) == "The score, or one of its terms, is the same for all records."


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=2, max_size=12))
def test_shares_of_pairs_are_those_counted_one_by_one(drawn: list[tuple[int, int]]) -> None:
    a, b = (np.array(column, dtype=float) for column in zip(*drawn, strict=True))
    signs = [np.sign(a[i] - a[j]) * np.sign(b[i] - b[j]) for i, j in itertools.combinations(range(len(a)), 2)]
    both, found = np.count_nonzero(signs), agreement(a, b, 1)
    if both and found.pairs is not None:
        assert found.pairs == pytest.approx(np.count_nonzero(np.array(signs) > 0) / both, abs=1e-9)
    else:
        assert found.pairs is None


def test_a_term_that_varies_more_is_seen_whatever_lam_says() -> None:
    draw = seeds.generator(0, "diagnostics")
    i, d = draw.normal(0.6, 0.1, 400), draw.normal(0.2, 0.01, 400)
    found = diagnose(0.6 * d + 0.4 * i, d, i, 100)
    assert found.correlations[0][2] > 0.95 > 0.5 > found.correlations[0][1]  # type: ignore[operator]
    assert found.anisotropy.top > 0.8 and found.even is not None and found.even < 0.2
    assert DivergenceConfig().lam == found.lam


def test_what_does_not_fit_is_refused() -> None:
    for arguments, message in (
        ((S, D[:4], I, 2), r"D has shape \(4,\)"),
        ((S, D, I, 6), "budget is 6 but 5 records"),
        ((S, D, I, 2, {"length": np.ones(3)}), r"length has shape \(3,\)"),
    ):
        with pytest.raises(BadInput, match=message):
            diagnose(*arguments)
    with pytest.raises(BadMeasurement, match="I of row 1 is not finite"):
        diagnose(S, D, np.where(np.arange(5) == 1, np.nan, I), 2)
