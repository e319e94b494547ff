"""Strata of answer length: their edges, and choices that length cannot explain."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from adg import seeds
from adg.answers import stage as answers_stage
from adg.artifacts.artifact import Artifact, canonical
from adg.errors import BadInput
from adg.selection.divergence import DivergenceConfig
from adg.selection.quotas import binwise
from adg.selection.strata import MatchOptions, answer_lengths, strata
from baselines.cluster_random import ClusterRandomConfig


def answers_of(folder: Path, texts: dict[str, list[str]]) -> Artifact:
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [(key, sample, text) for key, drawn in texts.items() for sample, text in enumerate(drawn)]
    columns = dict(zip(("id", "sample", "text"), map(list, zip(*rows, strict=True)), strict=True))
    pq.write_table(pa.table(columns), folder / "answers.parquet")
    artifact = Artifact(folder, {"files": {"answers.parquet": {}}, "info": {}})
    assert answers_stage.load(artifact) == texts
    return artifact


def test_lengths_are_means_over_the_answers_that_are_scored(tmp_path: Path) -> None:
    artifact = answers_of(tmp_path, {"1": ["ab", "abcd", ""], "2": ["答案", "x", "xyz"]})
    np.testing.assert_equal(answer_lengths(artifact, ["2", "1", "7"]), [2.0, 2.0, np.nan])
    np.testing.assert_equal(answer_lengths(artifact, ["1", "2"], 2), [3.0, 1.5])


def test_strata_by_hand() -> None:
    lengths = np.array([10, 30, 20, np.nan, 40, 50, 60, 70, 80], dtype=float)
    # quartiles of 10 .. 80: 27.5, 45, 62.5
    assert strata(lengths, 4).tolist() == [0, 1, 0, -1, 1, 2, 2, 3, 3]
    assert strata(np.array([5.0, 5.0, 5.0, 9.0]), 4).tolist() == [0, 0, 0, 3], "equal lengths share a stratum"
    assert strata(np.full(3, 7.0), 5).tolist() == [0, 0, 0]
    assert strata(np.full(2, np.nan), 5).tolist() == [-1, -1]


def test_length_does_not_explain_a_matched_choice() -> None:
    """The score is the length itself: unmatched, the choice is the longest; matched, it is as long as the pool."""
    draw = seeds.generator(0, "matched")
    lengths, bins = draw.gamma(2.0, 100.0, size=5000), draw.integers(0, 200, size=5000)
    layers = strata(lengths, 5)
    plain, matched = (binwise(lengths, bins, 1000, strata=of) for of in (None, layers))
    np.testing.assert_allclose(np.bincount(layers[matched]) / 1000, np.bincount(layers) / 5000, atol=0.005)
    ratio = [lengths[rows].mean() / lengths.mean() for rows in (plain, matched)]
    assert ratio[0] > 1.9 and 1.0 < ratio[1] < 1.3


@pytest.mark.parametrize("kind", [DivergenceConfig, ClusterRandomConfig])
def test_options_are_checked_and_name_nothing_by_default(kind: type[MatchOptions]) -> None:
    assert "match" not in canonical(kind()) and "strata" not in canonical(kind())
    assert '"match":"length"' in canonical(kind(match="length"))
    for options, message in (
        ({"match": "lenght"}, r"selector\.match is 'lenght' \(did you mean 'length'"),
        ({"match": "length", "strata": 1}, r"selector\.strata is 1"),
        ({"strata": 4}, "leave it out"),
        ({"match": "length", "rule": "released"}, "knows no strata"),
    ):
        with pytest.raises(BadInput, match=message):
            kind(**options)
