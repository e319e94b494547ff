"""Rows of tables: parquet, CSV, and data sets of the hub that are read through their own layout.

Nothing here bears identity: the digest of what was read, or the pinned revision, does.
"""

from __future__ import annotations

import csv
import datetime
import decimal
import io
import re
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from adg.errors import BadInput
from adg.pools.rows import UNREADABLE, RawRow

_INTEGER = re.compile(r"-?(0|[1-9][0-9]*)")


def parquet(data: bytes, source: str) -> tuple[list[RawRow], list[str]]:
    """The rows of a parquet file. What cannot be read is named with its row and column, and the row left unread."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.ParquetFile(io.BytesIO(data)).read()
    except (pa.ArrowException, OSError) as error:
        raise BadInput(f"{source} is not a readable parquet file ({error}); check pool.path or pool.format") from error
    if twice := [name for name, count in Counter(table.column_names).items() if count > 1]:
        return [], [f"{source}: has more than one column called {twice[0]!r}"]
    problems: list[str] = []
    unread: set[int] = set()
    columns = {}
    for name in table.column_names:
        columns[name], bad = _values(table[name])
        unread |= set(bad)
        problems += [f"{source}: row {i + 1}: column '{name}' cannot be read ({why})" for i, why in bad.items()]
    rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    return _checked([UNREADABLE if i in unread else row for i, row in enumerate(rows)], source, problems)


def _values(column: Any) -> tuple[list[Any], dict[int, str]]:
    """A column's values, and by position why some cannot be had: text that is not UTF-8, dates outside the calendar."""
    faults = (ValueError, OverflowError, NotImplementedError, TypeError)
    try:
        return column.to_pylist(), {}
    except faults:
        values, bad = [], {}
        for i, cell in enumerate(column):
            try:
                values.append(cell.as_py())
            except faults as error:
                values.append(None)
                bad[i] = str(error)
        return values, bad


def dataset(folder: str, source: str, split: str) -> tuple[list[RawRow], list[str]]:
    """Rows of a dataset repository already on disk: loading by folder keeps the pin when there is no network."""
    import datasets

    try:
        rows = datasets.load_dataset(folder, split=split).to_list()
    except (ValueError, FileNotFoundError, datasets.exceptions.DatasetsError) as error:
        raise BadInput(
            f"{source}: datasets cannot load it ({error}); check pool.split, or name a file of the "
            f"repository with pool.file"
        ) from error
    return _checked(rows, source, [])


def _checked(rows: list[Any], source: str, problems: list[str]) -> tuple[list[RawRow], list[str]]:
    """Rows with their places; a column with values that JSON cannot hold is named once, with the first such row."""
    named: dict[str, list[int]] = {}
    kinds: dict[str, str] = {}
    for i, row in enumerate(rows):
        for name, value in row.items() if isinstance(row, dict) else ():
            if not isinstance(value, (str, int, type(None))) and (kind := _not_json(value)):
                named.setdefault(name, []).append(i)
                kinds.setdefault(name, kind)
    problems = problems + [
        f"{source}: row {where[0] + 1}: column '{name}' holds {kinds[name]}, which JSON cannot hold "
        f"({len(where):,} row{'s' * (len(where) > 1)}); write the data again as text or without that column"
        for name, where in named.items()
    ]
    unread = {i for where in named.values() for i in where}
    return [RawRow(f"row {i + 1}", UNREADABLE if i in unread else row) for i, row in enumerate(rows)], problems


def _not_json(value: Any) -> str:
    """The type of what JSON cannot hold in ``value``; "" where there is none. Dates and decimals become text."""
    if value is None or isinstance(value, (str, int, float, datetime.date, datetime.time, datetime.timedelta)):
        return ""
    if isinstance(value, decimal.Decimal):
        return ""
    if isinstance(value, Mapping):
        return next((kind for inner in value.values() if (kind := _not_json(inner))), "")
    if isinstance(value, (list, tuple)):
        return next((kind for inner in value if (kind := _not_json(inner))), "")
    return type(value).__name__


def comma_separated(data: bytes, source: str, id_field: str) -> tuple[list[RawRow], list[str]]:
    """The rows of a CSV file with a header; quoted cells may hold line feeds.

    The delimiter is the comma, or where the header has none the tab or the semicolon. Every cell is text, an empty one
    ""; ids are integers where all are written as such.
    """
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        return [], [f"{source}: line {line}: not UTF-8 ({error}); save it as UTF-8"]
    csv.field_size_limit(sys.maxsize)
    header = text[: text.find("\n")] if "\n" in text else text
    delimiter = next((mark for mark in (",", "\t", ";") if mark in header), ",")
    records = _records(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True))
    rows: list[RawRow] = []
    problems: list[str] = []
    names: list[str] | None = None
    try:
        for line, cells in records:
            if names is None:
                names = cells
                if twice := [name for name, count in Counter(names).items() if count > 1]:
                    return [], [f"{source}: line {line}: two columns are called {twice[0]!r}"]
            elif len(cells) != len(names):
                problems.append(f"{source}: line {line}: has {len(cells)} cells, the header names {len(names)}")
                rows.append(RawRow(f"line {line}", UNREADABLE))
            else:
                rows.append(RawRow(f"line {line}", dict(zip(names, cells, strict=True))))
    except _Malformed as error:
        problems.append(f"{source}: line {error.line}: malformed ({error}); nothing after it was read")
    ids = [row.content[id_field] for row in rows if row.content is not UNREADABLE and id_field in row.content]
    if all(_INTEGER.fullmatch(id) for id in ids if id):
        rows = [RawRow(where, _with_number(content, id_field)) for where, content in rows]
    return rows, problems


class _Malformed(Exception):
    def __init__(self, line: int, error: csv.Error) -> None:
        super().__init__(str(error))
        self.line = line


def _records(reader: Any) -> Iterator[tuple[int, list[str]]]:
    """The line on which each record begins and its cells; blank lines are passed over."""
    while True:
        line = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise _Malformed(line, error) from error
        if cells:
            yield line, cells


def _with_number(content: Any, id_field: str) -> Any:
    """A row whose id is an integer, or null where its cell is empty."""
    if content is UNREADABLE or id_field not in content:
        return content
    return {**content, id_field: int(content[id_field]) if content[id_field] else None}
