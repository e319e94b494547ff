"""Raw rows become records: a chat its first instruction and answer, every field text, every id distinct.

All problems are listed in one message. The rules belong to the stage: changing one means a new version of ``pool``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from adg.errors import BadInput
from adg.pools.config import FieldMap, PoolConfig
from adg.pools.readers import UNREADABLE, Raw
from adg.pools.records import Record, key, order

SHOWN = 20  # problems printed in one message
CHAT_FIELDS = ("messages", "conversations")
ROLES = {
    "human": "human",
    "user": "human",
    "prompter": "human",
    "gpt": "answer",
    "assistant": "answer",
    "chatgpt": "answer",
    "model": "answer",
    "system": "system",
}


def validate(
    source: str, raw: Raw, problems: list[str], cfg: PoolConfig
) -> tuple[list[tuple[Record, dict[str, Any]]], list[tuple[int | str, str]], dict[str, int]]:
    """Kept (record, original row) pairs and dropped (id, reason) pairs, both in canonical order, and counts.

    Raises one ``BadInput`` that lists every problem of the pool.
    """
    if cfg.expected_rows is not None and len(raw) != cfg.expected_rows:
        problems = [f"{source}: has {len(raw)} rows, expected {cfg.expected_rows} (pool.expected_rows)", *problems]
    if not raw:
        problems = [*problems, f"{source}: holds no rows"]
    else:
        unmapped = _unmapped(source, raw, cfg.fields)
        if unmapped:  # every row would repeat the same complaint
            _refuse(source, [*problems, *unmapped], len(raw))
    kept: list[tuple[Record, dict[str, Any]]] = []
    dropped: list[tuple[int | str, str]] = []
    counts = dict.fromkeys(("empty_instruction", "empty_output", "over_long", "multi_turn", "system_turn"), 0)
    seen: dict[str, str] = {}
    for position, (where, row) in enumerate(raw):
        if row is UNREADABLE:
            continue
        if not isinstance(row, Mapping):
            problems.append(f"{source}: {where}: expected an object, found {type(row).__name__}")
            continue
        id, wrong = _id(row, position, cfg.fields.id)
        texts, also, flags = _texts(row, cfg.fields)
        wrong += also
        if id is not None and (first := seen.setdefault(key(id), where)) is not where:
            wrong.append(f"the id is already used at {first}")
        record = Record(position if id is None else id, *texts)
        length = sum(map(len, texts))
        found = []  # (count, rule, reason)
        if not wrong and not record.instruction.strip():
            hint = "; pool.empty_instruction=drop leaves it out" if cfg.empty_instruction == "refuse" else ""
            found.append(("empty_instruction", cfg.empty_instruction, "missing or empty instruction" + hint))
        if not wrong and not record.output.strip():
            found.append(("empty_output", cfg.empty_output, "empty output"))
        if cfg.max_chars is not None and length > cfg.max_chars:
            found.append(("over_long", cfg.over_long, f"over-long ({length} characters, limit {cfg.max_chars})"))
        for name in [name for name, _, _ in found] + flags:
            counts[name] += 1
        wrong += [reason for _, rule, reason in found if rule == "refuse"]
        shown = "no usable id" if id is None else f"id {key(id)}"
        problems.extend(f"{source}: {where}: {shown}: {text}" for text in wrong)
        reasons = [reason for _, rule, reason in found if rule == "drop"]
        if reasons:
            dropped.append((record.id, "; ".join(reasons)))
        elif not wrong:
            kept.append((record, dict(row)))
    if not problems and not kept:
        problems = [f"{source}: all {len(raw)} rows would be dropped (pool.empty_output, pool.over_long)"]
    if problems:
        _refuse(source, problems, len(raw))
    kept.sort(key=lambda entry: order(entry[0].id))
    dropped.sort(key=lambda entry: order(entry[0]))
    return kept, dropped, counts


def _refuse(source: str, problems: list[str], rows: int) -> None:
    more = len(problems) - SHOWN
    plural = "s" if len(problems) != 1 else ""
    raise BadInput(
        f"{source}: {len(problems)} problem{plural} in {rows} rows\n  "
        + "\n  ".join(problems[:SHOWN])
        + (f"\n  and {more} more" if more > 0 else "")
        + "\nCorrect the file or the pool's config and run the same command again"
    )


def _unmapped(source: str, raw: Raw, fields: FieldMap) -> list[str]:
    """Mapped fields that no row has, where that cannot be meant."""
    rows = [row for _, row in raw if isinstance(row, Mapping)]
    known = list(dict.fromkeys(str(name) for row in rows for name in row))
    chat = fields.messages in known if fields.messages else any(name in known for name in CHAT_FIELDS)
    defaults = FieldMap()
    wanted = {"id": fields.id if fields.id != defaults.id else None, "messages": fields.messages}
    if not chat:
        wanted |= {
            "instruction": fields.instruction,
            "output": fields.output,
            "input": fields.input if fields.input != defaults.input else None,
        }
    hints = {"output": ", or pool.fields.output=null if there are no answers"}
    return [
        f"{source}: no row has the field '{name}'; rows have {known[:20]}. "
        f"Set pool.fields.{role}=<field>{hints.get(role, '')}"
        for role, name in wanted.items()
        if name is not None and rows and name not in known
    ]


def _id(row: Mapping[str, Any], position: int, name: str) -> tuple[int | str | None, list[str]]:
    """The row's id (its position, from 0, when it has none), or None and what is wrong with it."""
    value = row.get(name)
    if value is None:
        return position, []
    if isinstance(value, bool) or not isinstance(value, (int, str)):
        return None, [f"'{name}' is {value!r:.60} ({type(value).__name__}), expected an integer or text"]
    if value == "" or (isinstance(value, str) and not _encodable(value)):
        return None, [f"'{name}' is {value!r:.60}, expected text that is not empty and is valid Unicode"]
    return value, []


