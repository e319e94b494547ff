"""Hidden states pooled: summed as a model computes them, no stack kept, in its own pass or another's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from adg.embedding.windows import resolve_windows
from adg.errors import BadInput

if TYPE_CHECKING:
    import torch


class StateSums:
    """Adds up what a model computes while something runs it: weighted hidden states, averaged over each layer window.

    ``model`` is a Llama- or Qwen2-like decoder, with or without its head; it is not changed but for the hooks. Nothing
    is added up until ``start``. Raises ``BadInput`` for a model of another shape or without the states of ``windows``.
    """

    def __init__(self, model: Any, windows: Sequence[str]) -> None:
        self.base = model.base_model
        lacking = [name for name in ("embed_tokens", "layers", "norm") if not hasattr(self.base, name)]
        if lacking:
            raise BadInput(
                f"{type(model).__name__} has no {', '.join(lacking)}; a decoder of Llama's or Qwen2's shape is expected"
            )
        self.blocks = len(self.base.layers)
        self.tensors = resolve_windows(windows, self.blocks)
        self.blocks_run = max(1, *map(max, self.tensors))
        self.width = int(self.base.config.hidden_size)
        self._weights: torch.Tensor | None = None  # of the pass under way
        self._sums: Any = None
        self._rows: torch.Tensor | None = None
        modules = [self.base.embed_tokens, *self.base.layers[:-1], self.base.norm]
        for number in sorted({i for window in self.tensors for i in window}):
            modules[number].register_forward_hook(self._hook(number))  # tensor L is the norm's output

    @property
    def device(self) -> torch.device:
        return self.base.embed_tokens.weight.device

    @property
    def dtype(self) -> str:
        return str(self.base.embed_tokens.weight.dtype).removeprefix("torch.")

    def empty(self, rows: int, kinds: int) -> torch.Tensor:
        """Sums of nothing: (rows, kinds, W, d) float32."""
        import torch

        return torch.zeros((rows, kinds, len(self.tensors), self.width), dtype=torch.float32, device=self.device)

    def start(self, weights: torch.Tensor, sums: torch.Tensor, rows: torch.Tensor | None = None) -> None:
        """From here on a pass over a batch (B, T) adds to ``sums`` (N, kinds, W, d), with ``weights`` (B, kinds, T).

        ``rows`` (B,), all different, says which of the N each row of the batch is; without it they are the same.
        """
        self._weights, self._sums, self._rows = weights, sums, rows

    def stop(self) -> None:
        """What the model computes from here on is not added up."""
        self._weights = self._sums = self._rows = None

    def _hook(self, number: int) -> Any:
        """Adds hidden state ``number``, pooled, to every window that it is part of."""
        windows = [(w, len(window)) for w, window in enumerate(self.tensors) if number in window]

        def hook(module: Any, args: Any, output: Any) -> None:
            if self._weights is None:  # the model is used for something else
                return
            state = output[0] if isinstance(output, tuple) else output
            pooled = self._weights @ state.float()
            for w, size in windows:
                if self._rows is None:
                    self._sums[:, :, w] += pooled / size
                else:
                    self._sums[self._rows, :, w] += pooled / size

        return hook


class WindowSums(StateSums):
    """Runs token ids through a decoder itself. The model is changed: blocks above the last one used are dropped."""

    def __init__(self, model: Any, windows: Sequence[str]) -> None:
        super().__init__(model, windows)
        self.base.layers = self.base.layers[: self.blocks_run]
        self.base.config.num_hidden_layers = self.blocks_run

    def run(
        self,
        ids: Sequence[np.ndarray],
        weights: Sequence[np.ndarray],
        cache: Any = None,
        cached: Sequence[int] | None = None,
    ) -> np.ndarray:
        """Weighted sums over the tokens of each text, mean over each window's tensors: (B, W, d) float32.

        ``ids`` and ``weights`` are (T,) a text. ``cache`` is filled when empty; otherwise ``cached`` says how many of
        its positions are each row's own. Padding stands on the right, where no token that counts can see it, so only a
        cache needs a mask.
        """
        import torch

        tokens, shares = self._padded(ids, weights)
        steps = torch.arange(tokens.shape[1], device=tokens.device)
        mask, positions = None, steps[None]
        if cached is not None:
            lengths = torch.tensor(list(cached), device=tokens.device)
            held = torch.arange(cache.get_seq_length(), device=tokens.device)[None] < lengths[:, None]
            mask = torch.cat([held, torch.ones_like(tokens, dtype=torch.bool)], dim=1)
            positions = lengths[:, None] + steps[None]
        sums = self.empty(len(shares), 1)
        self.start(shares[:, None], sums)
        try:
            self.base(
                input_ids=tokens,
                attention_mask=mask,
                position_ids=positions,
                past_key_values=cache,
                use_cache=cache is not None,
            )
            return sums[:, 0].cpu().numpy()
        finally:
            self.stop()

    def _padded(self, ids: Sequence[np.ndarray], weights: Sequence[np.ndarray]) -> tuple[torch.Tensor, torch.Tensor]:
        """Right-padded (B, T) ids and weights; padding weighs 0."""
        import torch

        width = max(map(len, ids))
        tokens, shares = np.zeros((len(ids), width), dtype=np.int64), np.zeros((len(ids), width), dtype=np.float32)
        for i, (row, share) in enumerate(zip(ids, weights, strict=True)):
            tokens[i, : len(row)], shares[i, : len(share)] = row, share
        return torch.from_numpy(tokens).to(self.device), torch.from_numpy(shares).to(self.device)


def unit(vectors: np.ndarray) -> np.ndarray:
    """Rows of length 1 (last axis); zeros stay zeros."""
    length = np.linalg.norm(vectors.astype(np.float64), axis=-1, keepdims=True)
    return (vectors / np.where(length > 0, length, 1.0)).astype(np.float32)
