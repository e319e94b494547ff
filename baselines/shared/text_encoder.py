"""Sentence vectors by a transformers model, in shards that a killed run finds again. No part of identity."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from adg import batching
from adg.artifacts.files import sha256_text
from adg.artifacts.shards import Shard, Shards
from adg.errors import BadInput
from adg.progress import progress

SHARD = 1024  # texts done between two savings; a kill loses at most these


class TextEncoder:
    """Pooled last hidden states of a transformers model. Padding stands on the right and is masked.

    ``pooling="mean"`` averages all tokens of a text, special ones included (as sentence-transformers does); "last"
    takes the state of the last one.
    """

    def __init__(
        self, model: Any, tokenizer: Any, pooling: str = "mean", tokens: int | None = None, tokens_per_batch: int = 4096
    ) -> None:
        self._model, self._tokenizer, self._pooling = model, tokenizer, pooling
        self.tokens_per_batch = tokens_per_batch
        positions = int(getattr(model.config, "max_position_embeddings", 1 << 30))
        if tokens is not None and tokens > positions:
            raise BadInput(
                f"selector.vector_tokens is {tokens} but {type(model).__name__} has {positions} positions; "
                f"set selector.vector_tokens={positions} or less"
            )
        self.limit = min(positions, int(tokenizer.model_max_length)) if tokens is None else tokens

    def tokens(self, texts: Sequence[str], end: bool = False) -> list[list[int]]:
        """Ids of each text with the tokenizer's own special tokens, at most ``limit``; ``end`` adds the end of text.

        Special tokens that are spelt out inside a text stay text.
        """
        ids: list[list[int]] = []
        for start in range(0, len(texts), 1000):
            batch = self._tokenizer(
                list(texts[start : start + 1000]), truncation=True, max_length=self.limit, split_special_tokens=True
            )
            ids += [list(row) for row in batch["input_ids"]]
        eos = self._tokenizer.eos_token_id
        if not end or eos is None:
            return ids
        return [row if len(row) >= self.limit or row[-1:] == [eos] else [*row, int(eos)] for row in ids]

    def encode(self, texts: Sequence[str], end: bool = False) -> np.ndarray:
        """(n, d) float32 of length 1; NaN where a text has no token or the model gave no finite, non-zero vector."""
        import torch

        ids = self.tokens(texts, end)
        result = np.full((len(texts), int(self._model.config.hidden_size)), np.nan, dtype=np.float32)
        device, pad = self._model.device, self._tokenizer.pad_token_id or 0
        filled = [i for i, row in enumerate(ids) if row]
        with torch.inference_mode():
            for batch in batching.batches(filled, lambda i: len(ids[i]), self.tokens_per_batch):
                lengths = torch.tensor([len(ids[i]) for i in batch], device=device)
                width = int(lengths.max())
                padded = torch.tensor([ids[i] + [pad] * (width - len(ids[i])) for i in batch], device=device)
                mask = torch.arange(width, device=device)[None] < lengths[:, None]
                states = self._model(input_ids=padded, attention_mask=mask.long()).last_hidden_state.float()
                if self._pooling == "last":
                    pooled = states[torch.arange(len(batch), device=device), lengths - 1]
                else:
                    pooled = (states * mask[..., None]).sum(1) / lengths[:, None]
                result[batch] = pooled.cpu().numpy()
        lengths_ = np.linalg.norm(result.astype(np.float64), axis=1, keepdims=True)
        with np.errstate(invalid="ignore", divide="ignore"):
            result = (result / lengths_).astype(np.float32)
        result[~np.isfinite(result).all(axis=1)] = np.nan
        return result


def in_shards(
    texts: Sequence[str],
    work: Path,
    name: str,
    run: Callable[[list[str]], np.ndarray],
    size: int = SHARD,
    nan_is_a_result: bool = False,
) -> np.ndarray:
    """``run`` over ``texts``, ``size`` at a time, a row a text; what is done is saved in ``work`` and found again.

    A shard with a number that is not finite has failed, and is run again next time, unless ``nan_is_a_result``.
    """
    parts: list[np.ndarray] = []
    saved = Shards(work, name)
    with progress(len(texts), name, unit="texts") as bar:
        for start in range(0, len(texts), size):
            some = list(texts[start : start + size])
            key = sha256_text(json.dumps(some))
            shard = saved.find(key)
            if shard is None:
                shard = Shard(arrays={"values": run(some)})
                if nan_is_a_result or np.isfinite(shard.arrays["values"]).all():
                    saved.save(key, shard)
            parts.append(shard.arrays["values"])
            bar.update(len(some))
    return np.concatenate(parts)
