"""The contract every selector meets, ADG included, as tests:

    adg contract NAME

A selector is tested by being there, in ``baselines`` or in an installed package. Needs pytest and hypothesis; files of
configuration are those that every command finds by itself.
"""

from __future__ import annotations

import dataclasses
import json
import random
import re
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adg.answers import stage as answers_stage
from adg.answers.config import EngineConfig, SamplingConfig
from adg.artifacts.artifact import Node
from adg.artifacts.store import Store
from adg.backbones import stage as backbone_stage
from adg.backbones.config import BackboneConfig
from adg.embedding import stage as embedding_stage
from adg.embedding.config import BinsConfig, EmbeddingConfig
from adg.errors import BadInput, NotRunnable
from adg.execution import ExecConfig
from adg.pools import records
from adg.pools import stage as pool_stage
from adg.pools.config import PoolConfig
from adg.pools.sources import MINI
from adg.selection import bins as bins_stage
from adg.selection.contract import ScoreTable, SelectorData, make, select
from baselines import selector_types
from experiments import search_path

TYPES = selector_types()


def options(name: str) -> dict[str, Any]:
    """The selector's own YAML, with the interpolations that the contract does not need resolved by its defaults."""
    import yaml

    raw = yaml.safe_load(search_path.text_of(f"selector/{name}"))
    return {k: v for k, v in raw.items() if not (isinstance(v, str) and v.startswith("${"))}


def pool_of(selector: Any, **config: Any) -> Node:
    """The pool's node; some of its outputs are exchanged for the one selector that cannot do without."""
    return pool_stage.node(PoolConfig(**config, corrupt=0.5 if selector.name == "oracle" else 0.0))


def cell_of(pool: Node, new_tokens: int = 4) -> dict[str, Node]:
    """The nodes that every cell can make: the tiny model answers, is embedded and clustered."""
    backbone = backbone_stage.node(BackboneConfig(name="tiny_random", builder="tiny_random", dtype="float32"))
    sampling = SamplingConfig(max_new_tokens=new_tokens, logprobs=True)  # for the selectors that read them
    answers = answers_stage.node(pool, backbone, sampling, EngineConfig(batch_size=8))
    grams = embedding_stage.node(answers, pool, backbone, EmbeddingConfig())
    bins = bins_stage.node(grams, BinsConfig())
    return {"pool": pool, "backbone": backbone, "answers": answers, "grams": grams, "bins": bins}


def built(selector: Any, store: Store, cell: dict[str, Node]) -> SelectorData:
    """What the selector reads, built for real. One whose YAML lacks a checkpoint must say so, and what to set; the rest
    of the test is skipped."""
    pool = store.ensure(cell["pool"])
    try:
        features = {name: store.ensure(node) for name, node in selector.inputs(cell).items()}
    except NotRunnable as reason:
        not_runnable(selector, reason)
    return SelectorData(records.load(pool), features, pool)


def not_runnable(selector: Any, reason: NotRunnable) -> NoReturn:
    assert re.match(r"needs .+set selector\.\w+=", str(reason), re.DOTALL), reason
    pytest.skip(f"{selector.name} is not runnable as configured: {reason}")


@pytest.fixture(scope="session")
def shared_store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(tmp_path_factory.mktemp("contract"), ExecConfig(device="cpu"))


MATCHED = ("adg", "cluster_random")  # selectors that also choose within strata of answer length


@pytest.fixture(params=[*sorted(TYPES), *(f"{name} matched" for name in MATCHED)])
def selector(request: pytest.FixtureRequest) -> Any:
    name, _, matched = request.param.partition(" ")
    return make(TYPES, options(name) | ({"match": "length"} if matched else {}))


@pytest.fixture
def world(shared_store: Store, selector: Any) -> SelectorData:
    """A real pool through the real stages."""
    pool = pool_of(selector, name="mini_general", path="mini:general.jsonl", rows=23)
    return built(selector, shared_store, cell_of(pool, new_tokens=6))


def chosen(selector: Any, data: SelectorData, budget: int) -> list[Any]:
    """Chosen ids. A budget above the records with a score must be refused with their number, and is cut to it."""
    table = scored(selector, data)
    usable = int(table.valid.sum())
    if usable < budget <= len(data.records):
        with pytest.raises(BadInput, match=f"only {usable} of {len(data.records)} records have a score"):
            select(selector, data, table, budget)
        budget = usable
    return [data.records[i].id for i in select(selector, data, table, budget)]


