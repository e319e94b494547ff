"""Answers pooled while they are sampled: the vectors of the other way, the same texts, resuming, what is refused."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from adg import geometry, prompts
from adg.answers import stage as answers_stage
from adg.answers.config import Answers, EngineConfig, SamplingConfig
from adg.answers.transformers_engine import TransformersEngine
from adg.artifacts.artifact import Artifact, Job, Node, canonical, run_builder
from adg.artifacts.store import Store
from adg.backbones import loading
from adg.backbones import stage as backbone_stage
from adg.backbones.config import BackboneConfig
from adg.embedding import one_pass
from adg.embedding import stage as embedding_stage
from adg.embedding.config import EmbeddingConfig
from adg.embedding.encoder import Encoder
from adg.embedding.one_pass import AnswerPooling, AnswerStates
from adg.embedding.windows import resolve_windows
from adg.errors import BadInput
from adg.execution import ExecConfig
from adg.pools import records
from adg.pools import stage as pool_stage
from adg.pools.config import PoolConfig
from adg.pools.records import Record
from experiments import compose
from experiments.cells import Cell

WINDOWS = ("last4", "released", "0:1", "rel:0.5-1.0")
EMBEDDING = EmbeddingConfig(windows=WINDOWS, source="sampling")
SAMPLING = SamplingConfig(n=3, max_new_tokens=10, seed=7)
CPU = ExecConfig(device="cpu")


def nodes(
    pool: Node,
    builder: str = "tiny_random",
    sampling: SamplingConfig = SAMPLING,
    cfg: EmbeddingConfig = EMBEDDING,
    **engine: Any,
) -> tuple[Node, Node]:
    """Answers and grams in one pass."""
    backbone = backbone_stage.node(BackboneConfig(name=builder, builder=builder, dtype="float32"))
    answers = one_pass.node(pool, backbone, sampling, EngineConfig(**{"batch_size": 4, **engine}), cfg)
    return answers, embedding_stage.node(answers, pool, backbone, cfg)


def general(rows: int) -> Node:
    return pool_stage.node(PoolConfig(name="general", path="mini:general.jsonl", rows=rows))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(tmp_path_factory.mktemp("runs"), CPU)


@pytest.fixture(scope="module")
def pooled(store: Store) -> tuple[Artifact, Artifact]:
    answers, grams = nodes(general(9))
    return store.ensure(answers), store.ensure(grams)


def watched(backbone: Artifact, tokenizer: Any, sampling: SamplingConfig, **changes: Any) -> tuple[Any, AnswerStates]:
    """An engine, and what looks on."""
    engine = TransformersEngine(backbone, tokenizer, Answers(sampling, EngineConfig(), ""), CPU, 0)
    pooling = {"windows": WINDOWS, "token_weights": True, "max_tokens": 1024, "empty_answer": "prompt_vector"}
    engine.reader = states = AnswerStates(engine.model, tokenizer, AnswerPooling(**{**pooling, **changes}))
    return engine, states


def plain(model: Any, states: AnswerStates, ids: list[int], start: int, weighted: bool) -> np.ndarray:
    """Windows (W, d) of the tokens from ``start``, each of length 1: a pass over all, every hidden state kept."""
    import torch

    with torch.no_grad():
        hidden = model(torch.tensor([ids]), output_hidden_states=True).hidden_states
    shares = (states.weights if weighted else states.text)[ids] if start else np.ones(len(ids))
    shares = np.where(np.arange(len(ids)) < start, 0, shares)
    rows = []
    for tensors in resolve_windows(WINDOWS, len(hidden) - 1):
        vector = shares @ np.mean([hidden[i][0].double().numpy() for i in tensors], axis=0)
        rows.append(vector / np.linalg.norm(vector))
    return np.array(rows)


TEXTS = ("Hi", "Name three fruits and say why they are good.", "What is 12 + 30?", "Why?", "x")


@pytest.mark.parametrize("changes", [{}, {"token_weights": False}, {"max_tokens": 3}, {"all_zero": True}])
def test_vectors_are_those_of_a_plain_pass_over_the_sampled_tokens(
    tiny_backbone: Any, tiny_tokenizer: Any, changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of every answer: those that end early, at a token that counts or at one that does not, and those cut by length;
    ended ones stay in the batch for a while and are then taken out. Equal weights where all tokens weigh 0."""
    changes = dict(changes)
    if changes.pop("all_zero", False):
        monkeypatch.setattr(one_pass, "weight_table", lambda tokenizer: np.zeros(len(tokenizer), dtype=np.float32))
    asked = {text: prompts.encode_prompt(tiny_tokenizer, prompts.render(text)) for text in TEXTS}
    sampling = dataclasses.replace(SAMPLING, n=6, top_k=30)
    engine, states = watched(tiny_backbone, tiny_tokenizer, sampling, **changes)
    first = [answer.ids for answers in engine.sample(list(asked.values()), sampling, 5) for answer in answers]
    engine.stop = sorted({*engine.stop, *(ids[3] for ids in first[::5]), *(ids[7] for ids in first[1::5])})
    drawn = dict(zip(asked, engine.sample(list(asked.values()), sampling, 5), strict=True))
    texts = {key: [f"answer {i}" for i in range(sampling.n)] for key in drawn}
    counts, failed = dict.fromkeys(one_pass.COUNTS, 0), {}
    made = states.vectors(asked, drawn, texts, counts, failed)
    assert not failed and len({len(one.ids) for answers in drawn.values() for one in answers}) > 2
    limit = changes.get("max_tokens", 1024)
    for key, answers in drawn.items():
        for i, answer in enumerate(answers):
            ids, start = asked[key] + answer.ids[:limit], len(asked[key])
            weighted = bool(states.weights[ids[start:]].any())
            np.testing.assert_allclose(made[key][:, i], plain(engine.model, states, ids, start, weighted), atol=1e-5)
    longer = sum(len(one.ids) > limit for answers in drawn.values() for one in answers)
    assert counts["truncated_answers"] == longer and (longer > 0) == ("max_tokens" in changes)


