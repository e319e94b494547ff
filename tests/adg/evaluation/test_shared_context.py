"""Requests that share what they begin with, against lm-eval's own model, request by request."""

from __future__ import annotations

import gc
import itertools
import random
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch

from adg.backbones import loading
from adg.evaluation.shared_context import Shared, make_lm, shared_beginnings

SHOTS = (
    "Question: what is two plus two?\nAnswer: four\n\nQuestion: what has ten legs?\nAnswer: a crab, or so they say\n\n"
)
QUESTIONS = [
    "Who sings?",
    "Why is the sky blue, and not green?",
    "What is seven minus two?",
    "Where do the geese go in winter, if they go?",
]
CHOICES = [" A", " B", " nobody does", " nobody knows why", " it never was", " south, like everybody else"]


class Request:
    """As much of lm-eval's ``Instance`` as its models read."""

    def __init__(self, *args: Any) -> None:
        self.args, self.task_name = args, "test"


@pytest.fixture(params=["bos", "no bos"])
def tokenizer(request: pytest.FixtureRequest, tiny_tokenizer: Any, tiny_tokenizer_without_bos: Any) -> Any:
    return tiny_tokenizer if request.param == "bos" else tiny_tokenizer_without_bos


@pytest.fixture(params=["plain", "adapter", "merged"])
def model(request: pytest.FixtureRequest, tiny_backbone: Any) -> Any:
    """The tiny model, alone, with an adapter that changes it, and with that merged."""
    from peft import LoraConfig, get_peft_model
    from transformers import GenerationConfig

    made = loading.load_model(tiny_backbone, "cpu")
    if request.param != "plain":
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            made = get_peft_model(made, LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False)).eval()
        made = made.merge_and_unload() if request.param == "merged" else made
    made.generation_config = GenerationConfig(eos_token_id=[2], pad_token_id=0)
    return made


def pair(model: Any, tokenizer: Any, **more: Any) -> tuple[Any, Any]:
    """Ours and lm-eval's, around one model."""
    from lm_eval.models.huggingface import HFLM

    settings = {"batch_size": 3, "add_bos_token": loading.adds_bos(tokenizer), **more}
    stop = [tokenizer.eos_token_id]
    model.generation_config.eos_token_id, model.generation_config.pad_token_id = stop, tokenizer.pad_token_id
    ours = make_lm(model, tokenizer, stop, tokenizer(SHOTS)["input_ids"], **settings)
    assert type(ours).__name__ == "SharedContextLM"
    return ours, HFLM(pretrained=model, tokenizer=tokenizer, **settings)


def same_scores(ours: Any, theirs: Any, requests: list[Request]) -> None:
    found, expected = ours.loglikelihood(requests), theirs.loglikelihood(requests)
    assert [greedy for _, greedy in found] == [greedy for _, greedy in expected]
    assert [value for value, _ in found] == pytest.approx([value for value, _ in expected], abs=1e-4)


def scored(beginnings: list[str]) -> list[Request]:
    """Every question with every choice, in no order; contexts that begin with the same text where that is one."""
    made = [
        Request(f"{beginning}Question: {question}\nAnswer:", choice)
        for (beginning, question), choice in itertools.product(zip(itertools.cycle(beginnings), QUESTIONS), CHOICES)
    ]
    random.Random(0).shuffle(made)
    return made


@pytest.mark.parametrize("beginnings", [[SHOTS], [SHOTS, "", SHOTS[::-1], SHOTS[20:]]])
def test_scores_are_lm_evals(model: Any, tokenizer: Any, beginnings: list[str]) -> None:
    ours, theirs = pair(model, tokenizer)
    same_scores(ours, theirs, scored(beginnings))


def test_scores_of_empty_and_overlong_contexts(tiny_model: Any, tokenizer: Any) -> None:
    ours, theirs = pair(tiny_model, tokenizer, max_length=40)
    requests = [Request("", " nobody does"), *scored([SHOTS]), Request(SHOTS * 3, " A"), Request("", " A")]
    assert max(len(tokenizer(request.args[0])["input_ids"]) for request in requests) > 40
    same_scores(ours, theirs, requests)


