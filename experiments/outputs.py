"""What ``experiments.select`` writes and where: nothing that the user has is replaced or lost, and all of it is checked
before the work begins.

Nothing here bears identity.
"""

from __future__ import annotations

import csv
import io
import json
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adg.artifacts.files import write_atomic, write_lines
from adg.errors import BadInput

DATA = "data/train.jsonl"  # of a folder; of one format with the scores, as the library of data sets wants it
TEMPORARY = ".{}.4194304.tmp"  # the longest name under which a file is written before it has its own


@dataclass(frozen=True)
class Outputs:
    """The files of a subset: the chosen rows, the scores of every row, and the manifest of what made them; of a folder
    for a hub of data sets its ``card`` too."""

    rows: Path
    scores: Path
    manifest: Path
    card: Path | None = None

    @property
    def all(self) -> tuple[Path, ...]:
        return self.rows, self.scores, self.manifest, *([] if self.card is None else [self.card])

    @property
    def folder(self) -> Path:
        """The folder that holds all of them."""
        return (self.card or self.rows).parent


def outputs_of(out: str) -> Outputs:
    """The files that ``out=`` stands for: with a stroke at its end a folder as a hub of data sets holds it.

    Raises ``BadInput`` where a file's ending is not one of ``WRITERS``.
    """
    path = Path(os.path.expanduser(out)).absolute()
    if out.endswith("/"):
        return Outputs(path / DATA, path / "scores.jsonl", path / "selection.json", path / "README.md")
    if path.is_dir():
        raise BadInput(
            f"out={out} is a folder; name a file in it, out={out}/subset.jsonl, or end it with a stroke, out={out}/, "
            f"for a folder that a hub of data sets can hold"
        )
    if path.suffix.lower() not in WRITERS:
        raise BadInput(f"out={out}: cannot write '{path.suffix}'; expected a name that ends with {', '.join(WRITERS)}")
    return Outputs(path, path.with_name(f"{path.stem}.scores.jsonl"), path.with_name(f"{path.stem}.manifest.json"))


def refuse_unsafe(outputs: Outputs, read: Mapping[str, Path], overwrite: bool) -> None:
    """Raise ``BadInput`` where an output is something that is read, exists already, or cannot be written.

    ``read`` maps options to the files and folders that they name. A file is recognised by whatever name: a link, a
    hard link, another spelling.
    """
    for target in outputs.all:
        for option, source in read.items():
            if _is_or_is_in(target, source):
                raise BadInput(f"{target} would replace or join what {option} reads ({source}); choose another out=")
    folder = outputs.folder
    if outputs.card is not None:
        if os.path.lexists(folder) and not folder.is_dir():
            raise BadInput(f"{folder} exists and is no folder; choose another out=")
        folder = folder if folder.is_dir() else folder.parent
    if not folder.is_dir():
        raise BadInput(f"the folder {folder} of out= does not exist; create it first (mkdir -p {folder})")
    there = [target for target in outputs.all if os.path.lexists(target)]
    unusual = [target for target in there if not target.is_file() and not target.is_symlink()]
    if unusual:
        raise BadInput(f"{unusual[0]} exists and is no file; choose another out=")
    if there and not overwrite:
        raise BadInput(
            f"{', '.join(map(str, there))} exist{'s' * (len(there) == 1)} already; overwrite=true replaces "
            f"{'it' if len(there) == 1 else 'them'}, also where an earlier run of the same command wrote "
            f"{'it' if len(there) == 1 else 'them'}; or choose another out="
        )
    longest = max(outputs.all, key=lambda target: len(os.fsencode(target.name)))
    if len(os.fsencode(TEMPORARY.format(longest.name))) > os.pathconf(folder, "PC_NAME_MAX"):
        raise BadInput(f"{longest.name[:60]}… is too long for a file's name; choose a shorter out=")
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise BadInput(f"nothing can be written into {folder} ({error.strerror}); choose another out=") from error


def _is_or_is_in(target: Path, source: Path) -> bool:
    """Whether two paths are one file, or ``target`` stands in the folder ``source``."""
    if target.exists() and source.exists() and os.path.samefile(target, source):
        return True
    real, origin = Path(os.path.realpath(target)), Path(os.path.realpath(source))
    return real == origin or (source.is_dir() and origin in (Path(os.path.realpath(target.parent)), *real.parents))


def write(
    outputs: Outputs,
    lines: Sequence[bytes],
    scores: Sequence[Any],
    manifest: bytes,
    card: Callable[[], str] | None = None,
) -> None:
    """Write all of them, the rows last but for the card. ``lines`` are the chosen rows as JSON, one each."""
    try:
        write_lines(outputs.scores, scores)
        write_atomic(outputs.manifest, manifest)
        write_atomic(outputs.rows, encoded(outputs, lines))
        if outputs.card is not None and card is not None:
            write_atomic(outputs.card, card().encode())
    except OSError as error:
        raise BadInput(
            f"{error.filename or outputs.rows} cannot be written ({error.strerror}); make room or choose another out= "
            f"and run the same command again, which repeats no work"
        ) from error


def encoded(outputs: Outputs, lines: Sequence[bytes]) -> bytes:
    """The content of the file of rows. Raises ``BadInput`` where its format cannot hold them."""
    return WRITERS[outputs.rows.suffix.lower()](lines)


def _json_lines(lines: Sequence[bytes]) -> bytes:
    return b"".join(line + b"\n" for line in lines)


def _json_list(lines: Sequence[bytes]) -> bytes:
    return b"[\n" + b",\n".join(lines) + b"\n]\n"


def _columns(lines: Sequence[bytes]) -> dict[str, list[Any]]:
    """The rows' fields as columns, None where a row has no such field."""
    rows = [json.loads(line) for line in lines]
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: [row.get(name) for row in rows] for name in names}


def _parquet(lines: Sequence[bytes]) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = {}
    for name, values in _columns(lines).items():
        buffer = io.BytesIO()
        try:
            columns[name] = pa.array(values)
            pq.write_table(pa.table({name: columns[name]}), buffer)
        except (pa.ArrowException, ValueError, TypeError, OverflowError) as error:
            raise BadInput(
                f"parquet cannot hold the pool's field '{name}' ({str(error).splitlines()[0]}); choose an out= that "
                f"ends with .jsonl"
            ) from error
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns), buffer)
    return buffer.getvalue()


def _csv(lines: Sequence[bytes]) -> bytes:
    """Text as it is, null as an empty cell, everything else as JSON."""
    columns = _columns(lines)
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(columns)
    for values in zip(*columns.values(), strict=True):
        writer.writerow(
            ["" if v is None else v if isinstance(v, str) else json.dumps(v, ensure_ascii=False) for v in values]
        )
    try:
        return text.getvalue().encode()
    except UnicodeEncodeError as error:
        raise BadInput(f"CSV cannot hold a row of the pool ({error}); choose an out= that ends with .jsonl") from error


WRITERS: dict[str, Callable[[Sequence[bytes]], bytes]] = {
    ".jsonl": _json_lines,
    ".json": _json_list,
    ".parquet": _parquet,
    ".csv": _csv,
}
