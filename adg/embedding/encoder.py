"""Records and their answers become vectors: texts made, run as few times as possible, scaled to length 1.

Equal texts are run once, and so are the tokens with which the texts of one record begin. Batches, blocks of tokens
and shared beginnings change rounding at most and are no part of identity.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from adg.batching import batches
from adg.embedding.config import EmbeddingConfig
from adg.embedding.pooling import WindowSums, unit
from adg.embedding.texts import CannotEmbed, RecordTexts, WeightedText
from adg.pools.records import Record

if TYPE_CHECKING:
    import torch


MIN_SHARED = 16  # tokens that answers must have in common before a separate pass over them pays
ZERO = -1  # the slot of the zero vector


@dataclass(frozen=True)
class Vectors:
    """Vectors of the m records that could be embedded, and the others with the reason."""

    keys: list[str]
    answers: np.ndarray  # (m, K, W, d) float32, length 1, or 0 under empty_answer=zero
    instructions: np.ndarray  # (m, d) float32, length 1
    failed: list[tuple[str, str]]  # (id key, reason)
    counts: dict[str, int]


@dataclass
class _Plan:
    """The distinct texts of some records. ``slots`` are positions in ``texts`` of a record's answers, then of its
    instruction."""

    texts: list[WeightedText] = field(default_factory=list)
    slots: dict[str, list[int]] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    counts: dict[str, int] = field(
        default_factory=lambda: dict.fromkeys(
            ("empty_answers", "truncated_answers", "unweighted_answers", "identical_records"), 0
        )
    )

    def add(self, key: str, answers: Sequence[str], made: Sequence[WeightedText | None]) -> None:
        """Take in what was ``made`` of a record's ``answers`` and its instruction."""
        known: dict[tuple[bytes, int, float], int] = {}
        row = []
        for text in made:
            if text is None:
                row.append(ZERO)
                continue
            slot = known.setdefault((text.ids.tobytes(), text.start, text.total), len(self.texts))
            if slot == len(self.texts):
                self.texts.append(text)
            row.append(slot)
        self.slots[key] = row
        self.counts["empty_answers"] += sum(not answer.strip() for answer in answers)
        self.counts["truncated_answers"] += sum(text is not None and text.cut for text in made[:-1])
        self.counts["unweighted_answers"] += sum(text is not None and text.total == 0 for text in made[:-1])
        self.counts["identical_records"] += len(answers) > 1 and len(set(row[:-1])) == 1


@dataclass(frozen=True)
class _SharedHead:
    """Texts of one record that begin with the same ``length`` tokens."""

    length: int
    members: list[int]


