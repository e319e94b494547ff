"""ADG as a selector, from Gram matrices made by hand: joined by id, and a record without a matrix has no score."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from adg import geometry
from adg.embedding import stage as embedding_stage
from adg.embedding.stage import Grams
from adg.errors import BadInput, BadMeasurement
from adg.pools.records import Record
from adg.selection import bins as bins_stage
from adg.selection.contract import SelectorData, select
from adg.selection.divergence import Divergence, DivergenceConfig

RECORDS = [Record(i, f"do {i}", "", "done") for i in range(4)]
FLAT = np.ones((3, 3))  # three identical answers: D = 0, I = 0
WIDE = np.eye(3)  # three orthogonal answers: D = 2/3, I = 1/2
LINE = np.array([[1.0, 1.0, -1.0], [1.0, 1.0, -1.0], [-1.0, -1.0, 1.0]])  # on one line: D = 8/9, I = 0


@pytest.fixture
def data(monkeypatch: pytest.MonkeyPatch) -> SelectorData:
    """Records 0, 1 and 3 have matrices, in another order than the pool's; record 2 has none."""
    grams = Grams(["3", "0", "1"], ["last4"], np.stack([LINE, FLAT, WIDE])[:, None], np.zeros((3, 2)))
    monkeypatch.setattr(embedding_stage, "load", lambda artifact: grams)
    monkeypatch.setattr(bins_stage, "load", lambda artifact: {"0": 0, "1": 0, "3": 1})
    return SelectorData(RECORDS, {"grams": SimpleNamespace(path=Path("grams")), "bins": SimpleNamespace()})


@pytest.mark.parametrize(("lam", "expected"), [(0.0, [0, 2 / 3, 8 / 9]), (1.0, [0, 0.5, 0]), (0.4, [0, 0.6, 8 / 15])])
def test_terms_by_hand_joined_by_id(data: SelectorData, lam: float, expected: list[float]) -> None:
    table = Divergence(DivergenceConfig(lam=lam)).scores(data)
    assert table.score[[0, 1, 3]] == pytest.approx(expected)
    assert np.isnan(table.score[2]) and "could not" in table.invalid[2]
    assert table.parts["bin"].tolist() == [0, 0, -1, 1]


def test_a_record_without_a_matrix_is_never_chosen(data: SelectorData) -> None:
    for bins in (True, False):
        selector = Divergence(DivergenceConfig(bins=bins))
        table = selector.scores(data)
        assert sorted(select(selector, data, table, 3).tolist()) == [0, 1, 3]
        with pytest.raises(BadInput, match="only 3 of 4"):
            select(selector, data, table, 4)


def test_fewer_answers_use_the_corner_of_the_matrix(data: SelectorData) -> None:
    table = Divergence(DivergenceConfig(lam=0.0, answers=2)).scores(data)
    assert table.score[[0, 1, 3]] == pytest.approx([0, 0.5, 0])
    with pytest.raises(BadInput, match=r"sampling\.n=4"):
        Divergence(DivergenceConfig(answers=4)).scores(data)


@pytest.mark.parametrize(("lam", "sampled", "fewest"), [(0.4, 1, 2), (0.0, 1, 2), (1.0, 2, 3)])
def test_too_few_answers_are_refused_where_all_would_score_zero(
    lam: float, sampled: int, fewest: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw = np.random.default_rng(0).standard_normal((4, 3, 5))
    keys = [record.key for record in RECORDS]
    data = SelectorData(RECORDS, {"grams": SimpleNamespace(path=Path("grams"))})

    def scores(answers: int) -> np.ndarray:
        grams = Grams(keys, ["last4"], geometry.gram(draw[:, :answers])[:, None], np.zeros((4, 2)))
        monkeypatch.setattr(embedding_stage, "load", lambda artifact: grams)
        return Divergence(DivergenceConfig(lam=lam, bins=False)).scores(data).score

    with pytest.raises(BadInput, match=rf"sampling\.n is {sampled}; .*lam={lam:g} .*sampling\.n={fewest} or more"):
        scores(sampled)
    assert (scores(fewest) > 0).all()


def test_too_few_answers_are_refused_while_composing() -> None:
    for lam, answers, fewest in ((0.4, 1, 2), (1.0, 2, 3)):
        with pytest.raises(BadInput, match=rf"selector\.answers is {answers}; .*expected {fewest} or more"):
            DivergenceConfig(lam=lam, answers=answers)
        DivergenceConfig(lam=lam, answers=fewest)


def test_matrices_of_another_pool_are_refused(data: SelectorData) -> None:
    with pytest.raises(BadMeasurement, match="1 records that the pool does not, first 3"):
        Divergence(DivergenceConfig()).scores(SelectorData(RECORDS[:3], data.features))
    with pytest.raises(BadInput, match="declared windows are last4"):
        Divergence(DivergenceConfig(window="24-27")).scores(data)


def test_options_of_other_readings_are_refused_where_they_say_nothing() -> None:
    for options, said in (
        ({"reading": "vendy"}, "did you mean 'vendi'"),
        ({"reading": "vendi", "lam": 0.2}, "leave it out"),
        ({"threshold": 0.9}, "cluster_entropy alone"),
        ({"reading": "cluster_entropy", "threshold": 1.5}, "a cosine"),
    ):
        with pytest.raises(BadInput, match=said):
            DivergenceConfig(**options)


def test_a_reading_is_identity_only_where_it_is_not_adgs() -> None:
    from adg.artifacts.artifact import canonical

    assert canonical(DivergenceConfig()) == canonical(DivergenceConfig(reading="adg"))
    assert "reading" not in canonical(DivergenceConfig())
    assert canonical(DivergenceConfig(reading="vendi")) != canonical(DivergenceConfig())
    near, far = (DivergenceConfig(reading="cluster_entropy", threshold=t) for t in (0.9, 0.8))
    assert canonical(near) != canonical(far)


def test_a_reading_takes_the_scores_place_and_the_terms_stay(data: SelectorData) -> None:
    table = Divergence(DivergenceConfig(reading="vendi")).scores(data)
    assert table.score[[0, 1]] == pytest.approx([1.0, 3.0]) and np.isnan(table.score[2])
    assert table.parts["dispersion"][1] == pytest.approx(2 / 3)
    distance = Divergence(DivergenceConfig(reading="mean_distance")).scores(data)
    alone = Divergence(DivergenceConfig(lam=0.0)).scores(data)
    assert distance.score[[0, 1, 3]] == pytest.approx(1.5 * alone.score[[0, 1, 3]])
