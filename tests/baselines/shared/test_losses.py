"""Losses: one text at a time as the yardstick, the edges of the layout, faults, resuming."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from adg.artifacts.artifact import Artifact
from adg.artifacts.files import write_atomic
from adg.artifacts.store import Store
from adg.backbones import loading
from adg.backbones import stage as backbone_stage
from adg.backbones.config import BackboneConfig
from adg.errors import BadInput, BadMeasurement
from adg.execution import ExecConfig
from adg.pools import records
from adg.pools import stage as pool_stage
from adg.pools.config import PoolConfig
from adg.pools.records import Record
from baselines.shared import loss_texts, scorer_stage
from baselines.shared import losses as losses_stage
from baselines.shared import scorer as scorer_
from baselines.shared.loss_texts import LossesConfig, LossTexts, Text
from baselines.shared.scorer import Scorer
from tests import processes

TINY = BackboneConfig(name="tiny_random", builder="tiny_random", dtype="float32")
RECORDS = [
    Record(1, "Name three primes.", "", "2, 3 and 5."),
    Record(2, "Translate.", "the sea", "das Meer " * 12),
    Record(3, "Say yes.", "", "y"),
    Record(4, "Say nothing.", "", ""),
    Record(5, "Explain {this} and {that}.", "   ", "It is {what} it is.\n\n" * 9),
    Record(6, "请解释", "数字", "数字和文字"),
    Record("seven", "", "", "An answer to nothing"),
    Record(8, "Name three primes.", "", "2, 3 and 5."),
]


def one_at_a_time(model: Any, text: Text) -> float:
    """The plain way: the whole sequence, the library's own loss."""
    import torch

    ids = torch.from_numpy(text.ids.astype(np.int64))[None]
    labels = ids.clone()
    labels[:, : text.start] = -100
    with torch.no_grad():
        return float(model(ids, labels=labels).loss)


def texts(tokenizer: Any, cfg: LossesConfig) -> list[Text]:
    layout = LossTexts(cfg, tokenizer)
    return [text for record in RECORDS for text in layout.texts(record) if isinstance(text, Text)]


# -- the scorer ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prompt", ["alpaca", "none"])
@pytest.mark.parametrize("tokens_per_batch", [1, 200, 100_000])
def test_losses_do_not_depend_on_the_batch(
    tiny_model: Any, tiny_tokenizer: Any, prompt: str, tokens_per_batch: int
) -> None:
    some = texts(tiny_tokenizer, LossesConfig(prompt, 256))
    expected = [one_at_a_time(tiny_model, text) for text in some]
    np.testing.assert_allclose(Scorer(tiny_model, tokens_per_batch).score(some), expected, rtol=0, atol=1e-5)
    order = np.random.default_rng(0).permutation(len(some))
    found = Scorer(tiny_model, tokens_per_batch).score([some[i] for i in order])
    np.testing.assert_allclose(found, np.array(expected)[order], rtol=0, atol=1e-5)


def test_the_tokenizers_padding_side_does_not_matter(tiny_model: Any, tiny_backbone: Any) -> None:
    """Nor does a left-padded batch of the library give anything else."""
    import torch

    left = loading.load_tokenizer(tiny_backbone)
    left.padding_side = "left"
    some = texts(left, LossesConfig())[:4]
    width = max(len(text.ids) for text in some)
    ids = torch.full((4, width), left.pad_token_id)
    mask, labels = torch.zeros((4, width), dtype=torch.long), torch.full((4, width), -100)
    for i, text in enumerate(some):
        ids[i, -len(text.ids) :] = torch.from_numpy(text.ids.astype(np.int64))
        mask[i, -len(text.ids) :] = 1
        labels[i, width - text.tokens :] = ids[i, width - text.tokens :]
    with torch.no_grad():
        logits = tiny_model(ids, attention_mask=mask, position_ids=(mask.cumsum(1) - 1).clamp(min=0)).logits
    losses = torch.nn.functional.cross_entropy(logits[:, :-1].transpose(1, 2), labels[:, 1:], reduction="none")
    expected = (losses.sum(1) / (labels != -100).sum(1)).numpy()
    np.testing.assert_allclose(Scorer(tiny_model).score(some), expected, rtol=0, atol=1e-5)


