"""The stage: types by hand from plain log-probabilities, kills, faults, and what bears identity."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from adg import prompts
from adg.artifacts.store import Store
from adg.backbones import loading
from adg.backbones import stage as backbone_stage
from adg.backbones.config import BackboneConfig
from adg.errors import BadInput, BadMeasurement
from adg.execution import ExecConfig
from adg.pools import records
from adg.pools import stage as pool_stage
from adg.pools.config import PoolConfig
from adg.tasktypes import labels, stage
from adg.tasktypes.config import TaskTypesConfig
from adg.tasktypes.labels import CONTENT_FREE, PROBES, TYPES
from adg.tasktypes.likelihood import NameScorer

ROWS = 6
LONG = "word " * 700


@pytest.fixture
def nodes(tmp_path: Path) -> Callable[..., Any]:
    rows = [{"id": i, "instruction": f"Do thing {i}.", "output": "done"} for i in range(ROWS - 1)]
    rows.append({"id": ROWS - 1, "instruction": LONG, "output": "done"})
    (tmp_path / "pool.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    pool = pool_stage.node(PoolConfig(name="own", path=str(tmp_path / "pool.jsonl")))
    backbone = backbone_stage.node(BackboneConfig(name="tiny_random", builder="tiny_random", dtype="float32"))
    return lambda **options: stage.node(pool, backbone, TaskTypesConfig(**options))


def logs_of(model: Any, tokenizer: Any, text: str, room: int = 256) -> list[float]:
    """The log-probability of each name after ``text``, by one plain pass a name."""
    import torch

    body = prompts.encode(tokenizer, f" {text}")[:room]
    head = [
        *prompts.encode_prompt(tokenizer, labels.prefix()),
        *prompts.encode(tokenizer, labels.ASKED),
        *body,
        *prompts.encode(tokenizer, labels.ANSWERED),
    ]
    values = []
    for task_type in TYPES:
        name = prompts.encode(tokenizer, labels.name(task_type))
        with torch.inference_mode():
            logs = torch.log_softmax(model(torch.tensor([[*head, *name]])).logits[0].double(), dim=-1)
        values.append(sum(float(logs[len(head) - 1 + i, token]) for i, token in enumerate(name)))
    return values


def test_types_are_those_of_plain_log_probabilities(tmp_path: Path, nodes: Any, tiny_model: Any) -> None:
    node, store = nodes(), Store(tmp_path / "runs", ExecConfig(device="cpu"))
    artifact = store.ensure(node)
    tokenizer = loading.load_tokenizer(store.find(node.inputs["backbone"]))  # type: ignore[arg-type]
    pool = records.load(store.find(node.inputs["pool"]))  # type: ignore[arg-type]
    nothing = np.array(logs_of(tiny_model, tokenizer, CONTENT_FREE))
    expected = np.array([logs_of(tiny_model, tokenizer, record.instruction) for record in pool]) - nothing
    found = stage.load(artifact)
    np.testing.assert_allclose(found.scores, expected, atol=1e-4)
    assert found.types == [list(TYPES)[int(row.argmax())] for row in expected]
    assert found.ids == [record.key for record in pool] and found.invalid == [""] * ROWS
    assert artifact.info["cut"] == 1 and artifact.info["failed_count"] == 0
    assert sum(artifact.info["types"].values()) == ROWS
    for task_type, texts in list(PROBES.items())[:2]:
        values = np.array([logs_of(tiny_model, tokenizer, text) for text in texts]) - nothing
        right = sum(list(TYPES)[int(row.argmax())] == task_type for row in values)
        assert found.probes[task_type] == right
    plain = stage.load(store.ensure(nodes(calibrated=False)))
    np.testing.assert_allclose(plain.scores, expected + nothing, atol=1e-4)


def test_a_run_cut_short_repeats_no_batch(tmp_path: Path, nodes: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = stage.load(Store(tmp_path / "whole", ExecConfig(device="cpu")).ensure(nodes()))
    score, calls = NameScorer.score, []

    def counted(self: NameScorer, contexts: Any) -> np.ndarray:
        calls.append(len(contexts))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return score(self, contexts)

    monkeypatch.setattr(NameScorer, "score", counted)
    with pytest.raises(KeyboardInterrupt):
        Store(tmp_path / "runs", ExecConfig(device="cpu")).ensure(nodes())
    done = sum(calls[:2])
    resumed = stage.load(Store(tmp_path / "runs", ExecConfig(device="cpu")).ensure(nodes()))
    np.testing.assert_array_equal(resumed.scores, whole.scores)
    texts = ROWS + 1 + sum(map(len, PROBES.values()))
    assert sum(calls) - calls[2] == texts and sum(calls[3:]) == texts - done


def test_a_record_without_a_number_has_a_reason(tmp_path: Path, nodes: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    score = NameScorer.score

    def broken(self: NameScorer, contexts: Any) -> np.ndarray:
        values = score(self, contexts)
        values[[i for i, context in enumerate(contexts) if len(context) > 200]] = np.nan  # the long one
        return values

    monkeypatch.setattr(NameScorer, "score", broken)
    with pytest.raises(BadMeasurement, match=r"1 records gave NaN or infinity.*their ids: 5"):
        Store(tmp_path / "runs", ExecConfig(device="cpu")).ensure(nodes())
    artifact = Store(tmp_path / "more", ExecConfig(device="cpu", max_failed=1)).ensure(nodes())
    found = stage.load(artifact)
    assert found.types[5] == "" and found.invalid[5] == stage.FAILED and np.isnan(found.scores[5]).all()
    assert all(found.types[:5]) and artifact.info["failed"] == [["5", stage.FAILED]]
    monkeypatch.setattr(NameScorer, "score", lambda self, contexts: np.full((len(contexts), len(TYPES)), np.nan))
    with pytest.raises(BadMeasurement, match="where nothing is asked"):
        Store(tmp_path / "none", ExecConfig(device="cpu", max_failed=9)).ensure(nodes())


def test_options_and_words_bear_identity(nodes: Any) -> None:
    first = nodes()
    for field in dataclasses.fields(TaskTypesConfig):
        other = {"calibrated": False, "max_tokens": 10, "dtype": "bfloat16"}[field.name]
        assert nodes(**{field.name: other}).fingerprint != first.fingerprint, field.name
    assert first.payload["config"]["words"] == labels.HASH
    with pytest.raises(BadInput, match=r"task_types\.max_tokens is 0"):
        TaskTypesConfig(max_tokens=0)
    with pytest.raises(BadInput, match=r"task_types\.dtype is 'int8'"):
        TaskTypesConfig(dtype="int8")


def test_the_words_hold_together() -> None:
    assert list(PROBES) == list(TYPES) and len({len(texts) for texts in PROBES.values()}) == 1
    shown = {text for _, text in labels.EXAMPLES}
    assert not shown & {text for texts in PROBES.values() for text in texts}, "a probe is no example"
    assert {task_type for task_type, _ in labels.EXAMPLES} == set(TYPES)
