"""What may be set for a pool: where it comes from, which field holds what, what is done with doubtful rows.

Identity: the source's digest or pinned revision and every field that is not marked otherwise; not the path.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from adg.artifacts.artifact import UNLESS_DEFAULT
from adg.errors import BadInput
from adg.options import aside, location

FORMATS = ("json", "jsonl", "parquet", "csv")


@dataclass(frozen=True)
class FieldMap:
    """Which field of a row holds what. ``None`` for ``input`` or ``output``: the rows have none.

    ``messages`` names the field with the turns of a conversation; ``None`` finds "messages" or "conversations" in
    rows that have no instruction. Where a conversation holds no answer, a field named as ``output`` may hold it
    ("chosen" of preference pairs).
    """

    id: str = "id"
    instruction: str = "instruction"
    input: str | None = "input"
    output: str | None = "output"
    messages: str | None = None


@dataclass(frozen=True)
class PoolConfig:
    """Where a pool comes from and what is done with doubtful rows. Exactly one of ``path`` and ``hub`` is set.

    A row that is refused ends the command with the list of all such rows; one that is dropped is counted and listed
    with its reason.
    """

    name: str = aside("???")
    # a file or a folder of shards; "mini:x.jsonl" is an embedded pool
    path: str | None = location(counts="by the digest of its files")
    format: str = "auto"  # auto (by the file's name) | json | jsonl | parquet | csv
    hub: str | None = None  # id of a dataset repository
    revision: str | None = None  # full commit hash of that repository
    file: str | None = None  # one file in it; None loads the dataset through its own layout
    split: str = "train"  # of a whole data set, and of a folder whose files' names tell splits apart
    sha256: str | None = None  # of the file, of a folder over its files' digests; checked
    fields: FieldMap = field(default_factory=FieldMap)
    rows: int | None = None  # keep a seeded sample of that many rows; None keeps all
    seed: int = 0  # of that sample, of the rows that are held out, and of those that are corrupted
    # rows that no selector sees, to measure the loss of their answers; with ``rows`` they come beside the sample
    heldout: int = field(default=0, metadata={"identity": UNLESS_DEFAULT})
    # share of the other rows, 0 to 1, whose outputs are exchanged among them: a known fault, for controls
    corrupt: float = field(default=0.0, metadata={"identity": UNLESS_DEFAULT})
    empty_instruction: str = "refuse"  # refuse | drop
    empty_output: str = "refuse"  # keep | drop | refuse; a row without an answer teaches a model to say nothing
    max_chars: int | None = None  # a row is over-long above this many characters in its three fields
    over_long: str = "keep"  # keep | drop | refuse
    # refuse | drop a row that is more than texts: tool turns, parts or placeholders of images
    not_text: str = field(default="refuse", metadata={"identity": UNLESS_DEFAULT})
    # true: a row's id is its position, whatever its id field holds
    number_rows: bool = field(default=False, metadata={"identity": UNLESS_DEFAULT})
    expected_rows: int | None = aside(None)  # rows of the source, before any are left out; checked
    prompt_tokens: int | None = aside(None)  # of a row's prompt in its template, on average; for the plan's estimate
    response_tokens: int | None = aside(None)  # and of its output
    paper: str | None = aside(None)  # name of the pool in the paper's figures

    def __post_init__(self) -> None:
        choices = {
            "format": ("auto", *FORMATS),
            "empty_instruction": ("refuse", "drop"),
            "empty_output": ("keep", "drop", "refuse"),
            "over_long": ("keep", "drop", "refuse"),
            "not_text": ("refuse", "drop"),
        }
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise BadInput(f"pool.{name} is {getattr(self, name)!r}; expected one of {', '.join(allowed)}")
        for name in ("rows", "max_chars", "expected_rows"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise BadInput(f"pool.{name} is {value}; expected a number above 0, or null for no limit")
        if self.heldout < 0:
            raise BadInput(f"pool.heldout is {self.heldout}; expected a number of rows, 0 for none")
        if self.expected_rows is not None and self.heldout and self.heldout + (self.rows or 1) > self.expected_rows:
            raise BadInput(
                f"pool.heldout={self.heldout} and pool.rows={self.rows} are more than the {self.expected_rows} rows of "
                f"the pool (pool.expected_rows); hold fewer out, or sample fewer"
            )
        if not 0 <= self.corrupt <= 1:
            raise BadInput(f"pool.corrupt is {self.corrupt}; expected a share of the rows between 0 and 1")
        if self.sha256 is not None and not re.fullmatch(r"[0-9a-f]{64}", self.sha256):
            raise BadInput(f"pool.sha256 is {self.sha256!r}; expected 64 lower-case hexadecimal digits, or null")