class Encoder:
    """Runs texts through a backbone and pools the declared windows.

    ``model`` is a Llama- or Qwen2-like decoder, with or without its head. It is changed: blocks above the last one
    used are dropped. ``share_prefix=False`` runs every text on its own (the plain path; the same vectors to 1e-5 in
    float32, as with every ``tokens_per_batch`` and order of records).
    """

    def __init__(
        self, model: Any, tokenizer: Any, cfg: EmbeddingConfig, tokens_per_batch: int = 4096, share_prefix: bool = True
    ) -> None:
        self.forward = WindowSums(model, cfg.declared)
        positions = int(getattr(self.forward.base.config, "max_position_embeddings", 1 << 30))
        self.texts = RecordTexts(tokenizer, cfg, positions)
        self.tokens_per_batch = tokens_per_batch
        self.share_prefix = share_prefix

    @property
    def tensors(self) -> tuple[tuple[int, ...], ...]:
        """Hidden states of each declared window."""
        return self.forward.tensors

    @property
    def blocks(self) -> int:
        return self.forward.blocks

    @property
    def blocks_run(self) -> int:
        return self.forward.blocks_run

    @property
    def width(self) -> int:
        return self.forward.width

    @property
    def device(self) -> torch.device:
        return self.forward.device

    @property
    def dtype(self) -> str:
        return self.forward.dtype

    def embed(self, items: Sequence[tuple[Record, Sequence[str]]], answers: int) -> Vectors:
        """Vectors of records with ``answers`` texts each. A row that fails is listed, never turned into a number."""
        plan = self._plan(items, answers)
        pooled = self._run(plan)
        for key, row in plan.slots.items():
            vectors = pooled[[slot for slot in row if slot != ZERO]]
            if not np.isfinite(vectors).all():
                plan.failed[key] = f"the backbone gave NaN or infinity in {self.dtype} for it"
            elif not vectors.any(axis=2).all():
                plan.failed[key] = "the backbone gave a vector of zeros for it"
        kept = [key for key in plan.slots if key not in plan.failed]
        pooled = np.concatenate([pooled, np.zeros((1, *pooled.shape[1:]), dtype=np.float32)])  # slot ZERO
        chosen = np.array([plan.slots[key] for key in kept], dtype=np.int64).reshape(len(kept), answers + 1)
        return Vectors(
            kept,
            unit(pooled[chosen[:, :-1]]),
            unit(pooled[chosen[:, -1], 0]),
            list(plan.failed.items()),
            plan.counts | {"tokens": sum(len(text.ids) for text in plan.texts)},
        )

    # -- which texts there are

    def _plan(self, items: Sequence[tuple[Record, Sequence[str]]], answers: int) -> _Plan:
        plan = _Plan()
        for record, sampled in items:
            try:
                if len(sampled) != answers:
                    raise CannotEmbed(f"has {len(sampled)} of {answers} answers")
                made = [*(self.texts.answer(record, text) for text in sampled), self.texts.instruction(record)]
            except CannotEmbed as reason:
                plan.failed[record.key] = str(reason)
                continue
            plan.add(record.key, sampled, made)
        return plan

    # -- how they are run

    def _run(self, plan: _Plan) -> np.ndarray:
        """Window means of every text, (texts, W, d) float32."""
        import torch

        texts = plan.texts
        result = np.zeros((len(texts), len(self.tensors), self.width), dtype=np.float32)
        heads = [head for row in plan.slots.values() if self.share_prefix and (head := self._shared_head(texts, row))]
        taken = {member for head in heads for member in head.members}
        alone = [i for i in range(len(texts)) if i not in taken]
        with torch.inference_mode():
            for batch in batches(alone, lambda i: len(texts[i].ids), self.tokens_per_batch):
                result[batch] = self.forward.run([texts[i].ids for i in batch], [texts[i].weights for i in batch])
            for group in batches(range(len(heads)), lambda h: heads[h].length, self.tokens_per_batch):
                self._run_shared(texts, [heads[h] for h in group], result)
        return result

    def _shared_head(self, texts: Sequence[WeightedText], row: Sequence[int]) -> _SharedHead | None:
        """What the texts of one record have in common, where running that by itself pays.

        The instruction (last of ``row``) joins in where that costs the answers little of what they share.
        """

        def common(slots: list[int]) -> int:
            pooled_from = [texts[slot].start for slot in slots if texts[slot].start > 0]
            return min([_common([texts[slot].ids for slot in slots]), *pooled_from])

        # a text that pools its beginning with equal weights, for want of others, is run on its own
        fit = [slot for slot in row if slot != ZERO and (texts[slot].start > 0 or texts[slot].total > 0)]
        members = list(dict.fromkeys(slot for slot in fit if slot != row[-1]))
        if not members:
            return None
        length = common(members)
        if row[-1] in fit and (together := common([*members, row[-1]])) >= 0.75 * length:
            head = texts[row[-1]].ids[:together]
            if np.array_equal(self.texts.table[head], self.texts.instruction_table[head]):
                members, length = [*members, row[-1]], together
        return _SharedHead(length, members) if len(members) > 1 and length >= MIN_SHARED else None

    def _run_shared(self, texts: Sequence[WeightedText], heads: Sequence[_SharedHead], result: np.ndarray) -> None:
        """Run each record's common tokens once, then what follows them in each of its texts."""
        from transformers import DynamicCache

        beginnings = [texts[head.members[0]].ids[: head.length] for head in heads]
        cache = DynamicCache()
        sums = self.forward.run(beginnings, [self.texts.table[ids] for ids in beginnings], cache)
        tails = []  # (text, number of its head)
        for number, head in enumerate(heads):
            for member in head.members:
                if texts[member].start == 0:  # the head's tokens are pooled too
                    result[member] = sums[number] / texts[member].total
                if len(texts[member].ids) > head.length:
                    tails.append((member, number))
        # a batch holds the heads' keys and values beside its own tokens
        size = [max(len(texts[i].ids) - heads[h].length, len(texts[i].ids) // 2) for i, h in tails]
        for batch in batches(range(len(tails)), size.__getitem__, self.tokens_per_batch):
            chosen = [tails[i] for i in batch]
            lengths = [heads[h].length for _, h in chosen]
            result[[member for member, _ in chosen]] += self.forward.run(
                [texts[member].ids[length:] for (member, _), length in zip(chosen, lengths, strict=True)],
                [texts[member].weights[length:] for (member, _), length in zip(chosen, lengths, strict=True)],
                _rows_of(cache, [h for _, h in chosen], max(lengths)),
                lengths,
            )


def _rows_of(cache: Any, rows: Sequence[int], longest: int) -> Any:
    """A cache of the given rows of another, its first ``longest`` positions."""
    import torch
    from transformers import DynamicCache

    chosen = DynamicCache()
    for number, layer in enumerate(cache.layers):
        index = torch.tensor(list(rows), device=layer.keys.device)
        chosen.update(*(state[:, :, :longest].index_select(0, index) for state in (layer.keys, layer.values)), number)
    return chosen


def _common(rows: Sequence[np.ndarray]) -> int:
    """Length of the longest common beginning of ``rows``."""
    if not rows:
        return 0
    shortest = min(map(len, rows))
    same = np.all([row[:shortest] == rows[0][:shortest] for row in rows], axis=0)
    return shortest if same.all() else int(np.argmin(same))