def test_the_head_sees_response_positions_only_and_block_by_block(
    tiny_model: Any, tiny_tokenizer: Any, monkeypatch: Any
) -> None:
    some = texts(tiny_tokenizer, LossesConfig("none", 256))
    expected = Scorer(tiny_model).score(some)
    monkeypatch.setattr(scorer_, "LOGIT_BYTES", 1)  # blocks of 16 positions
    seen: list[int] = []
    head = tiny_model.get_output_embeddings()
    hook = head.register_forward_hook(lambda module, args, output: seen.append(math.prod(args[0].shape[:-1])))
    try:
        scorer = Scorer(tiny_model, 100_000)
        scorer._checked = True
        found = scorer.score(some)
    finally:
        hook.remove()
    assert max(seen) == 16 and sum(seen) == sum(text.tokens for text in some)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)


def test_gpt2_like_models_too(tiny_tokenizer: Any) -> None:
    """Learned positions and another name for everything."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    with torch.random.fork_rng():
        torch.manual_seed(0)
        gpt2 = GPT2LMHeadModel(GPT2Config(vocab_size=1024, n_positions=256, n_embd=32, n_layer=2, n_head=2)).eval()
    some = texts(tiny_tokenizer, LossesConfig("none", 256, 1))
    np.testing.assert_allclose(Scorer(gpt2, 700).score(some), [one_at_a_time(gpt2, t) for t in some], atol=1e-5)
    with pytest.raises(BadInput, match=r"has 300 tokens .* 256 positions; set selector.max_tokens=256"):
        Scorer(gpt2).score([Text(np.zeros(300, dtype=np.int32), 1)])


def test_a_model_that_changes_its_logits_is_refused(tiny_tokenizer: Any) -> None:
    import torch
    from transformers import CohereConfig, CohereForCausalLM

    with torch.random.fork_rng():
        torch.manual_seed(0)
        scaled = CohereForCausalLM(
            CohereConfig(
                vocab_size=1024,
                hidden_size=32,
                intermediate_size=64,
                num_hidden_layers=1,
                num_attention_heads=2,
                num_key_value_heads=2,
                logit_scale=0.0625,
                initializer_range=1.0,
            )
        ).eval()
    with pytest.raises(BadInput, match="changes its logits after the head"):
        Scorer(scaled).score(texts(tiny_tokenizer, LossesConfig()))


# -- the layout ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prompt", sorted(loss_texts.PROMPTS))
def test_both_texts_in_words(tiny_tokenizer: Any, prompt: str) -> None:
    layout = LossTexts(LossesConfig(prompt, 4096), tiny_tokenizer)
    head = loss_texts.PROMPTS[prompt].head
    for record in RECORDS:
        if not record.output:
            continue
        conditioned, alone = layout.texts(record)
        assert isinstance(conditioned, Text) and isinstance(alone, Text)
        assert tiny_tokenizer.decode(conditioned.ids[1:]) == layout.prompt(record) + record.output
        assert tiny_tokenizer.decode(alone.ids[1:]) == head + record.output
        assert conditioned.ids[0] == alone.ids[0] == tiny_tokenizer.bos_token_id
        assert ("sea" in layout.prompt(record)) == (record.id == 2), "the input is part of the prompt"
    assert layout.prompt(RECORDS[4]).count("{this} and {that}") == 1, "blanks are no input, braces are text"


def test_without_a_bos_the_first_token_of_a_bare_response_has_no_loss(
    tiny_tokenizer: Any, tiny_tokenizer_without_bos: Any
) -> None:
    cfg = LossesConfig("none", 256, 1)
    _, bare = LossTexts(cfg, tiny_tokenizer_without_bos).texts(RECORDS[0])
    _, led = LossTexts(cfg, tiny_tokenizer).texts(RECORDS[0])
    assert isinstance(bare, Text) and isinstance(led, Text)
    assert (bare.start, led.start) == (1, 1) and bare.tokens == led.tokens - 1
    one = LossTexts(cfg, tiny_tokenizer_without_bos).texts(RECORDS[2])
    assert isinstance(one[0], Text) and one[1] == "a response of one token has no loss without a prefix"
    assert all(
        isinstance(text, Text) for text in LossTexts(LossesConfig(), tiny_tokenizer_without_bos).texts(RECORDS[2])
    )


def test_truncation_around_the_length_of_the_prompt(tiny_tokenizer: Any) -> None:
    """One token fewer, as many, and one more than the prompt has."""
    record = RECORDS[1]
    prompt = len(
        LossTexts(LossesConfig(), tiny_tokenizer).encode(LossTexts(LossesConfig(), tiny_tokenizer).prompt(record))
    )
    for limit in (prompt - 1, prompt):
        assert LossTexts(LossesConfig(max_tokens=limit), tiny_tokenizer).texts(record) == (
            (f"the prompt fills all {limit} tokens",) * 2
        )
    for extra in (1, 2, 7):
        layout = LossTexts(LossesConfig(max_tokens=prompt + extra), tiny_tokenizer)
        conditioned, alone = layout.texts(record)
        assert isinstance(conditioned, Text) and isinstance(alone, Text)
        assert conditioned.tokens == alone.tokens == extra
        assert (conditioned.ids[-extra:] == alone.ids[-extra:]).all(), "the same tokens of the response"


def test_a_constant_for_another_tokenizer_is_carried_through(tiny_tokenizer: Any) -> None:
    """The official constant is that of LLaMA-1/2: with a longer head it cuts the alone text shorter, or away."""
    record, layout = RECORDS[1], LossTexts(LossesConfig(), tiny_tokenizer)
    prompt = len(layout.encode(layout.prompt(record)))
    assert layout.head_tokens > 4, "this tokenizer's head is longer than LLaMA's"
    over = layout.head_tokens - 4
    official = LossTexts(LossesConfig(max_tokens=prompt + over, slack=4), tiny_tokenizer)
    conditioned, alone = official.texts(record)
    assert isinstance(conditioned, Text) and alone == "no token of the response is left"
    generous = LossTexts(LossesConfig(max_tokens=prompt + 3, slack=layout.head_tokens + 1), tiny_tokenizer)
    assert generous.texts(record)[1] == f"more of the response fits alone than beside its prompt in {prompt + 3} tokens"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prompt": "alpacca"}, "did you mean 'alpaca'"),
        ({"max_tokens": 1}, "2 or more"),
        ({"dtype": "int8"}, "float32"),
        ({"engine": "vlm"}, "expected one of hf, vllm"),
    ],
)
def test_refusals(options: dict, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        LossesConfig(**options)


@pytest.mark.parametrize("tokens_per_batch", [1, 100_000])
def test_the_loss_of_every_token(tiny_model: Any, tiny_tokenizer: Any, tokens_per_batch: int) -> None:
    """Their mean is the text's loss; a shift of the embeddings moves the text it belongs to and no other."""
    some = texts(tiny_tokenizer, LossesConfig("none", 64))
    scorer = Scorer(tiny_model, tokens_per_batch)
    found = scorer.tokens(some)
    assert [len(losses) for losses in found] == [text.tokens for text in some]
    np.testing.assert_allclose([losses.mean() for losses in found], scorer.score(some), rtol=0, atol=1e-5)
    shifts = [np.zeros((len(text.ids), scorer.width), dtype=np.float32) for text in some]
    shifts[1][0] = 0.5
    shifted = scorer.tokens(some, shifts)
    for i, (plain, moved) in enumerate(zip(found, shifted, strict=True)):
        if i == 1:
            assert (plain != moved).any()
        else:
            np.testing.assert_allclose(plain, moved, rtol=0, atol=1e-6)


