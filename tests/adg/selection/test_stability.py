"""Overlaps and stability from matrices made by hand or drawn; quadrants and the examples that stand for them."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from adg import geometry, seeds
from adg.embedding import stage as embedding_stage
from adg.embedding.stage import Grams
from adg.errors import BadInput
from adg.pools.records import Record
from adg.selection import bins as bins_stage
from adg.selection import stability
from adg.selection.contract import SelectorData, select
from adg.selection.divergence import Divergence, DivergenceConfig
from adg.selection.stability import Choice, Matrices, Terms


@pytest.fixture(scope="module")
def matrices() -> Matrices:
    """60 records, two windows, six answers; the second window is noise of its own."""
    draw = seeds.generator(0, "test", "analysis")
    grams = np.stack([geometry.gram(draw.normal(size=(60, 6, 8)) + 2 * draw.random((60, 1, 1))) for _ in range(2)], 1)
    return Matrices(["last4", "0-3"], grams, draw.integers(4, size=60))


def test_overlaps_by_hand() -> None:
    assert stability.jaccard([1, 2, 3], [2, 3, 4]) == 2 / 4
    assert stability.overlap([1, 2, 3], [2, 3]) == 1
    assert stability.overlap(np.array([1, 2]), np.array([3])) == 0
    assert stability.by_chance(10, 20, 100) == 0.2
    with pytest.raises(BadInput, match="empty"):
        stability.overlap([], [1])
    with pytest.raises(BadInput, match="empty"):
        stability.jaccard([], [])


def test_by_chance_is_what_random_subsets_share() -> None:
    draw = seeds.generator(1, "test", "chance")
    shared = [stability.overlap(draw.permutation(100)[:10], draw.permutation(100)[:30]) for _ in range(2000)]
    assert np.mean(shared) == pytest.approx(stability.by_chance(10, 30, 100), abs=0.01)


def test_a_summary_is_a_mean_and_the_middle_95_percent() -> None:
    found = stability.summary(list(range(101)))
    assert (found.n, found.mean, found.low, found.high) == (101, 50, 2.5, 97.5)
    with pytest.raises(BadInput, match="no values"):
        stability.summary([])


def test_a_subset_is_what_the_selector_chooses(matrices: Matrices, monkeypatch: pytest.MonkeyPatch) -> None:
    records = [Record(i, f"do {i}") for i in range(60)]
    keys = [record.key for record in records]
    grams = Grams(keys, list(matrices.windows), matrices.grams, np.zeros((60, 2), dtype=np.float32))
    monkeypatch.setattr(embedding_stage, "load", lambda artifact: grams)
    monkeypatch.setattr(bins_stage, "load", lambda artifact: dict(zip(keys, matrices.bins.tolist(), strict=True)))
    data = SelectorData(records, {"grams": SimpleNamespace(path=Path("grams")), "bins": SimpleNamespace()})
    terms = Terms(matrices)
    for cfg in (
        DivergenceConfig(),
        DivergenceConfig(lam=0.9, answers=3, window="0-3"),
        DivergenceConfig(bins=False),
        DivergenceConfig(part="middle"),
        DivergenceConfig(part="bottom", bins=False),
        DivergenceConfig(rule="released"),
    ):
        selector = Divergence(cfg)
        expected = select(selector, data, selector.scores(data), 20)
        answers = None if cfg.answers is None else tuple(range(cfg.answers))
        mine = terms.subset(Choice(20, cfg.lam, cfg.window, answers, cfg.bins, cfg.rule, cfg.part))
        assert set(mine.tolist()) == set(expected.tolist()), cfg


def test_fewer_answers_are_named_in_the_notes(matrices: Matrices, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = [str(i) for i in range(60)]
    grams = Grams(keys, list(matrices.windows), matrices.grams, np.zeros((60, 2), dtype=np.float32))
    monkeypatch.setattr(embedding_stage, "load", lambda artifact: grams)
    data = SelectorData([Record(i, "do") for i in range(60)], {"grams": SimpleNamespace(path=Path("grams"))})
    few = Divergence(DivergenceConfig(answers=3, bins=False)).scores(data).notes
    assert (few["answers"], few["answers_sampled"], few["window"]) == (3, 6, "last4")
    assert "first 3 of 6" in few["note"] and "lam" in few["note"]
    assert "note" not in Divergence(DivergenceConfig(bins=False)).scores(data).notes


def test_answers_are_drawn_by_name_and_apart() -> None:
    pairs = list(stability.draws(10, 5, 8, 42))
    assert pairs == list(stability.draws(10, 5, 8, 42)) != list(stability.draws(10, 5, 8, 43))
    assert all(len(set(a)) == 5 and not set(a) & set(b) for a, b in pairs)
    assert all(len(set(a) & set(b)) == 4 for a, b in stability.draws(10, 7, 8, 42))
    with pytest.raises(BadInput, match="2 to 10"):
        list(stability.draws(10, 11, 1, 0))


def test_stability_changes_one_thing_at_a_time(matrices: Matrices) -> None:
    lines = stability.stability(Terms(matrices), Choice(15, answers=(0, 1, 2)), (3, 5, 10), 6, 42)
    axes = {axis: [line.setting for line in lines if line.axis == axis] for axis in {line.axis for line in lines}}
    assert axes["answers"] == ["other 3 of 6"]
    assert axes["K"] == ["3 instead of 6", "5 instead of 6"]
    assert len(axes["lam"]) == 10 and "0.4 instead of 0.4" not in axes["lam"]
    assert axes["layer window"] == ["0-3 instead of last4"]
    assert axes["bins"] == ["none"] and len(axes["quota rule"]) == 1 and len(axes["part"]) == 2
    for line in lines:
        assert line.overlap is not None and line.jaccard is not None
        low, mean, high = (round(v, 9) for v in (line.overlap.low, line.overlap.mean, line.overlap.high))
        assert 0 <= low <= mean <= high <= 1 and line.jaccard.mean <= line.overlap.mean
        assert line.overlap.n == 6
    near = next(line for line in lines if line.setting == "0.3 instead of 0.4")
    far = next(line for line in lines if line.setting == "bottom instead of top")
    assert near.overlap.mean > 0.8 > far.overlap.mean  # type: ignore[union-attr]
    again = stability.stability(Terms(matrices), Choice(15, answers=(0, 1, 2)), (3, 5, 10), 6, 42)
    assert again == lines


def test_a_weight_under_which_all_score_zero_is_left_out(matrices: Matrices) -> None:
    """Two answers lie on one line: lam = 1 would choose by id."""
    assert stability.lambdas(2) == list(stability.LAMBDAS[:-1]) and stability.lambdas(3) == list(stability.LAMBDAS)
    lines = stability.stability(Terms(matrices), Choice(15, answers=(0, 1)), (2, 3), 2, 42)
    assert [line.setting for line in lines if line.axis == "lam"][-1] == "0.9 instead of 0.4"
    lines = stability.stability(Terms(matrices), Choice(15, lam=1, answers=(0, 1, 2)), (2, 3), 2, 42)
    assert [line.setting for line in lines if line.axis == "K"] == ["3 instead of 6"]
    with pytest.raises(BadInput, match=r"2 answers with lam = 1.*expected 3 or more"):
        Terms(matrices).subset(Choice(15, lam=1, answers=(0, 1)))


def test_an_empty_subset_gives_no_number() -> None:
    """Bins of two members go whole to the middle under the released rule, so its top is empty."""
    matrices = Matrices(["last4"], np.stack([np.eye(3)] * 6)[:, None], np.array([0, 0, 1, 1, 2, 2]))
    lines = stability.stability(Terms(matrices), Choice(3), (), 4, 0)
    released = next(line for line in lines if line.axis == "quota rule")
    assert released.overlap is None and released.jaccard is None and released.first is None


def test_pairs_with_a_missing_subset_have_no_number() -> None:
    found = stability.pairwise([[1, 2], None, [2]])
    assert found[0] == [1, None, 1] and found[1] == [None, None, None]


def test_quadrants_are_split_at_the_medians_and_examples_lie_deepest() -> None:
    d = np.array([0.9, 0.8, 0.9, 0.1, 0.2, 0.1])
    i = np.array([0.9, 0.6, 0.1, 0.8, 0.2, 0.1])
    where, split = stability.quadrants(d, i)
    assert split == (0.5, pytest.approx(0.4))
    assert where.tolist() == [0, 0, 1, 2, 3, 3]
    assert stability.QUADRANTS[1] == "high D, low I"
    picked = stability.examples(d, i)
    assert picked[0] == 0 and picked[1] == 2 and picked[2] == 3 and picked[3] == 5
    assert stability.examples(np.ones(3), np.ones(3))[1:] == [None, None, None]


def test_settings_that_are_not_there_are_refused(matrices: Matrices) -> None:
    terms = Terms(matrices)
    with pytest.raises(BadInput, match="last4, 0-3"):
        terms.of("released", None)
    with pytest.raises(BadInput, match="0 to 5"):
        terms.of(None, (0, 6))
