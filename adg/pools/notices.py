"""What a reader of the screen must know of a pool: what was dropped, left out or not used, with counts.

Nothing here bears identity.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_SAID = {  # count in a pool's manifest -> what it means
    "multi_turn": "have further turns (or a history): of a chat the first question and its answer are used",
    "system_turn": "have a system prompt, which the template has no place for: it is left out",
    "preference": "are preference pairs (fields chosen, rejected)",
    "placeholder": "hold a placeholder (<image>, <video> or <audio>), which is read as text",
    "media": "name an image, video or sound, which is not used",
    "without_output": "are taken without an answer",
}


def notices(info: Mapping[str, Any]) -> list[str]:
    """Sentences about a pool from the ``info`` of its manifest, "3 of 10 rows ..."; [] where nothing is to be said."""
    rows = info["rows_in"]
    said = []
    if info.get("dropped"):
        said.append(f"{info['dropped']:,} of {rows:,} rows are dropped, each with its reason in the scores file")
    if info.get("over_long") and not info.get("dropped"):
        said.append(
            f"{info['over_long']:,} of {rows:,} rows are longer than pool.max_chars: pool.over_long=drop drops them"
        )
    if info.get("corrupted"):
        said.append(
            f"{info['corrupted']:,} of {info['rows_out']:,} rows have the output of another row: a fault put in on "
            f"purpose (pool.corrupt)"
        )
    for name, words in _SAID.items():
        if info.get(name):
            said.append(f"{info[name]:,} of {rows:,} rows {words}")
    return said
