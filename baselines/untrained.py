"""Row 0 of every table: the backbone as it is, evaluated without any training.

What each other row gained or lost by its training is the difference to this one. Nothing is selected, so the rows of
all pools are one evaluation.
"""

from __future__ import annotations

from baselines.all import All


class Untrained(All):
    """The backbone itself; as a choice of records it is the whole pool, on which nothing is trained."""

    name = "untrained"
    trains = False