def test_shards_are_found_again_and_what_is_not_finite_is_not_kept(tmp_path: Path) -> None:
    run: list[list[int]] = []

    def made(batch: list[int]) -> dict[str, np.ndarray]:
        run.append(batch)
        return {"value": np.array([np.nan if i == 2 else float(i) for i in batch])}

    def all_of_it(names: list[str]) -> list:
        return [
            (batch, arrays["value"].tolist())
            for batch, arrays in scorer_stage.shards(names, lambda i: 10 - i, made, tmp_path, 10, "test")
        ]

    first = all_of_it(["a", "b", "c", "d"])
    assert str(first) == "[([0], [0.0]), ([1], [1.0]), ([2], [nan]), ([3], [3.0])]"
    assert str(all_of_it(["a", "b", "c", "d"])) == str(first)
    assert run == [[0], [1], [2], [3], [2]]
    all_of_it(["a", "b", "c", "e"])
    assert run[5:] == [[2], [3]]


# -- measuring -------------------------------------------------------------------------------------------


def test_every_record_has_two_losses_or_a_reason(tiny_model: Any, tiny_tokenizer: Any, tmp_path: Path) -> None:
    layout = LossTexts(LossesConfig(max_tokens=128), tiny_tokenizer)
    losses = losses_stage.measure(RECORDS, layout, lambda: Scorer(tiny_model), tmp_path)
    assert losses.ids == [record.key for record in RECORDS]
    assert losses.invalid() == {3: "the response is empty"}
    for values in (losses.nll_conditioned, losses.nll_alone):
        assert np.flatnonzero(np.isnan(values)).tolist() == [3]
    for row, record in enumerate(RECORDS):
        if row == 3:
            continue
        conditioned, alone = layout.texts(record)
        assert isinstance(conditioned, Text) and isinstance(alone, Text)
        assert losses.tokens_conditioned[row] == conditioned.tokens and losses.tokens_alone[row] == alone.tokens
        assert losses.nll_conditioned[row] == pytest.approx(one_at_a_time(tiny_model, conditioned), abs=1e-5)
        assert losses.nll_alone[row] == pytest.approx(one_at_a_time(tiny_model, alone), abs=1e-5)
    assert losses.nll_alone[0] == losses.nll_alone[7], "copies have the very same loss"


