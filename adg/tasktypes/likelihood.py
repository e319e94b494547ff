"""Log-probabilities of a few fixed names after many contexts that begin alike: one pass over each context.

What all contexts begin with is run once; the names branch off from the end of each context and are read in the same
pass (``adg/backbones/packed.py``).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from adg.backbones.packed import Beginning, CannotPack, PackedModel, Tree
from adg.errors import BadInput

if TYPE_CHECKING:
    import torch


class NameScorer:
    """``prefix``: tokens that every context begins with; ``names``: tokens of each name, one or more.

    Raises ``BadInput`` where the model's attention does not take such a pass.
    """

    def __init__(self, model: Any, prefix: Sequence[int], names: Sequence[Sequence[int]]) -> None:
        if not prefix or not all(names):
            raise BadInput("a context and each name need at least one token")
        self._packed, self._names = PackedModel(model), [list(name) for name in names]
        try:
            self._packed.check(list(itertools.islice(itertools.cycle(prefix), 6)))
        except CannotPack as error:
            raise BadInput(
                f"{type(model).__name__} does not read names side by side ({error}), so types of task cannot be read "
                f"with it; choose another backbone for this experiment"
            ) from error
        self._beginning: Beginning = self._packed.begin([prefix])[0]

    def score(self, contexts: Sequence[Sequence[int]]) -> np.ndarray:
        """Sum of the log-probabilities (natural) of each name's tokens after prefix and context, (n, names) float64.

        ``contexts`` are run together, one token or more each; a value is not finite where the model gave no number.
        """
        branches = [name[:-1] for name in self._names if len(name) > 1]  # the last token of a name predicts nothing
        trees = [Tree(context, branches, self._beginning) for context in contexts]
        wanted = [range(len(context) - 1, len(tree)) for context, tree in zip(contexts, trees, strict=True)]
        return np.array([self._sums(logits) for logits in self._packed.logits(trees, wanted)])

    def _sums(self, logits: torch.Tensor) -> list[float]:
        """Of the logits (1 + the names' tokens but the last, V) at the context's end and at the names' tokens."""
        logs, sums, first = logits.float().log_softmax(dim=-1), [], 1
        for name in self._names:
            at = [0, *range(first, first + len(name) - 1)]
            sums.append(float(logs[at, name].double().sum()))
            first += len(name) - 1
        return sums