def scored(selector: Any, data: SelectorData) -> ScoreTable:
    """Its scores; skips as ``built`` does."""
    try:
        return selector.scores(data)
    except NotRunnable as reason:
        not_runnable(selector, reason)


@pytest.mark.parametrize("name", sorted({*TYPES, *search_path.names("selector")}))
def test_a_selector_has_a_config_and_a_config_a_selector(name: str) -> None:
    cls = TYPES[name]
    config: Any = cls.Config
    assert options(name)["name"] == name
    assert dataclasses.is_dataclass(config) and config.__dataclass_params__.frozen  # type: ignore[union-attr]
    assert cls.__doc__ and search_path.text_of(f"selector/{name}").startswith("#")


@pytest.mark.parametrize("budget", [1, 7, 22, 23])
def test_exact_budget_of_distinct_ids_from_the_pool(selector: Any, world: SelectorData, budget: int) -> None:
    ids = chosen(selector, world, budget)
    usable = int(scored(selector, world).valid.sum())
    assert usable >= 7
    assert len(ids) == len(set(ids)) == (23 if selector.whole_pool else min(budget, usable))
    assert set(ids) <= {r.id for r in world.records}


def test_same_seed_same_answer_and_no_global_generator(selector: Any, world: SelectorData) -> None:
    np.random.seed(1)  # noqa: NPY002 - the contract is about the global generators
    random.seed(1)
    before = str(np.random.get_state()), random.getstate()  # noqa: NPY002
    first = chosen(selector, world, 9)
    assert (str(np.random.get_state()), random.getstate()) == before, "a global generator was used"  # noqa: NPY002
    np.random.seed(2)  # noqa: NPY002
    assert chosen(selector, world, 9) == first


def test_budget_above_the_pool_is_refused(selector: Any, world: SelectorData) -> None:
    if selector.whole_pool:
        pytest.skip("takes the whole pool whatever the budget")
    with pytest.raises(BadInput, match="the pool holds 23"):
        chosen(selector, world, 24)


def test_scores_have_a_row_for_every_record(selector: Any, world: SelectorData) -> None:
    table = scored(selector, world)
    table.check(23)
    assert np.isfinite(table.score[table.valid]).all()


def test_the_order_of_the_file_does_not_matter(selector: Any, shared_store: Store, tmp_path: Path) -> None:
    """The same rows shuffled in the file give the same subset, for selectors that read nothing but the pool."""
    lines = (MINI / "general.jsonl").read_text(encoding="utf-8").splitlines()[:40]
    orders = [lines, [lines[i] for i in np.random.default_rng(3).permutation(40)]]
    found = []
    for i, order in enumerate(orders):
        (tmp_path / f"{i}.jsonl").write_text("\n".join(order) + "\n", encoding="utf-8")
        pool = pool_of(selector, name=f"p{i}", path=str(tmp_path / f"{i}.jsonl"))
        data = built(selector, shared_store, cell_of(pool))
        found.append(chosen(selector, data, 11))
    assert found[0] == found[1]


def test_held_out_rows_are_as_if_they_were_not_there(selector: Any, shared_store: Store, tmp_path: Path) -> None:
    """A pool with rows held out gives the features, scores and choices of a file without these rows, down to the last
    row, so that no stage on the way has seen them."""
    lines = (MINI / "general.jsonl").read_text(encoding="utf-8").splitlines()[:21]
    whole, rest = tmp_path / "whole.jsonl", tmp_path / "rest.jsonl"
    whole.write_text("\n".join(lines) + "\n", encoding="utf-8")
    held_pool = pool_of(selector, name="whole", path=str(whole), heldout=5)
    held = {record.key for record in records.load_held_out(shared_store.ensure(held_pool))}
    rest.write_text("".join(f"{line}\n" for line in lines if str(json.loads(line)["id"]) not in held), encoding="utf-8")
    ours = built(selector, shared_store, cell_of(held_pool))
    theirs = built(selector, shared_store, cell_of(pool_of(selector, name="rest", path=str(rest))))
    assert len(held) == 5 and [r.key for r in ours.records] == [r.key for r in theirs.records] and len(ours.keys) == 16
    np.testing.assert_equal(scored(selector, ours).score, scored(selector, theirs).score)
    for budget in (7, 16):
        ids = chosen(selector, ours, budget)
        assert ids == chosen(selector, theirs, budget) and not held & {str(id) for id in ids}


