"""Packed texts against one text at a time, and which models are left to padded batches."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from adg.backbones.packed import CannotPack, Group, PackedModel, Tree

SIZES = {
    "vocab_size": 64,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}


def ids(count: int, seed: int = 0) -> list[int]:
    """Tokens that every vocabulary here has."""
    return torch.randint(4, 60, (count,), generator=torch.Generator().manual_seed(seed)).tolist()


def plain(model: Any, tokens: list[int]) -> torch.Tensor:
    """Logits after each token of one text."""
    with torch.inference_mode():
        return model(input_ids=torch.tensor([tokens])).logits[0]


def built(kind: str, **more: Any) -> Any:
    """A random model of an architecture, as small as it goes."""
    from transformers import AutoConfig, AutoModelForCausalLM

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **{**SIZES, **more})).eval()


def test_branches_see_their_beginning_and_stem_and_not_each_other(tiny_model: Any) -> None:
    packed, head, stem = PackedModel(tiny_model), ids(20), ids(7, 1)
    branches = [ids(3, 2), ids(1, 3), ids(5, 4)]
    (beginning,) = packed.begin([head])
    lone = ids(11, 5)
    found = packed.logits([Tree(stem, branches, beginning), Tree(lone)], [[6, *range(7, 16)], list(range(11))])
    expected = [plain(tiny_model, [*head, *stem, *branch])[27:] for branch in branches]
    after_stem = plain(tiny_model, [*head, *stem])[26:27]
    assert torch.allclose(found[0], torch.cat([after_stem, *expected]), atol=1e-4)
    assert torch.allclose(found[1], plain(tiny_model, lone), atol=1e-4)


def test_texts_go_on_together_while_some_leave(tiny_model: Any) -> None:
    packed, heads = PackedModel(tiny_model), [ids(18), ids(9, 1)]
    beginnings = packed.begin(heads)
    groups = [Group(beginnings[0]), Group(beginnings[1]), Group(None)]
    texts = [(groups[n % 3], ids(3 + n, 10 + n)) for n in range(9)]
    rows = [(group, group.add(len(own), len(own) + 4)) for group, own in texts]
    whole = {
        row: [*(group.beginning.ids if group.beginning else ()), *own]
        for row, (group, own) in zip(rows, texts, strict=True)
    }
    trees = [Tree(own, (), group.beginning) for group, own in texts]
    logits = packed.start(trees, rows)
    assert torch.allclose(logits, torch.stack([plain(tiny_model, whole[row])[-1] for row in rows]), atol=1e-4)
    going = [[whole[group, row] for row in range(len(group))] for group in groups]
    for step in range(4):
        tokens = ids(sum(map(len, going)), 50 + step)
        logits = packed.step(groups, tokens)
        flat = [text for members in going for text in members]
        for text, token in zip(flat, tokens, strict=True):
            text.append(token)
        assert torch.allclose(logits, torch.stack([plain(tiny_model, text)[-1] for text in flat]), atol=1e-4)
        for number, group in enumerate(groups):
            order = group.drop([0] if step == number else [1] if step == 3 and len(group) > 1 else [])
            going[number] = [going[number][row] for row in order]


def test_a_models_own_attention_is_put_back(tiny_model: Any) -> None:
    before = tiny_model.config._attn_implementation
    PackedModel(tiny_model).check(ids(6))
    assert tiny_model.config._attn_implementation == before


@pytest.mark.parametrize("kind", ["llama", "qwen2", "qwen3", "gpt_neox", "phi", "olmo2"])
def test_architectures_that_take_part(kind: str) -> None:
    PackedModel(built(kind)).check(ids(6))


@pytest.mark.parametrize(
    ("kind", "more"),
    [
        ("mistral", {"sliding_window": 8}),  # sees a window only
        ("gemma2", {"head_dim": 4}),  # caps its scores
        ("bloom", {"n_head": 4}),  # its attention is its own
        ("mamba", {}),  # has none
        ("llama", {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}}),
    ],
)
def test_architectures_that_do_not(kind: str, more: dict[str, Any]) -> None:
    model = built(kind, **more)
    for parameter in model.parameters():  # logits that hardly differ do not hide it
        parameter.data.mul_(0.1 if kind == "bloom" else 1.0)
    with pytest.raises(CannotPack):
        PackedModel(model).check(ids(6))
    assert torch.isfinite(plain(model, ids(6))).all()  # as it was


def test_wrong_logits_are_found(tiny_model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Tree, "positions", lambda self: list(range(len(self))))
    with pytest.raises(CannotPack, match="other logits"):
        PackedModel(tiny_model).check(ids(6))
