"""What a stage says of its work while it is at it: lines of JSON in its scratch, which trackers read as they come.

Nothing here bears identity or becomes a result: what counts is in the artifact, and the lines go with the scratch.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

FILE = "live.jsonl"
log = logging.getLogger(__name__)


def tell(path: Path, fact: Mapping[str, Any]) -> None:
    """Add a line to a file; a disk that does not take it costs nothing else. Half a line, of a kill, is ended first."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "ab+") as file:
            torn = b""
            if file.seek(0, 2):
                file.seek(-1, 2)
                torn = b"" if file.read(1) == b"\n" else b"\n"
            file.write(torn + json.dumps(fact).encode() + b"\n")
    except OSError as error:
        log.debug("%s was not written: %s", path, error)


def read(path: Path, start: int = 0) -> tuple[list[dict[str, Any]], int]:
    """The lines of a file from the byte ``start`` on, and the byte after the last whole one.

    From its beginning where it has become shorter: it was begun anew. Lines that a kill left torn are passed over.
    """
    try:
        with open(path, "rb") as file:
            if file.seek(0, 2) < start:
                start = 0
            file.seek(start)
            data = file.read()
    except OSError:  # not there yet, or gone with its stage
        return [], start
    whole = data[: data.rfind(b"\n") + 1]
    facts = []
    for line in whole.splitlines():
        try:
            fact = json.loads(line)
        except ValueError:
            continue
        if isinstance(fact, dict):
            facts.append(fact)
    return facts, start + len(whole)
