"""Random in bins: ADG's bins and quotas, a draw from each record's own id."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from adg.artifacts.artifact import Artifact
from adg.errors import BadInput
from adg.pools.records import Record
from adg.selection.contract import SelectorData, select
from adg.selection.quotas import largest_remainder
from baselines.cluster_random import ClusterRandom, ClusterRandomConfig


def data_of(folder: Path, bins: dict[int, int], ids: list[int]) -> SelectorData:
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder.mkdir()
    table = pa.table({"id": [str(i) for i in bins], "bin": list(bins.values())})
    pq.write_table(table, folder / "bins.parquet")
    artifact = Artifact(folder, {"files": {"bins.parquet": {}}, "info": {}})
    return SelectorData([Record(i, f"q {i}", "", "a") for i in ids], {"bins": artifact})


def chosen(data: SelectorData, budget: int, **options: object) -> list[int]:
    selector = ClusterRandom(ClusterRandomConfig(**options))
    return [int(data.records[i].id) for i in select(selector, data, selector.scores(data), budget)]


def test_quotas_are_adgs_and_the_draw_is_a_records_own(tmp_path: Path) -> None:
    bins = {i: 0 if i < 30 else 1 if i < 50 else 4 for i in range(60)}
    data = data_of(tmp_path / "a", bins, list(range(60)))
    ids = chosen(data, 12)
    sizes = np.bincount([bins[i] for i in ids], minlength=5)
    assert sizes[[0, 1, 4]].tolist() == largest_remainder(np.array([30, 20, 10]), 12).tolist() == [6, 4, 2]
    assert [bins[i] for i in ids] == sorted(bins[i] for i in ids)
    assert chosen(data, 12) == ids != chosen(data, 12, seed=1)
    assert set(ids) < set(chosen(data, 24)), "twice the budget doubles each quota"
    some = [i for i in range(60) if i >= 30 or i in ids or i % 2]
    again = chosen(data_of(tmp_path / "b", {i: bins[i] for i in some}, some), 8)
    in_first = [i for i in again if bins[i] == 0]
    assert in_first == ids[: len(in_first)], "who else is in the bin does not matter"


def test_every_record_of_a_bin_is_as_likely(tmp_path: Path) -> None:
    data = data_of(tmp_path / "a", dict.fromkeys(range(10), 0), list(range(10)))
    counts = np.zeros(10)
    for seed in range(400):
        counts[chosen(data, 3, seed=seed)] += 1
    assert counts.sum() == 1200 and abs(counts - 120).max() < 4 * np.sqrt(400 * 0.3 * 0.7)


def test_a_record_without_a_bin_has_a_reason_and_the_released_rule_may_return_fewer(tmp_path: Path) -> None:
    data = data_of(tmp_path / "a", {i: i // 7 for i in range(20)}, list(range(21)))
    selector = ClusterRandom(ClusterRandomConfig(rule="released"))
    table = selector.scores(data)
    assert table.invalid == {20: "it has no bin: it could not be embedded"} and np.isnan(table.score[20])
    assert len(select(selector, data, table, 10)) < 10
    assert len(chosen(data, 20)) == 20
    with pytest.raises(BadInput, match="only 20 of 21 records have a score"):
        chosen(data, 21)
    with pytest.raises(BadInput, match=r"selector\.rule is 'floor'"):
        ClusterRandomConfig(rule="floor")
