"""Text of models and of data on its way out: made safe for a terminal, a page, a Markdown table and a spreadsheet.

A model may write anything, and so may a pool: terminal escapes, marks that turn the direction of writing, markup, or
a cell that a spreadsheet would take for a formula. Shown is what was written, never what it would do.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

from adg.printable import hidden, printable

REPORT = re.compile(r"\.\./[\w.+=-]+/index\.html")  # another report beside this one
FORMULA = tuple("=+-@\t\r\n\uff1d\uff0b\uff0d\uff20")  # a spreadsheet calculates what begins with one, full width too


def json_line(text: str) -> str:
    """A line of JSON that holds such characters only as escapes; it reads back to the same value."""
    return "".join(
        "".join(f"\\u{int.from_bytes(unit, 'big'):04x}" for unit in _units(c)) if hidden(c) else c for c in text
    )


def markup(text: str) -> str:
    """``text`` for Markdown outside of code: no HTML, no link and no image comes out of it."""
    return escape(printable(text), quote=False).replace("](", "]\\(")


def comma_separated(rows: Iterable[Sequence[Any]]) -> str:
    """Rows as CSV, without control characters. A text that a spreadsheet would calculate is led by an apostrophe;
    numbers stay numbers."""
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows([[_cell(value) for value in row] for row in rows])
    return out.getvalue()


def _cell(value: Any) -> Any:
    if not isinstance(value, str) or not value.lstrip(" ").startswith(FORMULA):
        return printable(value) if isinstance(value, str) else value
    try:
        float(value)
    except ValueError:
        return "'" + printable(value)
    return value


def _units(character: str) -> list[bytes]:
    """UTF-16 code units, as JSON spells characters."""
    coded = character.encode("utf-16-be", "surrogatepass")
    return [coded[i : i + 2] for i in range(0, len(coded), 2)]
