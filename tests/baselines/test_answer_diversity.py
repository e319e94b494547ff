"""Measures of answers as texts: values by hand, and the selector that ranks by them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from adg import geometry
from adg.errors import BadInput
from baselines import answer_diversity
from baselines.answer_diversity import MEASURES, AnswerDiversity, AnswerDiversityConfig

SAME = ["the cat sat down", "the cat sat down", "the cat sat down"]
APART = ["one two three four", "five six seven eight", "nine ten eleven twelve"]
MIXED = ["the cat sat", "The  cat sat", "a dog"]


def value(measure: str, *texts: list[str]) -> list[float]:
    return MEASURES[measure](list(texts)).tolist()


def test_values_by_hand() -> None:
    assert value("self_bleu", SAME, APART) == pytest.approx([0.0, 1.0], abs=0.1)
    assert value("self_bleu", SAME)[0] == pytest.approx(0.0, abs=1e-9)
    assert value("distinct_n", SAME, APART, ["a", "b", ""]) == pytest.approx([3 / 9, 1.0, 0.0])
    expected = -(2 / 3 * math.log(2 / 3) + 1 / 3 * math.log(1 / 3))
    assert value("exact_clusters", SAME, APART, MIXED) == pytest.approx([0.0, math.log(3), expected])
    assert value("length_spread", SAME, MIXED) == pytest.approx([0.0, float(np.std([3, 3, 2]))])
    assert value("mean_length", SAME, MIXED) == pytest.approx([4.0, 8 / 3])


def test_tfidf_is_adgs_formula_on_other_vectors() -> None:
    """Equal answers have no spread; answers that share no word are orthogonal, as far apart as K of them can be."""
    found = value("tfidf", SAME, APART)
    k = 3
    apart = geometry.divergence(np.eye(k)[None])[0]
    assert found == pytest.approx([0.0, apart], abs=1e-9)
    assert apart == pytest.approx(0.6 * (1 - 1 / k) + 0.4 * (1 - 1 / (k - 1)))


@pytest.mark.parametrize("measure", sorted(set(MEASURES) - {"mean_length", "length_spread"}))
def test_the_order_of_answers_does_not_matter_and_variety_ranks_higher(measure: str) -> None:
    one, other = value(measure, APART, SAME), value(measure, APART[::-1], SAME)
    assert one == pytest.approx(other) and one[0] > one[1]


def test_empty_answers_are_texts_like_others() -> None:
    for measure in MEASURES:
        assert np.isfinite(MEASURES[measure]([["", "", ""], ["a b", "", "c"]])).all(), measure


def test_options_are_refused_with_the_nearest() -> None:
    with pytest.raises(BadInput, match="did you mean 'self_bleu'"):
        AnswerDiversityConfig(measure="selfbleu")
    with pytest.raises(BadInput, match="a rule about bins"):
        AnswerDiversityConfig(bins=False, rule="released")


def test_one_answer_has_no_diversity(monkeypatch: pytest.MonkeyPatch) -> None:
    from types import SimpleNamespace

    from adg.pools.records import Record
    from adg.selection.contract import SelectorData

    monkeypatch.setattr(answer_diversity.answers_stage, "load", lambda _: {"0": ["a"], "1": ["b"]})
    features: Any = {"answers": SimpleNamespace(path="answers/x")}
    data = SelectorData([Record(0, "x"), Record(1, "y")], features)
    with pytest.raises(BadInput, match=r"sampling\.n=2"):
        AnswerDiversity(AnswerDiversityConfig(bins=False)).scores(data)
    table = AnswerDiversity(AnswerDiversityConfig(measure="mean_length", bins=False)).scores(data)
    assert table.score.tolist() == [1.0, 1.0]
