"""Log-probabilities of names after contexts: those of plain passes, alone or together, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from adg.backbones.packed import Tree
from adg.errors import BadInput
from adg.tasktypes.likelihood import NameScorer

PREFIX, NAMES = [1, 40, 41, 42, 43], [[50], [51, 52, 53], [51, 54], [55]]
CONTEXTS = [[60, 61, 62, 63, 64, 65, 66], [70], [71, 72, 73, 74]]


def plainly(model: Any, ids: list[int], name: list[int]) -> float:
    """The sum of the name's log-probabilities, token by token, each from a pass of its own."""
    import torch

    total, seen = 0.0, list(ids)
    for token in name:
        with torch.inference_mode():
            total += float(torch.log_softmax(model(torch.tensor([seen])).logits[0, -1].double(), dim=-1)[token])
        seen.append(token)
    return total


def test_names_side_by_side_are_as_likely_as_one_by_one(tiny_model: Any) -> None:
    scorer = NameScorer(tiny_model, PREFIX, NAMES)
    together = scorer.score(CONTEXTS)
    expected = [[plainly(tiny_model, [*PREFIX, *context], name) for name in NAMES] for context in CONTEXTS]
    np.testing.assert_allclose(together, expected, atol=2e-5)
    assert np.ptp(together) > 0.1, "the names differ"
    for row, context in enumerate(CONTEXTS):
        np.testing.assert_allclose(scorer.score([context])[0], together[row], atol=2e-5)


def test_a_model_that_does_not_read_names_side_by_side_is_refused(
    tiny_model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Tree, "positions", lambda self: list(range(len(self))))
    with pytest.raises(BadInput, match=r"does not read names side by side.*choose another backbone"):
        NameScorer(tiny_model, PREFIX, NAMES)


def test_a_spoilt_model_gives_no_number(spoilt: Any, spoilt_token: tuple[int, str]) -> None:
    values = NameScorer(spoilt, PREFIX, NAMES).score([[spoilt_token[0]], [60, 61]])
    assert not np.isfinite(values[0]).any() and np.isfinite(values[1]).all()


def test_empty_names_are_refused(tiny_model: Any) -> None:
    with pytest.raises(BadInput, match="at least one token"):
        NameScorer(tiny_model, PREFIX, [[5], []])
