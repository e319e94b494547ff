"""The plan's estimate of GPU-hours: arithmetic by hand, what it leaves out, and what takes its place."""

from __future__ import annotations

from pathlib import Path

import pytest

from adg.artifacts.store import Store
from adg.errors import BadInput
from experiments import estimate, plan
from experiments.cells import cells, distinct
from experiments.config import GPUS

H100 = GPUS["h100"]
PAPER = ["profile=paper", "backbone=llama3_8b", "pool=alpaca_gpt4"]


def test_reading_is_two_operations_a_parameter_and_token_at_the_stated_share_of_the_peak() -> None:
    assert estimate.reading(1e6, 8e9, H100) == pytest.approx(2 * 8e9 * 1e6 / (0.4 * 989e12))


def test_one_evaluation_by_hand() -> None:
    (cell,) = cells([*PAPER, "selector=random", "exec.eval_batch_size=16"])
    c = cell.config
    read = sum(c.suite.tasks[name].items * item.read for name, item in estimate.ITEMS.items())
    # 16 sequences move less than a step of 25 ms takes: 16.06 GB of weights at 1.34 TB/s are 12 ms
    steps = sum(c.suite.tasks[name].items / 16 * item.written for name, item in estimate.ITEMS.items())
    expected = 60 + 2 * 8.03e9 * read / (0.4 * 989e12) + 2 * 0.025 * steps
    assert estimate.evaluation(c, H100, "hf") == pytest.approx(expected)
    in_vllm = estimate.evaluation(c, H100, "vllm")
    assert in_vllm is not None and in_vllm < expected / 4


def test_lora_passes_and_the_whole_pool() -> None:
    random, whole = (cells([*PAPER, f"selector={name}"])[0] for name in ("random", "all"))
    seconds = estimate.training(random, H100)
    # forward, backward through frozen weights, and the forward pass that checkpointing repeats
    assert seconds == pytest.approx(60 + 3 * 2 * 8.03e9 * 10_000 * 3 * 206 / (0.4 * 989e12))
    more = estimate.training(whole, H100)
    assert more is not None and seconds is not None and (more - 60) / (seconds - 60) == pytest.approx(5.2002)


def test_what_is_not_known_has_no_number() -> None:
    (cell,) = cells([*PAPER, "selector=random", "pool.response_tokens=null"])
    assert estimate.training(cell, H100) is None
    (limited,) = cells([*PAPER, "selector=random", "suite.limit=4"])
    assert estimate.evaluation(limited.config, H100, "hf") is None
    small = cells(["profile=mini", "selector=random"])
    assert estimate.lines(small, distinct(small), {}, {}) == []
    with pytest.raises(BadInput, match=r"profile\.gpu is 'h10'.*h100"):
        cells([*PAPER, "selector=random", "profile.gpu=h10"])


def test_the_plan_shows_hours_says_what_is_missing_and_prefers_what_was_measured(tmp_path: Path) -> None:
    chosen, store = cells([*PAPER, "selector=superfiltering,adg"]), Store(tmp_path)
    text = plan.render(chosen, store)
    assert "no measurement" in text and "the evaluations:" in text
    assert "without 1 losses: no estimate" in text, "GPT-2 is not the backbone"
    nodes = distinct(chosen)
    states = {node.fingerprint: store.status(node) for node in nodes}
    measured = estimate.lines(chosen, nodes, states, {"eval": [1800.0, 5400.0]})
    assert any("eval" in line and "2 x 60 min, measured here" in line for line in measured)


def test_the_estimate_bears_no_identity() -> None:
    (one,), (other,) = (
        cells([*PAPER, "selector=adg", *more])
        for more in ([], ["pool.prompt_tokens=9", "backbone.parameters=1.0", "backbone.kv_bytes=1", "profile.gpu=a100"])
    )
    assert one.fingerprint == other.fingerprint
