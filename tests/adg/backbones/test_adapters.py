"""Adapters that do not fit are refused by name on every way in: alone, beside the weights, merged, in vLLM."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from adg.artifacts.artifact import Job
from adg.backbones import adapters, loading
from adg.errors import BadInput
from adg.evaluation import lm_eval_model
from adg.execution import ExecConfig
from finetune import merge

Q = "base_model.model.model.layers.1.self_attn.q_proj"


@pytest.fixture(scope="module")
def adapter(tiny_model: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LoRA of rank 4 whose B is not zero, as training leaves it."""
    import copy

    import torch
    from peft import LoraConfig, get_peft_model

    folder = tmp_path_factory.mktemp("lora") / "adapter"
    config = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    made = get_peft_model(copy.deepcopy(tiny_model), config)
    with torch.no_grad():
        for name, weight in made.named_parameters():
            if "lora_B" in name:
                weight.fill_(0.05)
    made.save_pretrained(folder)
    return folder


def renamed(stored: dict[str, Any]) -> dict[str, Any]:
    return {name.replace("base_model.model.", "base_model.model.model."): weight for name, weight in stored.items()}


def half(stored: dict[str, Any]) -> dict[str, Any]:
    return {name: weight for name, weight in stored.items() if "layers.0." in name or "layers.1." in name}


def half_renamed(stored: dict[str, Any]) -> dict[str, Any]:
    return {name.replace("v_proj", "value"): weight for name, weight in stored.items()}


def narrower(stored: dict[str, Any]) -> dict[str, Any]:
    return {name: weight[:2].contiguous() if "lora_A" in name else weight for name, weight in stored.items()}


def more(stored: dict[str, Any]) -> dict[str, Any]:
    return {**stored, f"{Q.replace('q_proj', 'k_proj')}.lora_A.weight": stored[f"{Q}.lora_A.weight"].clone()}


FAULTS: dict[Callable[[dict[str, Any]], dict[str, Any]], str] = {
    renamed: r"16 weights are missing .*16 weights fit nothing .*\(base_model\.model\.model\.model\.layers\.0",
    half: r"8 weights are missing .*layers\.2\.self_attn\.q_proj\.lora_A\.weight",
    half_renamed: r"8 weights are missing .*v_proj.*8 weights fit nothing .*value",
    narrower: r"8 weights have other shapes \(.*lora_A\.weight \(2, 64\) where \(4, 64\) is expected",
    more: r"1 weight fits nothing .*layers\.1\.self_attn\.k_proj\.lora_A",
}


def spoil(adapter: Path, folder: Path, edit: Callable[[dict[str, Any]], dict[str, Any]]) -> Path:
    from safetensors.torch import load_file, save_file

    shutil.copytree(adapter, folder)
    save_file(edit(load_file(folder / adapters.WEIGHTS)), folder / adapters.WEIGHTS, {"format": "pt"})
    return folder


def test_one_that_fits_changes_the_model_by_itself(adapter: Path, tiny_backbone: Any) -> None:
    import torch

    folder = loading.model_path(tiny_backbone)
    adapters.check(adapter, folder)
    model = loading.load_model(tiny_backbone, "cpu")
    ids = torch.arange(5, 15)[None]
    with torch.no_grad():
        before = model(ids).logits
        after = adapters.attach(model, adapter, folder)(ids).logits
    assert (before - after).abs().max() > 1e-3


