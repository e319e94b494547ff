"""A recipe against its model and the libraries, before any weight is read."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from adg.backbones import embedded, model_config
from adg.errors import BadInput
from finetune import checks
from finetune.config import FinetuneConfig

MODEL = embedded.TINY_SHAPE


@pytest.mark.parametrize("target", ["all-linear", "q_proj,v_proj", "lm_head", "k_proj, mlp.up_proj"])
def test_targets_that_the_model_has(target: str) -> None:
    checks.check(FinetuneConfig(lora_target=target), MODEL, 1, 4)


@pytest.mark.parametrize(
    ("target", "named"),
    [
        ("q_proj,vv_proj", r"'vv_proj' \(did you mean 'v_proj'\?\), which fits no layer of LlamaForCausalLM"),
        ("all_linear", "'all_linear'"),
        ("layers", "'layers'"),  # a module, and no layer that LoRA adapts
        ("input_layernorm", "'input_layernorm'"),
        ("proj", "'proj'"),  # the end of a name, and no name
    ],
)
def test_a_target_that_fits_nothing_is_named_though_others_fit(target: str, named: str) -> None:
    with pytest.raises(BadInput, match=f"finetune.lora_target names {named}"):
        checks.check(FinetuneConfig(lora_target=target), MODEL, 1, 4)
    checks.check(FinetuneConfig(lora_target=target, method="full"), MODEL, 1, 4)  # which reads no target
    checks.check(FinetuneConfig(lora_target=target), None, 1, 4)  # the model is not known yet


def test_gpt2s_layers_are_known_too() -> None:
    model = {"model_type": "gpt2", "n_layer": 1, "n_head": 1, "n_embd": 8, "n_positions": 64, "vocab_size": 64}
    recipe = FinetuneConfig(lora_target="c_attn", max_length=64)
    checks.check(recipe, model, 1, 4)
    with pytest.raises(BadInput, match=r"'c_attnn' \(did you mean 'c_attn'\?\)"):
        checks.check(dataclasses.replace(recipe, lora_target="c_attnn"), model, 1, 4)
    with pytest.raises(BadInput, match=r"finetune\.max_length is 65 but the model has 64 positions"):
        checks.check(dataclasses.replace(recipe, max_length=65), model, 1, 4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"optimizer": "adamw"}, r"finetune\.optimizer is 'adamw' \(did you mean"),
        ({"optimizer": "adamw_bnb_8bit"}, r"finetune\.optimizer is 'adamw_bnb_8bit', which cannot be made here"),
        ({"scheduler": "cosin"}, r"finetune\.scheduler is 'cosin' \(did you mean 'cosine'"),
        ({"scheduler": "cosine_with_min_lr"}, r"finetune\.scheduler is 'cosine_with_min_lr', which needs settings"),
    ],
)
def test_names_are_held_against_the_libraries(change: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        checks.check(FinetuneConfig(**change), MODEL, 1, 4)


def test_other_names_that_work() -> None:
    for change in (
        {"optimizer": "sgd"},
        {"optimizer": "adafactor"},
        {"scheduler": "linear"},
        {"scheduler": "constant"},
    ):
        checks.check(FinetuneConfig(**change), MODEL, 1, 4)


def test_a_batch_that_cannot_be_shared() -> None:
    with pytest.raises(BadInput, match="64, which 3 processes"):
        checks.check(FinetuneConfig(), None, 3, 4)


def test_the_shape_of_the_tiny_model_is_what_is_built(tiny_backbone: Any) -> None:
    built = model_config.read(tiny_backbone.path / "model")
    assert {name: built[name] for name in MODEL} == MODEL


def test_training_asks_again_before_it_loads_a_model(
    tmp_path: Path, backbone_folder: Path, pool_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from adg.artifacts.store import Store
    from adg.backbones import loading
    from adg.backbones import stage as backbone_stage
    from adg.backbones.config import BackboneConfig
    from adg.execution import ExecConfig
    from adg.pools import stage as pool_stage
    from adg.pools.config import PoolConfig
    from finetune import stage as finetune_stage

    def never(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(loading, "load_model", never)
    backbone = backbone_stage.node(BackboneConfig(name="tiny", path=str(backbone_folder), dtype="float32"))
    subset = pool_stage.node(PoolConfig(name="rows", path=str(pool_file)))
    for processes in (1, 2):
        store = Store(tmp_path / str(processes), ExecConfig(device="cpu", train_processes=processes))
        for change, message in (({"max_length": 512}, "256 positions"), ({"lora_target": "vv_proj"}, "did you mean")):
            recipe = FinetuneConfig(**{"max_length": 64, **change})
            with pytest.raises(BadInput, match=message):
                store.ensure(finetune_stage.node(subset, backbone, recipe))
