"""Pools of instruction records: read from a file or a hub, validated completely, normalised, kept in one order.

Whatever is wrong with a pool is reported at once and before any model is loaded; what is left out is counted and
listed. Everything later in the pipeline is joined by a record's key, never by its position.
"""

from __future__ import annotations

import dataclasses
import datetime
import decimal
import hashlib
import io
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from adg import seeds
from adg.errors import BadInput, HarnessError
from adg.store import Artifact, Job, Node, Stage, sha256_file, write_atomic

STAGE = Stage("pool", 1, "adg.records:build")
COLUMNS = ("id", "instruction", "input", "output")
MINI = Path(__file__).resolve().parent / "mini" / "pools"
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


@dataclass(frozen=True)
class Record:
    """One row of a pool. ``input`` and ``output`` are "" when the row has none."""

    id: int | str
    instruction: str
    input: str = ""
    output: str = ""

    @property
    def key(self) -> str:
        return key(self.id)


@dataclass(frozen=True)
class FieldMap:
    """Which field of a row holds what. ``None`` for ``input`` or ``output``: the rows have none.

    ``messages`` names the field with the turns of a conversation; ``None`` finds "messages" or "conversations" in
    rows that have no instruction field.
    """

    id: str = "id"
    instruction: str = "instruction"
    input: str | None = "input"
    output: str | None = "output"
    messages: str | None = None


def _not_identity(default: Any) -> Any:
    return field(default=default, metadata={"identity": False})


