"""A tiny backbone on disk, two tokenizers with known ids, and a pool: built here, read through the real stages."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

SPECIAL = ["<s>", "</s>", "<pad>", "<unk>"]
TEMPLATE = (
    "Below is an instruction that describes a task . Write response appropriately completes the request ### Instruction"
    " : Response Input , paired with input provides further context"
).split()
WORDS = "add name the capital of one two three four five six seven eight nine ten France Paris yes no color sky blue"


def word_tokenizer(bos: bool) -> Any:
    """Whole words and punctuation; ids count up from 4 in the order of the template's and the pool's words."""
    from tokenizers import Tokenizer, pre_tokenizers, processors
    from tokenizers.models import WordLevel
    from transformers import PreTrainedTokenizerFast

    words = list(dict.fromkeys([*SPECIAL, *TEMPLATE, *WORDS.split()]))
    core = Tokenizer(WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    if bos:
        core.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token="<s>", eos_token="</s>", pad_token="<pad>", unk_token="<unk>"
    )


def tiny_llama(seed: int = 0) -> Any:
    """A random two-layer Llama, float32, 64 words."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=256,
        tie_word_embeddings=False,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=2,
        dtype="float32",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LlamaForCausalLM(config)


@pytest.fixture(scope="session")
def tiny() -> Any:
    """``tiny.tokenizer(bos)`` and ``tiny.llama()``."""
    return SimpleNamespace(tokenizer=word_tokenizer, llama=tiny_llama)


@pytest.fixture(scope="session")
def backbone_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("backbone")
    tiny_llama().save_pretrained(folder)
    word_tokenizer(bos=True).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def pool_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten rows of different lengths."""
    numbers = "one two three four five six seven eight nine ten".split()
    rows = [
        {
            "id": i,
            "instruction": f"add {numbers[i]} two",
            "input": "the sky" if i % 3 == 0 else "",
            "output": " ".join(numbers[: i + 1]),
        }
        for i in range(10)
    ]
    path = tmp_path_factory.mktemp("pool") / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path
