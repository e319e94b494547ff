"""A chat record becomes an instruction and its answer: the first exchange of the conversation.

Turns are from/value (ShareGPT) or role/content (OpenAI), the content a text or a list of parts. The rule belongs to the
stage: changing what is made of a chat that was accepted before means a new version of ``pool``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from adg.pools.rows import MappedRow, first_value, is_unicode

CHAT_FIELDS = ("messages", "conversations")  # where turns are looked for, unless pool.fields.messages names the field
HUMAN, ANSWER, SYSTEM, TOOL = "human", "answer", "system", "tool"
ROLES = {
    **dict.fromkeys(("human", "user", "prompter"), HUMAN),
    **dict.fromkeys(("gpt", "assistant", "chatgpt", "model"), ANSWER),
    **dict.fromkeys(("system", "developer"), SYSTEM),
    **dict.fromkeys(
        ("tool", "tool_call", "tool_response", "tool_result", "function", "function_call", "function_response"), TOOL
    ),
    **dict.fromkeys(("observation", "ipython"), TOOL),
}
TEXT_PARTS = (None, "text", "input_text", "output_text")  # types of a part that holds text


class Turn(NamedTuple):
    """One turn of a chat; ``not_text`` names what it holds besides text ("tool_calls", "image_url"), or is ""."""

    speaker: str  # HUMAN, ANSWER, SYSTEM or TOOL
    text: str
    not_text: str


def first_exchange(content: Any, field: str) -> MappedRow:
    """Instruction and output of the conversation in ``field``.

    Instruction: the first human turn, with the human turns right after it joined by a line feed. Output: the answer
    that follows, "" where there is none. Every other human or answer turn is left out and the row counted as
    ``multi_turn``; a system or developer turn is left out too, since the template has no place for it, and counted as
    ``system_turn``. A tool turn, or a part that is not text, before the second question makes the row ``not_text``.
    """
    if isinstance(content, str):  # a column of a table may hold the list as JSON
        try:
            content = json.loads(content)
        except ValueError:
            pass
    if not isinstance(content, Sequence) or isinstance(content, str):
        return MappedRow(problems=[f"'{field}' is {type(content).__name__}, expected a list of turns"])
    turns, problems = _turns(content, field)
    spoken = [turn for turn in turns if turn.speaker != SYSTEM]
    start = next((i for i, turn in enumerate(spoken) if turn.speaker == HUMAN), len(spoken))
    answer = next((i for i in range(start, len(spoken)) if spoken[i].speaker == ANSWER), len(spoken))
    end = next((i for i in range(answer, len(spoken)) if spoken[i].speaker == HUMAN), len(spoken))
    row = MappedRow(problems=problems)
    row.instruction = "\n".join(turn.text for turn in spoken[start:answer] if turn.speaker == HUMAN)
    row.output = spoken[answer].text if answer < len(spoken) else ""
    row.not_text = next((f"'{field}' holds {turn.not_text}" for turn in spoken[start:end] if turn.not_text), "")
    if len(spoken) < len(turns):
        row.counts.add("system_turn")
    if start > 0 or answer + 1 < len(spoken):
        row.counts.add("multi_turn")
    if not problems and start == len(spoken):
        row.problems.append(f"'{field}' has no human turn, so no instruction")
    return row


def answer_in(content: Any) -> str | None:
    """The answer that a field beside the chat holds: a text, one turn, or turns whose first answer it is.

    None where it holds none, as the ``chosen`` of preference pairs may be written in each of these ways.
    """
    if isinstance(content, str):
        return content
    turns, problems = _turns(content if isinstance(content, list) else [content], "")
    return None if problems else next((turn.text for turn in turns if turn.speaker == ANSWER), None)


def _turns(content: Sequence[Any], field: str) -> tuple[list[Turn], list[str]]:
    """The turns that can be read, and what is wrong with the others."""
    turns, problems = [], []
    for number, entry in enumerate(content, 1):
        entry = entry if isinstance(entry, Mapping) else {}
        role = first_value(entry, "role", "from")
        speaker = ROLES.get(role.lower()) if isinstance(role, str) else None
        if speaker is None:
            problems.append(f"'{field}' turn {number} has role {role!r:.40}, expected one of {', '.join(ROLES)}")
            continue
        said = first_value(entry, "content", "value")
        text, other = _text(said)
        call = next((name for name in ("tool_calls", "function_call") if entry.get(name)), "")
        if speaker == TOOL or call:
            turns.append(Turn(speaker, text or "", f"a tool turn ({call or role})"))
        elif text is None or not is_unicode(text):
            problems.append(f"'{field}' turn {number} has no valid text, found {type(said).__name__}")
        else:
            turns.append(Turn(speaker, text, other))
    return turns, problems


def _text(content: Any) -> tuple[str | None, str]:
    """The text of a turn's content, its parts joined by a line feed, and the parts that are no text.

    The text is None where the content is of no known form.
    """
    if isinstance(content, str):
        return content, ""
    parts = [content] if isinstance(content, Mapping) else content
    if not isinstance(parts, list):
        return None, ""
    texts, others = [], []
    for part in parts:
        part = {"text": part} if isinstance(part, str) else part
        if not isinstance(part, Mapping):
            return None, ""
        kind = part.get("type")
        if kind in TEXT_PARTS and isinstance(part.get("text"), str):
            texts.append(part["text"])
        else:
            others.append(str(kind or next((name for name, value in part.items() if value is not None), "nothing")))
    return "\n".join(texts), f"a part that is not text ({', '.join(others)})" if others else ""