@pytest.mark.parametrize("rule", ["prompt_vector", "zero", "fail"])
def test_an_answer_of_blanks(tiny_backbone: Any, tiny_tokenizer: Any, rule: str) -> None:
    """It has the prompt's vector, zeros or none; and answers of the same tokens are equal to the last bit."""
    asked = {text: prompts.encode_prompt(tiny_tokenizer, prompts.render(text)) for text in TEXTS[:3]}
    engine, states = watched(tiny_backbone, tiny_tokenizer, SAMPLING, empty_answer=rule)
    drawn = dict(zip(asked, engine.sample(list(asked.values()), SAMPLING, 5), strict=True))
    drawn["Hi"] = [drawn["Hi"][0], drawn["Hi"][1], drawn["Hi"][1]]
    texts = {key: ["" if key == "Hi" else "words", "words", "words"] for key in asked}
    counts, failed = dict.fromkeys(one_pass.COUNTS, 0), {}
    made = states.vectors(asked, drawn, texts, counts, failed)
    if rule == "fail":
        assert set(made) == set(TEXTS[1:3])
        assert failed == {"Hi": "has an empty answer (embedding.empty_answer=fail)"}
        return
    assert (counts["empty_answers"], failed, set(made)) == (1, {}, set(asked))
    assert np.array_equal(made["Hi"][:, 1], made["Hi"][:, 2])
    if rule == "zero":
        assert not made["Hi"][:, 0].any() and made["Hi"][:, 1].any()
        return
    encoder = Encoder(copy.deepcopy(engine.model), tiny_tokenizer, EmbeddingConfig(windows=WINDOWS))
    np.testing.assert_allclose(made["Hi"][:, 0], encoder.embed([(Record(0, "Hi"), [""])], 1).answers[0, 0], atol=1e-5)


def test_states_that_are_not_finite_name_the_record(tiny_backbone: Any, tiny_tokenizer: Any) -> None:
    asked = {text: prompts.encode_prompt(tiny_tokenizer, prompts.render(text)) for text in TEXTS[:2]}
    engine, states = watched(tiny_backbone, tiny_tokenizer, SAMPLING)
    drawn = dict(zip(asked, engine.sample(list(asked.values()), SAMPLING, 5), strict=True))
    engine.model.get_input_embeddings().weight.data[drawn["Hi"][0].ids[-1]] = float("nan")  # the last token is read too
    again = dict(zip(asked, engine.sample(list(asked.values()), SAMPLING, 5), strict=True))
    counts, failed = dict.fromkeys(one_pass.COUNTS, 0), {}
    states.vectors(asked, again, {key: ["words"] * 3 for key in asked}, counts, failed)
    assert "Hi" in failed and failed["Hi"] == "the backbone gave NaN or infinity in float32 for it"


def test_real_answers_have_the_grams_of_two_passes(real_runs: Path) -> None:
    """Where the text is encoded to the tokens that were sampled; other answers are counted. Instructions always."""
    store = Store(real_runs, CPU)
    sampling = dataclasses.replace(SAMPLING, temperature=0.8, max_new_tokens=8, strip=False)
    pool = general(6)
    answers_node, grams_node = nodes(pool, "smollm2_135m", sampling)
    answers, grams = store.ensure(answers_node), store.ensure(grams_node)
    loaded, backbone = embedding_stage.load(grams), store.ensure(answers_node.inputs["backbone"])
    tokenizer, texts = loading.load_tokenizer(backbone), answers_stage.load(answers)
    encoder = Encoder(loading.load_model(backbone, "cpu", headless=True), tokenizer, EmbeddingConfig(windows=WINDOWS))
    records_ = records.load(store.ensure(pool))
    expected = encoder.embed([(record, texts[record.key]) for record in records_], sampling.n)
    assert loaded.ids == expected.keys
    np.testing.assert_allclose(loaded.instructions, expected.instructions, atol=1e-6)
    engine = TransformersEngine(backbone, tokenizer, Answers(sampling, EngineConfig(), ""), CPU, 0)
    table = pq.read_table(answers.file("answers.parquet")).to_pylist()
    same: dict[str, list[bool]] = {}
    for seed in sorted({row["seed"] for row in table}):  # the sampled ids once more, which no artifact keeps
        batch = [key for key in texts if any(row["id"] == key and row["seed"] == seed for row in table)]
        asked = {r.key: prompts.encode_prompt(tokenizer, prompts.render(r.instruction, r.input)) for r in records_}
        batch.sort(key=lambda key: len(asked[key]))
        drawn = engine.sample([asked[key] for key in batch], sampling, seed)
        for key, answers_ in zip(batch, drawn, strict=True):
            ids = [one.ids[:-1] if one.ids[-1] in engine.stop else one.ids for one in answers_]
            assert [tokenizer.decode(one) for one in ids] == texts[key]
            same[key] = [prompts.encode(tokenizer, tokenizer.decode(one)) == one for one in ids]
    compared = 0
    for row, key in enumerate(loaded.ids):
        both = np.outer(same[key], same[key])
        compared += sum(same[key])
        for w in range(len(WINDOWS)):
            wanted = geometry.gram(expected.answers[row : row + 1, :, w])[0]
            np.testing.assert_allclose(loaded.grams[row, w][both], wanted[both], atol=1e-5)
    assert compared >= 6 and grams.info["retokenized_answers"] == len(table) - compared