@dataclass(frozen=True)
class PoolConfig:
    """Where a pool comes from and what is done with doubtful rows. Exactly one of ``path`` and ``hub`` is set."""

    name: str = _not_identity("???")
    path: str | None = _not_identity(None)  # a file; "mini:x.jsonl" is one of the embedded pools
    format: str = "auto"  # auto | json | jsonl | parquet
    hub: str | None = None  # id of a dataset repository
    revision: str | None = None  # full commit hash of that repository
    file: str | None = None  # one file in it; None loads the dataset through its own layout
    split: str = "train"  # used when ``file`` is not set
    sha256: str | None = None  # of the file; checked
    fields: FieldMap = field(default_factory=FieldMap)
    rows: int | None = None  # keep a seeded sample of that many rows; None keeps all
    seed: int = 0  # of that sample
    empty_instruction: str = "refuse"  # refuse | drop
    empty_output: str = "keep"  # keep | drop | refuse
    max_chars: int | None = None  # a row is over-long above this many characters in its three fields
    over_long: str = "keep"  # keep | drop | refuse
    expected_rows: int | None = _not_identity(None)  # rows of the source, before any are left out; checked
    paper: str | None = _not_identity(None)  # name of the pool in the paper's figures

    def __post_init__(self) -> None:
        choices = {
            "format": ("auto", "json", "jsonl", "parquet"),
            "empty_instruction": ("refuse", "drop"),
            "empty_output": ("keep", "drop", "refuse"),
            "over_long": ("keep", "drop", "refuse"),
        }
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise BadInput(f"pool.{name} is {getattr(self, name)!r}; expected one of {', '.join(allowed)}")
        for name in ("rows", "max_chars", "expected_rows"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise BadInput(f"pool.{name} is {value}; expected a number above 0, or null for no limit")
        if self.sha256 is not None and not re.fullmatch(r"[0-9a-f]{64}", self.sha256):
            raise BadInput(f"pool.sha256 is {self.sha256!r}; expected 64 lower-case hexadecimal digits, or null")


# -- ids ---------------------------------------------------------------------------------------------


def key(id: int | str) -> str:
    """The id as text, unique over integers and strings: 12 -> ``12``, "12" -> ``"12"``."""
    return json.dumps(id, ensure_ascii=False) if isinstance(id, str) else str(int(id))


def from_key(text: str) -> int | str:
    """The inverse of :func:`key`."""
    return json.loads(text)


def order(id: int | str) -> tuple[int, int, str]:
    """Sort key of the canonical order: integers ascending, then strings by code point."""
    return (1, 0, id) if isinstance(id, str) else (0, id, "")


# -- the stage ---------------------------------------------------------------------------------------


def node(cfg: PoolConfig) -> Node:
    """The pool's artifact. A local file is identified by its content, so it is read here; a hub pool needs no network.

    Raises ``BadInput`` when the source is not said, the file is missing or its digest is not ``cfg.sha256``.
    """
    if cfg.path in (None, "???") and cfg.hub is None:
        raise BadInput(f"pool '{cfg.name}' needs a file: add pool.path=<file.json, .jsonl or .parquet>")
    if (cfg.path is None) == (cfg.hub is None):
        raise BadInput(f"pool '{cfg.name}' has path {cfg.path!r} and hub {cfg.hub!r}; expected exactly one of them")
    if cfg.hub is not None and cfg.file is None and cfg.sha256 is not None:
        raise BadInput(f"pool '{cfg.name}' has a sha256 but no file in {cfg.hub}; set pool.file or pool.sha256=null")
    changes: dict[str, Any] = {}
    if cfg.path is not None:
        path = _local(cfg)
        changes = {"path": str(path), "sha256": _checked(sha256_file(path), path, cfg)}
        changes["format"] = _format(cfg.format, path)
        changes |= {"revision": None, "file": None, "split": "train"}
    elif cfg.file is not None:
        changes = {"split": "train"}
    if cfg.rows is None:
        changes["seed"] = 0
    if cfg.max_chars is None:
        changes["over_long"] = "keep"
    label = cfg.name if cfg.rows is None else f"{cfg.name}-{cfg.rows}"
    return Node(STAGE, label, dataclasses.replace(cfg, **changes))


def build(job: Job) -> dict[str, Any]:
    """Read, validate, drop, sample, write.

    Payload, all in canonical order: ``records.parquet`` (key, instruction, input, output), ``original.jsonl``
    (``{"id": key, "row": the row as it came}``) and ``dropped.jsonl`` (``{"id": key, "reason": ...}``).
    """
    cfg: PoolConfig = job.config
    source, raw, problems, digest = _fetch(cfg, job.exec.offline)
    entries, dropped, counts = _validate(source, raw, problems, cfg)
    kept = len(entries)
    if cfg.rows is not None:
        if cfg.rows > kept:
            raise BadInput(
                f"pool '{cfg.name}' has {kept} usable rows but pool.rows={cfg.rows} were asked for; "
                f"set pool.rows={kept} or less"
            )
        drawn = seeds.generator(cfg.seed, "pool", "rows").permutation(kept)[: cfg.rows]
        entries = [entries[i] for i in sorted(drawn.tolist())]
    records = [record for record, _ in entries]
    save_rows(job.folder / "records.parquet", records)
    write_lines(job.folder / "original.jsonl", ({"id": r.key, "row": row} for r, row in entries))
    write_lines(job.folder / "dropped.jsonl", ({"id": key(id), "reason": reason} for id, reason in dropped))
    return {
        "rows_in": len(raw),
        "rows_out": len(records),
        "failed": [],
        "dropped": len(dropped),
        "sampled_from": kept,
        **counts,
        "source": source,
        "sha256": digest,
    }


def load(artifact: Artifact) -> list[Record]:
    """The pool's records in canonical order."""
    return load_rows(artifact.file("records.parquet"))


def load_original(artifact: Artifact) -> dict[str, dict[str, Any]]:
    """Key -> the row as it came, with every field it had."""
    lines = artifact.file("original.jsonl").read_bytes().splitlines()  # bytes: only line ends split
    return {entry["id"]: entry["row"] for entry in map(json.loads, lines)}


def load_rows(path: Path) -> list[Record]:
    """Records of a file with the columns of ``records.parquet``, in the file's order."""
    import pyarrow.parquet as pq

    columns = pq.read_table(path, columns=list(COLUMNS)).to_pydict()
    rows = zip(*(columns[name] for name in COLUMNS), strict=True)
    return [Record(from_key(text), *rest) for text, *rest in rows]


def save_rows(path: Path, records: Sequence[Record]) -> None:
    """Write records, in the order given, as ``records.parquet`` holds them."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = {"id": [r.key for r in records]} | {n: [getattr(r, n) for r in records] for n in COLUMNS[1:]}
    buffer = io.BytesIO()
    pq.write_table(pa.table({name: pa.array(values, pa.string()) for name, values in columns.items()}), buffer)
    write_atomic(path, buffer.getvalue())


# -- reading -----------------------------------------------------------------------------------------

Raw = list[tuple[str, Any]]  # where a row stands ("line 4", "row 4"; from 1) and the row


def _local(cfg: PoolConfig) -> Path:
    """The absolute path of a pool's file, which exists."""
    given = str(cfg.path)
    path = MINI / given.removeprefix("mini:") if given.startswith("mini:") else Path(given).expanduser().absolute()
    if not path.is_file():
        beside = sorted(p.name for p in path.parent.glob("*.json*")) if given.startswith("mini:") else []
        raise BadInput(
            f"pool '{cfg.name}': no file {path}{f' (there are {beside})' if beside else ''}; "
            f"run again with pool.path=<file.json, .jsonl or .parquet>"
        )
    return path


def _checked(digest: str, path: Path | str, cfg: PoolConfig) -> str:
    if cfg.sha256 is not None and digest != cfg.sha256:
        raise BadInput(
            f"pool '{cfg.name}': {path} has sha256 {digest}, expected {cfg.sha256}; it is another file or "
            f"it changed. Get the right one, or set pool.sha256={digest} to accept it"
        )
    return digest


def _format(wanted: str, path: Path) -> str:
    """``wanted`` made definite. A ".json" file that starts with no bracket is taken as one object a line."""
    if wanted != "auto":
        return wanted
    suffix = path.suffix.lower()
    if suffix in (".parquet", ".pq"):
        return "parquet"
    if suffix in (".jsonl", ".ndjson"):
        return "jsonl"
    if suffix == ".json":
        with open(path, "rb") as file:
            return "json" if file.read(1024).removeprefix(b"\xef\xbb\xbf").lstrip()[:1] in (b"[", b"") else "jsonl"
    raise BadInput(f"{path}: cannot tell the format from '{suffix}'; set pool.format to json, jsonl or parquet")


def _fetch(cfg: PoolConfig, offline: bool) -> tuple[str, Raw, list[str], str | None]:
    """Name of the source, its rows, what could not be read, and the file's sha256 (None for a whole dataset)."""
    if cfg.hub is None:
        path = source = str(cfg.path)
    else:
        source = f"{cfg.hub}@{(cfg.revision or '')[:8]}" + (f"/{cfg.file}" if cfg.file else f" ({cfg.split})")
        path = _download(cfg, offline)
        if cfg.file is None:
            return source, _dataset(path, source, cfg.split), [], None
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise BadInput(f"{path} cannot be read ({error}); check pool.path and run the same command again") from error
    digest = _checked(hashlib.sha256(data).hexdigest(), path, cfg)
    kind = _format(cfg.format, Path(path))
    if kind == "parquet":
        return source, _parquet(data, source), [], digest
    raw, problems = _jsonl(data, source) if kind == "jsonl" else _json(data, source)
    return source, raw, problems, digest


def _download(cfg: PoolConfig, offline: bool) -> str:
    """Path of the pool's file, or of its whole repository, at the pinned commit in the hub's local cache."""
    if not re.fullmatch(r"[0-9a-f]{40}", cfg.revision or ""):
        raise BadInput(
            f"pool '{cfg.name}' reads {cfg.hub} at revision {cfg.revision!r}; expected a full commit hash "
            f"(40 hexadecimal digits), because a branch moves. Set pool.revision=<commit>"
        )
    import huggingface_hub
    from huggingface_hub.errors import HFValidationError

    repository = str(cfg.hub)
    where: dict[str, Any] = {"repo_type": "dataset", "revision": cfg.revision, "local_files_only": offline}
    try:
        if cfg.file is not None:
            return huggingface_hub.hf_hub_download(repository, cfg.file, **where)
        return huggingface_hub.snapshot_download(repository, **where)
    except (OSError, HFValidationError) as error:  # the hub's own errors are kinds of OSError
        raise HarnessError(
            f"cannot get {cfg.file or 'the dataset'} of {cfg.hub}@{cfg.revision}"
            f"{' (exec.offline is set and it is not in the local cache)' if offline else ''}: {error}. "
            f"Run again with network, or use your own copy: pool.hub=null pool.path=<file>"
        ) from error


def _dataset(folder: str, source: str, split: str) -> Raw:
    """Rows of a dataset repository already on disk: loading by folder keeps the pin when there is no network."""
    import datasets

    try:
        rows = datasets.load_dataset(folder, split=split).to_list()
    except (ValueError, FileNotFoundError, datasets.exceptions.DatasetsError) as error:
        raise BadInput(
            f"{source}: datasets cannot load it ({error}); check pool.split, or name a file of the "
            f"repository with pool.file"
        ) from error
    return [(f"row {i}", row) for i, row in enumerate(rows, 1)]


def _parquet(data: bytes, source: str) -> Raw:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        rows = pq.read_table(io.BytesIO(data)).to_pylist()
    except (pa.ArrowInvalid, OSError) as error:
        raise BadInput(f"{source} is not a readable parquet file ({error}); check pool.path or pool.format") from error
    return [(f"row {i}", row) for i, row in enumerate(rows, 1)]


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


_DECODER = json.JSONDecoder(parse_constant=_no_constant)


def _jsonl(data: bytes, source: str) -> tuple[Raw, list[str]]:
    """One object a line; blank lines are passed over. Only line feeds end a line (U+2028 is text)."""
    raw: Raw = []
    problems = []
    for number, line in enumerate(data.removeprefix(b"\xef\xbb\xbf").split(b"\n"), 1):
        if not line.strip():
            continue
        try:
            row = _DECODER.decode(line.decode())
        except (ValueError, RecursionError) as error:
            problems.append(f"{source}: line {number}: malformed ({error})")
            row = _UNREADABLE
        raw.append((f"line {number}", row))
    return raw, problems


_UNREADABLE = object()  # stands for a malformed line, so that positions of later rows do not shift


def _json(data: bytes, source: str) -> tuple[Raw, list[str]]:
    """A list of objects, decoded one by one so that each has its line; reading ends at the first malformed one."""
    raw: Raw = []
    try:
        text = data.removeprefix(b"\xef\xbb\xbf").decode()
    except UnicodeDecodeError as error:
        return raw, [f"{source}: not UTF-8 ({error})"]
    space = re.compile(r"[ \t\r\n]*")

    def skip(position: int) -> int:
        return space.match(text, position).end()  # type: ignore[union-attr]

    at = skip(0)
    if text[at : at + 1] != "[":
        return raw, [
            f"{source}: expected a list of objects, found {text[at : at + 20]!r}; "
            f"for one object a line set pool.format=jsonl"
        ]
    line, counted, at = 1, 0, skip(at + 1)
    while text[at : at + 1] != "]" or raw:
        line, counted = line + text.count("\n", counted, at), at
        try:
            row, at = _DECODER.raw_decode(text, at)
        except (ValueError, RecursionError) as error:
            return raw, [f"{source}: line {line}: malformed ({error}); nothing after it was read"]
        raw.append((f"line {line}", row))
        at = skip(at)
        if text[at : at + 1] == "]":
            break
        if text[at : at + 1] != ",":
            line += text.count("\n", counted, at)
            return raw, [
                f"{source}: line {line}: malformed (expected ',' or ']', found {text[at : at + 10]!r}); "
                f"nothing after it was read"
            ]
        at = skip(at + 1)
    if text[skip(at + 1) :]:
        return raw, [f"{source}: malformed (text after the closing bracket: {text[skip(at + 1) :][:20]!r})"]
    return raw, []


# -- validating --------------------------------------------------------------------------------------


def _validate(
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
        if row is _UNREADABLE:
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


# -- writing -----------------------------------------------------------------------------------------


def write_lines(path: Path, entries: Iterable[Any]) -> None:
    """Write JSON Lines atomically, what JSON cannot hold as ``_line`` says."""
    write_atomic(path, b"".join(_line(entry) for entry in entries))


def _line(entry: Any) -> bytes:
    """One line of strict JSON. Dates become ISO text, decimals text, NaN and infinities null."""
    try:
        text = json.dumps(entry, ensure_ascii=False, allow_nan=False, default=_jsonable)
    except ValueError:
        text = json.dumps(_finite(entry), ensure_ascii=False, default=_jsonable)
    try:
        return text.encode() + b"\n"
    except UnicodeEncodeError:
        return json.dumps(_finite(entry), default=_jsonable).encode() + b"\n"


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _finite(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_finite(v) for v in value]
    return None if isinstance(value, float) and value - value != 0 else value


def _jsonable(value: Any) -> str:
    if isinstance(value, (datetime.date, datetime.time)):
        return value.isoformat()
    if isinstance(value, (decimal.Decimal, datetime.timedelta)):
        return str(value)
    raise BadInput(
        f"a field of the pool holds {type(value).__name__} {value!r:.40}, which is not JSON; "
        f"write the pool again without that column"
    )
