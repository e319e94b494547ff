"""What others have said of the records (tags, scores): fields of the pool's own rows, or of a file of rows with ids.

Shared by the selectors that read scores instead of computing them; a wrong annotation is named and never a number.
The stage "annotated" looks at them before anything expensive is built for such a selector.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeVar

from adg.artifacts.artifact import UNLESS_DEFAULT, Job, Node, Stage
from adg.artifacts.files import write_json
from adg.errors import BadInput, BadMeasurement
from adg.pools import records
from adg.selection.contract import SelectorData, counted
from baselines.shared import checkpoints

ANNOTATED = Stage("annotated", 1, "baselines.shared.annotations:build", place=15)
SHOWN = 5  # problems printed in one message
T = TypeVar("T")


def value_of(row: Any, name: str) -> Any:
    """The value of ``name``, whose dots reach into nested objects; None where the row has none."""
    for part in name.split("."):
        row = row.get(part) if isinstance(row, Mapping) else None
    return row


def turns(row: Mapping[str, Any], name: str, low: float = 0.0) -> list[float] | None:
    """The numbers in the field ``name``: one, or a list with one a turn; None where the row has no such field.

    Raises ``ValueError`` saying what is there instead of finite numbers of ``low`` or more.
    """
    value = value_of(row, name)
    if value is None:
        return None
    values = value if isinstance(value, list) else [value]
    if not values or not all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in values):
        raise ValueError(f"'{name}' is {value!r:.60}, expected a number or a list of numbers")
    if not all(math.isfinite(v) and v >= low for v in values):
        limit = f" of {low:g} or more" if math.isfinite(low) else ""
        raise ValueError(f"'{name}' is {value!r:.60}, expected finite numbers{limit}")
    return values


def products(row: Mapping[str, Any], quality: str, complexity: str) -> list[float] | None:
    """Quality x complexity of each turn; None where the row lacks one of the fields. Raises as ``turns`` does."""
    good, hard = turns(row, quality), turns(row, complexity)
    if good is None or hard is None:
        return None
    if len(good) != len(hard):
        raise ValueError(f"{len(good)} turns of quality but {len(hard)} of complexity")
    return [q * c for q, c in zip(good, hard, strict=True)]


def read_rows(path: Path) -> dict[str, dict[str, Any]]:
    """The rows of an annotations file by the key of their ``id``."""
    rows: dict[str, dict[str, Any]] = {}
    with open(path, encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise BadInput(f"{path} line {number} is not JSON ({error}); expected one object a line") from error
            id_ = row.get("id") if isinstance(row, dict) else None
            if isinstance(id_, bool) or not isinstance(id_, (int, str)):
                raise BadInput(f"{path} line {number} has no 'id' (an integer or a text, as in the pool)")
            key = records.key(id_)
            if key in rows:
                raise BadInput(f"{path} line {number} repeats id {key}; expected one row a record")
            rows[key] = row
    return rows


def read(
    data: SelectorData, path: str | None, sha256: str | None, parse: Callable[[Mapping[str, Any]], T | str]
) -> tuple[list[T | str], str]:
    """Each record's annotation or what it lacks, in the order of the records; and where they were looked for.

    ``path`` and ``sha256`` are the options ``annotations`` and ``annotations_sha256`` (None: the pool's own rows).
    ``parse`` makes one of a row, or says what the row lacks, or raises ``ValueError`` with what is wrong in it.
    Raises ``BadMeasurement`` naming the records whose annotation is wrong.
    """
    if path is not None:
        file = checkpoints.file("annotations", path, sha256)
        source, rows = str(file), read_rows(file)
    else:
        source, rows = "the pool", {} if data.pool is None else records.load_original(data.pool)
    annotated: list[T | str] = []
    wrong = []
    for key in data.keys:
        try:
            annotated.append(parse(rows[key]) if key in rows else "no annotation")
        except ValueError as error:
            wrong.append(f"id {key}: {error}")
    if wrong:
        more = f" and {len(wrong) - SHOWN} more" if len(wrong) > SHOWN else ""
        raise BadMeasurement(f"{len(wrong)} annotations in {source} are wrong: {'; '.join(wrong[:SHOWN])}{more}")
    return annotated, source


# -- the stage -------------------------------------------------------------------------------------------
class Annotated(Protocol):
    """A selector that reads annotations."""

    name: ClassVar[str]

    def annotations(self, data: SelectorData) -> list[Any]:
        """Each record's annotation, or as a text what it lacks. Raises ``NotRunnable`` when no record has one."""


@dataclass(frozen=True)
class AnnotatedConfig:
    """Identity: the fields, the file's digest (None: the pool's own rows), and the selector that checks in its own way.

    DEITA's name is left out: its artifacts were made before the name counted.
    """

    fields: tuple[str, ...]
    sha256: str | None
    selector: Annotated = field(metadata={"identity": False})
    check: str = field(default="deita", metadata={"identity": UNLESS_DEFAULT})


def checked(pool: Node, selector: Annotated, fields: tuple[str, ...], sha256: str | None) -> Node:
    """The check of what ``selector`` reads; among a selector's inputs it comes before every other."""
    config = AnnotatedConfig(fields, sha256, selector, selector.name)
    return Node(ANNOTATED, f"{pool.label}+{'+'.join(fields)}", config, {"pool": pool})


def build(job: Job) -> dict[str, Any]:
    """Stage "annotated": ``annotated.json``, how many records have the annotation and what the others lack."""
    pool = job.inputs["pool"]
    annotated = job.config.selector.annotations(SelectorData(records.load(pool), {}, pool))
    lacks = [value for value in annotated if isinstance(value, str)]
    facts = {"rows_in": len(annotated), "rows_out": len(annotated) - len(lacks), "missing": counted(lacks)}
    write_json(job.folder / "annotated.json", facts)
    return facts
