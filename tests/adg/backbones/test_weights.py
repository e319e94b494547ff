"""Stored weights against the model of their config: what lacks, what is left over, what is damaged, always by name."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from adg.backbones import loading, weights
from adg.errors import BadInput

UP = "model.layers.1.mlp.up_proj.weight"


@pytest.fixture
def folder(tiny_backbone: Any, tmp_path: Path) -> Path:
    return Path(shutil.copytree(loading.model_path(tiny_backbone), tmp_path / "mine"))


def change(folder: Path, edit: Callable[[dict[str, Any]], Any]) -> None:
    from safetensors.torch import load_file, save_file

    stored = load_file(folder / weights.WHOLE)
    edit(stored)
    save_file(stored, folder / weights.WHOLE, {"format": "pt"})


@pytest.mark.parametrize("head", [True, False])
def test_a_whole_model_fits(folder: Path, head: bool) -> None:
    model = weights.check(folder, "", head)
    assert type(model).__name__ == ("LlamaForCausalLM" if head else "LlamaModel")
    assert {str(p.device) for p in model.parameters()} == {"meta"}


@pytest.mark.parametrize("head", [True, False])
@pytest.mark.parametrize("kind", ["missing", "renamed", "deeper", "misshapen"])
def test_what_does_not_fit_is_named(folder: Path, kind: str, head: bool) -> None:
    def edit(stored: dict[str, Any]) -> None:
        if kind == "missing":
            del stored[UP]
        elif kind == "renamed":
            stored["model.blocks.1.up.weight"] = stored.pop(UP)
        elif kind == "deeper":  # a checkpoint of more blocks than its config has
            stored[UP.replace("1", "9")] = stored[UP].clone()
        else:
            stored[UP] = stored[UP][:5].clone()

    change(folder, edit)
    expected = {
        "missing": r"1 weight is missing and would be random \(.*layers\.1\.mlp\.up_proj",
        "renamed": r"1 weight is missing and would be random \(.*layers\.1\.mlp\.up_proj",
        "deeper": r"1 weight fits nothing and would be left out \(model\.layers\.9\.mlp\.up_proj",
        "misshapen": r"layers\.1\.mlp\.up_proj\.weight \(5, 64\) where \(128, 64\) is expected",
    }
    with pytest.raises(BadInput, match=rf"{expected[kind]}.*MEND IT"):
        weights.check(folder, "MEND IT", head)


def test_every_load_checks_before_weights_are_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also the load of the bare model, whose own report says nothing of what belongs to the head."""
    import transformers

    def never(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError("weights were read")

    change(folder, lambda stored: stored.pop("lm_head.weight"))
    for kind in (transformers.AutoModel, transformers.AutoModelForCausalLM):
        monkeypatch.setattr(kind, "from_pretrained", never)
    for headless in (True, False):
        with pytest.raises(BadInput, match=r"1 weight is missing .*lm_head\.weight"):
            loading.load_folder(folder, "cpu", "float32", headless)


def test_other_libraries_names_and_computed_buffers_are_known(tmp_path: Path, folder: Path) -> None:
    """gpt2 as its hub has it: names without their prefix, causal masks stored. Old LLaMA files: rotary frequencies."""
    import torch
    from safetensors.torch import load_file, save_file
    from transformers import GPT2Config, GPT2LMHeadModel

    change(folder, lambda s: s.update({"model.layers.0.self_attn.rotary_emb.inv_freq": torch.zeros(16)}))
    weights.check(folder, "")
    GPT2LMHeadModel(GPT2Config(vocab_size=64, n_positions=16, n_embd=8, n_layer=1, n_head=1)).save_pretrained(tmp_path)
    stored = {k.removeprefix("transformer."): v for k, v in load_file(tmp_path / weights.WHOLE).items()}
    save_file({**stored, "h.0.attn.bias": torch.zeros(1, 1, 16, 16)}, tmp_path / weights.WHOLE, {"format": "pt"})
    weights.check(tmp_path, "")


def test_parts_that_only_another_head_needs_may_lack_or_be_left_over(tmp_path: Path) -> None:
    """A sentence encoder out of a masked language model: no pooling layer, a head too many; but no block too many."""
    import torch
    from transformers import BertConfig, BertForMaskedLM

    shape = {"hidden_size": 8, "num_attention_heads": 1, "intermediate_size": 8, "num_hidden_layers": 1}
    BertForMaskedLM(BertConfig(vocab_size=64, **shape)).save_pretrained(tmp_path)
    weights.check(tmp_path, "", head=False)
    change(tmp_path, lambda s: s.update({"bert.encoder.layer.1.output.dense.bias": torch.zeros(8)}))
    with pytest.raises(BadInput, match=r"fits nothing .*bert\.encoder\.layer\.1\.output\.dense\.bias"):
        weights.check(tmp_path, "", head=False)


def test_shards_are_read_by_their_index(folder: Path, tiny_model: Any) -> None:
    (folder / weights.WHOLE).unlink()
    tiny_model.save_pretrained(folder, max_shard_size="100KB")
    assert len(weights.files(folder)) > 2
    weights.check(folder, "")
    index = json.loads((folder / weights.INDEX).read_text())
    lost = index["weight_map"][UP]
    index["weight_map"] = {name: file for name, file in index["weight_map"].items() if file != lost}
    (folder / weights.INDEX).write_text(json.dumps(index))
    with pytest.raises(BadInput, match="missing and would be random"):
        weights.check(folder, "")
    (folder / weights.INDEX).write_text("[]")
    with pytest.raises(BadInput, match="is not an index of weights"):
        weights.files(folder)


def test_damaged_files_are_named(folder: Path) -> None:
    file = folder / weights.WHOLE
    whole = file.read_bytes()
    for content, message in (
        (whole[:-100], "is not a whole safetensors file"),
        (whole[:20], "is not a whole safetensors file"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "is a Git LFS pointer"),
    ):
        file.write_bytes(content)
        with pytest.raises(BadInput, match=f"{file} {message}"):
            weights.check(folder, "")
    file.write_bytes(whole)
    for config, message in (('{"model_type": "unheard"}', "no model that transformers has"), ("[", "no model")):
        (folder / "config.json").write_text(config)
        with pytest.raises(BadInput, match=message):
            weights.check(folder, "")


def test_eight_billion_parameters_are_checked_without_reading_them(tmp_path: Path) -> None:
    """A sparse file of 16 GB that holds LLaMA-3-8B's names and shapes, and nothing else."""
    import resource
    import struct

    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=128256,
        hidden_size=4096,
        intermediate_size=14336,
        num_hidden_layers=32,
        num_attention_heads=32,
        num_key_value_heads=8,
        dtype="bfloat16",
    )
    config.save_pretrained(tmp_path)
    with torch.device("meta"):
        shapes = {name: list(weight.shape) for name, weight in LlamaForCausalLM(config).state_dict().items()}
    header, end = {}, 0
    for name, shape in shapes.items():
        start, end = end, end + 2 * torch.Size(shape).numel()
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    with open(tmp_path / weights.WHOLE, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + end)
    touched = resource.getrusage(resource.RUSAGE_SELF).ru_minflt  # pages: reading through a map touches each
    weights.check(tmp_path, "")
    assert end > 15e9 and (resource.getrusage(resource.RUSAGE_SELF).ru_minflt - touched) * 4096 < 1e9
