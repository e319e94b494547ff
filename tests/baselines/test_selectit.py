"""SelectIT: the formula by hand, ratings as the model gives them, both variants, faults."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from adg import prompts
from adg.artifacts.artifact import Job
from adg.artifacts.store import Store
from adg.backbones import loading
from adg.backbones import stage as backbone_stage
from adg.backbones.config import BackboneConfig
from adg.errors import BadInput, BadMeasurement, NotRunnable
from adg.execution import ExecConfig
from adg.pools import records
from adg.pools import stage as pool_stage
from adg.pools.config import PoolConfig
from adg.pools.records import Record
from adg.selection.contract import ScoreTable, SelectorData, select
from baselines import selectit
from baselines.selectit import Selectit, SelectitConfig
from baselines.shared import scorer_stage
from baselines.shared.loss_texts import Text
from baselines.shared.scorer import Scorer

TINY = BackboneConfig(name="tiny_random", builder="tiny_random", dtype="float32")
POOL = PoolConfig(name="mini", path="mini:evolved.jsonl", rows=9)


# -- the formula -----------------------------------------------------------------------------------------


def test_the_formula_by_hand() -> None:
    """Two prompts: 0.5 on "4" and 0.125 on each other one, then "1" for certain; token scores 4 x 0.375 and 1 x 1."""
    p = np.array([[[0.125, 0.125, 0.125, 0.5, 0.125], [1.0, 0.0, 0.0, 0.0, 0.0]]])
    with np.errstate(divide="ignore"):
        logs = np.log(p * 0.01)  # what the model gives to the five words is a small share of everything
    score, rating, deviation = selectit.rate(logs, 0.2, released=False)
    assert (rating[0], deviation[0]) == (2.5, pytest.approx(0.25))
    assert score[0] == pytest.approx(1.25 / (1 + 0.2 * 0.25))


def test_the_released_second_softmax_by_hand() -> None:
    logs = np.log(np.array([[[0.1, 0.1, 0.1, 0.1, 0.6]]]))
    top, other = math.exp(0.6), math.exp(0.1)
    total = top + 4 * other
    score, _, deviation = selectit.rate(logs, 0.2, released=True)
    assert score[0] == pytest.approx(5 * (top - other) / total) and deviation[0] == 0
    assert selectit.rate(logs, 0.2, released=False)[0][0] == pytest.approx(5 * 0.5)


def test_equal_probabilities_are_a_rating_without_a_margin() -> None:
    score, rating, _ = selectit.rate(np.full((1, 5, 5), -7.0), 0.2, released=False)
    assert (score[0], rating[0]) == (0, 1)


def test_the_rating_does_not_depend_on_how_likely_a_number_is_at_all() -> None:
    logs = np.log(np.array([[[0.1, 0.2, 0.4, 0.2, 0.1]]]))
    same = [selectit.rate(logs - far, 0.2, released=False)[0][0] for far in (0.0, 5.0, 900.0)]
    np.testing.assert_allclose(same, same[0], rtol=1e-12)


# -- ratings ---------------------------------------------------------------------------------------------


def test_probabilities_are_those_of_the_next_token(tiny_model: Any, tiny_tokenizer: Any) -> None:
    import torch

    words = selectit.rating_tokens(tiny_tokenizer)
    assert [tiny_tokenizer.decode([word]) for word in words] == list(selectit.WORDS)
    some = [Record(i, "Count. " * i, "to nine" * (i % 2), "one two " * (5 - i)) for i in range(5)]
    texts = []
    for record in some:
        ids = prompts.encode_prompt(tiny_tokenizer, selectit.question(selectit.PROMPTS[0], record))
        texts.append(Text(np.array(ids, dtype=np.int32), len(ids)))
    found = Scorer(tiny_model).following(texts, words)
    for text, row in zip(texts, found, strict=True):
        with torch.no_grad():
            logits = tiny_model(torch.from_numpy(text.ids.astype(np.int64))[None]).logits[0, -1]
        np.testing.assert_allclose(row, torch.log_softmax(logits, -1)[words].numpy(), rtol=0, atol=1e-5)


def test_the_question() -> None:
    asked = selectit.question("Rate it.", Record(1, "Add.", "1 and 2", "3"))
    assert asked == "Rate it.\nInstruction:Add.\n1 and 2\nResponse:3\nThe answer is: \n"


def test_a_tokenizer_without_single_numbers_is_refused(tiny_tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selectit, "WORDS", ("1", "2", "3", "4", "1234"))
    with pytest.raises(BadInput, match="SelectIT cannot run with this backbone"):
        selectit.rating_tokens(tiny_tokenizer)


def ratings(pool: Any = None, **options: Any) -> Any:
    cell = {"pool": pool or pool_stage.node(POOL), "backbone": backbone_stage.node(TINY)}
    return Selectit(SelectitConfig(**options)).inputs(cell)["ratings"]


def test_the_stage_resumes_and_its_scores_have_a_row_for_every_record(tmp_path: Path) -> None:
    store = Store(tmp_path / "runs", ExecConfig(device="cpu", tokens_per_batch=400))
    wanted = ratings()
    artifact = store.ensure(wanted)
    pool = records.load(store.ensure(pool_stage.node(POOL)))
    selector = Selectit(SelectitConfig())
    data = SelectorData(pool, {"ratings": artifact})
    table = selector.scores(data)
    table.check(9)
    assert not table.invalid and (table.score >= 0).all() and len(set(table.score)) == 9
    assert ((table.parts["rating"] >= 1) & (table.parts["rating"] <= 5)).all()
    job = Job(wanted, tmp_path / "again", {role: store.ensure(n) for role, n in wanted.inputs.items()}, store.exec)
    selectit.build(job)
    shards = sorted(job.work.glob("*.shard"))
    assert len(shards) > 4
    shards[0].write_bytes(b"")
    shards[-1].unlink()
    assert selectit.build(job)["rows_out"] == 9
    assert (job.folder / "ratings.npy").read_bytes() == artifact.file("ratings.npy").read_bytes()


def test_faults_are_reasons_and_shift_nothing(
    spoilt: Any, spoilt_token: tuple[int, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [{"id": i, "instruction": f"Say {i}.", "output": f"so it is {i}"} for i in range(5)]
    rows[1]["output"] = f"so {spoilt_token[1] * 2} it is"
    rows[3]["output"] = "words and more words " * 900
    rows[4] = {**rows[0], "id": 4}
    (tmp_path / "pool.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.setattr(loading, "load_model", lambda *args, **kwargs: spoilt)
    wanted = ratings(pool_stage.node(PoolConfig(name="p", path=str(tmp_path / "pool.jsonl"))))
    with pytest.raises(BadMeasurement, match=r"their ids: 1"):
        Store(tmp_path / "a", ExecConfig(device="cpu")).ensure(wanted)
    artifact = Store(tmp_path / "b", ExecConfig(device="cpu", max_failed=1)).ensure(wanted)
    table = Selectit(SelectitConfig()).scores(
        SelectorData([Record(i, "", "", "") for i in range(5)], {"ratings": artifact})
    )
    table.check(5)
    assert table.invalid[1] == scorer_stage.FAILED
    assert table.invalid[3] == "too long to be rated: more than the backbone's 2048 positions"
    assert sorted(table.invalid) == [1, 3] and table.score[0] == table.score[4] != table.score[2]


# -- variants --------------------------------------------------------------------------------------------


def test_released_asks_the_originals_prompts_with_the_line_feed_of_their_file(tmp_path: Path) -> None:
    with pytest.raises(NotRunnable, match=r"needs the original's rating prompts: set selector\.prompts="):
        Store(tmp_path, ExecConfig(device="cpu")).ensure(ratings(variant="released"))
    path = tmp_path / "prompts.txt"
    path.write_text("\n".join(f"Prompt {i}." for i in range(9)))
    released = ratings(variant="released", prompts=str(path)).config
    assert released.prompts == tuple(f"Prompt {i}.\n" for i in range(5)) and not released.lacking
    assert ratings(prompts=str(path), count=2).config.prompts == ("Prompt 0.", "Prompt 1.")
    assert ratings(prompts=str(path)).fingerprint != ratings().fingerprint
    with pytest.raises(BadInput, match="has 9 rating prompts"):
        ratings(prompts=str(path), count=10)
    with pytest.raises(BadInput, match="which is not a file"):
        ratings(prompts=str(tmp_path / "none.txt"))


def test_ties() -> None:
    table = ScoreTable(np.array([1.0, 2.0, 2.0, np.nan]), {}, {3: scorer_stage.FAILED})
    data = SelectorData([Record(i, "a", "", "b") for i in range(4)])
    assert select(Selectit(SelectitConfig()), data, table, 3).tolist() == [1, 2, 0]
    assert select(Selectit(SelectitConfig(variant="released")), data, table, 3).tolist() == [2, 1, 0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"variant": "official"}, "corrected, released"),
        ({"count": 0}, "1 rating prompt"),
        ({"alpha": -0.1}, "0 or more"),
        ({"dtype": "int8"}, "float32"),
    ],
)
def test_refusals(options: dict, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        SelectitConfig(**options)
