"""Attention on a CPU where several query heads share keys and values: read as they lie, not copied for each head."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

NAME = "sdpa_shared_keys"


def share_keys(model: Any) -> None:
    """Let ``model`` (of transformers, on a CPU, with its default attention) read shared keys and values in place.

    Wherever there is a mask, transformers repeats them for each query head before torch's
    ``scaled_dot_product_attention``, which takes more time than the attention. Its CPU kernel gives the same numbers to
    the last bit without (``enable_gqa``). Other devices and other kinds of attention are left as they are.
    """
    if model.device.type != "cpu" or model.config._attn_implementation != "sdpa":
        return
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    AttentionInterface.register(NAME, _attend)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    model.set_attn_implementation(NAME)


def _attend(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """Query (B, H, T, d), keys and values (B, H / groups, S, d) -> (B, T, H, d)."""
    import torch
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    if attention_mask is None or options.get("position_bias") is not None or options.get("cache") is not None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **options)
    out = torch.nn.functional.scaled_dot_product_attention(
        query,
        key,
        value,
        attn_mask=attention_mask,
        dropout_p=options.get("dropout", 0.0),
        scale=options.get("scaling"),
        enable_gqa=query.shape[1] != key.shape[1],
    )
    return out.transpose(1, 2).contiguous(), None
