"""A row on its way from a file to a record: where it stands, what it holds, and what was made of it.

Nothing here bears identity.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

UNREADABLE = object()  # content of a row that could not be read: later rows keep their positions


class RawRow(NamedTuple):
    """Where a row stands in its source ("line 4", "b.parquet: row 4"; from 1) and what it is, usually a dict."""

    where: str
    content: Any


@dataclass
class MappedRow:
    """The three texts of a row, what is wrong with them, and what a reader of the pool must know.

    ``not_text`` says why the row is no exchange of texts (a tool turn, an image); "" where it is one. ``counts`` names
    the counts of the pool that the row adds to (``multi_turn``, ``system_turn``, ``preference``, ...).
    """

    instruction: str = ""
    input: str = ""
    output: str = ""
    problems: list[str] = field(default_factory=list)
    not_text: str = ""
    counts: set[str] = field(default_factory=set)

    @property
    def characters(self) -> int:
        return len(self.instruction) + len(self.input) + len(self.output)


def first_value(row: Mapping[str, Any], *names: str) -> Any:
    """The first of these fields that holds something other than null; None where none does.

    A table fills the columns of other rows' layouts with null, so a field that is null is a field that is not there.
    """
    return next((row[name] for name in names if row.get(name) is not None), None)


def is_unicode(text: str) -> bool:
    """Whether ``text`` can be written as UTF-8: half of a surrogate pair cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
