"""Hidden states pooled: texts run through the blocks that are needed, each window's weighted mean kept.

Batches, blocks of tokens and shared beginnings change rounding at most and are no part of identity.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from adg import prompts
from adg.batching import batches
from adg.embedding.config import EmbeddingConfig
from adg.embedding.texts import WeightedText, weight_table
from adg.embedding.windows import resolve_windows
from adg.errors import BadInput
from adg.pools.records import Record

if TYPE_CHECKING:
    import torch


MIN_SHARED = 16  # tokens that answers must have in common before a separate pass over them pays


@dataclass(frozen=True)
class Vectors:
    """Vectors of the m records that could be embedded, and the others with the reason."""

    keys: list[str]
    answers: np.ndarray  # (m, K, W, d) float32, length 1, or 0 under empty_answer=zero
    instructions: np.ndarray  # (m, d) float32, length 1
    failed: list[tuple[str, str]]  # (id key, reason)
    counts: dict[str, int]


class Encoder:
    """Runs texts through a backbone and pools the declared windows.

    ``model`` is a Llama- or Qwen2-like decoder, with or without its head. It is changed: blocks above the last one
    used are dropped. ``share_prefix=False`` runs every text on its own (the plain path; the same vectors to 1e-5 in
    float32, as with every ``tokens_per_batch`` and order of records).
    """

    def __init__(
        self, model: Any, tokenizer: Any, cfg: EmbeddingConfig, tokens_per_batch: int = 4096, share_prefix: bool = True
    ) -> None:
        base = model.base_model
        lacking = [name for name in ("embed_tokens", "layers", "norm") if not hasattr(base, name)]
        if lacking:
            raise BadInput(
                f"{type(model).__name__} has no {', '.join(lacking)}; a decoder of Llama's or Qwen2's shape is expected"
            )
        blocks = len(base.layers)
        self.cfg = cfg
        self.tensors = resolve_windows(cfg.declared, blocks)
        self.blocks, self.blocks_run = blocks, max(1, *map(max, self.tensors))
        self.width = int(base.config.hidden_size)
        self.positions = int(getattr(base.config, "max_position_embeddings", 1 << 30))
        self.tokens_per_batch = tokens_per_batch
        self.share_prefix = share_prefix
        self._pooled = _Pooler(base, self.tensors)  # before the cut: tensor L is the norm's output
        base.layers = base.layers[: self.blocks_run]
        base.config.num_hidden_layers = self.blocks_run
        self._base = base
        self._tokenizer = tokenizer
        weights = weight_table(tokenizer) if cfg.token_weights else np.ones(len(tokenizer), dtype=np.float32)
        self._table = weights

    @property
    def device(self) -> torch.device:
        return self._base.embed_tokens.weight.device

    @property
    def dtype(self) -> str:
        return str(self._base.embed_tokens.weight.dtype).removeprefix("torch.")

    def embed(self, items: Sequence[tuple[Record, Sequence[str]]], answers: int) -> Vectors:
        """Vectors of records with ``answers`` texts each. A row that fails is listed, never turned into a number."""
        counts = dict.fromkeys(
            ("empty_answers", "truncated_answers", "unweighted_answers", "identical_records", "tokens"), 0
        )
        texts: list[WeightedText] = []
        known: dict[tuple[int, bytes, int], int] = {}
        failed: dict[str, str] = {}
        slots: dict[str, list[int]] = {}  # of a record's answers, then its instruction; -1 is the zero vector
        for number, (record, given) in enumerate(items):
            reason = "" if len(given) == answers else f"has {len(given)} of {answers} answers"
            made = [] if reason else [self._answer(record, text, counts) for text in given]
            made.append(self._instruction(record))
            for text in made:
                if isinstance(text, str):
                    reason = reason or text
                elif text is not None and len(text.ids) > self.positions:
                    reason = reason or (
                        f"needs {len(text.ids)} tokens, the backbone has {self.positions} positions; "
                        f"leave over-long records out (pool.max_chars, pool.over_long=drop)"
                    )
            if reason:
                failed[record.key] = reason
                continue
            row = []
            for text in made:
                if text is None:
                    row.append(-1)
                    continue
                assert isinstance(text, WeightedText)
                row.append(known.setdefault((number, text.ids.tobytes(), text.start), len(texts)))
                if row[-1] == len(texts):
                    texts.append(text)
            counts["identical_records"] += answers > 1 and len(set(row[:-1])) == 1
            slots[record.key] = row
        counts["tokens"] = sum(len(text.ids) for text in texts)
        pooled = self._run(texts, [row for row in slots.values()])
        for key, row in slots.items():
            rows = pooled[[slot for slot in row if slot >= 0]]
            if not np.isfinite(rows).all():
                failed[key] = f"the backbone gave NaN or infinity in {self.dtype} for it"
            elif not rows.any(axis=2).all():
                failed[key] = "the backbone gave a vector of zeros for it"
        kept = [key for key in slots if key not in failed]
        pooled = np.concatenate([pooled, np.zeros((1, *pooled.shape[1:]), dtype=np.float32)])  # slot -1
        chosen = np.array([slots[key] for key in kept], dtype=np.int64).reshape(len(kept), answers + 1)
        return Vectors(
            kept,
            _unit(pooled[chosen[:, :-1]]),
            _unit(pooled[chosen[:, -1], 0]),
            list(failed.items()),
            {name: int(value) for name, value in counts.items()},
        )

    # -- text to tokens

    def _answer(self, record: Record, answer: str, counts: dict[str, int]) -> WeightedText | str | None:
        """The text of one answer, None for the zero vector, or the reason why there is none."""
        empty = not answer.strip()
        counts["empty_answers"] += empty
        if empty and self.cfg.empty_answer == "fail":
            return "has an empty answer (embedding.empty_answer=fail)"
        if empty and self.cfg.empty_answer == "zero":
            return None
        limit = self.cfg.max_tokens
        if self.cfg.pooling == "answer":
            text = prompts.render(record.instruction, record.input if self.cfg.use_input else "")
            ids = prompts.encode_prompt(self._tokenizer, text)
            start = 0 if empty else len(ids)
            tail = [] if empty else prompts.encode(self._tokenizer, answer)
            counts["truncated_answers"] += len(tail) > limit
            ids = ids + tail[:limit]
        else:
            head = prompts.instruction_text(record) if self.cfg.use_input else record.instruction
            start, ids = 0, prompts.encode(self._tokenizer, f"{head} {answer}")
            counts["truncated_answers"] += len(ids) > limit
            ids = ids[:limit]
        if len(ids) <= start:
            return "has an answer without a token"
        made = self._weighted(ids, start)
        counts["unweighted_answers"] += made.total == 0
        return made

    def _instruction(self, record: Record) -> WeightedText | str:
        text, limit = record.instruction.strip(), self.cfg.instruction_tokens
        if not text:
            return "has an empty instruction, so no vector for the bins"
        if self.cfg.instruction_special_tokens:
            ids = prompts.encode_prompt(self._tokenizer, text, limit)
        else:
            ids = prompts.encode(self._tokenizer, text)[:limit]
        return self._weighted(ids, 0)

    def _weighted(self, ids: Sequence[int], start: int) -> WeightedText:
        array = np.asarray(ids, dtype=np.int64)
        weights = self._table[array]
        weights[:start] = 0
        total = float(weights.sum())
        if total == 0:  # released code: NaN, or equal weights in embed.py
            weights[start:] = 1
        return WeightedText(array, start, weights / weights.sum(), total)

    # -- tokens to pooled states

    def _run(self, texts: Sequence[WeightedText], rows: Sequence[Sequence[int]]) -> np.ndarray:
        """Window means of every text, (len(texts), W, d) float32; ``rows`` says which texts belong to one record."""
        import torch

        result = np.zeros((len(texts), len(self.tensors), self.width), dtype=np.float32)
        shared = []
        for row in rows if self.share_prefix else ():
            length, members = self._shared(texts, row)
            if members:
                shared.append((length, members))
        taken = {member for _, members in shared for member in members}
        with torch.inference_mode():
            alone = [i for i in range(len(texts)) if i not in taken]
            for batch in batches(alone, lambda i: len(texts[i].ids), self.tokens_per_batch):
                ids, weights = self._padded([texts[i].ids for i in batch], [texts[i].weights for i in batch])
                result[batch] = self._forward(ids, weights).cpu().numpy()
            for group in batches(range(len(shared)), lambda g: shared[g][0], self.tokens_per_batch):
                self._run_shared(texts, [shared[g] for g in group], result)
        return result

    def _shared(self, texts: Sequence[WeightedText], row: Sequence[int]) -> tuple[int, list[int]]:
        """How many leading tokens the texts of one record share, and which of its texts do so.

        The instruction (last of ``row``) joins in where that costs the answers little of what they share.
        """

        def common(slots: list[int]) -> int:
            pooled_from = [texts[slot].start for slot in slots if texts[slot].start > 0]
            return min([_common([texts[slot].ids for slot in slots]), *pooled_from])

        # a text that pools its beginning with equal weights, for want of others, is run on its own
        fit = [slot for slot in row if slot >= 0 and (texts[slot].start > 0 or texts[slot].total > 0)]
        slots = list(dict.fromkeys(slot for slot in fit if slot != row[-1]))
        if not slots:
            return 0, []
        length = common(slots)
        if row[-1] in fit and (together := common([*slots, row[-1]])) >= 0.75 * length:
            slots, length = [*slots, row[-1]], together
        return (length, slots) if len(slots) > 1 and length >= MIN_SHARED else (0, [])

    def _run_shared(
        self, texts: Sequence[WeightedText], groups: list[tuple[int, list[int]]], result: np.ndarray
    ) -> None:
        """Run each group's common tokens once, then what follows them in each of its texts."""
        import torch
        from transformers import DynamicCache

        heads = [texts[members[0]].ids[:length] for length, members in groups]
        ids, weights = self._padded(heads, [self._table[head] for head in heads])
        cache = DynamicCache()
        head_sums = self._forward(ids, weights, cache).cpu().numpy()
        states: list[tuple[Any, Any]] = [(layer.keys, layer.values) for layer in cache.layers]  # type: ignore[union-attr]
        tails = []
        for g, (length, members) in enumerate(groups):
            for member in members:
                if texts[member].start == 0:  # the head's tokens are pooled too
                    result[member] = head_sums[g] / texts[member].total
                if len(texts[member].ids) > length:
                    tails.append((member, g, length))
        # a batch holds the heads' keys and values beside its own tokens
        size = [max(len(texts[i].ids) - length, len(texts[i].ids) // 2) for i, _, length in tails]
        for batch in batches(range(len(tails)), size.__getitem__, self.tokens_per_batch):
            chosen = [tails[i] for i in batch]
            ids, weights = self._padded(
                [texts[member].ids[length:] for member, _, length in chosen],
                [texts[member].weights[length:] for member, _, length in chosen],
            )
            rows = torch.tensor([g for _, g, _ in chosen], device=self.device)
            lengths = torch.tensor([length for _, _, length in chosen], device=self.device)
            longest = int(lengths.max())
            past = DynamicCache()
            for i, (keys, values) in enumerate(states):
                past.update(*(state[:, :, :longest].index_select(0, rows) for state in (keys, values)), i)
            sums = self._forward(ids, weights, past, lengths).cpu().numpy()
            result[[member for member, _, _ in chosen]] += sums

    def _padded(self, ids: list[np.ndarray], weights: list[np.ndarray]) -> tuple[torch.Tensor, torch.Tensor]:
        """Right-padded (B, T) ids and weights; padding weighs 0."""
        import torch

        width = max(map(len, ids))
        tokens, shares = np.zeros((len(ids), width), dtype=np.int64), np.zeros((len(ids), width), dtype=np.float32)
        for i, (row, share) in enumerate(zip(ids, weights, strict=True)):
            tokens[i, : len(row)], shares[i, : len(share)] = row, share
        return torch.from_numpy(tokens).to(self.device), torch.from_numpy(shares).to(self.device)

    def _forward(
        self, ids: torch.Tensor, weights: torch.Tensor, cache: Any = None, lengths: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Weighted sums over tokens, mean over each window's tensors: (B, W, d) float32.

        ``cache`` is filled when empty; otherwise ``lengths`` (B,) says how many of its positions are each row's own.
        Padding stands on the right, where no token that counts can see it, so only a cache needs a mask.
        """
        import torch

        steps = torch.arange(ids.shape[1], device=ids.device)
        if lengths is None:
            mask, positions = None, steps[None]
        else:
            held = torch.arange(cache.get_seq_length(), device=ids.device)[None] < lengths[:, None]
            mask = torch.cat([held, torch.ones_like(ids, dtype=torch.bool)], dim=1)
            positions = lengths[:, None] + steps[None]
        with self._pooled.of(weights):
            self._base(
                input_ids=ids,
                attention_mask=mask,
                position_ids=positions,
                past_key_values=cache,
                use_cache=cache is not None,
            )
            return self._pooled.sums


class _Pooler:
    """Forward hooks that add each needed hidden state's pooled sum to its windows; no stack of states is kept."""

    def __init__(self, base: Any, tensors: Sequence[Sequence[int]]) -> None:
        self._tensors = tensors
        self._width = int(base.config.hidden_size)
        self._weights: torch.Tensor | None = None
        self.sums: Any = None
        modules = [base.embed_tokens, *base.layers[:-1], base.norm]
        for number in sorted({i for window in tensors for i in window}):
            modules[number].register_forward_hook(self._hook(number))

    def of(self, weights: torch.Tensor) -> _Pooler:
        """Pool the next forward pass with ``weights`` (B, T)."""
        self._weights = weights
        return self

    def __enter__(self) -> _Pooler:
        import torch

        assert self._weights is not None
        self.sums = torch.zeros(
            (len(self._weights), len(self._tensors), self._width), dtype=torch.float32, device=self._weights.device
        )
        return self

    def __exit__(self, *_: object) -> None:
        self._weights = self.sums = None

    def _hook(self, number: int) -> Any:
        windows = [(w, len(window)) for w, window in enumerate(self._tensors) if number in window]

        def hook(module: Any, args: Any, output: Any) -> None:
            if self._weights is None:  # the model is used for something else
                return
            state = output[0] if isinstance(output, tuple) else output
            pooled = (self._weights[:, None] @ state.float())[:, 0]
            for w, size in windows:
                self.sums[:, w] += pooled / size

        return hook


def _common(rows: Sequence[np.ndarray]) -> int:
    """Length of the longest common beginning of ``rows``."""
    if not rows:
        return 0
    shortest = min(map(len, rows))
    same = np.all([row[:shortest] == rows[0][:shortest] for row in rows], axis=0)
    return shortest if same.all() else int(np.argmin(same))


def _unit(vectors: np.ndarray) -> np.ndarray:
    """Rows of length 1 (last axis); zeros stay zeros."""
    length = np.linalg.norm(vectors.astype(np.float64), axis=-1, keepdims=True)
    return (vectors / np.where(length > 0, length, 1.0)).astype(np.float32)
