"""SCAR (arXiv 2406.10882; zhuang-li/SCAR, commit d1365fe): a learned ranker of the style of (instruction, answer).

The ranker's weights are the method: without its checkpoint this selector does not run, and one trained elsewhere is
another selector. Filters of the official pipeline are options, and count what they drop.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from adg.artifacts.artifact import Job, Node, Stage
from adg.artifacts.files import write_atomic
from adg.artifacts.shards import parquet
from adg.backbones import loading
from adg.errors import BadInput, BadMeasurement
from adg.options import aside, location
from adg.pools import records as records_
from adg.pools.records import Record
from adg.prompts import instruction_text
from adg.selection.contract import ScoreTable, Selector, SelectorData
from baselines.shared import checkpoints
from baselines.shared.near_duplicates import groups
from baselines.shared.style_ranker import Ranker, load

STAGE = Stage("scar-scores", 1, "baselines.scar:build", gpus="tensor_parallel", work="records to read")
VARIANTS = ("corrected", "released")
ENGLISH = 70.0  # percent of letters above which a text counts as English


@dataclass(frozen=True)
class ScarConfig:
    """Which ranker, and which filters come before it.

    ``checkpoint`` is a folder with the hub repository's files, its pickled weights converted to
    ``model.safetensors`` (pickles are never loaded here), and the encoder's own ``config.json`` as
    ``encoder/config.json``. ``hub`` and ``revision`` say what it was made from.

    ``variant="released"`` reads no ``input``, as the official loader, and filters as the official script: exact
    duplicates and texts that are not English go, near-duplicates stay. ``"corrected"`` puts the input below the
    instruction and drops nothing, because the English filter shapes a pool with code or arithmetic more than the
    ranker does. Each filter can be set by itself.
    """

    variant: str = "corrected"
    hub: str = "lizhuang144/scar-gte-base"
    revision: str = "???"
    checkpoint: str | None = location()
    checkpoint_sha256: str | None = None
    max_length: int = 512  # tokens of the instruction and of the answer, each
    exact_duplicates: bool | None = None  # drop all but the first of equal pairs; None: as the variant does
    english: bool | None = None  # drop a pair of which a side has 70 percent letters or less; None: as the variant does
    near_duplicates: bool = False  # drop all but the first of each group of near-duplicates
    near_threshold: float = 0.5  # Jaccard similarity of word bigrams from which two pairs are near-duplicates
    device: str = aside("auto")
    tokens_per_batch: int = aside(4096)

    def __post_init__(self) -> None:
        if self.variant not in VARIANTS:
            raise BadInput(f"selector.variant is {self.variant!r}; expected one of {', '.join(VARIANTS)}")
        if self.max_length < 1:
            raise BadInput(f"selector.max_length is {self.max_length}; expected a number of tokens above 0")
        if not 0 < self.near_threshold <= 1:
            raise BadInput(f"selector.near_threshold is {self.near_threshold}; expected a number above 0, at most 1")
        checkpoints.check_paths(self, folders=("checkpoint",))
        for name in ("exact_duplicates", "english"):
            if getattr(self, name) is None:
                object.__setattr__(self, name, self.variant == "released")


# -- filters ---------------------------------------------------------------------------------------------


def letters(text: str) -> float:
    """Percent of the characters that are letters A-Z or a-z (spaces and digits count as others); 0 for no text."""
    return 100 * len(re.findall("[A-Za-z]", text)) / len(text) if text else 0.0


def pair(record: Record, variant: str = "corrected") -> tuple[str, str]:
    """The instruction and the answer that the ranker reads."""
    return (record.instruction if variant == "released" else instruction_text(record)), record.output


def filtered(pairs: Sequence[tuple[str, str]], config: ScarConfig) -> dict[int, str]:
    """Rows that the filters drop and why, each by the first filter it fails: exact, English, near-duplicates."""
    dropped: dict[int, str] = {}
    if config.exact_duplicates:
        seen: set[tuple[str, str]] = set()
        for row, (instruction, answer) in enumerate(pairs):
            bare = (instruction.strip(), answer.strip())
            if bare in seen:
                dropped[row] = "exact duplicate of an earlier record"
            seen.add(bare)
    if config.english:
        for row, texts in enumerate(pairs):
            if row not in dropped and min(map(letters, texts)) <= ENGLISH:
                dropped[row] = f"not English ({ENGLISH:.0f} percent letters or less)"
    if config.near_duplicates:
        left = [row for row in range(len(pairs)) if row not in dropped]
        first = groups([" ".join(pairs[row]) for row in left], config.near_threshold)
        for place, row in enumerate(left):
            if first[place] != place:
                dropped[row] = "near-duplicate of an earlier record"
    return dropped


# -- the stage -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class RankingConfig:
    """Identity of a pool's scores: the ranker, and what it reads of a record. Filters are no part of it."""

    variant: str
    hub: str
    revision: str
    sha256: str | None
    max_length: int
    path: str | None = location()
    device: str = aside("auto")
    tokens_per_batch: int = aside(4096)

    @property
    def lacks(self) -> str:
        """Why nothing can be ranked, or ""."""
        if self.path is not None:
            return ""
        return (
            f"needs checkpoint {self.hub}: set selector.checkpoint=<folder with its files, model.safetensors in place "
            f"of pytorch_model.bin, and the encoder's config.json as encoder/config.json>"
        )


