"""KMQ: equal shares, chances in proportion to exp(quality), the released rule, scores that are missing or wrong."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adg.artifacts.artifact import Node
from adg.artifacts.files import sha256_file
from adg.errors import BadInput, BadMeasurement, NotRunnable
from adg.selection.contract import select
from baselines.deita import Deita, DeitaConfig
from baselines.kmq import Kmq, KmqConfig, drawn, equal_quotas, from_median
from baselines.shared import annotations

GROUPS = np.eye(3)[[0] * 12 + [1] * 5 + [2] * 3]


def write(path: Path, rows: list[dict[str, Any]]) -> dict[str, str]:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {"annotations": str(path), "annotations_sha256": sha256_file(path)}


def test_equal_quotas_by_hand() -> None:
    assert equal_quotas(np.array([10, 10, 10]), 9).tolist() == [3, 3, 3]
    assert equal_quotas(np.array([10, 2, 10]), 12).tolist() == [5, 2, 5], "what the small one lacks is shared"
    assert equal_quotas(np.array([10, 1, 20]), 10).tolist() == [4, 1, 5], "the odd one to the most records left"
    assert equal_quotas(np.array([3, 5, 5, 1]), 2).tolist() == [0, 1, 1, 0], "fewer than clusters: the largest"
    assert equal_quotas(np.array([2, 3]), 5).tolist() == [2, 3]
    with pytest.raises(BadInput, match=r"budget 6 is outside 0\.\.5"):
        equal_quotas(np.array([2, 3]), 6)


@given(st.lists(st.integers(0, 30), min_size=1, max_size=12).filter(sum), st.data())
def test_equal_quotas_are_exact_and_as_equal_as_sizes_allow(sizes: list[int], data: st.DataObject) -> None:
    budget = data.draw(st.integers(0, sum(sizes)))
    quotas = equal_quotas(np.array(sizes), budget)
    assert quotas.sum() == budget and (0 <= quotas).all() and (quotas <= sizes).all()
    open_ = [q for q, size in zip(quotas.tolist(), sizes, strict=True) if q < size]
    assert not open_ or max(quotas.tolist()) <= min(open_) + 1


def test_chances_are_in_proportion_to_exp_quality() -> None:
    quality = np.log([1.0, 3.0, 6.0])
    first = np.array([np.argmax(drawn(quality, ["a", "b", "c"], seed)) for seed in range(3000)])
    shares = np.bincount(first, minlength=3) / 3000
    np.testing.assert_allclose(shares, [0.1, 0.3, 0.6], atol=0.03)


def test_equal_shares_of_clusters(embedded: Callable) -> None:
    data = embedded(GROUPS)
    selector = Kmq(KmqConfig(vectors="backbone", clusters=3, within="random"))
    table = selector.scores(data)
    found = select(selector, data, table, 9)
    assert sorted(np.bincount(found // 12 + found // 17, minlength=3).tolist()) == [3, 3, 3]
    clusters = table.parts["cluster"][found]
    assert (np.diff(clusters) >= 0).all() and len(set(clusters.tolist())) == 3
    assert (np.diff(table.score[found])[np.diff(clusters) == 0] <= 0).all(), "by score inside a cluster"
    assert len(select(selector, data, table, 20)) == 20 and len(select(selector, data, table, 1)) == 1
    again = Kmq(KmqConfig(vectors="backbone", clusters=3, within="random", seed=5))
    assert set(select(again, data, again.scores(data), 9).tolist()) != set(found.tolist())


def test_clusters_are_limited_and_copies_are_no_special_case(embedded: Callable) -> None:
    selector = Kmq(KmqConfig(vectors="backbone", within="random"))
    table = selector.scores(embedded(GROUPS))
    assert table.parts["cluster"].max() < 4, "a fifth of 20 records, not 512"
    alone = embedded(np.ones((6, 2)))
    assert len(select(selector, alone, selector.scores(alone), 6)) == 6


def test_the_released_rule(embedded: Callable) -> None:
    data = embedded(GROUPS)
    selector = Kmq(KmqConfig(vectors="backbone", clusters=3, within="random", variant="released"))
    table = selector.scores(data)
    found = select(selector, data, table, 14)
    assert sorted(np.bincount(table.parts["cluster"][found]).tolist()) == [3, 4, 4], "floor(14 / 3), or all of 3"
    with pytest.raises(BadInput, match="selects nothing with budget 2 and 3 clusters"):
        select(selector, data, table, 2)
    many = Kmq(KmqConfig(vectors="backbone", clusters=21, within="random", variant="released"))
    with pytest.raises(BadInput, match=r"selector\.clusters is 21 but only 20 records"):
        many.scores(data)


def test_each_selector_has_a_check_of_its_own(golden_cell: dict[str, Node]) -> None:
    """KMQ takes negative rewards and DEITA does not: the same fields of the same rows are not checked for both."""
    selectors = Kmq(KmqConfig()), Deita(DeitaConfig())
    mine, theirs = (annotations.checked(golden_cell["pool"], who, ("quality",), None) for who in selectors)
    assert mine.fingerprint != theirs.fingerprint and mine.folder != theirs.folder
    assert theirs.payload["config"] == {"fields": ["quality"], "sha256": None}, "as before there was a name"


def test_median_takes_the_records_at_the_usual_distance(embedded: Callable) -> None:
    """Points on a line with the centre 2.2: distances 2.2, 1.2, 0.2, 0.8 and 2.8, their median 1.2."""
    points = np.array([[0.0, 1.0], [1.0, 1.0], [2.0, 1.0], [3.0, 1.0], [5.0, 1.0]])
    score = from_median(np.abs(points[:, 0] - 2.2), np.zeros(5, dtype=np.int64))
    assert np.argsort(-score, kind="stable").tolist() == [1, 3, 0, 2, 4] and score[1] == 0
    data = embedded(GROUPS)
    selector = Kmq(KmqConfig(vectors="backbone", within="median", clusters=3))
    table = selector.scores(data)
    assert not table.invalid and set(data.features) == {"vectors"}, "no score is read"
    for label in np.unique(table.parts["cluster"]):
        rows = table.parts["cluster"] == label
        distance = table.parts["distance"][rows]
        assert table.score[rows] == pytest.approx(-np.abs(distance - np.median(distance)))
    assert len(select(selector, data, table, 9)) == 9


def test_quality_is_read_and_a_list_counts_with_its_mean(embedded: Callable, tmp_path: Path) -> None:
    rows = [{"id": 0, "s": {"q": [1, 3]}}, {"id": 1, "s": {"q": 5.0}}, {"id": 3, "s": {}}, {"id": 4, "s": {"q": -1}}]
    files = write(tmp_path / "a.jsonl", rows)
    points = np.eye(2)[[0, 0, 0, 0, 1, 1]]
    points[5] = 0
    selector = Kmq(KmqConfig(vectors="backbone", quality="s.q", **files))
    table = selector.scores(embedded(points))
    assert table.parts["quality"][[0, 1, 4]].tolist() == [2.0, 5.0, -1.0]
    assert table.invalid == {2: "no annotation", 3: "no quality score", 5: "no annotation"}
    assert np.isnan(table.score[[2, 3, 5]]).all()


def test_a_file_without_its_digest_is_refused_with_it(tmp_path: Path) -> None:
    """The path is no part of the identity: what was made from the pool's own rows would be found in its place."""
    files = write(tmp_path / "a.jsonl", [{"id": 0, "quality": 1}])
    with pytest.raises(BadInput, match=f"add selector.annotations_sha256={files['annotations_sha256']}"):
        KmqConfig(annotations=files["annotations"])
    with pytest.raises(BadInput, match="not a file"):
        KmqConfig(annotations=str(tmp_path / "b.jsonl"))


def test_no_score_is_not_run_and_a_wrong_one_is_named(embedded: Callable, tmp_path: Path) -> None:
    data = embedded(GROUPS)
    with pytest.raises(NotRunnable, match=r"needs quality scores: no record has 'quality' in the pool; set selector\."):
        Kmq(KmqConfig(vectors="backbone")).scores(data)
    files = write(tmp_path / "a.jsonl", [{"id": 1, "quality": "good"}])
    with pytest.raises(BadMeasurement, match="id 1: 'quality' is 'good', expected a number"):
        Kmq(KmqConfig(vectors="backbone", **files)).scores(data)


@pytest.mark.parametrize(
    "options",
    [
        {"variant": "x"},
        {"within": "mean"},
        {"clusters": 0},
        {"n_init": 0},
        {"max_iter": 0},
        {"seed": -1},
        {"annotations_sha256": "0"},
    ],
)
def test_options_are_checked(options: dict) -> None:
    with pytest.raises(BadInput):
        KmqConfig(**options)
