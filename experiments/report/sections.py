"""What stands in a report beside its table: a figure, a small table, a few sentences.

Plain data, so that Markdown, CSV, HTML and a terminal print the same thing. A value that was not measured is a word
in its place, never a number.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from adg.errors import BadInput


@dataclass(frozen=True)
class Section:
    """One analysis. ``name`` is the stem of its files; ``svg`` a figure; ``body`` rows of text as long as ``head``.

    ``brief`` is what a terminal says of it below a table of scores, where the analyses themselves have no room.
    """

    name: str
    title: str
    text: Sequence[str] = ()
    head: Sequence[str] = ()
    body: Sequence[Sequence[str]] = ()
    svg: str = ""
    brief: Sequence[str] = ()

    def __post_init__(self) -> None:
        for number, row in enumerate(self.body):
            if len(row) != len(self.head):
                raise BadInput(f"row {number} of section {self.name} has {len(row)} cells; expected {len(self.head)}")
