"""Raw rows become records: every field text, every id distinct, doubtful rows kept, dropped or refused as is set.

All problems are listed in one message. The rules belong to the stage: changing one means a new version of ``pool``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from adg.errors import BadInput
from adg.pools import fields
from adg.pools.config import FieldMap, PoolConfig
from adg.pools.records import Record, key, order
from adg.pools.rows import UNREADABLE, MappedRow, RawRow, is_unicode
from adg.pools.sources import RawPool

SHOWN = 20  # problems printed in one message
COUNTED = (
    "empty_instruction",
    "empty_output",
    "over_long",
    "not_text",
    "multi_turn",
    "system_turn",
    "preference",
    "placeholder",
    "media",
)


@dataclass
class Validated:
    """Kept records with their original rows and dropped ids with their reasons, in canonical order, and counts."""

    kept: list[tuple[Record, dict[str, Any]]] = field(default_factory=list)
    dropped: list[tuple[int | str, str]] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(COUNTED, 0))


DROP = "pool.{}=drop leaves such rows out"
KEEP = "pool.{}=keep takes them"
REMEDIES = {  # what may be typed where a rule refuses rows: the options, and what they do
    "no usable id": ("pool.number_rows=true takes a row's position as its id instead",),
    "more than text": (DROP.format("not_text"),),
    "missing or empty instruction": (DROP.format("empty_instruction"),),
    "empty output": (DROP.format("empty_output"), KEEP.format("empty_output")),
    "over-long": (DROP.format("over_long"), KEEP.format("over_long")),
}


@dataclass(frozen=True)
class _Doubt:
    """What is doubtful of a row, the rule that decides on it, and its kind in ``REMEDIES``."""

    count: str
    rule: str
    reason: str
    kind: str


def validate(raw: RawPool, cfg: PoolConfig) -> Validated:
    """The records of a pool. Raises one ``BadInput`` that lists every problem, with a remedy for each kind."""
    source, problems = raw.source, list(raw.problems)
    if cfg.expected_rows is not None and len(raw.rows) != cfg.expected_rows:
        problems = [f"{source}: has {len(raw.rows)} rows, expected {cfg.expected_rows} (pool.expected_rows)", *problems]
    if fault := _about_all(raw.rows, cfg.fields, bool(problems)):  # every row would repeat the same complaint
        _refuse(source, [*problems, f"{source}: {fault}"], [], len(raw.rows))
    result = Validated()
    kinds: Counter[str] = Counter()
    seen: dict[str, str] = {}
    for position, (where, row) in enumerate(raw.rows):
        if row is UNREADABLE:
            continue
        if not isinstance(row, Mapping):
            problems.append(f"{source}: {where}: expected an object, found {type(row).__name__}")
            continue
        id, wrong = (position, "") if cfg.number_rows else _id(row, position, cfg.fields.id)
        if id is not None and (first := seen.setdefault(key(id), where)) is not where:
            wrong = f"the id is already used at {first}"
        if wrong:
            kinds["no usable id"] += 1
        texts = fields.mapped(row, cfg.fields)
        record = Record(position if id is None else id, texts.instruction, texts.input, texts.output)
        doubts = _doubts(texts, cfg, bool(wrong or texts.problems))
        for name in [doubt.count for doubt in doubts] + sorted(texts.counts):
            result.counts[name] += 1
        refused = [doubt for doubt in doubts if doubt.rule == "refuse"]
        kinds.update(doubt.kind for doubt in refused)
        faults = [*([wrong] if wrong else []), *texts.problems, *(doubt.reason for doubt in refused)]
        shown = "no usable id" if id is None else f"id {key(id)}"
        problems.extend(f"{source}: {where}: {shown}: {text}" for text in faults)
        if reasons := [doubt.reason for doubt in doubts if doubt.rule == "drop"]:
            result.dropped.append((record.id, "; ".join(reasons)))
        elif not faults:
            result.kept.append((record, dict(row)))
    if not problems and not result.kept:
        why = Counter(reason for _, reason in result.dropped)
        listed = "; ".join(f"{count:,} x {reason}" for reason, count in why.most_common(3))
        problems = [f"{source}: all {len(raw.rows)} rows would be dropped ({listed})"]
    if problems:
        _refuse(source, problems, _remedies(kinds, result, cfg), len(raw.rows))
    result.kept.sort(key=lambda entry: order(entry[0].id))
    result.dropped.sort(key=lambda entry: order(entry[0]))
    return result


def _about_all(rows: Sequence[RawRow], mapping: FieldMap, read_in_part: bool) -> str:
    """What is wrong with the pool as a whole; "" where its rows can be looked at one by one."""
    if not rows:
        return "" if read_in_part else "holds no rows"
    readable = [row.content for row in rows if row.content is not UNREADABLE]
    objects = [content for content in readable if isinstance(content, Mapping)]
    if len(readable) > 1 and not objects:
        return f"expected objects, found {type(readable[0]).__name__} in every row"
    if len(objects) <= len(rows) / 2:  # too few were read to say what all lack
        return ""
    return fields.unmapped(objects, mapping)


def _doubts(row: MappedRow, cfg: PoolConfig, faulty: bool) -> list[_Doubt]:
    """What the rules of the config decide on; of a row that is refused already only what does not follow from that."""
    doubts = []
    if not faulty and row.not_text:
        doubts.append(_Doubt("not_text", cfg.not_text, row.not_text, "more than text"))
    elif not faulty:
        if not row.instruction.strip():
            text = "missing or empty instruction"
            doubts.append(_Doubt("empty_instruction", cfg.empty_instruction, text, text))
        if not row.output.strip():
            rule = "keep" if cfg.fields.output is None else cfg.empty_output  # null says that the rows have none
            doubts.append(_Doubt("empty_output", rule, "empty output", "empty output"))
    if cfg.max_chars is not None and row.characters > cfg.max_chars:
        text = f"over-long ({row.characters} characters, limit {cfg.max_chars})"
        doubts.append(_Doubt("over_long", cfg.over_long, text, "over-long"))
    return doubts


def _id(row: Mapping[str, Any], position: int, name: str) -> tuple[int | str | None, str]:
    """The row's id (its position, from 0, when it has none), or None and what is wrong with it."""
    value = row.get(name)
    if value is None:
        return position, ""
    if isinstance(value, bool) or not isinstance(value, (int, str)):
        return None, f"'{name}' is {value!r:.60} ({type(value).__name__}), expected an integer or text"
    if value == "" or (isinstance(value, str) and not is_unicode(value)):
        return None, f"'{name}' is {value!r:.60}, expected text that is not empty and is valid Unicode"
    return value, ""


