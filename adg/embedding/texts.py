"""A record becomes token ids and what each of them weighs: of its answers, and of its instruction for the bins."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from adg import prompts
from adg.embedding.config import EmbeddingConfig
from adg.pools.records import Record, dropping

_PUNCTUATION = frozenset(",.;:!?()[]{}\"'`~-_/\\")
_NUMBER = re.compile(r"[\d%℃°]")  # \d: any Unicode decimal digit


def token_weight(text: str) -> float:
    """Weight of one decoded token (paper.md, from the released code).

    0 for blanks and for tokens made only of , . ; : ! ? ( ) [ ] { } " ' ` ~ - _ / and the backslash; 1.3 where there
    is a decimal digit or one of % ℃ °; else 1.
    """
    text = text.strip()
    if not text or _PUNCTUATION.issuperset(text):
        return 0.0
    return 1.3 if _NUMBER.search(text) else 1.0


def weight_table(tokenizer: Any, special: bool = False) -> np.ndarray:
    """Weights of the whole vocabulary, (V,) float32.

    Special tokens weigh 0, as the released scoring scripts decode them to nothing; with ``special`` they weigh as their
    text does, as in the released ``embed.py``: 1 for a "<s>".
    """
    decoded = (tokenizer.decode([i], skip_special_tokens=not special) for i in range(len(tokenizer)))
    return np.fromiter(map(token_weight, decoded), dtype=np.float32, count=len(tokenizer))


class CannotEmbed(Exception):
    """Why a record has no vectors, in words that follow its id."""


@dataclass(frozen=True)
class WeightedText:
    """Tokens of one text to run; those before ``start`` are context and not pooled."""

    ids: np.ndarray  # (T,) int64
    start: int
    weights: np.ndarray  # (T,) float32, sum 1, 0 before ``start``
    total: float  # of the table's weights that were pooled; 0: equal weights instead
    cut: bool = False  # tokens were left out for max_tokens


class RecordTexts:
    """Makes the texts of records as ``EmbeddingConfig`` says. ``positions`` is the most tokens the model takes."""

    def __init__(self, tokenizer: Any, cfg: EmbeddingConfig, positions: int) -> None:
        self._tokenizer, self._cfg, self._positions = tokenizer, cfg, positions
        equal = np.ones(len(tokenizer), dtype=np.float32)
        self.table = weight_table(tokenizer) if cfg.token_weights else equal
        self.instruction_table = self.table
        if cfg.token_weights and cfg.instruction_special_weights:
            self.instruction_table = weight_table(tokenizer, special=True)

    def answer(self, record: Record, answer: str) -> WeightedText | None:
        """The text of one answer, None for the zero vector. Raises ``CannotEmbed``."""
        empty = not answer.strip()
        if empty and self._cfg.empty_answer == "fail":
            raise CannotEmbed("has an empty answer (embedding.empty_answer=fail)")
        if empty and self._cfg.empty_answer == "zero":
            return None
        if self._cfg.pooling == "answer":
            text = prompts.render(record.instruction, record.input if self._cfg.use_input else "")
            prompt = prompts.encode_prompt(self._tokenizer, text)
            ids = [] if empty else prompts.encode(self._tokenizer, answer)
            start = 0 if empty else len(prompt)
        else:
            head = prompts.instruction_text(record) if self._cfg.use_input else record.instruction
            prompt, ids = [], prompts.encode(self._tokenizer, f"{head} {answer}")
            start = 0
        limit = self._cfg.max_tokens
        if len(prompt) + len(ids) <= start:
            raise CannotEmbed("has an answer without a token")
        return self._weighted(record, prompt + ids[:limit], start, self.table, len(ids) > limit)

    def instruction(self, record: Record) -> WeightedText:
        """The text for the bins: the stripped instruction alone. Raises ``CannotEmbed``."""
        text, limit = record.instruction.strip(), self._cfg.instruction_tokens
        if not text:
            raise CannotEmbed("has an empty instruction, so no vector for the bins")
        if self._cfg.instruction_special_tokens:
            ids = prompts.encode_prompt(self._tokenizer, text, limit)
        else:
            ids = prompts.encode(self._tokenizer, text)[:limit]
        return self._weighted(record, ids, 0, self.instruction_table)

    def _weighted(
        self, record: Record, ids: Sequence[int], start: int, table: np.ndarray, cut: bool = False
    ) -> WeightedText:
        if len(ids) > self._positions:
            raise CannotEmbed(
                f"needs {len(ids)} tokens, the backbone has {self._positions} positions; "
                f"{dropping([record])} leaves it out"
            )
        array = np.asarray(ids, dtype=np.int64)
        weights = table[array]
        weights[:start] = 0
        total = float(weights.sum())
        if total == 0:  # released scoring scripts: NaN; embed.py: equal weights
            weights[start:] = 1
        return WeightedText(array, start, weights / weights.sum(), total, cut)
