"""The texts whose losses are compared: a response after its prompt, and alone.

Identity: ``LossesConfig`` and the hash of the prompt's own words.
"""

from __future__ import annotations

import functools
import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np

from adg import prompts
from adg.artifacts.artifact import canonical
from adg.artifacts.files import sha256_text
from adg.backbones import loading
from adg.errors import BadInput, nearest
from adg.execution import DTYPES, ENGINES
from adg.pools.records import Record


@dataclass(frozen=True)
class Prompt:
    """What stands before a response: with its record (P), without an input and with one, and "alone" (the head).

    ``slack`` is the constant c of the official code: tokens that the alone text may have beyond M - |P|. It stands
    for BOS and head in the tokens of LLaMA-1/2 (SuperFiltering: for the first token, which has no loss).
    """

    plain: str
    with_input: str
    head: str
    slack: int


# Data of the methods; "wiz" as in the later of IFD's two programs.
PROMPTS = {
    "alpaca": Prompt(prompts.PLAIN, prompts.WITH_INPUT, "### Response:", 4),
    "wiz": Prompt("{instruction}\n\n### Response:", "{instruction}\n{input}\n\n### Response:", "### Response:", 4),
    "vicuna": Prompt(
        "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, "
        "detailed, and polite answers to the user's questions. USER: {instruction} ASSISTANT:",
        "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, "
        "detailed, and polite answers to the user's questions. USER: {instruction}\nInput:\n{input} ASSISTANT:",
        "ASSISTANT:",
        6,
    ),
    "none": Prompt("{instruction}\n", "{instruction}\n{input}\n", "", 1),
}


@dataclass(frozen=True)
class LossesConfig:
    """How a record becomes two texts. The response is glued on with nothing between, and no EOS is added.

    Conditioned: P + y, its first ``max_tokens`` tokens (M). Alone: head + y, its first M - |P| + c tokens. Both
    begin with BOS where the tokenizer adds one, and |P| counts it.
    ``slack`` is c. None (ours): as many tokens as BOS and head have with this tokenizer, so that both texts keep the
    same tokens of the response. The official code's constant (``Prompt.slack``) does so for LLaMA-1/2 only.
    """

    prompt: str = "alpaca"
    max_tokens: int = 512
    slack: int | None = None
    dtype: str = "auto"  # of the weights; auto: the model's own
    engine: str = "hf"  # hf | vllm: what runs the model; the losses agree up to rounding

    def __post_init__(self) -> None:
        if self.engine not in ENGINES:
            raise BadInput(f"scorer_engine is {self.engine!r}; expected one of {', '.join(ENGINES)}")
        if self.prompt not in PROMPTS:
            raise BadInput(
                f"prompt is {self.prompt!r}{nearest(str(self.prompt), list(PROMPTS))}; "
                f"expected one of {', '.join(PROMPTS)}"
            )
        if self.max_tokens < 2:
            raise BadInput(f"max_tokens is {self.max_tokens}; expected 2 or more")
        if self.dtype not in ("auto", *DTYPES):
            raise BadInput(f"dtype is {self.dtype!r}; expected auto or one of {', '.join(DTYPES)}")


def templates(prompt: str) -> str:
    """Hash of the texts of a prompt, part of what identifies an artifact made with it."""
    return sha256_text(canonical(PROMPTS[prompt]))


@dataclass(frozen=True, eq=False)
class Text:
    """Tokens of one text, (T,) int32; those from ``start`` on are the response's and have a loss (``start`` >= 1)."""

    ids: np.ndarray
    start: int

    @property
    def tokens(self) -> int:
        """How many tokens have a loss."""
        return len(self.ids) - self.start

    @functools.cached_property
    def digest(self) -> str:
        """Equal for equal texts: copies are run once, so they tie exactly."""
        return hashlib.blake2b(self.ids.tobytes(), digest_size=16, salt=self.start.to_bytes(8, "big")).hexdigest()


class LossTexts:
    """``LossesConfig`` with a tokenizer: turns a record into its two texts."""

    def __init__(self, cfg: LossesConfig, tokenizer: Any) -> None:
        self.cfg, self._prompt, self._tokenizer = cfg, PROMPTS[cfg.prompt], tokenizer
        self._bos = [int(tokenizer.bos_token_id)] if loading.adds_bos(tokenizer) else []
        self.head_tokens = len(self.encode(self._prompt.head))
        self.slack = self.head_tokens if cfg.slack is None else cfg.slack

    def encode(self, text: str) -> list[int]:
        """BOS, where the tokenizer adds one, and the tokens of ``text``."""
        return self._bos + (prompts.encode(self._tokenizer, text) if text else [])

    def prompt(self, record: Record) -> str:
        """P: the text before the response."""
        template = self._prompt.with_input if record.input.strip() else self._prompt.plain
        return template.format(instruction=record.instruction, input=record.input)

    def texts(self, record: Record) -> tuple[Text | str, Text | str]:
        """The conditioned and the alone text, or in place of either the reason why it has no loss.

        As in the official code, the response begins where the tokens of the prefix encoded by itself end; a token
        that merges across that place is counted on one side or the other.
        """
        limit, prompt = self.cfg.max_tokens, self.prompt(record)
        start = len(self.encode(prompt))
        if not record.output:
            return "the response is empty", "the response is empty"
        if start >= limit:
            reason = f"the prompt fills all {limit} tokens"
            return reason, reason
        conditioned = self._text(self.encode(prompt + record.output)[:limit], start)
        ids = self.encode(self._prompt.head + record.output)[: limit - start + self.slack]
        alone = self._text(ids, self.head_tokens)
        if isinstance(alone, Text) and start + alone.tokens > limit:
            alone = f"more of the response fits alone than beside its prompt in {limit} tokens"
        return conditioned, alone

    @staticmethod
    def _text(ids: list[int], start: int) -> Text | str:
        if len(ids) <= start:
            return "no token of the response is left"
        if len(ids) == 1:
            return "a response of one token has no loss without a prefix"
        return Text(np.array(ids, dtype=np.int32), max(start, 1))  # nothing predicts the first token of a sequence
