"""Longest: what a response's length is."""

from __future__ import annotations

from typing import Any

import pytest

from adg.errors import BadInput
from adg.pools.records import Record
from adg.selection.contract import SelectorData, select
from baselines.longest import Longest, LongestConfig

POOL = [Record(i, "say", "", text) for i, text in enumerate(["one two three", "", "</s>", "wörter", "one two three"])]


def test_tokens_of_the_text_as_text(tiny_backbone: Any, tiny_tokenizer: Any) -> None:
    data = SelectorData(list(POOL), {"backbone": tiny_backbone})
    marks = [token for token in tiny_tokenizer.all_special_tokens if token]
    data.records[2] = Record(2, "say", "", marks[0])
    selector = Longest(LongestConfig())
    table = selector.scores(data)
    assert table.score[1] == 0 and table.score[2] > 1, "a special token that is spelt out is a text"
    found = select(selector, data, table, 5).tolist()
    assert found.index(0) < found.index(4) and found[-1] == 1, "ties to the lowest id, the empty one last"


def test_characters_need_no_tokenizer() -> None:
    selector = Longest(LongestConfig(unit="characters"))
    assert selector.inputs({}) == {}
    assert selector.scores(SelectorData(POOL, {})).score.tolist() == [13, 0, 4, 6, 13]
    with pytest.raises(BadInput):
        LongestConfig(unit="words")
