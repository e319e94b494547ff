"""Log-probabilities of a few fixed names after many contexts that begin alike: one pass over each context.

What all contexts begin with is run once and kept (keys and values). After a context stand the names' tokens side by
side, each name seeing the context and itself alone, so that all are read in the pass over the context.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np

from adg.errors import BadInput

CHECK = {"float32": 1e-3, "bfloat16": 0.5, "float16": 0.1}  # nats by which a plain pass may differ


class NameScorer:
    """``prefix``: tokens that every context begins with; ``names``: tokens of each name, one or more."""

    def __init__(self, model: Any, prefix: Sequence[int], names: Sequence[Sequence[int]]) -> None:
        if not prefix or not all(names):
            raise BadInput("a context and each name need at least one token")
        self._model, self._prefix, self._names = model, list(prefix), [list(name) for name in names]
        self._tail = [token for name in self._names for token in name[:-1]]  # the last token of a name predicts nothing
        self._kept: Any = None
        self._checked = False

    @property
    def extra(self) -> int:
        """Tokens beside its own that each context is run with."""
        return len(self._tail)

    def score(self, contexts: Sequence[Sequence[int]]) -> np.ndarray:
        """Sum of the log-probabilities (natural) of each name's tokens after prefix and context, (n, names) float64.

        ``contexts`` are run together, one token or more each; a value is not finite where the model gave no number.
        Raises ``BadInput`` where the model's attention does not take such a pass: then a plain one differs.
        """
        values = self._together(contexts)
        if not self._checked and np.isfinite(values[0]).all():
            plain, dtype = self._plain(contexts[0]), str(self._model.dtype).removeprefix("torch.")
            if not np.abs(values[0] - plain).max() <= CHECK.get(dtype, CHECK["float32"]):
                raise BadInput(
                    f"{type(self._model).__name__} reads names side by side otherwise than one by one "
                    f"(by {np.abs(values[0] - plain).max():.3g} nats in {dtype}); types of task cannot be read with it"
                )
            self._checked = True
        return values

    def _together(self, contexts: Sequence[Sequence[int]]) -> np.ndarray:
        import torch

        model, many, before = self._model, len(contexts), len(self._prefix)
        width = max(map(len, contexts))
        ids = torch.zeros((many, width + len(self._tail)), dtype=torch.long)
        allowed = torch.zeros((many, ids.shape[1], before + ids.shape[1]), dtype=torch.bool)
        positions = torch.zeros_like(ids)
        allowed[:, :, before:] |= torch.eye(ids.shape[1], dtype=torch.bool)  # padding sees itself, and nobody sees it
        for row, context in enumerate(contexts):
            start = width - len(context)  # padding stands in front, so that all contexts end in one column
            ids[row, start:width] = torch.tensor(context)
            positions[row, start:width] = before + torch.arange(len(context))
            allowed[row, start:, :before] = True
            allowed[row, start:width, before + start : before + width] = torch.ones(
                (len(context), len(context)), dtype=torch.bool
            ).tril()
            allowed[row, width:, before + start : before + width] = True
            column = width
            for name in self._names:
                steps = len(name) - 1
                ids[row, column : column + steps] = torch.tensor(name[:-1], dtype=torch.long)
                positions[row, column : column + steps] = before + len(context) + torch.arange(steps)
                allowed[row, column : column + steps, before + column : before + column + steps] = torch.ones(
                    (steps, steps), dtype=torch.bool
                ).tril()
                column += steps
        mask = torch.zeros(allowed.shape, dtype=model.dtype).masked_fill(~allowed, torch.finfo(model.dtype).min)
        with torch.inference_mode():
            logits = model(
                input_ids=ids.to(model.device),
                attention_mask=mask[:, None].to(model.device),
                position_ids=positions.to(model.device),
                past_key_values=self._past(many),
                use_cache=True,
                logits_to_keep=1 + len(self._tail),
            ).logits
            return self._sums(logits)

    def _past(self, many: int) -> Any:
        """Keys and values of the prefix, for ``many`` contexts."""
        import torch

        if self._kept is None:
            with torch.inference_mode():
                ids = torch.tensor([self._prefix], device=self._model.device)
                self._kept = self._model(input_ids=ids, use_cache=True, logits_to_keep=1).past_key_values
        past = copy.deepcopy(self._kept)
        past.batch_repeat_interleave(many)
        return past

    def _sums(self, logits: Any) -> np.ndarray:
        """(n, names) of the logits (n, 1 + tail, V) at the context's end and at the names' tokens."""
        import torch

        logs = torch.log_softmax(logits.float(), dim=-1)
        values, column = np.zeros((len(logs), len(self._names))), 1
        for place, name in enumerate(self._names):
            at = [0, *range(column, column + len(name) - 1)]
            values[:, place] = logs[:, at, name].double().sum(dim=1).cpu().numpy()
            column += len(name) - 1
        return values

    def _plain(self, context: Sequence[int]) -> np.ndarray:
        """The same for one context by a pass over the whole text of each name."""
        import torch

        head, values = [*self._prefix, *context], []
        for name in self._names:
            ids = torch.tensor([[*head, *name]], device=self._model.device)
            with torch.inference_mode():
                logs = torch.log_softmax(self._model(input_ids=ids, use_cache=False).logits[0].float(), dim=-1)
            at = range(len(head) - 1, len(head) - 1 + len(name))
            values.append(float(sum(logs[i, token].double() for i, token in zip(at, name, strict=True))))
        return np.array(values)