def ranked(pool: Sequence[Record], ranker: Ranker, cfg: RankingConfig) -> np.ndarray:
    """The ranker's score of every record, (n,) float64. Raises ``BadMeasurement`` where one is not finite."""
    pairs = [pair(record, cfg.variant) for record in pool]
    scores = ranker.score(pairs, cfg.max_length, cfg.tokens_per_batch)
    failed = np.flatnonzero(~np.isfinite(scores))
    if len(failed):
        raise BadMeasurement(
            f"the ranker scored {len(failed)} records {scores[failed[0]]} (first: id {pool[failed[0]].key}); the "
            f"checkpoint's weights are not usable"
        )
    return scores


def build(job: Job) -> dict[str, Any]:
    """Stage "scar-scores": ``ranking.parquet``, id and score of every record of the pool."""
    import pyarrow as pa

    cfg: RankingConfig = job.config
    assert cfg.path is not None, "refused before, since it lacks its checkpoint"
    folder = checkpoints.folder("checkpoint", cfg.path, cfg.sha256)
    pool = records_.load(job.inputs["pool"])
    ranker = load(folder, loading.device(dataclasses.replace(job.exec, device=cfg.device)))
    columns = {"id": [record.key for record in pool], "score": ranked(pool, ranker, cfg)}
    write_atomic(job.folder / "ranking.parquet", parquet(pa.table(columns)))
    return {"rows_in": len(pool), "rows_out": len(pool), "failed": []}


# -- the selector ----------------------------------------------------------------------------------------


class Scar(Selector):
    """The highest scores of SCAR's ranker among the records its filters leave; ties to the lowest id."""

    name = "scar"
    Config = ScarConfig

    def inputs(self, cell: Mapping[str, Node]) -> dict[str, Node]:
        return {"ranking": Node(STAGE, f"{cell['pool'].label}+scar", self.ranking, {"pool": cell["pool"]})}

    @property
    def ranking(self) -> RankingConfig:
        """How the pool is ranked."""
        c = self.config
        return RankingConfig(
            c.variant,
            c.hub,
            c.revision,
            c.checkpoint_sha256,
            c.max_length,
            c.checkpoint,
            c.device,
            c.tokens_per_batch,
        )

    def scores(self, data: SelectorData) -> ScoreTable:
        import pyarrow.parquet as pq

        artifact = data.features["ranking"]
        table = pq.read_table(artifact.file("ranking.parquet"))
        if table["id"].to_pylist() != data.keys:
            raise BadMeasurement(
                f"{artifact.path} holds other records than the pool; delete that folder and run the same command again"
            )
        return self.filtered(data.records, table["score"].to_numpy())

    def filtered(self, records: Sequence[Record], scores: np.ndarray) -> ScoreTable:
        """The ranker's ``scores`` (n,) of ``records``, without those that the filters drop."""
        dropped = filtered([pair(record, self.config.variant) for record in records], self.config)
        kept = np.array(scores, dtype=np.float64)
        kept[list(dropped)] = np.nan
        return ScoreTable(kept, invalid=dropped)