def test_copies_empty_and_one_token_responses(selector: Any, shared_store: Store, tmp_path: Path) -> None:
    """A pool with all of them at once: a score or a reason for each, distinct ids, and copies that tie."""
    lines = (MINI / "general.jsonl").read_text(encoding="utf-8").splitlines()[:17]
    rows = [json.loads(line) for line in lines]
    rows += [{**rows[3], "id": 900}, {**rows[5], "id": 901}, {**rows[3], "id": 902}]
    rows += [{**rows[7 + i], "id": 903 + i, "output": text} for i, text in enumerate(("", "4", " ", rows[9]["output"]))]
    (tmp_path / "hard.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    pool = pool_of(selector, name="hard", path=str(tmp_path / "hard.jsonl"), empty_output="keep")
    data = built(selector, shared_store, cell_of(pool))
    table = scored(selector, data)
    table.check(len(rows))
    assert all(reason.strip() for reason in table.invalid.values())
    for budget in (1, 5, len(rows)):
        ids = chosen(selector, data, budget)
        assert len(ids) == len(set(ids)) and set(ids) <= {row["id"] for row in rows}
    if reads_with_a_model(selector):
        place = {record.id: i for i, record in enumerate(data.records)}
        for first, copy in ((rows[3]["id"], 900), (rows[5]["id"], 901), (rows[3]["id"], 902)):
            np.testing.assert_equal(table.score[place[copy]], table.score[place[first]])


def reads_with_a_model(selector: Any) -> bool:
    """Whether a language model reads each record by itself: losses, token differences, ratings."""
    pool = pool_of(selector, name="mini_general", path="mini:general.jsonl")
    return bool({"losses", "deltas", "ratings"} & set(selector.inputs(cell_of(pool))))


TEXTS = ("", "7", " ", "Yes.", "Two words", "A longer answer, with a number (12) and a line\nfeed.", "答案是四")
ROW = st.tuples(
    st.sampled_from(("Add 3 and 4.", "Say it.", "答？")), st.sampled_from(("", "a small sea")), st.sampled_from(TEXTS)
)


@pytest.mark.parametrize("name", [name for name in sorted(TYPES) if reads_with_a_model(make(TYPES, options(name)))])
@settings(max_examples=8, deadline=None, derandomize=True, database=None)
@given(drawn=st.lists(ROW, min_size=2, max_size=7), seed=st.integers(0, 3))
def test_any_pool_read_with_a_model(
    name: str, drawn: list, seed: int, shared_store: Store, tmp_path_factory: Any
) -> None:
    """Copies, empty and one-token responses in any mixture and order: equal texts tie exactly and the lowest id wins,
    the order of the file changes nothing, budgets from 1 to all that have a score are met."""
    selector, folder = make(TYPES, options(name)), tmp_path_factory.mktemp("any")
    rows = [{"id": i, "instruction": a, "input": b, "output": c} for i, (a, b, c) in enumerate(drawn)]
    if not any(row["output"].strip() for row in rows):
        rows[0]["output"] = "Something to read."
    found = []
    for turn, order in enumerate((range(len(rows)), np.random.default_rng(seed).permutation(len(rows)))):
        (folder / f"{turn}.jsonl").write_text("".join(json.dumps(rows[i]) + "\n" for i in order), encoding="utf-8")
        pool = pool_stage.node(PoolConfig(name=f"p{turn}", path=str(folder / f"{turn}.jsonl"), empty_output="keep"))
        data = built(selector, shared_store, cell_of(pool))
        table = selector.scores(data)
        table.check(len(rows))
        picks = [
            [data.records[i].id for i in select(selector, data, table, n)] for n in range(1, int(table.valid.sum()) + 1)
        ]
        found.append((table.invalid, table.score.tolist(), picks))
    assert str(found[0]) == str(found[1])
    invalid, scores, picks = found[0]
    for row in rows:
        earlier = [r["id"] for r in rows[: row["id"]] if {**r, "id": 0} == {**row, "id": 0}]
        for twin in earlier:
            assert invalid.get(twin) == invalid.get(row["id"])
            np.testing.assert_equal(scores[twin], scores[row["id"]])
            if getattr(selector.config, "part", "top") != "middle":
                for ids in picks:
                    assert row["id"] not in ids or ids.index(twin) < ids.index(row["id"])
