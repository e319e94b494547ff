"""The template to the letter, and tokens that mean the same in sampling and training."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adg import prompts
from adg.errors import BadInput, HarnessError
from adg.pools.records import Record

TEXTS = [
    "Below is an instruction that describes a task.",
    "Write a response that appropriately completes the request.",
    "### Instruction:\nName a bird.\n\n### Response:Heron.",
    "### Input:\nsome input\n\n### Response:\n\nAn answer",
]


def make(bos: bool, eos: bool = False, merges: bool = False) -> Any:
    """A tiny byte-level tokenizer; ``eos`` ends every text with EOS, ``merges`` joins the colon with an X."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=not merges)
    core.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    extra = [":X"] * 50 if merges else []
    core.train_from_iterator(
        TEXTS * 3 + extra,
        trainers.BpeTrainer(
            vocab_size=400, special_tokens=["<s>", "</s>", "<pad>"], initial_alphabet=alphabet, show_progress=False
        ),
    )
    if bos or eos:
        single = f"{'<s> ' if bos else ''}$A{' </s>' if eos else ''}"
        core.post_processor = processors.TemplateProcessing(single=single, special_tokens=[("<s>", 0), ("</s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<s>", eos_token="</s>", pad_token="<pad>")


@pytest.fixture(scope="module")
def tokenizers() -> dict[str, Any]:
    return {
        "bos": make(True),
        "none": make(False),
        "both": make(True, eos=True),
        "merging": make(True, merges=True),
    }


KINDS = ["bos", "none", "both", "merging"]


# -- text --------------------------------------------------------------------------------------------


def test_golden_prompt_without_input():
    assert prompts.render("Name a bird.") == (
        "Below is an instruction that describes a task. Write a response that appropriately completes the request."
        "\n\n### Instruction:\nName a bird.\n\n### Response:"
    )
    assert prompts.render("x", " \n") == prompts.render("x")


def test_golden_prompt_with_input():
    assert prompts.render("Sum up.", "Two {lines}\nhere") == (
        "Below is an instruction that describes a task, paired with an input that provides further context. Write a "
        "response that appropriately completes the request.\n\n### Instruction:\nSum up.\n\n### Input:\nTwo {lines}\n"
        "here\n\n### Response:"
    )


def test_hash_names_the_templates():
    assert prompts.HASH == "a67ccb21e5450c4bd5e7f628a62aaad9dbba1135175594663358bc5592bf67f2"


def test_response_and_bare_instruction():
    assert prompts.response_text(" {a} b\n") == " {a} b\n"
    assert prompts.instruction_text(Record(1, "Do", "", "x")) == "Do"
    assert prompts.instruction_text(Record(1, "Do", "this", "x")) == "Do\nthis"


@given(st.text(), st.text())
def test_fields_are_never_parsed_as_templates(instruction, input):
    text = prompts.render(instruction, input)
    assert f"### Instruction:\n{instruction}\n\n### " in text and text.endswith("\n\n### Response:")
    assert (f"### Input:\n{input}\n\n" in text) or not input.strip()


# -- tokens ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_prompt_has_one_bos_where_the_tokenizer_adds_one_and_no_eos(tokenizers, kind):
    tokenizer = tokenizers[kind]
    text = prompts.render("Name a bird.")
    ids = prompts.encode_prompt(tokenizer, text)
    assert ids.count(0) == (kind != "none") and (kind == "none" or ids[0] == 0) and 1 not in ids
    assert tokenizer.decode(ids, skip_special_tokens=True) == text


@pytest.mark.parametrize("kind", KINDS)
def test_special_tokens_typed_in_a_record_stay_text(tokenizers, kind):
    tokenizer = tokenizers[kind]
    ids = prompts.encode_prompt(tokenizer, prompts.render("What does <s> mean, and </s>?"))
    assert ids.count(0) == (kind != "none") and 1 not in ids
    assert "What does <s> mean, and </s>?" in tokenizer.decode(ids)
    assert tokenizer("<s>", add_special_tokens=False)["input_ids"] == [0]  # the tokenizer itself is as before


@pytest.mark.parametrize("kind", ["bos", "none"])
def test_cutting_keeps_the_bos(tokenizers, kind):
    tokenizer, first = tokenizers[kind], int(kind == "bos")
    text = prompts.render("Name a bird.")
    whole = prompts.encode_prompt(tokenizer, text)
    assert prompts.encode_prompt(tokenizer, text, max_tokens=9) == whole[:9]
    assert prompts.encode_prompt(tokenizer, text, max_tokens=9, side="left") == whole[:first] + whole[-(9 - first) :]
    assert prompts.encode_prompt(tokenizer, text, max_tokens=len(whole)) == whole
    with pytest.raises(BadInput, match="holds no text"):
        prompts.encode_prompt(tokenizer, text, max_tokens=first)
    with pytest.raises(BadInput, match="side is 'middle'"):
        prompts.encode_prompt(tokenizer, text, max_tokens=9, side="middle")


def test_a_second_bos_is_never_let_through():
    class Doubling:
        """A tokenizer that puts its BOS before a text even when asked for none."""

        bos_token, bos_token_id = "<s>", 0

        def __call__(self, text: str, **options: Any) -> Any:
            return SimpleNamespace(input_ids=[0, 5]) if not options else {"input_ids": [0, 5]}

    with pytest.raises(HarnessError, match="begin"):
        prompts.encode_prompt(Doubling(), "x")


@settings(max_examples=60, deadline=None)
@given(st.text(min_size=1), st.text(), st.text(), st.sampled_from(KINDS))
def test_training_tokens_are_the_prompt_then_the_answer(tokenizers, instruction, input, output, kind):
    tokenizer = tokenizers[kind]
    record = Record(5, instruction, input, output)
    example = prompts.training_example(tokenizer, record, 100_000)
    ids, labels = example["input_ids"], example["labels"]
    prompt = prompts.encode_prompt(tokenizer, prompts.render(instruction, input))
    assert len(ids) == len(labels) and ids[: len(prompt)] == prompt
    assert labels == [-100] * len(prompt) + ids[len(prompt) :]
    assert ids.count(1) == 1 and ids[-1] == labels[-1] == 1 and ids.count(0) == (kind != "none")
    assert tokenizer.decode(ids[len(prompt) : -1], clean_up_tokenization_spaces=False) == output


def test_an_answer_that_would_merge_with_the_colon_keeps_the_prompt(tokenizers):
    tokenizer = tokenizers["merging"]
    text = prompts.render("x")
    joint = [0, *prompts.encode(tokenizer, text + "X")]
    prompt = prompts.encode_prompt(tokenizer, text)
    assert joint[: len(prompt)] != prompt  # this tokenizer does merge here
    example = prompts.training_example(tokenizer, Record(1, "x", "", "X"), 1000)
    assert example["input_ids"] == [*prompt, *prompts.encode(tokenizer, "X"), 1]


def test_truncation_cuts_the_answer_and_never_adds_an_eos(tokenizers):
    tokenizer = tokenizers["bos"]
    record = Record("r", "Name a bird.", "", "Heron. " * 20)
    whole = prompts.training_example(tokenizer, record, 1000)
    length = whole["labels"].count(-100)
    cut = prompts.training_example(tokenizer, record, length + 3)
    assert cut == {name: values[: length + 3] for name, values in whole.items()} and 1 not in cut["input_ids"]
    assert sum(label != -100 for label in cut["labels"]) == 3
    for limit in (length, length - 1, 1):
        with pytest.raises(BadInput, match='record "r": its prompt'):
            prompts.training_example(tokenizer, record, limit)


def test_an_empty_answer_trains_the_eos_alone(tokenizers):
    example = prompts.training_example(tokenizers["none"], Record(1, "x", "", ""), 1000)
    assert [label for label in example["labels"] if label != -100] == [1]


def test_training_needs_an_eos(tokenizers):
    tokenizer = make(True)
    tokenizer.eos_token = None
    with pytest.raises(BadInput, match="no end-of-sequence token"):
        prompts.training_example(tokenizer, Record(1, "x", "", "y"), 100)
