"""Bins: how many there are, that similar instructions meet, that order and faults are handled."""

from __future__ import annotations

import numpy as np
import pytest

from adg.embedding.config import BinsConfig
from adg.errors import BadInput, BadMeasurement
from adg.selection import bins as bins_stage


def groups(n: int = 60, each: int = 3, d: int = 6) -> tuple[np.ndarray, np.ndarray]:
    """Unit vectors close to one of ``each`` axes, and which."""
    draw = np.random.default_rng(0)
    axis = np.arange(n) % each
    vectors = np.eye(d)[axis] + 0.01 * draw.standard_normal((n, d))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32), axis


@pytest.mark.parametrize(
    ("n", "clusters", "made"),
    [
        (4, 1000, 1),
        (5, 1000, 1),
        (9, 1000, 1),
        (10, 1000, 2),
        (48, 1000, 9),
        (52_002, 1000, 1000),
        (60, 3, 3),
        (60, 1, 1),
    ],
)
def test_number_of_clusters(n: int, clusters: int, made: int) -> None:
    assert bins_stage.count(n, BinsConfig(clusters=clusters)) == made


def test_similar_instructions_meet() -> None:
    vectors, axis = groups()
    bins = bins_stage.cluster(vectors, BinsConfig(clusters=3))
    assert len({(a, b) for a, b in zip(axis, bins, strict=True)}) == 3


def test_same_seed_same_bins_and_another_seed_may_differ() -> None:
    vectors = np.random.default_rng(1).standard_normal((300, 8)).astype(np.float32)
    first = bins_stage.cluster(vectors, BinsConfig(clusters=20))
    assert np.array_equal(first, bins_stage.cluster(vectors.copy(), BinsConfig(clusters=20)))
    assert not np.array_equal(first, bins_stage.cluster(vectors, BinsConfig(clusters=20, seed=1)))


def test_equals_the_released_call() -> None:
    from sklearn.cluster import MiniBatchKMeans

    vectors = np.random.default_rng(2).standard_normal((400, 8)).astype(np.float32)
    released = MiniBatchKMeans(n_clusters=30, random_state=42, batch_size=40, n_init=3, max_iter=100).fit(vectors)
    assert np.array_equal(bins_stage.cluster(vectors, BinsConfig(clusters=30)), released.labels_)


def test_global_generator_is_left_alone() -> None:
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    bins_stage.cluster(groups()[0], BinsConfig(clusters=3))
    assert np.array_equal(before, np.random.get_state()[1])  # noqa: NPY002


@pytest.mark.parametrize("n", [1, 4, 9, 12])
def test_small_pools(n: int) -> None:
    bins = bins_stage.cluster(groups(n)[0], BinsConfig())
    assert bins.shape == (n,) and bins.min() >= 0 and bins.max() < max(1, n // 5)


def test_identical_instructions_are_no_fault() -> None:
    bins = bins_stage.cluster(np.ones((50, 4), dtype=np.float32), BinsConfig(clusters=5))
    assert len(set(bins.tolist())) == 1


def test_refusals() -> None:
    vectors = groups()[0].copy()
    vectors[7, 2] = np.nan
    with pytest.raises(BadMeasurement, match="row 7"):
        bins_stage.cluster(vectors, BinsConfig())
    for shape in ((0, 4), (4,), (4, 0)):
        with pytest.raises(BadMeasurement, match="shape"):
            bins_stage.cluster(np.zeros(shape), BinsConfig())
    for bad in ({"clusters": 0}, {"n_init": 0}, {"max_iter": 0}, {"seed": -1}):
        with pytest.raises(BadInput, match=next(iter(bad))):
            BinsConfig(**bad)
