"""What a CPU runs sooner than transformers' own way: attention that shares keys, weights in the order they are read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

NAME = "sdpa_shared_keys"
BLOCK = 2048  # rows of a head that are multiplied at once
SHORT = 256  # tokens, up to which the backward pass of attention is sooner in float32 than in half precision


def share_keys(model: Any) -> None:
    """Let ``model`` (of transformers, on a CPU, with its default attention) read shared keys and values in place.

    Wherever there is a mask, transformers repeats them for each query head before torch's
    ``scaled_dot_product_attention``, which takes more time than the attention. Its CPU kernel gives the same numbers to
    the last bit without (``enable_gqa``). Of short texts in half precision whose gradients are wanted, attention is
    computed in float32, which is closer and sooner: the kernel's backward pass takes three times as long without. Other
    devices and other kinds of attention are left as they are.
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

    dtype = query.dtype
    if query.requires_grad and dtype in (torch.bfloat16, torch.float16) and key.shape[2] <= SHORT:
        with torch.autocast("cpu", enabled=False):  # which would turn it back
            out = _read_in_place(module, query.float(), key.float(), value.float(), attention_mask, **options)
    else:
        out = _read_in_place(module, query, key, value, attention_mask, **options)
    return out.to(dtype), None


def _read_in_place(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    **options: Any,
) -> torch.Tensor:
    import torch
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    if attention_mask is None or options.get("position_bias") is not None or options.get("cache") is not None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **options)[0]
    out = torch.nn.functional.scaled_dot_product_attention(
        query,
        key,
        value,
        attn_mask=attention_mask,
        dropout_p=options.get("dropout", 0.0),
        scale=options.get("scaling"),
        enable_gqa=query.shape[1] != key.shape[1],
    )
    return out.transpose(1, 2).contiguous()


def lay_by_column(model: Any) -> None:
    """Keep the float32 weights of ``model``'s linear layers column by column in memory, on a CPU.

    That is how a product with a batch of tokens reads them. Row by row, as a checkpoint has them, they are turned
    around in every product: with 50 tokens that is a quarter of its time, with 500 a twentieth. A head as wide as a
    vocabulary is read in blocks, which libraries of products do better than all of it. The numbers are the same up to
    rounding. For models that run and are not saved: safetensors stores rows.
    """
    import torch

    if model.device.type != "cpu":
        return
    with torch.no_grad():
        head = model.get_output_embeddings()
        if isinstance(head, torch.nn.Linear) and head.weight.dtype == torch.float32 and head.bias is None:
            model.set_output_embeddings(_in_blocks(head.weight))
        for module in model.modules():
            if isinstance(module, torch.nn.Linear) and module.weight.dtype == torch.float32:
                module.weight.data = module.weight.data.t().contiguous().t()


def _in_blocks(weight: torch.Tensor) -> Any:
    """A head of this weight (vocabulary, d): hidden states (..., d) -> logits (..., vocabulary)."""
    import torch

    class HeadInBlocks(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.blocks = [rows.t().contiguous().t() for rows in weight.split(BLOCK)]

        def forward(self, states: torch.Tensor) -> torch.Tensor:
            return torch.cat([torch.nn.functional.linear(states, block) for block in self.blocks], dim=-1)

    return HeadInBlocks()
