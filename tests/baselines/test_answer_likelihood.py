"""The answers' own log-probabilities: against a plain forward pass, the texts unchanged, the selector."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from adg import prompts
from adg.answers import stage as answers_stage
from adg.answers.config import Answers, EngineConfig, SamplingConfig
from adg.answers.transformers_engine import TransformersEngine
from adg.artifacts.artifact import Artifact
from adg.artifacts.store import Store
from adg.backbones import stage as backbone_stage
from adg.backbones.config import BackboneConfig
from adg.errors import BadInput, BadMeasurement
from adg.execution import ExecConfig
from adg.pools import stage as pool_stage
from adg.pools.config import PoolConfig
from adg.pools.records import Record
from adg.selection.contract import SelectorData
from baselines.answer_likelihood import AnswerLikelihood, AnswerLikelihoodConfig
from experiments import compose
from experiments.cells import Cell

KEPT = SamplingConfig(n=4, max_new_tokens=12, seed=3, logprobs=True)
TEXTS = ("Hi", "Name three fruits and say why they are good.", "What is 12 + 30?", "x")


def test_log_probabilities_are_those_of_a_plain_forward_pass(tiny_backbone: Any, tiny_tokenizer: Any) -> None:
    """Each sampled token's, the stop token's too, under the model's scores as they are: no temperature, top-p or top-k.
    Answers end at several steps here, so that ended ones stay in the batch for a while and are then taken out."""
    import torch

    asked = [prompts.encode_prompt(tiny_tokenizer, prompts.render(text)) for text in TEXTS]
    cfg = dataclasses.replace(KEPT, n=8, top_k=20)
    engine = TransformersEngine(tiny_backbone, tiny_tokenizer, Answers(cfg, EngineConfig(), ""), ExecConfig("cpu"), 0)
    first = [answer.ids for answers in engine.sample(asked, cfg, 5) for answer in answers]
    engine.stop = sorted({ids[4] for ids in first[::3]} | {ids[8] for ids in first[1::3]})
    drawn = engine.sample(asked, cfg, 5)
    assert len({len(answer.ids) for answers in drawn for answer in answers}) > 2
    for prompt, answers in zip(asked, drawn, strict=True):
        for answer in answers:
            with torch.no_grad():
                scores = engine.model(torch.tensor([prompt + answer.ids])).logits[0].double()
            own = scores.log_softmax(-1)[len(prompt) - 1 : -1].gather(1, torch.tensor(answer.ids)[:, None])
            assert answer.logprob is not None
            assert answer.logprob / len(answer.ids) == pytest.approx(own.mean().item(), abs=1e-5)
    without = engine.sample(asked, dataclasses.replace(cfg, logprobs=False), 5)
    assert [[(a.ids, a.finish_reason, None) for a in answers] for answers in drawn] == [
        [(a.ids, a.finish_reason, a.logprob) for a in answers] for answers in without
    ]


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> tuple[Artifact, Artifact]:
    """The same answers, sampled with and without their log-probabilities."""
    store = Store(tmp_path_factory.mktemp("runs"), ExecConfig(device="cpu"))
    pool = pool_stage.node(PoolConfig(name="mini_general", path="mini:general.jsonl", rows=9))
    backbone = backbone_stage.node(BackboneConfig(name="tiny_random", builder="tiny_random", dtype="float32"))
    made = [
        store.ensure(answers_stage.node(pool, backbone, sampling, EngineConfig(batch_size=4)))
        for sampling in (KEPT, dataclasses.replace(KEPT, logprobs=False))
    ]
    return made[0], made[1]


def test_the_texts_are_the_same_and_only_the_column_is_added(both: tuple[Artifact, Artifact]) -> None:
    kept, without = (pq.read_table(artifact.file("answers.parquet")) for artifact in both)
    assert kept.column_names == [*without.column_names, "logprob"]
    assert kept.drop_columns("logprob").equals(without)
    means = answers_stage.load_likelihoods(both[0])
    for row in kept.to_pylist():
        assert means[row["id"]][row["sample"]] == pytest.approx(row["logprob"] / row["tokens"])
        assert row["logprob"] < 0
    with pytest.raises(BadInput, match=r"holds no log-probabilities; sample with sampling\.logprobs=true"):
        answers_stage.load_likelihoods(both[1])


def data(folder: Path, rows: list[tuple[str, int, float, int]]) -> SelectorData:
    """Records 0 to 3, and answers (id key, sample, log-probability, tokens) of some of them."""
    import pyarrow as pa

    columns = dict(zip(("id", "sample", "logprob", "tokens"), map(list, zip(*rows, strict=True)), strict=True))
    pq.write_table(pa.table(columns), folder / "answers.parquet")
    artifact = Artifact(folder, {"files": {"answers.parquet": {}}, "info": {"logprobs": True}})
    return SelectorData([Record(i, "x") for i in range(4)], {"answers": artifact})


def test_values_by_hand(tmp_path: Path) -> None:
    """A mean over tokens within an answer, then over answers: a long answer counts as much as a short one."""
    rows = [
        ("0", 0, -2.0, 1),
        ("0", 1, -8.0, 8),
        ("1", 0, -1.0, 4),
        ("1", 1, -3.0, 4),
        ("3", 0, -9.0, 9),
        ("3", 1, -4.0, 2),
    ]
    read = data(tmp_path, rows)
    low, high = (
        AnswerLikelihood(AnswerLikelihoodConfig(bins=False, direction=direction)) for direction in ("low", "high")
    )
    table = low.scores(read)
    np.testing.assert_allclose(table.score, [1.5, 0.5, np.nan, 1.5])
    assert table.invalid == {2: "its answers could not be sampled"}
    assert low.choose(read, table, 2).tolist() == [0, 3]
    np.testing.assert_allclose(high.scores(read).score, -table.score)
    assert high.choose(read, high.scores(read), 1).tolist() == [1]


def test_a_log_probability_that_is_not_finite_is_refused(tmp_path: Path) -> None:
    read = data(tmp_path, [("0", 0, -2.0, 1), ("1", 0, float("nan"), 1)])
    with pytest.raises(
        BadMeasurement, match=r"1 records have a log-probability that is not finite \(first: record 1\)"
    ):
        AnswerLikelihood(AnswerLikelihoodConfig(bins=False)).scores(read)


def test_its_cells_keep_log_probabilities_and_others_are_as_they_were() -> None:
    made, other, shared = (
        Cell(compose.compose(["selector.bins=true", *more])).nodes
        for more in (
            ["selector=answer_likelihood"],
            ["selector=answer_diversity"],
            ["selector=answer_diversity", "sampling.logprobs=true"],
        )
    )
    assert made["answers"].config.sampling.logprobs and "logprobs" not in str(other["answers"].payload)
    assert made["answers"].fingerprint == shared["answers"].fingerprint != other["answers"].fingerprint
    assert made["bins"].fingerprint == shared["bins"].fingerprint
    cell = {"answers": other["answers"], "bins": other["bins"]}
    with pytest.raises(BadInput, match=r"set sampling\.logprobs=true"):
        AnswerLikelihood(AnswerLikelihoodConfig()).inputs(cell)


def test_options_are_refused_with_the_nearest() -> None:
    with pytest.raises(BadInput, match="did you mean 'high'"):
        AnswerLikelihoodConfig(direction="hihg")
    with pytest.raises(BadInput, match="a rule about bins"):
        AnswerLikelihoodConfig(bins=False, rule="released")