def test_copies_are_run_once(tiny_model: Any, tiny_tokenizer: Any, tmp_path: Path) -> None:
    scorer, run = Scorer(tiny_model), []
    original = scorer.batch
    scorer.batch = lambda some: run.extend(some) or original(some)  # type: ignore[method-assign]
    copies = [Record(i, "Name three primes.", "", "2, 3 and 5.") for i in range(50)]
    losses = losses_stage.measure(copies, LossTexts(LossesConfig(), tiny_tokenizer), lambda: scorer, tmp_path)
    assert len(run) == 2 and len(set(losses.nll_conditioned)) == len(set(losses.nll_alone)) == 1


def test_nan_is_a_reason_and_never_a_number(
    spoilt: Any, spoilt_token: tuple[int, str], tiny_tokenizer: Any, tmp_path: Path
) -> None:
    token, word = spoilt_token
    pool = [*RECORDS, Record(9, "Say it.", "", f"so {word}{word} it is")]
    layout = LossTexts(LossesConfig(), tiny_tokenizer)
    held = [i for i, r in enumerate(pool) if any(isinstance(t, Text) and token in t.ids[:-1] for t in layout.texts(r))]
    assert held == [len(pool) - 1]
    with pytest.raises(BadMeasurement, match=rf"have a loss of NaN .*exec.max_failed allows 0.*{pool[held[-1]].key}"):
        losses_stage.measure(pool, layout, lambda: Scorer(spoilt), tmp_path)
    losses = losses_stage.measure(pool, layout, lambda: Scorer(spoilt), tmp_path, max_failed=len(held))
    failed = [row for row, reason in losses.invalid().items() if reason == scorer_stage.FAILED]
    assert failed == held
    assert all(np.isnan(losses.nll_conditioned[row]) or np.isnan(losses.nll_alone[row]) for row in failed)


# -- the stage -------------------------------------------------------------------------------------------

POOL = PoolConfig(name="mini", path="mini:evolved.jsonl", rows=20)


def stage() -> Any:
    return losses_stage.node(pool_stage.node(POOL), backbone_stage.node(TINY), LossesConfig("alpaca", 512))


def test_the_artifact(tmp_path: Path) -> None:
    store = Store(tmp_path, ExecConfig(device="cpu"))
    artifact = store.ensure(stage())
    losses = losses_stage.load(artifact)
    assert losses.ids == [r.key for r in records.load(store.ensure(pool_stage.node(POOL)))]
    assert artifact.info["rows_in"] == 20 == artifact.info["rows_out"] + len(losses.invalid())
    assert artifact.info["scorer"] == "tiny_random" and artifact.info["failed"] == []
    assert losses_stage.load(artifact, losses.ids).ids == losses.ids
    with pytest.raises(BadMeasurement, match="the same ids in the same order"):
        losses_stage.load(artifact, losses.ids[::-1])


def test_what_is_part_of_the_identity(monkeypatch: Any) -> None:
    import dataclasses

    before = stage().fingerprint
    pool, model = pool_stage.node(POOL), backbone_stage.node(TINY)
    changes: list[dict] = [
        {"prompt": "none"},
        {"max_tokens": 511},
        {"slack": 4},
        {"dtype": "bfloat16"},
        {"engine": "vllm"},
    ]
    others = [LossesConfig(**change) for change in changes]
    assert len({before, *(losses_stage.node(pool, model, cfg).fingerprint for cfg in others)}) == 6
    changed = dataclasses.replace(loss_texts.PROMPTS["alpaca"], head="### Answer:")
    monkeypatch.setitem(loss_texts.PROMPTS, "alpaca", changed)
    assert stage().fingerprint != before


