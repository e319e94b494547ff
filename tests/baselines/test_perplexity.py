"""Perplexity: SuperFiltering's conditioned perplexity (official values), and which window is taken."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from adg.backbones import stage as backbone_stage
from adg.backbones.config import BackboneConfig
from adg.errors import BadInput
from adg.pools import stage as pool_stage
from adg.pools.config import PoolConfig
from adg.selection.contract import SelectorData, select
from baselines.ifd import Ifd, IfdConfig
from baselines.perplexity import Perplexity, PerplexityConfig
from baselines.superfiltering import Superfiltering, SuperfilteringConfig


@pytest.fixture
def data(measured: Callable, golden_pool: list, golden_tokenizer: Callable) -> SelectorData:
    return measured(Perplexity(PerplexityConfig()), golden_pool, golden_tokenizer(False))


def test_it_is_superfilterings_conditioned_perplexity(data: SelectorData, golden: Path) -> None:
    official = json.loads((golden / "superfiltering.json").read_text())["ppl_condition"]
    table = Perplexity(PerplexityConfig()).scores(data)
    table.check(160)
    np.testing.assert_allclose(table.score, np.array([np.nan if v is None else v for v in official]), rtol=1e-9)
    assert sorted(table.invalid) == [144, 157], "a response of one token has a perplexity after its prompt"


@pytest.mark.parametrize(("part", "start"), [("lowest", 0), ("middle", (158 - 31) // 2), ("highest", 158 - 31)])
def test_the_window(data: SelectorData, part: str, start: int) -> None:
    selector = Perplexity(PerplexityConfig(part=part))
    table = selector.scores(data)
    ranked = [int(i) for i in np.argsort(table.score, kind="stable") if table.valid[i]]
    chosen = select(selector, data, table, 31).tolist()
    scores = table.score[chosen]
    if part == "highest":
        assert (np.diff(scores) <= 0).all() and scores.min() >= table.score[ranked[start]]
    else:
        assert chosen == ranked[start : start + 31]


@pytest.mark.parametrize("part", ["lowest", "middle", "highest"])
def test_ties_go_to_the_lowest_id(data: SelectorData, part: str) -> None:
    """3, 140 and 141 are the same record: whatever of them is taken, lower ids come first."""
    selector = Perplexity(PerplexityConfig(part=part))
    table = selector.scores(data)
    assert table.score[3] == table.score[140] == table.score[141]
    everything = select(selector, data, table, 158).tolist()
    assert [i for i in everything if i in (3, 140, 141)] == [3, 140, 141]


def test_losses_are_shared_where_the_text_is_the_same() -> None:
    pool = pool_stage.node(PoolConfig(name="mini", path="mini:general.jsonl"))
    backbone = backbone_stage.node(BackboneConfig(name="tiny_random", builder="tiny_random", dtype="float32"))

    def losses(selector: Any) -> str:
        return selector.inputs({"pool": pool, "backbone": backbone})["losses"].fingerprint

    assert losses(Perplexity(PerplexityConfig())) == losses(Superfiltering(SuperfilteringConfig()))
    assert losses(Perplexity(PerplexityConfig(part="lowest"))) == losses(Perplexity(PerplexityConfig()))
    alpaca = PerplexityConfig(prompt="alpaca", max_tokens=512)
    assert losses(Perplexity(alpaca)) == losses(Ifd(IfdConfig())) != losses(Perplexity(PerplexityConfig()))


@pytest.mark.parametrize("options", [{"part": "top"}, {"prompt": "chat"}])
def test_refusals(options: dict) -> None:
    with pytest.raises(BadInput, match="expected one of"):
        PerplexityConfig(**options)