def _texts(row: Mapping[str, Any], fields: FieldMap) -> tuple[tuple[str, str, str], list[str], list[str]]:
    """Instruction, input and output of a row, what is wrong with them, and which counts it adds to."""
    chat = fields.messages
    if chat is None and fields.instruction not in row:
        chat = next((name for name in CHAT_FIELDS if name in row), None)
    if chat is not None:
        return _conversation(row.get(chat), chat)
    texts, wrong = [], []
    for name in (fields.instruction, fields.input, fields.output):
        value = None if name is None else row.get(name)
        text = value if isinstance(value, str) else ""
        if value is not None and not isinstance(value, str):
            wrong.append(f"'{name}' is {value!r:.60} ({type(value).__name__}), expected text")
        elif not _encodable(text):
            wrong.append(f"'{name}' holds half of a surrogate pair, which is not valid Unicode")
            text = ""
        texts.append(text)
    return (texts[0], texts[1], texts[2]), wrong, []


def _conversation(turns: Any, name: str) -> tuple[tuple[str, str, str], list[str], list[str]]:
    """The first question and its answer: from/value (ShareGPT) or role/content turns.

    Instruction: the first human turn, with the human turns right after it joined by a line feed. Output: the answer
    that follows. Every other human or answer turn is left out and the row counted as ``multi_turn``; a system turn
    is left out too, since the template has no place for it, and counted as ``system_turn``. Both stay in
    ``original.jsonl``.
    """
    if not isinstance(turns, list):
        return ("", "", ""), [f"'{name}' is {type(turns).__name__}, expected a list of turns"], []
    wrong, said = [], []
    for number, turn in enumerate(turns, 1):
        turn = turn if isinstance(turn, Mapping) else {}
        role, text = turn.get("role", turn.get("from")), turn.get("content", turn.get("value"))
        if not isinstance(role, str) or role.lower() not in ROLES:
            wrong.append(f"'{name}' turn {number} has role {role!r:.40}, expected one of {', '.join(ROLES)}")
        elif not isinstance(text, str) or not _encodable(text):
            wrong.append(f"'{name}' turn {number} has no valid text, found {type(text).__name__}")
        else:
            said.append((ROLES[role.lower()], text))
    spoken = [turn for turn in said if turn[0] != "system"]
    flags = ["system_turn"] if len(spoken) < len(said) else []
    start = next((i for i, (role, _) in enumerate(spoken) if role == "human"), len(spoken))
    stop = next((i for i in range(start, len(spoken)) if spoken[i][0] == "answer"), len(spoken))
    instruction = "\n".join(text for _, text in spoken[start:stop])
    output = spoken[stop][1] if stop < len(spoken) else ""
    if start > 0 or stop + 1 < len(spoken):
        flags.append("multi_turn")
    if not wrong and start == len(spoken):
        wrong.append(f"'{name}' has no human turn, so no instruction")
    return (instruction, "", output), wrong, flags


def _encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
