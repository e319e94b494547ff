"""Longest response first ("Long is more for alignment", arXiv 2402.04833; "Rethinking", arXiv 2402.06094).

Neither repository publishes selection code; both amount to choosing by response length, ours in tokens of the
backbone's tokenizer (default) or in characters.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from adg.artifacts.artifact import Node
from adg.backbones import loading
from adg.errors import BadInput
from adg.selection.contract import ScoreTable, Selector, SelectorData


@dataclass(frozen=True)
class LongestConfig:
    unit: str = "tokens"  # tokens of the backbone's tokenizer | characters

    def __post_init__(self) -> None:
        if self.unit not in ("tokens", "characters"):
            raise BadInput(f"selector.unit is {self.unit!r}; expected tokens or characters")


class Longest(Selector):
    """The ``budget`` longest responses; ties to the lowest id."""

    name = "longest"
    version = 2
    Config = LongestConfig

    def inputs(self, cell: Mapping[str, Node]) -> dict[str, Node]:
        return {"backbone": cell["backbone"]} if self.config.unit == "tokens" else {}

    def scores(self, data: SelectorData) -> ScoreTable:
        texts = [record.output for record in data.records]
        if self.config.unit == "characters":
            return ScoreTable(np.array([len(text) for text in texts], dtype=np.float64))
        tokenizer = loading.load_tokenizer(data.features["backbone"])
        lengths: list[int] = []
        for start in range(0, len(texts), 1000):
            batch = tokenizer(
                texts[start : start + 1000], add_special_tokens=False, split_special_tokens=True, verbose=False
            )["input_ids"]
            lengths.extend(len(ids) for ids in batch)
        return ScoreTable(np.array(lengths, dtype=np.float64))