KILLED = """
import os, signal, sys
from pathlib import Path
from tests.baselines.shared import test_losses
from baselines.shared.scorer import Scorer

seen, batch = 0, Scorer.batch
def counted(self, texts):
    global seen
    seen += 1
    if seen > 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return batch(self, texts)
Scorer.batch = counted
test_losses.measured_below(Path(sys.argv[1]))
"""


def measured_below(runs: Path) -> None:
    """The losses of 20 records, in many batches."""
    pool = pool_stage.node(PoolConfig(name="mini", path="mini:evolved.jsonl", rows=20))
    store = Store(runs, ExecConfig(device="cpu", tokens_per_batch=1200))
    store.ensure(losses_stage.node(pool, backbone_stage.node(TINY), LossesConfig("alpaca", 512)))


def test_kill_and_resume_repeats_nothing_and_ends_the_same(
    tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    batch = Scorer.batch
    monkeypatch.setattr(Scorer, "batch", lambda self, texts: seen.append(len(texts)) or batch(self, texts))
    measured_below(tmp_path / "whole")
    batches = len(seen)
    assert batches > 4
    killed = processes.run(["-c", KILLED, tmp_path / "killed"], cwd=root)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    partial = next((tmp_path / "killed" / "losses").glob("*.partial"))
    saved = sorted((partial / "work").glob("losses-*.shard"))
    assert len(saved) == 3
    write_atomic(saved[0], saved[0].read_bytes()[:20])  # damaged: that batch is run again
    seen.clear()
    measured_below(tmp_path / "killed")
    assert len(seen) == batches - 2
    files = [next((tmp_path / name / "losses").glob("*/losses.parquet")) for name in ("whole", "killed")]
    assert files[0].read_bytes() == files[1].read_bytes()
    manifest = json.loads((files[1].parent / "manifest.json").read_text())
    assert list(manifest["files"]) == ["losses.parquet"]


# -- vLLM ------------------------------------------------------------------------------------------------

VLLM = """
import os, sys, torch
from adg.backbones import stage as backbone_stage
from adg.backbones.config import BackboneConfig
from adg.pools import stage as pool_stage
from adg.pools.config import PoolConfig
from adg.execution import ExecConfig
from baselines.shared import losses as losses_stage
from baselines.shared.loss_texts import LossesConfig
from adg.artifacts.store import Store

def state():
    generator = torch.get_rng_state().tolist()
    return dict(os.environ), os.sched_getaffinity(0), torch.get_num_threads(), torch.set_num_threads, generator

pool = pool_stage.node(PoolConfig(name="mini", path="mini:evolved.jsonl", rows=9))
tiny = backbone_stage.node(BackboneConfig(name="tiny_random", builder="tiny_random", dtype="float32"))
store = Store(sys.argv[1], ExecConfig(device="cpu", tokens_per_batch=1500))
store.ensure(tiny)
before = state()
for prompt in ("alpaca", "none"):
    found = store.ensure(losses_stage.node(pool, tiny, LossesConfig(prompt, 300, engine="vllm")))
    assert state() == before and not torch.distributed.is_initialized()
    print(found.path, store.ensure(losses_stage.node(pool, tiny, LossesConfig(prompt, 300))).path)
"""


@pytest.mark.vllm
@pytest.mark.slow
def test_vllm_gives_the_same_losses(root: Path, tmp_path: Path) -> None:
    """The real engine, float32 on the CPU: equal to transformers within 1e-5, no trace left in the process."""
    pytest.importorskip("vllm")
    done = subprocess.run(
        [sys.executable, "-c", VLLM, str(tmp_path)],
        cwd=root,
        text=True,
        capture_output=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    for line in done.stdout.strip().splitlines()[-2:]:
        ours, theirs = (
            losses_stage.load(Artifact(path, json.loads((path / "manifest.json").read_text())))
            for path in map(Path, line.split())
        )
        for name in ("nll_conditioned", "nll_alone"):
            np.testing.assert_allclose(getattr(ours, name), getattr(theirs, name), rtol=0, atol=1e-5)
        assert ours.invalid() == theirs.invalid() and ours.tokens_alone.tolist() == theirs.tokens_alone.tolist()
