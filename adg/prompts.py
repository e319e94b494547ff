"""The one place where a record becomes text and tokens, for sampling and for training alike.

The template is data of the method (Alpaca's); ``HASH`` stands in the manifests of everything made with it.
Text is always encoded as text: "<s>" typed in a record never becomes a special token.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from adg.artifacts.files import sha256_text
from adg.backbones.loading import adds_bos, check_bos
from adg.errors import BadInput

if TYPE_CHECKING:
    from adg.pools.records import Record

PLAIN = (
    "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{instruction}\n\n### Response:"
)
WITH_INPUT = (
    "Below is an instruction that describes a task, paired with an input that provides further context. "
    "Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:"
)
RESPONSE = "{output}"  # the released recipe glues the answer to the colon: no space, no line feed
HASH = sha256_text("\0".join((PLAIN, WITH_INPUT, RESPONSE)))
IGNORED = -100  # label of a token that carries no loss


def render(instruction: str, input: str = "") -> str:
    """The prompt of an instruction; an ``input`` of blanks only counts as none."""
    if input.strip():
        return WITH_INPUT.format(instruction=instruction, input=input)
    return PLAIN.format(instruction=instruction)


def response_text(output: str) -> str:
    """What follows "### Response:" in training, before the end-of-sequence token."""
    return RESPONSE.format(output=output)


def instruction_text(record: Record) -> str:
    """The bare instruction with its input below it, for methods that embed or compress text without a template."""
    return f"{record.instruction}\n{record.input}" if record.input.strip() else record.instruction


def encode(tokenizer: Any, text: str) -> list[int]:
    """Tokens of ``text`` and nothing else: no BOS, no EOS, special tokens in the text spelt out."""
    return list(tokenizer(text, add_special_tokens=False, split_special_tokens=True, verbose=False)["input_ids"])


def encode_prompt(tokenizer: Any, text: str, max_tokens: int | None = None, side: str = "right") -> list[int]:
    """Tokens of a prompt with exactly one BOS where the tokenizer adds one, and no EOS.

    At most ``max_tokens`` with the BOS among them; the cut is on the ``side`` named, and the BOS stays.
    """
    if side not in ("right", "left"):
        raise BadInput(f"side is {side!r}; expected right or left")
    start = [tokenizer.bos_token_id] if adds_bos(tokenizer) else []
    ids = encode(tokenizer, text)
    if max_tokens is not None and len(start) + len(ids) > max_tokens:
        room = max_tokens - len(start)
        if room < 1:
            raise BadInput(f"a prompt of at most {max_tokens} tokens holds no text; expected {len(start) + 1} or more")
        ids = ids[:room] if side == "right" else ids[-room:]
    check_bos(start + ids, tokenizer)
    return start + ids


def training_example(tokenizer: Any, record: Record, max_length: int) -> dict[str, list[int]]:
    """Prompt, answer and one EOS, cut on the right to ``max_length`` tokens; loss on the answer and the EOS only.

    Returns ``input_ids`` and ``labels`` of equal length. The prompt's tokens are the very ones sampling uses; the
    answer's are those that follow them in the joint text, or, where the tokenizer would merge across the colon,
    those of the answer alone. Raises ``BadInput`` naming the record when no token is left to learn from.
    """
    eos = tokenizer.eos_token_id
    if eos is None:
        raise BadInput(f"{type(tokenizer).__name__} has no end-of-sequence token; training needs one")
    text, answer = render(record.instruction, record.input), response_text(record.output)
    prompt = encode_prompt(tokenizer, text)
    if len(prompt) >= max_length:
        raise BadInput(
            f"record {record.key}: its prompt of {len(prompt)} tokens leaves nothing of the answer within "
            f"{max_length}; finetune.max_length={len(prompt) + 2} keeps its beginning, "
            f"pool.max_chars={record.characters - 1} pool.over_long=drop leaves the record out"
        )
    start = prompt[:1] if adds_bos(tokenizer) else []
    joint = start + encode(tokenizer, text + answer)
    merged = joint[: len(prompt)] != prompt
    response = [*(encode(tokenizer, answer) if merged else joint[len(prompt) :]), eos]
    ids = (prompt + response)[:max_length]
    return {"input_ids": ids, "labels": [IGNORED] * len(prompt) + ids[len(prompt) :]}
