"""Which field of a row holds what: a row becomes three texts, whether it is a chat or has a field for each.

The rule belongs to the stage: changing what is made of a row that was accepted before means a new version of ``pool``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from adg.pools.chat import CHAT_FIELDS, answer_in, first_exchange
from adg.pools.config import FieldMap
from adg.pools.rows import MappedRow, is_unicode

MEDIA_FIELDS = ("image", "images", "video", "videos", "audio", "audios")
PLACEHOLDERS = ("<image>", "<video>", "<audio>")
PAIR = ("chosen", "rejected")  # of preference data
USUAL = {  # names that other data sets give to a field, for a message to propose
    "instruction": ("prompt", "question", "query", "problem"),
    "output": ("response", "answer", "completion", "target", "solution", "chosen"),
}


def mapped(row: Mapping[str, Any], fields: FieldMap) -> MappedRow:
    """Instruction, input and output of a row, and what is to be said of it."""
    chat = _chat_field(row, fields)
    result = _flat(row, fields) if chat is None else first_exchange(row.get(chat), chat)
    if chat is not None and not result.output.strip() and fields.output not in (None, FieldMap().output):
        result.output = answer_in(row.get(str(fields.output))) or ""
    if all(row.get(name) for name in PAIR):
        result.counts.add("preference")
    text = f"{result.instruction}{result.input}"
    if any(mark in text for mark in PLACEHOLDERS):
        result.counts.add("placeholder")
    media = next((name for name in MEDIA_FIELDS if row.get(name)), None)
    if media is not None:
        result.counts.add("media")
        if "placeholder" in result.counts and not result.not_text:
            result.not_text = f"the text refers to what '{media}' holds ({next(m for m in PLACEHOLDERS if m in text)})"
    return result


def _chat_field(row: Mapping[str, Any], fields: FieldMap) -> str | None:
    """The field with the row's turns; None where the row has a field for each text."""
    if fields.messages is not None and row.get(fields.messages) is not None:
        return fields.messages
    written = row.get(fields.instruction)
    chat = next((name for name in CHAT_FIELDS if row.get(name)), None) if fields.messages is None else None
    if written is not None and (chat is None or not isinstance(written, str) or written.strip()):
        return None
    return fields.messages or chat or next((name for name in CHAT_FIELDS if row.get(name) is not None), None)


def _flat(row: Mapping[str, Any], fields: FieldMap) -> MappedRow:
    """A row with a field for each text (Alpaca). ``history`` and ``system`` are counted as the turns of chats are."""
    result = MappedRow()
    for role in ("instruction", "input", "output"):
        name = getattr(fields, role)
        value = None if name is None else row.get(name)
        text = value if isinstance(value, str) else ""
        if isinstance(value, (Mapping, list)) and role == "output" and (answer := answer_in(value)) is not None:
            text = answer
        elif value is not None and not isinstance(value, str):
            result.problems.append(f"'{name}' is {value!r:.60} ({type(value).__name__}), expected text")
        if not is_unicode(text):
            result.problems.append(f"'{name}' holds half of a surrogate pair, which is not valid Unicode")
            text = ""
        setattr(result, role, text)
    if row.get("history"):
        result.counts.add("multi_turn")
    if isinstance(system := row.get("system"), str) and system.strip():
        result.counts.add("system_turn")
    return result


def unmapped(rows: Sequence[Mapping[str, Any]], fields: FieldMap) -> str:
    """What to say where a mapped field is in no row and that cannot be meant; "" otherwise."""
    names = list(dict.fromkeys(str(name) for row in rows for name, value in row.items() if value is not None))
    chat = fields.messages in names if fields.messages else any(name in names for name in CHAT_FIELDS)
    usual = FieldMap()
    wanted = {"messages": fields.messages, "id": fields.id if fields.id != usual.id else None}
    if not chat:
        wanted |= {
            "instruction": fields.instruction,
            "input": fields.input if fields.input != usual.input else None,
            "output": fields.output,
        }
    elif fields.output != usual.output:
        wanted["output"] = fields.output
    absent = {role: name for role, name in wanted.items() if name is not None and name not in names}
    if not rows or not absent:
        return ""
    turns = next((name for name in names if _is_chat(next((row[name] for row in rows if row.get(name)), None))), None)
    if turns is not None and "instruction" in absent:
        remedy = f"pool.fields.messages={turns}"
        if "output" in absent and (beside := _proposed("output", [name for name in names if name != turns])) in names:
            remedy += f" pool.fields.output={beside}"
    else:
        remedy = " ".join(f"pool.fields.{role}={_proposed(role, names)}" for role in absent)
    text = (
        f"no row has the field{'s' * (len(absent) > 1)} {', '.join(map(repr, absent.values()))}; "
        f"rows have {names[:20]}. Set {remedy}"
    )
    if list(absent) == ["output"]:
        text += ", or pool.fields.output=null if there are no answers"
    return text


def _is_chat(value: Any) -> bool:
    return (
        isinstance(value, list)
        and bool(value)
        and isinstance(value[0], Mapping)
        and not first_exchange(value, "").problems
    )


def _proposed(role: str, names: Sequence[str]) -> str:
    return next((name for name in USUAL.get(role, ()) if name in names), "<field>")
