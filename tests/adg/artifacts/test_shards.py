"""Shards come back as they were saved or not at all, and damage is said."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from adg.artifacts.shards import Shard, Shards
from adg.errors import HarnessError

KEY = [3, ["a", "b"]]
TABLE = pa.table({"id": ["a", "b"], "tokens": pa.array([1, 2], pa.int32())})


def content() -> Shard:
    return Shard({"failed": [["b", "no reason"]], "loss": 0.1 + 0.2}, {"grams": np.arange(6.0).reshape(1, 2, 3)}, TABLE)


def same(one: Shard, other: Shard) -> bool:
    return (
        one.facts == other.facts
        and one.arrays.keys() == other.arrays.keys()
        and all(np.array_equal(one.arrays[name], other.arrays[name]) for name in one.arrays)
        and all(one.arrays[name].dtype == other.arrays[name].dtype for name in one.arrays)
        and one.table.equals(other.table)
    )


@pytest.fixture
def shards(tmp_path: Path) -> Shards:
    return Shards(tmp_path / "work", "part")


def test_what_is_saved_comes_back(shards: Shards) -> None:
    assert shards.find(KEY) is None and shards.absent([KEY, "other"]) == [0, 1]
    shards.save(KEY, content())
    found = shards.find(KEY)
    assert found is not None and same(found, content())
    assert shards.absent([KEY, "other"]) == [1]
    assert [same(shard, content()) for shard in shards.every()] == [True]
    assert Shards(shards.work, "another kind").find(KEY) is None


def test_two_thousand_flipped_bits_give_the_content_or_nothing(shards: Shards, capsys: pytest.CaptureFixture) -> None:
    shards.save(KEY, content())
    path = shards.path(KEY)
    whole = path.read_bytes()
    draw = random.Random(1)
    for _ in range(2000):
        damaged = bytearray(whole)
        damaged[draw.randrange(len(whole))] ^= 1 << draw.randrange(8)
        path.write_bytes(damaged)
        assert shards.find(KEY) is None
        assert not path.exists() and f"{path} is damaged" in capsys.readouterr().err


def test_no_shortened_lengthened_or_exchanged_shard_is_taken(shards: Shards) -> None:
    shards.save(KEY, content())
    path, whole = shards.path(KEY), shards.path(KEY).read_bytes()
    for length in range(0, len(whole), 7):
        path.write_bytes(whole[:length])
        assert shards.find(KEY) is None
    path.write_bytes(whole + b"\0")
    assert shards.find(KEY) is None
    shards.save("other", content())
    shards.path("other").rename(path)  # whole, but of other work
    assert shards.find(KEY) is None
    shards.save("other", content())
    shards.path("other").rename(path)
    assert list(shards.every()) == []


def test_parts_become_one_array(shards: Shards, tmp_path: Path) -> None:
    whole = np.random.default_rng(0).random((7, 2, 2))
    for i in range(7):
        shards.save(i, Shard(arrays={"grams": whole[i : i + 1]}))
    shards.assemble(tmp_path / "grams.npy", list(range(7)), "grams", whole.shape, np.float64)
    np.save(tmp_path / "plain.npy", whole)
    assert (tmp_path / "grams.npy").read_bytes() == (tmp_path / "plain.npy").read_bytes()
    shards.path(4).unlink()
    with pytest.raises(HarnessError, match=r"cannot be read back.*[Rr]un the same command"):
        shards.assemble(tmp_path / "again.npy", list(range(7)), "grams", whole.shape, np.float64)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["grams.npy", "plain.npy", "work"], "no half of a file is left"
