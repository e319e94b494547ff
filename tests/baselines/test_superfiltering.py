"""SuperFiltering against the official scripts' output (Superfiltering f0764af, tests/golden/superfiltering.json)."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from adg.artifacts.store import Store
from adg.backbones import loading
from adg.backbones import stage as backbone_stage
from adg.backbones.config import BackboneConfig
from adg.errors import BadInput, NotRunnable
from adg.execution import ExecConfig
from adg.pools import stage as pool_stage
from adg.pools.config import PoolConfig
from adg.pools.records import Record
from adg.selection.contract import ScoreTable, SelectorData, select
from baselines.superfiltering import Superfiltering, SuperfilteringConfig


@pytest.fixture(scope="session")
def official(golden: Path) -> dict[str, Any]:
    return json.loads((golden / "superfiltering.json").read_text())


@pytest.fixture
def run(measured: Callable, golden_pool: list, golden_tokenizer: Callable) -> Callable[..., tuple]:
    def made(**options: Any) -> tuple[Superfiltering, SelectorData, ScoreTable]:
        selector = Superfiltering(SuperfilteringConfig(**options))
        data = measured(selector, golden_pool, golden_tokenizer(False))
        return selector, data, selector.scores(data)

    return made


def numbers(values: list) -> np.ndarray:
    return np.array([np.nan if v is None else v for v in values], dtype=np.float64)


def test_official_scores(run: Callable, official: dict) -> None:
    _, _, table = run()
    np.testing.assert_allclose(table.parts["ifd_ppl"], numbers(official["ifd_ppl"]), rtol=1e-9)
    np.testing.assert_allclose(table.parts["ppl_alone"], numbers(official["ppl_direct"]), rtol=1e-9)
    np.testing.assert_allclose(table.parts["ppl_conditioned"], numbers(official["ppl_condition"]), rtol=1e-9)
    reasons = {
        144: "the response is empty",
        145: "a response of one token has no loss without a prefix",
        157: "the prompt fills all 1024 tokens",
    }
    assert {row: table.invalid[row] for row in reasons} == reasons


def test_official_selections(run: Callable, official: dict) -> None:
    selections = official["selections"]
    selector, data, table = run()
    assert select(selector, data, table, 26).tolist() == selections["threshold 1, 26"]
    assert select(selector, data, table, 53).tolist() == selections["threshold 1, all that pass"]
    with pytest.raises(BadInput, match=r"only 53 of 160 records have a score .*104 x IFD not below 1"):
        select(selector, data, table, 54)
    selector, data, table = run(threshold=0.9)
    assert select(selector, data, table, 17).tolist() == selections["threshold 0.9, all that pass"]


def test_exactly_one_is_left_out(tmp_path: Path) -> None:
    from adg.artifacts.artifact import Artifact
    from baselines.shared import losses as losses_stage
    from baselines.shared.losses import Losses

    same, counts = np.array([2.0, 2.0]), np.ones(2, dtype=np.int64)
    alone = np.array([2.0, 2.0000001])
    losses_stage.save(tmp_path / "losses.parquet", Losses(["0", "1"], same, counts, alone, counts, ["", ""], ["", ""]))
    data = SelectorData(
        [Record(i, "a", "", "b") for i in range(2)],
        {"losses": Artifact(tmp_path, {"files": {"losses.parquet": {}}, "info": {}})},
    )
    assert Superfiltering(SuperfilteringConfig()).scores(data).valid.tolist() == [False, True]


def test_with_a_bos_both_sides_cover_the_same_tokens(
    measured: Callable, golden_pool: list, golden_tokenizer: Callable
) -> None:
    selector = Superfiltering(SuperfilteringConfig())
    short = [r for r in golden_pool if len(r.output) < 600 and r.id != 144]
    table = selector.scores(measured(selector, short, golden_tokenizer(True)))
    one_token = next(i for i, r in enumerate(short) if r.id == 145)
    assert np.isfinite(table.parts["ifd_ppl"][one_token])
    assert abs(table.parts["tokens_alone"] - table.parts["tokens_conditioned"]).max() <= 1  # a merge at the boundary


# -- which model scores ----------------------------------------------------------------------------------

POOL = PoolConfig(name="mini", path="mini:general.jsonl", rows=9)
TINY = BackboneConfig(name="tiny_random", builder="tiny_random", dtype="float32")
HUB = BackboneConfig(name="big", hub="a/b", revision="0" * 40)


def losses(backbone: BackboneConfig, **options: Any) -> Any:
    cell = {"pool": pool_stage.node(POOL), "backbone": backbone_stage.node(backbone)}
    return Superfiltering(SuperfilteringConfig(**options)).inputs(cell)["losses"]


def test_an_embedded_backbone_scores_for_itself_and_a_hub_one_takes_gpt2() -> None:
    assert losses(TINY).inputs["model"].fingerprint == backbone_stage.node(TINY).fingerprint
    pinned = losses(HUB, scorer_revision="1" * 40)
    assert pinned.inputs["model"].config.origin == {"hub": "gpt2", "revision": "1" * 40}
    assert pinned.inputs["model"].config.dtype == "float32"
    again = losses(dataclasses.replace(HUB, name="other", hub="c/d"), scorer_revision="1" * 40)
    assert again.fingerprint == pinned.fingerprint, "gpt2's losses are shared by all backbones"


def test_an_unknown_revision_is_planned_and_refused_when_built(tmp_path: Path) -> None:
    node = losses(HUB)
    assert "model" not in node.inputs
    store = Store(tmp_path, ExecConfig(device="cpu"))
    with pytest.raises(NotRunnable, match=r"needs a pinned revision of gpt2: set selector\.scorer_revision="):
        store.ensure(node)
    assert store.status(node).state == "not-run"
    with pytest.raises(BadInput, match="scorer_revision is 'main'"):
        losses(HUB, scorer_revision="main")


def test_a_folder_of_weights_takes_the_place_of_the_hub(tmp_path: Path) -> None:
    store = Store(tmp_path, ExecConfig(device="cpu"))
    folder = loading.model_path(store.ensure(backbone_stage.node(TINY)))
    node = losses(HUB, scorer_path=str(folder))
    assert node.inputs["model"].config.source == "local"
    info = store.ensure(node).info
    assert info["rows_in"] == 9 and info["scorer"] == "gpt2"
