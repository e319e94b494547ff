"""The held-out loss: training's own loss on rows that nothing selected, whatever the batches, and never a number that
was not measured."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from adg import prompts
from adg.artifacts.artifact import Job, Node, Stage
from adg.artifacts.store import Store
from adg.backbones import adapters, loading
from adg.backbones import stage as backbone_stage
from adg.backbones.config import BackboneConfig
from adg.errors import BadInput, BadMeasurement
from adg.evaluation import heldout
from adg.execution import ExecConfig
from adg.pools import records
from adg.pools import stage as pool_stage
from adg.pools.config import PoolConfig

EXEC = ExecConfig(device="cpu", isolation="none")
ROWS = 7


def write_adapter(job: Job) -> dict[str, Any]:
    """A LoRA adapter with weights that are not zero, or the whole model that it makes when merged."""
    import torch
    from peft import LoraConfig, get_peft_model

    model = loading.load_model(job.inputs["backbone"], "cpu")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = get_peft_model(model, LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM"))
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(weight, std=0.05)
    if job.config["merged"]:
        model.merge_and_unload().save_pretrained(job.folder / "model")
    else:
        model.save_pretrained(job.folder / "adapter")
    return {}


@pytest.fixture(scope="module")
def backbone() -> Node:
    return backbone_stage.node(BackboneConfig(name="tiny", builder="tiny_random", dtype="float32"))


@pytest.fixture(scope="module")
def pool() -> Node:
    return pool_stage.node(PoolConfig(name="general", path="mini:general.jsonl", heldout=ROWS))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(tmp_path_factory.mktemp("runs"), EXEC)


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch, backbone: Node) -> Any:
    import sys

    monkeypatch.setitem(sys.modules, "adapter_of_this_test", sys.modules[__name__])
    stage = Stage("adapter", 1, "adapter_of_this_test:write_adapter")
    return lambda merged: Node(stage, "a", {"merged": merged}, {"backbone": backbone})


def by_hand(model: Any, tokenizer: Any, held: list[records.Record], max_length: int) -> np.ndarray:
    """The loss that the model itself computes from ids and labels, one row at a time."""
    import torch

    losses = []
    for record in held:
        example = prompts.training_example(tokenizer, record, max_length)
        with torch.no_grad():
            given = {name: torch.tensor([ids]) for name, ids in example.items()}
            losses.append(float(model(**given).loss))
    return np.array(losses)


@pytest.mark.parametrize("kind", ["untrained", "adapter", "model"])
@pytest.mark.parametrize("max_length", [256, 90])
def test_it_is_the_loss_of_training(
    kind: str, max_length: int, store: Store, pool: Node, backbone: Node, trained: Any
) -> None:
    adapter = None if kind == "untrained" else trained(kind == "model")
    artifact = store.ensure(heldout.node(pool, backbone, adapter, max_length))
    losses = heldout.load(artifact)
    base, made = store.ensure(backbone), None if adapter is None else store.ensure(adapter)
    held = records.load_held_out(store.ensure(pool))
    tokenizer = loading.load_tokenizer(base)
    fit = [
        record
        for record in held
        if len(prompts.encode_prompt(tokenizer, prompts.render(record.instruction, record.input))) < max_length
    ]
    assert losses.ids == [record.key for record in fit] and artifact.info["left_out"] == ROWS - len(fit)
    expected = by_hand(adapters.load_trained(base, made, "cpu"), tokenizer, fit, max_length)
    np.testing.assert_allclose(losses.loss, expected, rtol=2e-5)
    whole = [
        len(prompts.encode(tokenizer, prompts.render(r.instruction, r.input) + prompts.response_text(r.output)))
        for r in fit
    ]
    room = max_length - 1 - int(loading.adds_bos(tokenizer))
    assert losses.truncated.tolist() == [n > room for n in whole]
    assert artifact.info["truncated"] == sum(losses.truncated) and (max_length == 256 or losses.truncated.any())
    assert artifact.info["loss_by_row"] == pytest.approx(expected.mean(), rel=1e-5)
    assert losses.by_token == pytest.approx((expected * losses.tokens).sum() / losses.tokens.sum(), rel=1e-5)


def test_training_changes_it_and_folding_it_in_does_not(store: Store, pool: Node, backbone: Node, trained: Any) -> None:
    base, beside, folded = (
        heldout.load(store.ensure(heldout.node(pool, backbone, adapter, 256))).loss
        for adapter in (None, trained(False), trained(True))
    )
    np.testing.assert_allclose(beside, folded, rtol=1e-4)
    assert np.abs(beside - base).min() > 1e-4


def test_batches_change_nothing_and_finished_ones_are_found_again(
    store: Store, pool: Node, backbone: Node, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One row a batch, stopped after three: the next run does the other four, and the losses are the same."""
    node = heldout.node(pool, backbone, None, 256)
    whole = heldout.load(store.ensure(node))
    inputs = {role: store.ensure(parent) for role, parent in node.inputs.items()}
    job = Job(node, tmp_path, inputs, dataclasses.replace(EXEC, tokens_per_batch=1))
    measured, sums = [], heldout._sums

    def counted(model: Any, examples: Any) -> list[float]:
        if len(measured) == 3:
            raise KeyboardInterrupt
        measured.append(len(examples))
        return sums(model, examples)

    monkeypatch.setattr(heldout, "_sums", counted)
    with pytest.raises(KeyboardInterrupt):
        heldout.build(job)
    assert measured == [1, 1, 1] and not (tmp_path / "losses.parquet").exists()
    monkeypatch.setattr(heldout, "_sums", lambda model, rows: measured.append(len(rows)) or sums(model, rows))
    heldout.build(job)
    assert measured == [1] * ROWS
    again = pq.read_table(tmp_path / "losses.parquet")
    np.testing.assert_allclose(again["loss"].to_numpy(), whole.loss, rtol=2e-5)
    assert again["id"].to_pylist() == whole.ids


