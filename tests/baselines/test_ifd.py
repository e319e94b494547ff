"""IFD against the official scripts' output (Cherry_LLM 01fac8d, see tests/golden/ifd.json), its rules and refusals."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from adg.errors import BadInput
from adg.pools.records import Record
from adg.selection.contract import ScoreTable, SelectorData, select
from baselines.ifd import Ifd, IfdConfig
from baselines.shared import losses as losses_stage
from baselines.shared.loss_texts import LossesConfig, LossTexts, Text
from baselines.shared.losses import Losses


@pytest.fixture(scope="session")
def official(golden: Path) -> dict[str, Any]:
    return json.loads((golden / "ifd.json").read_text())


@pytest.fixture
def run(measured: Callable, golden_pool: list, golden_tokenizer: Callable) -> Callable[..., tuple]:
    def made(**options: Any) -> tuple[Ifd, SelectorData, ScoreTable]:
        selector = Ifd(IfdConfig(**options))
        data = measured(selector, golden_pool, golden_tokenizer(True))
        return selector, data, selector.scores(data)

    return made


@pytest.mark.parametrize("variant", ["released", "released_vic"])
def test_official_scores(run: Callable, official: dict, variant: str) -> None:
    _, _, table = run(variant=variant)
    expected = np.array([np.nan if v is None else v for v in official["ifd_score"]])
    np.testing.assert_allclose(table.parts["ifd"], expected, rtol=1e-9)
    assert {row for row in table.invalid if "above 1" in table.invalid[row]} == set(np.flatnonzero(expected > 1))
    assert table.invalid[144] == "the response is empty"
    assert table.invalid[157] == "the prompt fills all 512 tokens"
    assert np.isnan(table.score[list(table.invalid)]).all()


def test_official_numbers_of_tokens(run: Callable, official: dict, golden_tokenizer: Callable) -> None:
    """Positions with a loss: those of the alone text begin after the head, of the other after the prompt."""
    _, data, table = run(variant="released")
    layout = LossTexts(LossesConfig(slack=4), golden_tokenizer(True))
    head = layout.head_tokens
    for row, (alone, conditioned) in enumerate(official["n_token_loss"]):
        if row in (144, 157):
            continue
        prompt = len(layout.encode(layout.prompt(data.records[row])))
        assert table.parts["tokens_alone"][row] == alone - (head - 1), row
        assert table.parts["tokens_conditioned"][row] == conditioned - (prompt - 1), row


def test_official_selections(run: Callable, official: dict) -> None:
    """Both generations: ties at 3, 140 and 141 go to the highest id in the first, to the lowest in the later one."""
    selector, data, table = run(variant="released")
    first = official["first_generation_selections"]
    assert select(selector, data, table, 20).tolist() == first["--sample_number 20"]
    assert select(selector, data, table, 1).tolist() == first["--sample_rate 0.06"] == [141]
    selector, data, table = run(variant="released_vic")
    assert select(selector, data, table, 20).tolist() == official["vic_first_20"]
    assert select(selector, data, table, 1).tolist() == [3]


CHAT = (
    "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, "
    "detailed, and polite answers to the user's questions. USER: Name a town"
)


@pytest.mark.parametrize(
    ("prompt", "plain", "with_input", "head", "constant"),
    [
        ("wiz", "Name a town\n\n### Response:", "Name a town\nin France\n\n### Response:", "### Response:", 4),
        ("vicuna", f"{CHAT} ASSISTANT:", f"{CHAT}\nInput:\nin France ASSISTANT:", "ASSISTANT:", 6),
    ],
)
def test_prompts_and_constants_of_the_later_scripts(
    golden_cell: dict, golden_tokenizer: Callable, prompt: str, plain: str, with_input: str, head: str, constant: int
) -> None:
    """A long response: M tokens after its prompt P, and M - |P| + c alone, of which the head's have no loss."""
    selector = Ifd(IfdConfig(prompt=prompt, variant="released_vic", max_tokens=300))
    tokenizer = golden_tokenizer(True)
    layout = LossTexts(selector.inputs(golden_cell)["losses"].config.losses, tokenizer)
    for text, expected in (("", plain), ("in France", with_input)):
        record = Record(0, "Name a town", text, "Lyon is one. " * 200)
        assert layout.prompt(record) == expected
        conditioned, alone = layout.texts(record)
        assert isinstance(conditioned, Text) and isinstance(alone, Text)
        size, own_head = len(tokenizer(expected).input_ids), len(tokenizer(head).input_ids)
        assert (len(conditioned.ids), conditioned.start) == (300, size)
        assert (len(alone.ids), alone.start) == (300 - size + constant, own_head)
        assert tokenizer.decode(alone.ids[1:]).startswith(f"{head}Lyon is one.")