def test_the_texts_are_those_of_the_other_way(store: Store, pooled: tuple[Artifact, Artifact]) -> None:
    node = nodes(general(9))[0]
    config = node.config
    other = answers_stage.node(node.inputs["pool"], node.inputs["backbone"], config.sampling, config.engine)
    plain_answers = store.ensure(other)
    assert plain_answers.file("answers.parquet").read_bytes() == pooled[0].file("answers.parquet").read_bytes()
    for name, value in plain_answers.info.items():
        assert name == "sampling" or pooled[0].info[name] == value
    assert other.fingerprint != node.fingerprint


def test_missing_and_damaged_shards_are_made_again(
    store: Store, pooled: tuple[Artifact, Artifact], tmp_path: Path
) -> None:
    for node, built in zip(nodes(general(9)), pooled, strict=True):
        folder = tmp_path / node.stage.name
        job = Job(node, folder, {role: store.ensure(parent) for role, parent in node.inputs.items()}, CPU)
        run_builder(node, folder, job.inputs, CPU)
        shards = sorted(job.work.glob("*.shard"))
        shards[0].write_bytes(shards[0].read_bytes()[:100])
        for name in built.manifest["files"]:
            assert (folder / name).read_bytes() == built.file(name).read_bytes(), name
            (folder / name).unlink()
        info = run_builder(node, folder, job.inputs, CPU)
        assert info.get("resumed_batches", 0) == (2 if node.stage is one_pass.STAGE else 0)
        for name in built.manifest["files"]:
            assert (folder / name).read_bytes() == built.file(name).read_bytes(), name


def test_the_grams_say_what_was_counted(pooled: tuple[Artifact, Artifact]) -> None:
    answers, grams = pooled
    loaded = embedding_stage.load(grams)
    assert loaded.grams.shape == (9, len(WINDOWS), 3, 3) and loaded.instructions.shape[0] == 9
    assert {name: grams.info[name] for name in one_pass.COUNTS} == answers.info["pooling"]
    assert 0 < grams.info["retokenized_answers"] <= 27
    assert grams.info["embedding"]["answers"] == 0
    np.testing.assert_allclose(np.diagonal(loaded.grams, axis1=2, axis2=3), 1, atol=1e-6)


def test_identity_is_that_of_the_states() -> None:
    pool = general(9)
    answers, grams = nodes(pool)
    assert answers.fingerprint == nodes(pool, cfg=dataclasses.replace(EMBEDDING, instruction_tokens=9))[0].fingerprint
    assert grams.fingerprint != nodes(pool, cfg=dataclasses.replace(EMBEDDING, instruction_tokens=9))[1].fingerprint
    for change in ({"windows": ("last4",)}, {"token_weights": False}, {"max_tokens": 5}, {"empty_answer": "zero"}):
        assert answers.fingerprint != nodes(pool, cfg=dataclasses.replace(EMBEDDING, **change))[0].fingerprint, change
    assert "source" not in canonical(EmbeddingConfig()) and '"source":"sampling"' in canonical(EMBEDDING)


@pytest.mark.parametrize(
    ("asked", "named"),
    [
        (["engine=vllm"], "engine=vllm does not hand out hidden states"),
        (["sampling.prompt_tokens=80"], r"sampling\.prompt_tokens=80 cuts prompts"),
        (["sampling.use_input=false"], "makes other prompts than embedding.use_input=true"),
        (["engine.dtype=float16"], "engine.dtype is float16 and embedding.dtype auto"),
        (["embedding.pooling=all"], "set embedding.pooling=answer or embedding.source=encoder"),
        (["embedding.source=samplng"], "did you mean 'sampling'"),
    ],
)
def test_what_sampling_does_not_compute_is_refused_before_anything_runs(asked: list[str], named: str) -> None:
    with pytest.raises(BadInput, match=named):
        _ = Cell(compose.compose(["embedding.source=sampling", *asked])).nodes
