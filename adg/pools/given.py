"""Records and answers as a caller of the library gives them: dicts, dataclasses, lists, mappings by id.

Nothing here bears identity: a record is the same in whatever form it is given.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from adg.errors import BadInput
from adg.pools import fields
from adg.pools.config import FieldMap
from adg.pools.records import Record, key

SHOWN = 8  # records named in one message


def as_records(given: Sequence[Any]) -> list[Record]:
    """Each of ``given`` as a ``Record``: one already, or a dict or dataclass with the fields that a row of a pool has.

    These are ``instruction``, ``input``, ``output`` and ``id``, or a chat (``messages``, ``conversations``); without an
    id the position is one. Raises ``BadInput`` naming the first that is none, and for an id that comes twice.
    """
    records = [_record(place, value) for place, value in enumerate(given)]
    first: dict[str, int] = {}
    for place, record in enumerate(records):
        if (other := first.setdefault(record.key, place)) != place:
            raise BadInput(
                f"the record id {record.key} is given twice (records[{other}] and [{place}]); ids must be distinct"
            )
    return records


def _record(place: int, value: Any) -> Record:
    if isinstance(value, Record):
        return value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if not isinstance(value, Mapping):
        raise BadInput(
            f"records[{place}] is {type(value).__name__}; expected an adg.Record, or a dict or dataclass with "
            f"instruction, input, output, id"
        )
    id_ = place if value.get("id") is None else value["id"]
    if hasattr(id_, "item"):  # a number of numpy
        id_ = id_.item()
    if isinstance(id_, bool) or not isinstance(id_, (int, str)):
        raise BadInput(f"records[{place}] has the id {id_!r} ({type(id_).__name__}); expected an integer or text")
    row = fields.mapped(value, FieldMap())
    problems = [*row.problems, *([row.not_text] if row.not_text else [])]
    if not problems and not row.instruction.strip():
        problems = [f"no instruction; its fields are {', '.join(map(str, value))}"]
    if problems:
        raise BadInput(f"records[{place}] (id {key(id_)}): {'; '.join(problems)}")
    return Record(id_, row.instruction, row.input, row.output)


def as_answers(records: Sequence[Record], given: Any) -> list[list[str]]:
    """The answers of each record: ``given`` in their order, or as a mapping from ids.

    A record without an answer (None, an empty list) has []. Raises ``BadInput`` naming the records that a mapping does
    not have, ids of it that no record has, and whatever is no text.
    """
    if isinstance(given, Mapping):
        ids = {record.id for record in records}
        strangers = [id_ for id_ in given if id_ not in ids]
        if strangers:
            raise BadInput(f"answers has ids that no record has: {_some([repr(id_) for id_ in strangers])}")
        if missing := [record.key for record in records if record.id not in given]:
            raise BadInput(f"answers has none for {len(missing)} of {len(records)} records: {_some(missing)}")
        given = [given[record.id] for record in records]
    if len(given) != len(records):
        without = [record.key for record in records[len(given) :]]
        raise BadInput(
            f"{len(records)} records and {len(given)} lists of answers; expected one list a record"
            + (f" (none for {_some(without)})" if without else "")
        )
    return [_texts(record, one) for record, one in zip(records, given, strict=True)]


def _texts(record: Record, answers: Any) -> list[str]:
    if answers is None:
        return []
    if isinstance(answers, (str, bytes, Mapping)) or not hasattr(answers, "__len__"):
        raise BadInput(
            f"the answers of record {record.key} are {type(answers).__name__} {str(answers)[:40]!r}; expected a list "
            f"of texts"
        )
    for number, text in enumerate(answers, 1):
        if not isinstance(text, str):
            raise BadInput(f"answer {number} of record {record.key} is {type(text).__name__}; expected text")
    return list(answers)


def _some(names: Sequence[str]) -> str:
    more = len(names) - SHOWN
    return ", ".join(names[:SHOWN]) + (f" and {more} more" if more > 0 else "")
