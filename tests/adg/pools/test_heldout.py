"""Held-out rows: drawn by seed, never among the rows of the pool, and never a question that another row repeats."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adg.artifacts.artifact import Artifact
from adg.artifacts.store import Store
from adg.errors import BadInput
from adg.execution import ExecConfig
from adg.pools import records
from adg.pools import stage as pool_stage
from adg.pools.config import PoolConfig


def build(folder: Path, source: list[dict[str, Any]], **config: Any) -> Artifact:
    path = folder / "pool.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in source))
    node = pool_stage.node(PoolConfig(**{"name": "own", "path": str(path), "empty_output": "keep", **config}))
    return Store(folder / "runs", ExecConfig()).ensure(node)


def numbered(n: int) -> list[dict[str, Any]]:
    return [{"id": i, "instruction": f"do {i}", "output": f"done {i}"} for i in range(n)]


def ids(rows: list[records.Record]) -> set[int | str]:
    return {record.id for record in rows}


ROW = st.tuples(st.sampled_from(("do a", "Do  A", "do b", "do c", "do d")), st.sampled_from(("", "x")))


@settings(max_examples=60, deadline=None)
@given(
    drawn=st.lists(st.tuples(ROW, st.sampled_from(("", " ", "yes"))), min_size=2, max_size=12),
    n=st.integers(1, 4),
    rows=st.none() | st.integers(1, 8),
    seed=st.integers(0, 3),
)
def test_no_row_of_the_pool_is_or_repeats_a_held_out_one(
    drawn: list[Any], n: int, rows: int | None, seed: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Whatever repeats: either the draw is refused, or no prompt of a held-out row stands among the selectable ones."""
    source = [{"id": i, "instruction": a, "input": b, "output": c} for i, ((a, b), c) in enumerate(drawn)]
    try:
        pool = build(tmp_path_factory.mktemp("p"), source, heldout=n, rows=rows, seed=seed)
    except BadInput as refusal:
        assert "usable rows" in str(refusal) and (
            "set pool.heldout=" in str(refusal) or "set pool.rows=" in str(refusal)
        )
        return
    held, kept = records.load_held_out(pool), records.load(pool)
    assert len(held) == n and kept and (rows is None or len(kept) == rows)
    assert not ids(held) & ids(kept) and all(record.output.strip() for record in held)

    def prompts(some: list[records.Record]) -> list[tuple[str, str]]:
        return [(" ".join(r.instruction.lower().split()), r.input) for r in some]

    assert not set(prompts(held)) & set(prompts(kept)) and len(set(prompts(held))) == n
    assert set(records.load_original(pool)) == {record.key for record in kept}
    left_out = records.load_left_out(pool)
    assert {key for key, why in left_out.items() if why == "held out (pool.heldout)"} == {r.key for r in held}
    assert len(left_out) + len(kept) == len(source)


def test_a_sample_is_the_same_with_and_without_held_out_rows(tmp_path: Path) -> None:
    plain, held = (build(tmp_path, numbered(40), rows=25, heldout=n) for n in (0, 9))
    assert records.load(plain) == records.load(held) and len(records.load_held_out(held)) == 9
    assert plain.file("records.parquet").read_bytes() == held.file("records.parquet").read_bytes()
    assert held.info["held_out"] == 9 and "held_out" not in plain.info and not records.load_held_out(plain)
    assert set(plain.manifest["files"]) == {"records.parquet", "original.jsonl", "dropped.jsonl", "not_drawn.jsonl"}


def test_the_draw_depends_on_the_seed_and_on_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    rows = numbered(40)
    first, again, other = (
        ids(records.load_held_out(build(folder, order, heldout=8, seed=seed)))
        for folder, order, seed in ((tmp_path, rows, 1), (tmp_path / "other", rows[::-1], 1), (tmp_path, rows, 2))
    )
    assert first == again != other


def test_identity_of_pools_without_held_out_rows_is_as_it_was(tmp_path: Path) -> None:
    build(tmp_path, numbered(4))
    path = str(tmp_path / "pool.jsonl")

    def payload(**config: Any) -> Any:
        return pool_stage.node(PoolConfig(name="own", path=path, **config)).payload["config"]

    assert "heldout" not in payload() and payload(seed=3) == payload()
    assert payload(heldout=1)["heldout"] == 1 and payload(heldout=1, seed=3) != payload(heldout=1)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"heldout": 10}, "10 usable rows; 9 may be held out"),
        ({"heldout": 3, "rows": 8}, "2 of them beside the pool.rows=8 of the sample; 2 may be held out"),
        ({"heldout": -1}, "pool.heldout is -1"),
        ({"heldout": 3, "rows": 8, "expected_rows": 10}, "more than the 10 rows"),
        ({"heldout": 10, "expected_rows": 10}, "more than the 10 rows"),
    ],
)
def test_more_than_there_is_is_refused(tmp_path: Path, config: dict[str, Any], said: str) -> None:
    with pytest.raises(BadInput, match=said):
        build(tmp_path, numbered(10), **config)
