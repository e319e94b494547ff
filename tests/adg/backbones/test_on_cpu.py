"""What a CPU runs sooner gives the numbers of transformers' own way.

To the last bit where keys are shared in place, up to rounding where weights are laid out anew, and closer ones where
gradients go through attention.
"""

from __future__ import annotations

import copy
from typing import Any

import pytest

from adg.backbones import on_cpu


def _model(seed: int = 3) -> Any:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=300,
        hidden_size=96,
        intermediate_size=64,
        num_hidden_layers=3,
        num_attention_heads=6,
        num_key_value_heads=2,
        max_position_embeddings=128,
        tie_word_embeddings=True,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LlamaForCausalLM(config).eval()


def _ids() -> Any:
    import torch

    return torch.randint(300, (5, 37), generator=torch.Generator().manual_seed(4))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_numbers_are_those_of_transformers(dtype: str) -> None:
    import torch

    plain, ids = _model().to(getattr(torch, dtype)), _ids()
    shared = copy.deepcopy(plain)
    on_cpu.share_keys(shared)
    assert (plain.config._attn_implementation, shared.config._attn_implementation) == ("sdpa", on_cpu.NAME)
    mask = (torch.arange(37)[None] >= torch.tensor([0, 3, 9, 20, 1])[:, None]).long()
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    with torch.inference_mode():
        for keep in (None, mask):
            found, wanted = (
                model(input_ids=ids, attention_mask=keep, position_ids=positions, use_cache=True)
                for model in (shared, plain)
            )
            assert torch.equal(found.logits, wanted.logits)
        longer = torch.cat([mask, mask.new_ones(5, 1)], dim=1)
        step = {"input_ids": ids[:, :1], "attention_mask": longer, "position_ids": mask.sum(-1, keepdim=True)}
        found = shared(**step, past_key_values=found.past_key_values)
        wanted = plain(**step, past_key_values=wanted.past_key_values)
        assert torch.equal(found.logits, wanted.logits) and torch.equal(
            found.logits.argmax(-1), wanted.logits.argmax(-1)
        )


def test_another_kind_of_attention_is_left_alone() -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    shape = {
        "vocab_size": 9,
        "hidden_size": 8,
        "intermediate_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
    }
    model = LlamaForCausalLM(LlamaConfig(**shape, attn_implementation="eager"))
    on_cpu.share_keys(model)
    assert model.config._attn_implementation == "eager"


def test_weights_by_column_give_the_same_numbers_up_to_rounding(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    plain, ids = _model(), _ids()
    laid = copy.deepcopy(plain)
    monkeypatch.setattr(on_cpu, "BLOCK", 7)
    on_cpu.lay_by_column(laid)
    for (name, weight), (_, before) in zip(laid.named_parameters(), plain.named_parameters(), strict=True):
        assert torch.equal(weight, before), name
        linear = weight.ndim == 2 and "embed" not in name
        assert weight.stride() == ((1, weight.shape[0]) if linear else before.stride()), name
    assert len(laid.lm_head.blocks) > 2 and all(block.stride(0) == 1 for block in laid.lm_head.blocks)
    assert torch.equal(torch.cat(laid.lm_head.blocks), plain.lm_head.weight)
    with torch.inference_mode():
        found, wanted = laid(input_ids=ids).logits, plain(input_ids=ids).logits
    assert float((found - wanted).abs().max()) < 1e-6 < float(wanted.abs().max())


def test_weights_in_half_precision_stay_as_they_are() -> None:
    import torch

    model = _model().to(torch.bfloat16)
    on_cpu.lay_by_column(model)
    assert all(weight.is_contiguous() for weight in model.parameters())


def test_gradients_of_short_texts_are_closer_to_those_in_float32() -> None:
    import torch

    wide, ids = _model().float(), _ids()
    # the same weights in all three, so that only the arithmetic differs
    wide.load_state_dict({name: weight.bfloat16().float() for name, weight in wide.state_dict().items()})

    def gradients(model: Any) -> Any:
        model.train()
        model(input_ids=ids, labels=ids).loss.backward()
        return [layer.self_attn.v_proj.weight.grad.float() for layer in model.model.layers]

    half = copy.deepcopy(wide).to(torch.bfloat16)
    shared = copy.deepcopy(half)
    on_cpu.share_keys(shared)
    wanted, plain, found = gradients(wide), gradients(half), gradients(shared)

    def off(some: Any) -> float:
        return sum(float((one - other).norm() / other.norm()) for one, other in zip(some, wanted, strict=True))

    assert 0 < off(found) < off(plain) < 0.2
