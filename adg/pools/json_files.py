"""Rows of a JSON Lines file (one object a line) and of a JSON file (one list of objects), each with its line.

Nothing here bears identity: the digest of what was read does.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from adg.pools.rows import UNREADABLE, RawRow

BOM = b"\xef\xbb\xbf"
_SPACE = re.compile(r"[ \t\r\n]*")


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


_DECODER = json.JSONDecoder(parse_constant=_no_constant)


def json_lines(data: bytes, source: str) -> tuple[list[RawRow], list[str]]:
    """One object a line; blank lines are passed over. Only line feeds end a line (U+2028 is text)."""
    rows: list[RawRow] = []
    problems: list[str] = []
    lines = [(number, line) for number, line in enumerate(data.removeprefix(BOM).split(b"\n"), 1) if line.strip()]
    if fault := _not_lines(data, lines, source):
        return [], [fault]
    for number, line in lines:
        try:
            content = _DECODER.decode(line.decode())
        except (ValueError, RecursionError) as error:
            problems.append(f"{source}: line {number}: malformed ({error})")
            content = UNREADABLE
        rows.append(RawRow(f"line {number}", content))
    return rows, problems


def _not_lines(data: bytes, lines: list[tuple[int, bytes]], source: str) -> str:
    """What a file is whose first line is no object and which is one value over several lines; "" for all others."""
    first = lines[0][1].strip() if lines else b""
    if first[:1] == b"[" and (len(lines) == 1 or not _decodes(first)):
        return f"{source}: begins as a list ('['), expected one object a line; if it is one list set pool.format=json"
    if first[:1] == b"{" and len(lines) > 1 and not _decodes(first):
        try:
            text = data.removeprefix(BOM).decode()
            _, end = _DECODER.raw_decode(text, _skip(text, 0))
        except (ValueError, RecursionError):
            return ""
        if "\n" in text[:end].strip():
            return (
                f"{source}: line {lines[0][0]}: an object stands over several lines, expected one object a line; "
                f"write each on one line (jq -c . {source} > rows.jsonl)"
            )
    return ""


def _decodes(line: bytes) -> bool:
    try:
        _DECODER.decode(line.decode())
    except (ValueError, RecursionError):
        return False
    return True


def begins_with_lines(head: bytes) -> bool:
    """Whether what a ".json" file begins with is one object a line: the first line is an object, and others follow."""
    first, end, rest = head.removeprefix(BOM).lstrip().partition(b"\n")
    return first[:1] == b"{" and bool(end and rest.strip()) and _decodes(first)


def json_list(data: bytes, source: str) -> tuple[list[RawRow], list[str]]:
    """A list of objects, decoded one by one so that each has its line; reading ends at the first malformed one."""
    try:
        text = data.removeprefix(BOM).decode()
    except UnicodeDecodeError as error:
        return [], [f"{source}: not UTF-8 ({error})"]
    start = _skip(text, 0)
    if text[start : start + 1] != "[":
        return [], [f"{source}: {_not_a_list(text, start, source)}"]
    rows: list[RawRow] = []
    line, counted, at = 1, 0, _skip(text, start + 1)
    while text[at : at + 1] != "]" or rows:
        line, counted = line + text.count("\n", counted, at), at
        try:
            content, at = _DECODER.raw_decode(text, at)
        except (ValueError, RecursionError) as error:
            return rows, [f"{source}: line {line}: malformed ({error}); nothing after it was read"]
        rows.append(RawRow(f"line {line}", content))
        at = _skip(text, at)
        if text[at : at + 1] == "]":
            break
        if text[at : at + 1] != ",":
            line += text.count("\n", counted, at)
            return rows, [
                f"{source}: line {line}: malformed (expected ',' or ']', found {text[at : at + 10]!r}); "
                f"nothing after it was read"
            ]
        at = _skip(text, at + 1)
    if rest := text[_skip(text, at + 1) :]:
        return rows, [f"{source}: malformed (text after the closing bracket: {rest[:20]!r})"]
    return rows, []


def _skip(text: str, position: int) -> int:
    """The position of the first character from ``position`` on that is no white space."""
    return _SPACE.match(text, position).end()  # type: ignore[union-attr]


def _not_a_list(text: str, start: int, source: str) -> str:
    """What a file holds that does not begin with a bracket, and how to make a list of it."""
    try:
        value, end = _DECODER.raw_decode(text, start)
    except (ValueError, RecursionError) as error:
        if text[start : start + 1] == "{":
            return f"line {text.count(chr(10), 0, start) + 1}: malformed ({error}); nothing was read"
        return f"expected a list of objects, found {text[start : start + 20]!r}"
    if text[_skip(text, end) :]:
        return (
            "several values one after another, expected a list of objects; for one object a line set "
            f"pool.format=jsonl, for objects over several lines write a list (jq -s . {source} > rows.json)"
        )
    if not isinstance(value, Mapping):
        return f"expected a list of objects, found {value!r:.40}"
    lists = [name for name, inner in value.items() if isinstance(inner, list) and inner and isinstance(inner[0], dict)]
    if lists and not {"messages", "conversations"} & set(lists):
        return (
            f"one object, not a list of objects; it holds a list of {len(value[lists[0]]):,} objects under "
            f"'{lists[0]}': write that list alone (jq '.[\"{lists[0]}\"]' {source} > rows.json)"
        )
    return f"one object with the fields {list(value)[:20]}, not a list of objects; write it between [ and ]"