def _remedies(kinds: Counter[str], result: Validated, cfg: PoolConfig) -> list[str]:
    """A line for each kind of problem, with the number of rows and the options that settle it and leave some rows."""
    lines = []
    for kind, count in kinds.items():
        remains = result.kept or len(kinds) > 1
        options = [text for text in REMEDIES[kind] if remains or "=drop" not in text]
        lines.append(f"{count:,} x {kind}" + (f": {', '.join(options)}" if options else ""))
    if kinds["empty output"] and result.counts["preference"] and cfg.fields.output == FieldMap().output:
        lines.append(
            f"{result.counts['preference']:,} rows are preference pairs (fields chosen, rejected): "
            f"pool.fields.output=chosen takes the preferred answer"
        )
    return lines


def _refuse(source: str, problems: Sequence[str], remedies: Sequence[str], rows: int) -> None:
    more = len(problems) - SHOWN
    plural = "s" if len(problems) != 1 else ""
    raise BadInput(
        "\n  ".join(
            [f"{source}: {len(problems)} problem{plural}" + (f" in {rows} rows" if rows else ""), *problems[:SHOWN]]
        )
        + (f"\n  and {more} more" if more > 0 else "")
        + "".join(f"\n{line}" for line in remedies)
        + "\nCorrect the file or the pool's config and run the same command again"
    )
