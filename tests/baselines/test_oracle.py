"""The control's selector takes what it says it takes, and refuses where there is nothing to know."""

from __future__ import annotations

from pathlib import Path

import pytest

from adg.artifacts.store import Store
from adg.errors import BadInput
from adg.execution import ExecConfig
from adg.pools import records
from adg.pools import stage as pool_stage
from adg.pools.config import PoolConfig
from adg.selection.contract import SelectorData, select
from baselines.oracle import Oracle, OracleConfig
from experiments.cells import cells


@pytest.fixture
def data(tmp_path: Path) -> SelectorData:
    node = pool_stage.node(PoolConfig(name="p", path="mini:general.jsonl", rows=40, corrupt=0.5))
    pool = Store(tmp_path, ExecConfig()).ensure(node)
    return SelectorData(records.load(pool), {}, pool)


@pytest.mark.parametrize("take", ["clean", "corrupted"])
def test_it_takes_only_rows_of_its_kind(data: SelectorData, take: str) -> None:
    assert data.pool is not None
    corrupted = records.load_corrupted(data.pool)
    chosen = {}
    for seed in (1, 2):
        oracle = Oracle(OracleConfig(take, seed))
        table = oracle.scores(data)
        chosen[seed] = [data.keys[row] for row in select(oracle, data, table, 12)]
        assert {key in corrupted for key in chosen[seed]} == {take == "corrupted"}
        assert [data.keys[row] for row in select(oracle, data, table, 20)][:12] == chosen[seed]
    assert chosen[1] != chosen[2]


def test_too_few_of_them_are_refused_with_their_number(data: SelectorData) -> None:
    oracle = Oracle(OracleConfig("clean"))
    with pytest.raises(BadInput, match=r"only 20 of 40 records have a score \(20 x its output is another row's\)"):
        select(oracle, data, oracle.scores(data), 21)


def test_it_has_no_place_in_a_pool_as_it_is(tmp_path: Path) -> None:
    (cell,) = cells(["profile=smoke", "selector=oracle", f"exec.runs={tmp_path}"])
    with pytest.raises(BadInput, match=r"pool mini_general-24 has none; set pool\.corrupt"):
        _ = cell.nodes
    (cell,) = cells(["profile=smoke", "selector=oracle", "pool.corrupt=0.5", f"exec.runs={tmp_path}"])
    assert cell.name == "tiny_random/mini_general/oracle/pool.corrupt=0.5"
    assert list(cell.nodes) == ["pool", "backbone", "scores", "subset", "adapter", "eval", "heldout"]


def test_it_chooses_what_it_likes() -> None:
    with pytest.raises(BadInput, match=r"selector\.take is 'both'; expected one of clean, corrupted"):
        OracleConfig("both")


@pytest.mark.parametrize("profile", ["mini", "paper", "smoke"])
def test_no_main_table_holds_it(profile: str) -> None:
    assert "oracle" not in {cell.config.selector["name"] for cell in cells([f"profile={profile}"])}
