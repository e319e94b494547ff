"""IFD's pre-experienced model: which records are drawn, and the whole way from the pool to the scores."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from adg.artifacts.artifact import Node
from adg.artifacts.store import Store
from adg.backbones import loading
from adg.backbones import stage as backbone_stage
from adg.backbones.config import BackboneConfig
from adg.errors import BadInput
from adg.execution import ExecConfig
from adg.pools import records
from adg.pools import stage as pool_stage
from adg.pools.config import PoolConfig
from adg.selection.contract import SelectorData
from baselines.ifd import Ifd, IfdConfig
from baselines.shared import experience
from baselines.shared import losses as losses_stage
from baselines.shared.experience import ExperienceConfig
from baselines.shared.loss_texts import LossesConfig, LossTexts
from experiments import cells, compose

POOL = pool_stage.node(PoolConfig(name="mini", path="mini:general.jsonl", rows=16))
TINY = backbone_stage.node(BackboneConfig(name="tiny_random", builder="tiny_random", dtype="float32"))
CELL = {"pool": POOL, "backbone": TINY}
RECIPE = {
    "batch_size": 4,
    "max_length": 256,
    "learning_rate": 0.01,
    "warmup_ratio": 0.0,
    "lora_rank": 4,
    "gradient_checkpointing": False,
}
OPTIONS: dict[str, Any] = {"pre_experience": True, "pre_clusters": 3, "pre_per_cluster": 2, "pre_finetune": RECIPE}


# -- the draw --------------------------------------------------------------------------------------------


def test_the_draw_by_hand() -> None:
    """Cluster 0: its one member. 1: the middle one of three. 2: of nine the middle five (3..7), of these two."""
    labels = [1, 0, 1, 1, *[2] * 9]
    perplexities = [5.0, 1.0, 7.0, 6.0, *range(1, 10)]
    assert experience.draw(labels, perplexities, ExperienceConfig(per_cluster=2)).tolist() == [1, 3, 6, 8]


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        (9, list(range(9))),  # fewer than ten: all, whatever their perplexity
        (10, [3, 4, 5, 6]),  # 3.25 and 7.75 are the percentiles of 1..10; fewer than ten are left: all of those
        (40, list(range(10, 30, 2))),  # twenty are left: every second
        (60, list(range(15, 45, 3))),
        (58, list(range(15, 43, 2))[:10]),  # 28 are left: every second, the first ten
    ],
)
def test_ten_of_the_middle_half_as_in_the_official_code(size: int, expected: list[int]) -> None:
    perplexities = np.arange(1, size + 1)
    assert experience.draw(np.zeros(size), perplexities, ExperienceConfig()).tolist() == expected


def test_the_bounds_belong_to_the_middle() -> None:
    found = experience.draw([0] * 5, [1.0, 2.0, 3.0, 4.0, 5.0], ExperienceConfig(per_cluster=5))
    assert found.tolist() == [1, 2, 3]


def test_more_clusters_than_records() -> None:
    vectors = np.array([[0.0, 0.0], [9.0, 9.0], [9.0, 9.0]])
    labels = experience.cluster(vectors, ExperienceConfig())
    assert labels[1] == labels[2] != labels[0]


# -- the whole way ---------------------------------------------------------------------------------------


def way(selector: Ifd) -> dict[str, Node]:
    """The losses by the trained model, and what they are made of."""
    losses = selector.inputs(CELL)["losses"]
    experienced = losses.inputs["model"]
    training = experienced.inputs["adapter"]
    return {
        "experience": training.inputs["subset"],
        "training": training,
        "experienced": experienced,
        "losses": losses,
    }


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(tmp_path_factory.mktemp("experience"), ExecConfig(device="cpu"))


def test_vectors_and_perplexities_are_those_of_the_whole_prompt(store: Store) -> None:
    import pyarrow.parquet as pq
    import torch

    drawn = store.ensure(way(Ifd(IfdConfig(**OPTIONS)))["experience"])
    pool = records.load(store.ensure(POOL))
    table = pq.read_table(drawn.file("prompts.parquet")).to_pydict()
    assert table["id"] == [record.key for record in pool]
    backbone = store.ensure(TINY)
    model, tokenizer = loading.load_model(backbone, "cpu"), loading.load_tokenizer(backbone)
    layout = LossTexts(LossesConfig("alpaca", 512), tokenizer)
    vectors = []
    for record, perplexity in zip(pool, table["perplexity"], strict=True):
        ids = torch.tensor([layout.encode(layout.prompt(record))])
        with torch.no_grad():
            out = model(ids, labels=ids, output_hidden_states=True)
        assert np.log(perplexity) == pytest.approx(float(out.loss), abs=1e-5)
        vectors.append(out.hidden_states[-1][0].mean(0).numpy())
    cfg = IfdConfig(**OPTIONS).experience
    labels = experience.cluster(np.stack(vectors), cfg)
    assert table["cluster"] == labels.tolist()
    chosen = experience.draw(labels, table["perplexity"], cfg)
    assert records.load_rows(drawn.file("records.parquet")) == [pool[row] for row in chosen]
    assert drawn.info["rows_out"] == len(chosen) <= 6 and drawn.info["clusters"] == 3


def test_ifd_scores_with_the_trained_model_and_builds_nothing_twice(store: Store) -> None:
    selector = Ifd(IfdConfig(**OPTIONS))
    nodes = way(selector)
    artifacts = {role: store.ensure(node) for role, node in nodes.items()}
    assert artifacts["training"].info["rows_in"] == artifacts["experience"].info["rows_out"]
    plain = store.ensure(Ifd(IfdConfig()).inputs(CELL)["losses"])
    pool = records.load(store.ensure(POOL))
    scores = [selector.scores(SelectorData(pool, {"losses": losses})) for losses in (artifacts["losses"], plain)]
    assert (scores[0].parts["ifd"] != scores[1].parts["ifd"]).any()
    built: list[str] = []
    store.ensure(nodes["losses"], lambda node, event, seconds: built.append(event))
    assert built == ["cached"]
    other = way(Ifd(IfdConfig(**{**OPTIONS, "max_tokens": 256})))
    assert other["experienced"].fingerprint == nodes["experienced"].fingerprint, "trained once for every scoring"


@pytest.mark.parametrize("method", ["lora", "full"])
def test_the_merged_model_is_the_backbone_with_its_training(store: Store, method: str) -> None:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    options = {**OPTIONS, "pre_finetune": {**RECIPE, "method": method, "name": method}}
    nodes = way(Ifd(IfdConfig(**options)))
    merged, training = (store.ensure(nodes[role]) for role in ("experienced", "training"))
    ids = torch.arange(5, 25)[None]
    if method == "lora":
        expected = PeftModel.from_pretrained(loading.load_model(store.ensure(TINY), "cpu"), training.path / "adapter")
    else:
        expected = AutoModelForCausalLM.from_pretrained(training.path / "model")
    with torch.no_grad():
        found = loading.load_model(merged, "cpu")(ids).logits
        np.testing.assert_allclose(found, expected.eval()(ids).logits, rtol=0, atol=1e-4)
        assert not torch.allclose(found, loading.load_model(store.ensure(TINY), "cpu")(ids).logits, atol=1e-3)
    assert (
        loading.load_tokenizer(merged)("a b").input_ids == loading.load_tokenizer(store.ensure(TINY))("a b").input_ids
    )


# -- configuration ---------------------------------------------------------------------------------------


def test_off_by_default_and_then_its_settings_identify_nothing() -> None:
    assert Ifd(IfdConfig()).inputs(CELL)["losses"].inputs["model"] is TINY
    off = cells.Cell(compose.compose(["selector=ifd"])).nodes
    changed = cells.Cell(compose.compose(["selector=ifd", "selector.pre_clusters=7"])).nodes
    assert {role: n.fingerprint for role, n in off.items()} == {role: n.fingerprint for role, n in changed.items()}


def test_the_cells_own_recipe_with_one_epoch() -> None:
    cell = cells.Cell(compose.compose(["profile=mini", "selector=ifd", "selector.pre_experience=true"]))
    recipe = cell.nodes["losses.model.adapter"].config.recipe
    own = cell.nodes["adapter"].config.recipe
    assert recipe == dataclasses.replace(own, epochs=1)
    model = "losses.model"
    assert list(cell.nodes)[:6] == ["pool", "backbone", f"{model}.adapter.subset", f"{model}.adapter", model, "losses"]
    assert cell.nodes["losses"].inputs["model"] is cell.nodes[model]
    for change in ("pre_clusters=7", "pre_per_cluster=3", "pre_percentiles=[1,99]", "pre_epochs=2", "pre_seed=5"):
        asked = ["profile=mini", "selector=ifd", "selector.pre_experience=true", f"selector.{change}"]
        other = cells.Cell(compose.compose(asked)).nodes
        assert other["losses"].fingerprint != cell.nodes["losses"].fingerprint, change
        assert other["scores"].fingerprint != cell.nodes["scores"].fingerprint, change


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scorer": "gpt2"}, "the backbone is what is trained"),
        ({"pre_clusters": 0}, "pre_clusters is 0"),
        ({"pre_percentiles": (75.0, 25.0)}, "the lower first"),
        ({"pre_percentiles": (1.0,)}, "expected two"),
        ({"pre_epochs": 0}, "finetune.epochs is 0"),
    ],
)
def test_refusals(options: dict, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        IfdConfig(**{**OPTIONS, **options})


def test_the_losses_of_a_plain_backbone_are_untouched() -> None:
    selector = Ifd(IfdConfig())
    direct = losses_stage.node(POOL, TINY, LossesConfig("alpaca", 512))
    assert selector.inputs(CELL)["losses"].fingerprint == direct.fingerprint
