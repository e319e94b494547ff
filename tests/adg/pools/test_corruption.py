"""``pool.corrupt``: a seeded exchange of outputs in which nothing stays, kept in the artifact, absent by default."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adg.artifacts.artifact import Artifact
from adg.artifacts.store import Store
from adg.errors import BadInput
from adg.execution import ExecConfig
from adg.pools import corruption, records
from adg.pools import stage as pool_stage
from adg.pools.config import PoolConfig
from adg.pools.notices import notices
from adg.pools.records import Record


def build(runs: Path, **config: Any) -> Artifact:
    return Store(runs, ExecConfig()).ensure(
        pool_stage.node(PoolConfig(name="p", path="mini:general.jsonl", rows=40, **config))
    )


@given(st.lists(st.sampled_from("abcdefgh"), min_size=2, max_size=40), st.floats(0.05, 1), st.integers(0, 5))
def test_nothing_keeps_its_output_and_none_is_lost(outputs: list[str], share: float, seed: int) -> None:
    rows = [Record(i, "say", "", text) for i, text in enumerate(outputs)]
    count = round(share * len(rows))
    try:
        changed, source = corruption.exchanged(rows, share, seed)
    except BadInput as error:
        assert count < 2 or "have the same output" in str(error)
        return
    assert len(source) == count and sorted(source) == sorted(source.values()), "outputs are exchanged, none is copied"
    for i, (before, after) in enumerate(zip(rows, changed, strict=True)):
        assert (after.id, after.instruction) == (before.id, before.instruction)
        assert after.output == (outputs[source[i]] if i in source else before.output)
        assert (after.output != before.output) == (i in source)
    assert corruption.exchanged(rows, share, seed) == (changed, source)


def test_half_of_one_text_is_still_exchanged_and_more_is_refused() -> None:
    texts = ["same", "same", "same", "x", "y", "z"]
    changed, _ = corruption.exchanged([Record(i, "say", "", text) for i, text in enumerate(texts)], 1.0, 0)
    assert [record.output for record in changed[3:]] == ["same"] * 3
    with pytest.raises(BadInput, match=r"draws 6 rows of which 4 have the same output \('same'\)"):
        corruption.exchanged([Record(i, "say", "", text) for i, text in enumerate(["same ", *texts[:-1]])], 1.0, 0)


@pytest.mark.parametrize(("rows", "share"), [(40, 0.02), (1, 1.0), (2, 0.5)])
def test_fewer_than_two_rows_are_refused(rows: int, share: float) -> None:
    with pytest.raises(BadInput, match=r"pool\.corrupt"):
        corruption.exchanged([Record(i, "say", "", str(i)) for i in range(rows)], share, 0)


@pytest.mark.parametrize("share", [-0.1, 1.5, float("nan")])
def test_a_share_is_between_0_and_1(share: float) -> None:
    with pytest.raises(BadInput, match="between 0 and 1"):
        PoolConfig(name="p", corrupt=share)


def test_the_artifact_says_which_rows_were_exchanged(tmp_path: Path) -> None:
    clean, pool = build(tmp_path), build(tmp_path, corrupt=0.25)
    exchanged = records.load_corrupted(pool)
    assert len(exchanged) == pool.info["corrupted"] == 10
    own = {record.key: record.output for record in records.load(clean)}
    for record in records.load(pool):
        assert record.output == own[exchanged.get(record.key, record.key)]
        assert (record.output == own[record.key]) == (record.key not in exchanged)
    assert records.load_original(pool) == records.load_original(clean), "the rows as they came"
    assert any("10 of 40 rows have the output of another row" in line for line in notices(pool.info))
    assert records.load_corrupted(build(tmp_path, corrupt=0.25, seed=1)) != exchanged


def test_without_it_nothing_changes(tmp_path: Path) -> None:
    pool, same = build(tmp_path), pool_stage.node(PoolConfig(name="p", path="mini:general.jsonl", rows=40, corrupt=0.0))
    assert pool.fingerprint == same.fingerprint and "corrupt" not in json.dumps(pool.manifest["payload"])
    assert "corrupted" not in pool.info and records.load_corrupted(pool) == {}
    assert records.CORRUPTED not in pool.manifest["files"]


@pytest.mark.parametrize("rows", [40, None])
def test_rows_that_are_held_out_stay_as_they_are(tmp_path: Path, rows: int | None) -> None:
    config = {"name": "p", "path": "mini:general.jsonl", "rows": rows, "heldout": 12}
    store = Store(tmp_path, ExecConfig())
    clean, pool = (store.ensure(pool_stage.node(PoolConfig(**config, corrupt=share))) for share in (0.0, 1.0))  # type: ignore[arg-type]
    assert records.load_held_out(pool) == records.load_held_out(clean)
    held_out = {record.key for record in records.load_held_out(pool)}
    assert len(held_out) == 12 and not held_out & set(records.load_corrupted(pool))
    assert pool.info["corrupted"] == pool.info["rows_out"] == len(records.load(clean))