def test_rolling_scores(tiny_model: Any, tokenizer: Any) -> None:
    ours, theirs = pair(tiny_model, tokenizer, max_length=24)
    requests = [Request(SHOTS), Request("A text."), Request(SHOTS * 2)]
    assert ours.loglikelihood_rolling(requests) == pytest.approx(theirs.loglikelihood_rolling(requests), rel=1e-5)


def to_answer(tokenizer: Any, until: list[str], tokens: int, beginnings: list[str]) -> list[Request]:
    kwargs = {"until": until, "max_gen_toks": tokens, "do_sample": False, "temperature": 0.0}
    return [
        Request(f"{beginning}Question: {question}\nAnswer:", dict(kwargs))
        for beginning, question in itertools.product(beginnings, QUESTIONS)
    ]


@pytest.mark.parametrize("beginnings", [[SHOTS], [SHOTS, ""]])
def test_answers_are_lm_evals(model: Any, tokenizer: Any, beginnings: list[str]) -> None:
    ours, theirs = pair(model, tokenizer)
    requests = to_answer(tokenizer, ["\n\n"], 24, beginnings)
    assert ours.generate_until(requests) == theirs.generate_until(requests)


def test_answers_stop_where_lm_evals_stop(tiny_model: Any, tokenizer: Any) -> None:
    """At strings that the model does write, one of them over several tokens, and at its end of text."""
    ours, theirs = pair(tiny_model, tokenizer)
    free = theirs.generate_until(to_answer(tokenizer, [], 30, [SHOTS, ""]))
    terms = [text[len(text) // 2 :][:3] for text in free if len(text) > 8]
    assert terms
    requests = to_answer(tokenizer, terms, 30, [SHOTS, ""])
    found = ours.generate_until(requests)
    assert found == theirs.generate_until(requests) != free
    ids = [token for text in free for token in tokenizer(text, add_special_tokens=False)["input_ids"][1:4]]
    end = max(set(ids), key=ids.count)
    ends = [tokenizer.eos_token_id, end]  # as LLaMA-3-Instruct has two
    tiny_model.generation_config.eos_token_id, ours.stop = ends, set(ends)
    requests = to_answer(tokenizer, ["\n\n"], 30, [SHOTS, ""])
    ours.known.clear()
    assert ours.generate_until(requests) == theirs.generate_until(requests)


def test_overlong_prompts_lose_their_beginning_as_lm_evals(tiny_model: Any, tokenizer: Any) -> None:
    ours, theirs = pair(tiny_model, tokenizer, max_length=48)
    requests = to_answer(tokenizer, ["\n\n"], 8, [SHOTS * 2, ""])
    assert ours.generate_until(requests) == theirs.generate_until(requests)


def test_each_shared_token_is_run_once(tiny_model: Any, tiny_tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    ours, _ = pair(tiny_model, tiny_tokenizer)
    run, forward = [], type(ours.runs.packed)._forward

    def counted(self: Any, work: Any, ids: Any, *more: Any) -> Any:
        run.append(len(ids))
        return forward(self, work, ids, *more)

    monkeypatch.setattr(type(ours.runs.packed), "_forward", counted)
    requests = scored([SHOTS])
    ours.loglikelihood(requests)
    contexts = {tuple(ours._encode_pair(*request.args)[0]) for request in requests}
    shared = len(next(iter(contexts))) - len(next(iter(contexts))[shared_beginnings(sorted(contexts))[0].length :])
    after = sum(len(ours._encode_pair(*request.args)[1]) - 1 for request in requests)
    assert shared >= len(tiny_tokenizer(SHOTS)["input_ids"]) - 1
    assert sum(run) == shared + sum(len(context) - shared for context in contexts) + after
    run.clear()
    ours.generate_until(to_answer(tiny_tokenizer, ["\n\n"], 5, [SHOTS]))
    assert sum(run) <= shared + sum(len(context) - shared for context in contexts) + 4 * len(QUESTIONS)


def test_nothing_keeps_a_model_that_is_done(tiny_backbone: Any, tiny_tokenizer: Any) -> None:
    """A sweep evaluates one adapter after another in one process."""
    ours, _ = pair(loading.load_model(tiny_backbone, "cpu"), tiny_tokenizer)
    ours.generate_until(to_answer(tiny_tokenizer, ["\n\n"], 8, [SHOTS]))
    same_scores(ours, ours, scored([SHOTS]))
    model = weakref.ref(ours.model)
    del ours, _
    gc.collect()
    assert model() is None


def test_sampling_goes_lm_evals_way(tiny_model: Any, tiny_tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = pair(tiny_model, tiny_tokenizer)
    request = Request(SHOTS, {"until": ["\n\n"], "max_gen_toks": 6, "do_sample": True, "temperature": 0.7})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        found = ours.generate_until([request])
        torch.manual_seed(0)
        assert found == theirs.generate_until([request])


def test_a_model_that_cannot_be_packed_goes_lm_evals_way(
    tiny_model: Any, tiny_tokenizer: Any, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tiny_model.config, "sliding_window", 4, raising=False)
    lm = make_lm(tiny_model, tiny_tokenizer, [2], tiny_tokenizer(SHOTS)["input_ids"], batch_size=2)
    assert type(lm).__name__ == "HFLM"
    assert "contexts are not shared" in capfd.readouterr().err


def test_beginnings_are_shared_where_that_saves_most() -> None:
    a, b = [1] * 20, [2] * 20
    texts = [[*a, 3], [*b, 4, 4], [*a, 5], [*b, 4, 6], [9], [*b, 7], [*a, *b, 1], [*a, *b, 2], [*a, *b, 3]]
    found = {tuple(sorted(group.members)): group.length for group in shared_beginnings(texts, 16)}
    assert found == {(0, 2): 20, (6, 7, 8): 40, (1, 3, 5): 20, (4,): 0}
    assert shared_beginnings([]) == [] and shared_beginnings([[1, 2]]) == [Shared(0, [0])]
    assert shared_beginnings([[1] * 30, [1] * 30]) == [Shared(29, [0, 1])]  # a token of each is left


def test_no_other_grouping_of_neighbours_saves_more() -> None:
    for seed in range(40):
        draw = random.Random(seed)
        texts = [[draw.randint(0, 1) for _ in range(draw.randint(1, 7))] for _ in range(7)]

        def common(members: list[int], texts: list[list[int]] = texts) -> int:
            least = min(len(texts[i]) for i in members) - 1
            return next((n for n in range(least) if len({texts[i][n] for i in members}) > 1), least)

        order = sorted(range(7), key=texts.__getitem__)
        best = max(
            sum((b - a - 1) * common(order[a:b]) for a, b in itertools.pairwise([0, *cuts, 7]))
            for size in range(7)
            for cuts in itertools.combinations(range(1, 7), size)
        )
        found = shared_beginnings(texts, 1)
        assert sorted(i for group in found for i in group.members) == list(range(7))
        assert all(group.length <= common(group.members) for group in found)
        assert sum((len(group.members) - 1) * group.length for group in found) >= best


@pytest.mark.slow
def test_a_real_model_scores_and_answers_as_in_lm_eval(real_runs: Path) -> None:
    from transformers import GenerationConfig

    from adg.artifacts.store import Store
    from adg.backbones import stage as backbone_stage
    from adg.backbones.config import BackboneConfig
    from adg.execution import ExecConfig

    config = BackboneConfig(name="smollm2_135m", builder="smollm2_135m", dtype="float32")
    backbone = Store(real_runs, ExecConfig(device="cpu")).ensure(backbone_stage.node(config))
    model, tokenizer = loading.load_model(backbone, "cpu"), loading.load_tokenizer(backbone)
    model.generation_config = GenerationConfig()
    ours, theirs = pair(model, tokenizer)
    same_scores(ours, theirs, scored([SHOTS]))
    requests = to_answer(tokenizer, ["\n\n", "Question:"], 20, [SHOTS])
    assert ours.generate_until(requests) == theirs.generate_until(requests)