def test_copies_tie_exactly_and_go_to_the_lowest_id(run: Callable) -> None:
    selector, data, table = run()
    assert table.score[3] == table.score[140] == table.score[141]
    assert select(selector, data, table, 2).tolist() == [3, 140]


def test_the_corrected_cut_keeps_the_same_response_tokens(run: Callable) -> None:
    _, _, ours = run()
    _, _, theirs = run(variant="released")
    same = ours.valid & theirs.valid
    assert (ours.parts["tokens_alone"] == ours.parts["tokens_conditioned"])[ours.valid].mean() > 0.95
    cut = same & (ours.parts["tokens_alone"] != theirs.parts["tokens_alone"])
    assert cut.any(), "the golden pool has responses that are cut"
    assert (ours.parts["tokens_alone"] - theirs.parts["tokens_alone"])[cut].max() > 0
    np.testing.assert_array_equal(ours.score[same & ~cut], theirs.score[same & ~cut])


def test_a_budget_above_the_records_up_to_one_is_refused_with_their_number(run: Callable) -> None:
    selector, data, table = run()
    usable = int(table.valid.sum())
    assert len(select(selector, data, table, usable)) == usable
    with pytest.raises(BadInput, match=f"only {usable} of 160 records have a score .*IFD above 1.*allow_above_one"):
        select(selector, data, table, usable + 1)


def test_records_above_one_come_last_nearest_to_one_first(run: Callable) -> None:
    selector, data, table = run(allow_above_one=True)
    ranked = table.score[select(selector, data, table, 158)]
    up_to_one = int((ranked <= 1).sum())
    assert 20 < up_to_one < 158
    assert (np.diff(ranked[:up_to_one]) <= 0).all() and (np.diff(ranked[up_to_one:]) >= 0).all()
    assert (ranked[up_to_one:] > 1).all()


def test_exactly_one_is_kept_and_a_loss_of_zero_is_no_score(tmp_path: Path) -> None:
    from adg.artifacts.artifact import Artifact

    ids = ["0", "1", "2", "3"]
    values = np.array([2.0, 2.0, 1.0, 0.0]), np.array([2.0, 1.0, 0.0, 0.0])
    counts, reasons = np.ones(4, dtype=np.int64), [""] * 4
    losses_stage.save(tmp_path / "losses.parquet", Losses(ids, values[0], counts, values[1], counts, reasons, reasons))
    data = SelectorData(
        [Record(i, "a", "", "b") for i in range(4)],
        {"losses": Artifact(tmp_path, {"files": {"losses.parquet": {}}, "info": {}})},
    )
    table = Ifd(IfdConfig(allow_above_one=True)).scores(data)
    table.check(4)
    assert table.score[:2].tolist() == [1.0, 2.0] and sorted(table.invalid) == [2, 3]
    assert "is 0" in table.invalid[2]
    assert Ifd(IfdConfig()).scores(data).valid.tolist() == [True, False, False, False]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prompt": "none"}, "alpaca, wiz, vicuna"),
        ({"variant": "official"}, "corrected, released, released_vic"),
        ({"variant": "released", "prompt": "wiz"}, "use released_vic"),
        ({"variant": "released", "allow_above_one": True}, "belongs to selector.variant=corrected"),
    ],
)
def test_refusals(options: dict, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        IfdConfig(**options)