@pytest.mark.parametrize("edit", FAULTS, ids=lambda edit: edit.__name__)
def test_every_fault_is_named_on_every_way_in(
    edit: Any, adapter: Path, tiny_backbone: Any, tiny_tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad = spoil(adapter, tmp_path / "made" / "adapter", edit)
    inputs = {"backbone": tiny_backbone, "adapter": SimpleNamespace(path=bad.parent)}
    node = SimpleNamespace(config=SimpleNamespace(suite=SimpleNamespace(merge_adapter=True)))
    job: Any = Job(node, tmp_path / "out", inputs, ExecConfig(device="cpu"))  # type: ignore[arg-type]

    def never(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(loading, "load_model", never)
    ways: list[Callable[[], Any]] = [
        lambda: adapters.check(bad, loading.model_path(tiny_backbone)),
        lambda: adapters.attach(None, bad, loading.model_path(tiny_backbone)),
        lambda: merge.build(job),
        *(
            lambda backend=backend: backend(job, tiny_tokenizer, "float32").__enter__()
            for backend in lm_eval_model.BACKENDS.values()
        ),
    ]
    for way in ways:
        with pytest.raises(BadInput, match=FAULTS[edit]):
            way()


def test_modules_that_are_kept_whole_count_too(tiny_model: Any, tiny_backbone: Any, tmp_path: Path) -> None:
    import copy

    from peft import LoraConfig, get_peft_model

    config = LoraConfig(r=4, target_modules="all-linear", modules_to_save=["lm_head"], task_type="CAUSAL_LM")
    get_peft_model(copy.deepcopy(tiny_model), config).save_pretrained(tmp_path / "whole")
    folder = loading.model_path(tiny_backbone)
    adapters.check(tmp_path / "whole", folder)
    without = spoil(tmp_path / "whole", tmp_path / "without", lambda s: {k: s[k] for k in s if "lm_head" not in k})
    with pytest.raises(BadInput, match=r"1 weight is missing .*lm_head"):
        adapters.check(without, folder)
    other = spoil(tmp_path / "whole", tmp_path / "other", renamed)
    with pytest.raises(BadInput, match=r"57 weights are missing .*57 weights fit nothing .*model\.model\.lm_head"):
        adapters.check(other, folder)
    cut = spoil(
        tmp_path / "whole", tmp_path / "cut", lambda s: {k: s[k][:2].clone() if "head" in k else s[k] for k in s}
    )
    with pytest.raises(BadInput, match=r"lm_head.*\[2, 64\]"):
        adapters.check(cut, folder)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"target_modules": ["query_key_value"]}, "query_key_value"),
        ({"use_something_newer": True}, "sets use_something_newer, which the installed PEFT does not know"),
        ({"peft_type": None}, "names no 'peft_type'"),
        ({"peft_type": "UNHEARD"}, "do not fit each other"),
    ],
)
def test_settings_that_would_be_left_out_are_refused(
    adapter: Path, tiny_backbone: Any, tmp_path: Path, settings: dict[str, Any], message: str
) -> None:
    folder = Path(shutil.copytree(adapter, tmp_path / "adapter"))
    config = json.loads((folder / adapters.CONFIG).read_text())
    (folder / adapters.CONFIG).write_text(json.dumps({**config, **settings}))
    with pytest.raises(BadInput, match=message):
        adapters.check(folder, loading.model_path(tiny_backbone))


def test_unreadable_files_are_named(adapter: Path, tiny_backbone: Any, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(adapter, tmp_path / "adapter"))
    model = loading.model_path(tiny_backbone)
    (folder / adapters.CONFIG).write_text("{")
    with pytest.raises(BadInput, match=r"adapter_config\.json is not valid JSON"):
        adapters.check(folder, model)
    shutil.copy(adapter / adapters.CONFIG, folder)
    (folder / adapters.WEIGHTS).write_bytes((adapter / adapters.WEIGHTS).read_bytes()[:-9])
    with pytest.raises(BadInput, match=r"adapter_model\.safetensors is not a whole safetensors file"):
        adapters.check(folder, model)
    (folder / adapters.WEIGHTS).unlink()
    with pytest.raises(BadInput, match=r"holds no adapter_model\.safetensors"):
        adapters.check(folder, model)


def test_what_one_adapter_was_held_against_serves_the_next_of_its_kind_only(
    adapter: Path, tiny_backbone: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fault is seen after one that fits, and leaves nothing behind; another config has a model of its own."""
    model, made, own = loading.model_path(tiny_backbone), [], adapters._adapted

    def counted(*args: Any) -> Any:
        made.append(args[0].name)
        return own(*args)

    monkeypatch.setattr(adapters, "_adapted", counted)
    monkeypatch.setattr(adapters, "_empty", {})
    adapters.check(spoil(adapter, tmp_path / "one", dict), model)
    adapters.check(spoil(adapter, tmp_path / "two", dict), model)
    assert made == ["one"]
    with pytest.raises(BadInput, match="8 weights are missing"):
        adapters.check(spoil(adapter, tmp_path / "three", half), model)
    assert made == ["one"]
    adapters.check(spoil(adapter, tmp_path / "four", dict), model)
    assert made == ["one", "four"]
    other = spoil(adapter, tmp_path / "other", dict)
    settings = json.loads((other / adapters.CONFIG).read_text())
    (other / adapters.CONFIG).write_text(json.dumps({**settings, "r": 8}))
    with pytest.raises(BadInput, match=r"\(4, 64\) where \(8, 64\) is expected"):
        adapters.check(other, model)
    assert made == ["one", "four", "other"]
