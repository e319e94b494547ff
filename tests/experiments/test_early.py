"""What the model of a cell cannot serve is refused before the first stage of the first cell."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from adg.backbones import early as known
from adg.backbones.config import BackboneConfig
from adg.errors import BadInput
from experiments import early
from experiments.cells import cells

SMOKE = ["profile=smoke", "selector=adg"]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "embedding.windows=[last4,20-23]",
            r"backbone tiny_random: .*: '20-23' means hidden states 21",
        ),
        ("finetune.max_length=5000", r"finetune\.max_length is 5000 but the model has 2048 positions"),
        ("finetune.lora_target='q_proj,vv_proj'", r"'vv_proj' \(did you mean 'v_proj'"),
        ("finetune.scheduler=cosin", r"did you mean 'cosine'"),
        ("exec.train_processes=3", "4, which 3 processes"),
        ("sampling.max_new_tokens=4096", r"has 2048 positions, sampling\.max_new_tokens ask for 4097"),
    ],
)
def test_settings_that_the_model_cannot_serve(override: str, message: str) -> None:
    chosen = cells([*SMOKE, override])
    with pytest.raises(BadInput, match=message):
        early.check(chosen)


def test_a_cell_that_does_not_use_a_setting_is_not_refused_for_it() -> None:
    early.check(cells(["profile=smoke", "selector=random", "embedding.windows=[20-23]"]))
    early.check(cells([*SMOKE, "finetune.max_length=5000"]), training=False)
    early.check(cells([*SMOKE, "experiment.last=subset", "finetune.max_length=5000"]))


@pytest.mark.parametrize("window", ["rel:0.9-0.1", "last0", "24"])
def test_a_window_that_is_none_is_refused_when_composed(window: str) -> None:
    with pytest.raises(BadInput, match=r"preset\.window: "):
        cells([*SMOKE, f"preset.window='{window}'"])


def test_configs_of_models_on_this_machine_are_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"num_hidden_layers": 7}))
    assert known.config_of(BackboneConfig(name="x", path=str(tmp_path))) == {"num_hidden_layers": 7}
    hub = BackboneConfig(name="x", hub="someone/model", revision="a" * 40)
    assert known.config_of(hub) is None
    import huggingface_hub

    cached = str(tmp_path / "config.json")
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *args, **kwargs: cached)
    assert known.config_of(hub) == {"num_hidden_layers": 7}
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(BadInput, match="not an object"):
        known.config_of(hub)
