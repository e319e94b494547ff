"""Keys that query heads share are read in place: the same numbers to the last bit, prompts and single tokens alike."""

from __future__ import annotations

import copy

import pytest

from adg.backbones import attention


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_numbers_are_those_of_transformers(dtype: str) -> None:
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
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        plain = LlamaForCausalLM(config).to(getattr(torch, dtype)).eval()
        ids = torch.randint(300, (5, 37))
    shared = copy.deepcopy(plain)
    attention.share_keys(shared)
    assert (plain.config._attn_implementation, shared.config._attn_implementation) == ("sdpa", attention.NAME)
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
    attention.share_keys(model)
    assert model.config._attn_implementation == "eager"