def test_a_wide_vocabulary_costs_no_precision() -> None:
    """Summed one after the other in float32, the words of SmolLM2 were 1e-4 off, all to one side."""
    import torch

    draw = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(2, 30, 49152, generator=draw)
    ids = torch.randint(0, 49152, (2, 30), generator=draw).tolist()
    examples = [
        {"input_ids": ids[0], "labels": [prompts.IGNORED] * 9 + ids[0][9:]},
        {"input_ids": ids[1][:20], "labels": [prompts.IGNORED] * 4 + ids[1][4:20]},
    ]

    def model(**inputs: Any) -> Any:
        return SimpleNamespace(logits=logits)

    model.device = torch.device("cpu")  # type: ignore[attr-defined]
    found = heldout._sums(model, examples)
    for row, (total, first, last) in enumerate(zip(found, (9, 4), (30, 20), strict=True)):
        scores = torch.log_softmax(logits[row].double(), dim=-1)
        wanted = -sum(float(scores[place - 1, ids[row][place]]) for place in range(first, last))
        assert abs(total - wanted) / (last - first) < 1e-5


def test_a_loss_that_is_not_finite_is_no_number(
    pool: Node, backbone: Node, store: Store, tmp_path: Path, spoilt: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "load_model", lambda *_, **__: spoilt)
    spoilt.base_model.embed_tokens.weight.data[:] = float("nan")
    node = heldout.node(pool, backbone, None, 256)
    inputs = {role: store.ensure(parent) for role, parent in node.inputs.items()}
    with pytest.raises(BadMeasurement, match=r"held-out rows have a loss that is not a finite number \(ids "):
        heldout.build(Job(node, tmp_path, inputs, EXEC))
    assert not (tmp_path / "losses.parquet").exists()


def test_what_cannot_be_measured_is_refused(pool: Node, backbone: Node, store: Store, trained: Any) -> None:
    nothing = pool_stage.node(PoolConfig(name="general", path="mini:general.jsonl"))
    with pytest.raises(BadInput, match=r"holds no rows out; set pool\.heldout="):
        store.ensure(heldout.node(nothing, backbone, None, 256))
    with pytest.raises(BadInput, match=r"none of the 7 held-out rows .*raise finetune.max_length"):
        store.ensure(heldout.node(pool, backbone, None, 20))
    other = backbone_stage.node(BackboneConfig(name="other", builder="tiny_random", dtype="bfloat16"))
    with pytest.raises(BadInput, match="was trained on the backbone"):
        heldout.node(pool, other, trained(False), 256)


def test_longer_rows_than_positions_are_refused(backbone: Node, store: Store, tmp_path: Path) -> None:
    limit = loading.positions(store.ensure(backbone))
    rows = [{"instruction": f"do {i}", "output": "a b c " * int(limit or 0)} for i in range(3)]
    (tmp_path / "long.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    pool = pool_stage.node(PoolConfig(name="long", path=str(tmp_path / "long.jsonl"), heldout=1))
    with pytest.raises(BadInput, match=f"has {limit} positions; set finetune.max_length={limit} or less"):
        store.ensure(heldout.node(pool, backbone, None, 10 * int(limit or 0)))


def test_identity_is_what_is_measured(pool: Node, backbone: Node, trained: Any) -> None:
    prints = {
        heldout.node(pool, backbone, adapter, length).fingerprint
        for adapter in (None, trained(False))
        for length in (128, 256)
    }
    assert len(prints) == 4
