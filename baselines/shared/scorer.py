"""Losses of texts under a language model, by transformers or by vLLM's log-probabilities.

Batches change rounding at most and are no part of identity; the engine and dtype are, in the stages that use it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from adg.artifacts.artifact import Artifact
from adg.backbones import loading
from adg.batching import batches
from adg.errors import BadInput
from adg.execution import ExecConfig
from baselines.shared.loss_texts import Text

if TYPE_CHECKING:
    import torch


LOGIT_BYTES = 2**27  # of one block of float32 logits; the positions of a batch go through the head block by block


class Scorer:
    """Mean losses of texts under a causal language model with a head, in eval mode.

    Hidden states are cut to the positions that predict a response before the head sees them. Padding stands on the
    right, where no token that counts can see it, so neither the batch a text is in nor its place there matters
    (1e-5 in float32), nor the tokenizer's own padding side.
    """

    def __init__(self, model: Any, tokens_per_batch: int = 4096) -> None:
        self._model, self._base, self._head = model, model.base_model, model.get_output_embeddings()
        if self._head is None:
            raise BadInput(f"{type(model).__name__} has no language-model head; a causal language model is expected")
        self.tokens_per_batch = tokens_per_batch
        self.positions = int(getattr(model.config, "max_position_embeddings", 1 << 30))
        self.dtype = str(model.dtype).removeprefix("torch.")
        self._block = max(16, LOGIT_BYTES // (4 * int(model.config.vocab_size)))
        self._checked = False

    @property
    def width(self) -> int:
        """Width of the input embeddings."""
        return int(self._model.get_input_embeddings().weight.shape[1])

    def score(self, texts: Sequence[Text]) -> np.ndarray:
        """Mean NLL of every text's response, (n,) float64; NaN where the model gave no finite number."""
        result = np.full(len(texts), np.nan)
        for batch in batches(range(len(texts)), lambda i: len(texts[i].ids), self.tokens_per_batch):
            result[batch] = self.batch([texts[i] for i in batch])
        return result

    def batch(self, texts: Sequence[Text]) -> np.ndarray:
        """The same for texts that are run together."""
        return _means(*self._token_losses(texts))

    def tokens(self, texts: Sequence[Text], shifts: Sequence[np.ndarray] | None = None) -> list[np.ndarray]:
        """NLL of every token that has a loss, for texts that are run together: (text.tokens,) float64 each.

        ``shifts``, (T, d) float32 each, are added to the texts' input embeddings. A value is not finite where the
        model gave no number.
        """
        losses, counts = self._token_losses(texts, shifts)
        return np.split(losses, np.cumsum(counts)[:-1])

    def following(self, texts: Sequence[Text], words: Sequence[int]) -> np.ndarray:
        """Log-probabilities of the tokens ``words`` (w,) right after each text, (n, w) float64, run together."""
        import torch

        last = torch.tensor([len(text.ids) - 1 for text in texts])
        with torch.inference_mode():
            states = self._states(self._padded(texts))[torch.arange(len(texts)), last]
            blocks = [
                torch.log_softmax(self._float(self._head(states[first : first + self._block])), dim=-1)[:, list(words)]
                for first in range(0, len(states), self._block)
            ]
            return torch.cat(blocks).double().cpu().numpy()

    def vectors(self, texts: Sequence[Text]) -> tuple[np.ndarray, np.ndarray]:
        """Mean of the last hidden states over all tokens of each text, (n, d) float64, and its mean NLL, (n,)."""
        import torch

        with torch.inference_mode():
            ids = self._padded(texts)
            states = self._states(ids)
            means = [states[i, : len(text.ids)].double().mean(0).cpu().numpy() for i, text in enumerate(texts)]
            losses, counts = self._at(texts, ids, states)
        return np.stack(means), _means(losses, counts)

    def _token_losses(
        self, texts: Sequence[Text], shifts: Sequence[np.ndarray] | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Losses of all texts in one row, float64, and how many belong to each text."""
        import torch

        with torch.inference_mode():
            ids = self._padded(texts)
            return self._at(texts, ids, self._states(ids, shifts))

    def _at(self, texts: Sequence[Text], ids: torch.Tensor, states: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
        """The same from the texts' hidden ``states`` (B, T, d)."""
        import torch

        counts = np.array([text.tokens for text in texts])
        rows = torch.from_numpy(np.repeat(np.arange(len(texts)), counts))
        columns = torch.from_numpy(np.concatenate([np.arange(text.start, len(text.ids)) for text in texts]))
        return self._losses(states[rows, columns - 1], ids[rows, columns]), counts

    def _padded(self, texts: Sequence[Text]) -> torch.Tensor:
        """Token ids (B, T) on the model's device; refuses texts that it has no positions for."""
        import torch

        width = max(len(text.ids) for text in texts)
        if width > self.positions:
            raise BadInput(
                f"a text has {width} tokens but {type(self._model).__name__} has {self.positions} "
                f"positions; set selector.max_tokens={self.positions} or less"
            )
        tokens = np.zeros((len(texts), width), dtype=np.int64)
        for i, text in enumerate(texts):
            tokens[i, : len(text.ids)] = text.ids
        ids = torch.from_numpy(tokens).to(self._model.device)
        self._check_head(ids[:1, :8])
        return ids

    def _states(self, ids: torch.Tensor, shifts: Sequence[np.ndarray] | None = None) -> torch.Tensor:
        """Last hidden states (B, T, d)."""
        import torch

        inputs = {"input_ids": ids}
        if shifts is not None:
            embedded = self._model.get_input_embeddings()(ids)
            for i, shift in enumerate(shifts):
                embedded[i, : len(shift)] += torch.from_numpy(shift).to(embedded)
            inputs = {"inputs_embeds": embedded}
        positions = torch.arange(ids.shape[1], device=ids.device)[None]
        return self._base(**inputs, position_ids=positions, use_cache=False).last_hidden_state

    def _losses(self, states: torch.Tensor, targets: torch.Tensor) -> np.ndarray:
        """NLL of ``targets`` (P,) after ``states`` (P, d), float64; log-softmax in float32, block by block."""
        import torch

        blocks = []
        for first in range(0, len(states), self._block):
            logits = self._float(self._head(states[first : first + self._block]))
            loss = torch.nn.functional.cross_entropy(logits, targets[first : first + self._block], reduction="none")
            blocks.append(loss.double().cpu().numpy())
        return np.concatenate(blocks)

    @staticmethod
    def _float(logits: torch.Tensor) -> torch.Tensor:
        import torch

        return logits if logits.dtype == torch.float64 else logits.float()

    def close(self) -> None:
        """Nothing to give back; engines of their own have something."""

    def _check_head(self, ids: torch.Tensor) -> None:
        """Refuse a model whose logits are not head(hidden state), such as one that caps or scales them."""
        import torch

        if self._checked:
            return
        own, ours = self._model(input_ids=ids).logits.float(), self._head(self._states(ids)).float()
        if not torch.allclose(own, ours, rtol=1e-2, atol=1e-2, equal_nan=True):
            raise BadInput(
                f"{type(self._model).__name__} changes its logits after the head, which this scorer leaves "
                f"out; choose another scorer (selector.scorer)"
            )
        self._checked = True


def _means(losses: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Mean of every text's ``losses``, which stand in one row; NaN where one of them is not finite."""
    sums = np.add.reduceat(losses, np.concatenate([[0], np.cumsum(counts)[:-1]]))
    return np.where(np.isfinite(sums), sums / counts, np.nan)


class VllmScorer:
    """The same mean losses from vLLM's log-probabilities of the tokens it is given.

    Equal to ``Scorer``'s within 1e-5 in float32 on a CPU (measured: 2e-6); in bfloat16 the two differ as any two orders
    of the same sums do.
    """

    def __init__(self, model: Artifact, dtype: str, exec_: ExecConfig, max_tokens: int) -> None:
        from adg.answers.vllm_engine import Vllm

        self.dtype = dtype
        # vLLM insists on room for one new token
        self._longest = min(max_tokens, (loading.positions(model) or 1 << 30) - 1)
        self._engine = Vllm(
            model,
            dtype,
            exec_,
            self._longest + 1,
            enable_prefix_caching=False,
            enforce_eager=True,
            max_num_batched_tokens=max(2048, self._longest + 1),
        )

    def batch(self, texts: Sequence[Text]) -> np.ndarray:
        """Mean NLL of every text's response, (n,) float64; NaN where the model gave no finite number."""
        width = max(len(text.ids) for text in texts)
        if width > self._longest:
            raise BadInput(
                f"a text has {width} tokens but vLLM takes {self._longest} of this model; set "
                f"selector.max_tokens={self._longest} or less, or selector.scorer_engine=hf"
            )
        lines = self._engine.log_probabilities([text.ids.tolist() for text in texts])
        losses = [-line[text.start :] for text, line in zip(texts, lines, strict=True)]
        return _means(np.concatenate(losses), np.array([text.tokens for text in texts]))

    def close(self) -> None:
        """Give memory back."""
        self._engine.close()
