"""DEITA (arXiv 2312.15685; hkust-nlp/deita, commit b279f2c): complexity times quality, best first, no near-duplicates.

Scores are read from annotations, or rated by the two published scorers where their checkpoints are given: those are
the method, and one trained elsewhere is another selector. The diversity filter is exact and works block by block.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from adg import batching
from adg.artifacts.artifact import Job, Node, Stage
from adg.artifacts.files import write_atomic
from adg.artifacts.shards import parquet
from adg.backbones import loading
from adg.errors import BadInput, BadMeasurement, NotRunnable
from adg.options import location
from adg.pools import records
from adg.pools.records import Record
from adg.prompts import instruction_text
from adg.selection.contract import ScoreTable, SelectorData
from baselines.shared import checkpoints, text_encoder
from baselines.shared import vectors as vectors_
from baselines.shared.annotations import checked, products, read
from baselines.shared.vectors import VectorOptions, VectorSelector

RATINGS = Stage("deita-ratings", 1, "baselines.deita:build", gpus="tensor_parallel", work="records to read")

VARIANTS = ("corrected", "released")
SIDES = ("complexity", "quality")
LEVELS = ("1", "2", "3", "4", "5", "6")
PROMPTS = {  # data of the method: double spaces and the blank at the end included
    "complexity": "You are a helpful assistant. Please identify the complexity score of the following user query. \n"
    "##Query: {instruction}  \n##Complexity: ",
    "quality": "You are a helpful assistant. Please identify the quality score of the Response corresponding to the "
    "Question. \n #Question#:\n{instruction}\n#Response#:\n{output} \n##Quality: ",
}
TOO_LONG = "a scorer has fewer positions than its text has tokens"
SIMILAR = "near-duplicate of a record with a higher score (cosine above {threshold:g})"
BLOCK = 512  # candidates compared with what is kept in one product
COLUMNS = 8192  # kept records in one product
DOUBTFUL = 1e-5  # cosines this near to the threshold in float32 are computed again in float64
ROUNDING = 1e-12  # of those


@dataclass(frozen=True)
class DeitaConfig(VectorOptions):
    """Where the scores come from, and the diversity filter.

    Scores stand in the fields ``complexity`` and ``quality`` of the pool's rows, or of ``annotations``: JSON Lines with
    ``id`` and these fields (dots reach into nested objects), a number or a list with one a turn. Where
    ``complexity_scorer`` and ``quality_scorer`` are given, folders with the files of the hub's repositories, records
    are rated by them instead.
    ``variant="released"`` differs where ``batch_size`` exceeds 1 (a record is also compared with those earlier in its
    batch that were rejected; batches begin at the second record) and where the threshold is below 0 (one is kept).
    """

    variant: str = "corrected"
    threshold: float = 0.9  # a record more similar than this to one that is kept is left out
    batch_size: int = 1  # of the released filter
    complexity: str = "complexity"
    quality: str = "quality"
    annotations: str | None = location()
    annotations_sha256: str | None = None
    complexity_hub: str = "hkust-nlp/deita-complexity-scorer"
    complexity_revision: str = "???"
    complexity_scorer: str | None = location()
    complexity_scorer_sha256: str | None = None
    quality_hub: str = "hkust-nlp/deita-quality-scorer"
    quality_revision: str = "???"
    quality_scorer: str | None = location()
    quality_scorer_sha256: str | None = None
    vectors: str = "auto"
    vector_tokens: int | None = 2048
    encoder_hub: str = "mistralai/Mistral-7B-v0.1"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.variant not in VARIANTS:
            raise BadInput(f"selector.variant is {self.variant!r}; expected one of {', '.join(VARIANTS)}")
        if not -1 <= self.threshold <= 1:
            raise BadInput(f"selector.threshold is {self.threshold}; expected a cosine, -1 to 1 (official: 0.9)")
        if self.batch_size < 1 or (self.batch_size > 1 and self.variant != "released"):
            raise BadInput(
                f"selector.batch_size is {self.batch_size}; expected 1, or more with selector.variant=released: "
                f"ours is the result of one at a time"
            )
        checkpoints.check_paths(self, "annotations", folders=("complexity_scorer", "quality_scorer"))
        if (self.complexity_scorer is None) != (self.quality_scorer is None):
            raise BadInput("only one of selector.complexity_scorer and selector.quality_scorer is set; set both")
        if self.complexity_scorer is not None and self.annotations is not None:
            raise BadInput("selector.annotations and the scorers are set; expected one source of scores")

    def defaults(self, own: bool) -> tuple[str, str]:
        """The official text and pooling for the encoder; for a backbone the mean over the record's tokens.

        The last token's states of a small language model are nearly parallel for all records, so that nothing would
        pass the filter.
        """
        return ("record", "mean") if own else ("conversation", "last")


# -- the diversity filter --------------------------------------------------------------------------------


def diverse(
    points: np.ndarray, threshold: float, limit: int | None = None, batch: int = 1, block: int = BLOCK
) -> np.ndarray:
    """The rows of ``points`` (n, d) that stay, in their order, which is best first: at most ``limit`` of them.

    The first stays; then a row stays if its cosine to every row that stays is at most ``threshold``. The result does
    not depend on ``block``: cosines that float32 leaves in doubt are decided in float64.
    ``batch`` above 1 is the released code's rule, see ``DeitaConfig``. Memory: a second copy of the points and one
    block of cosines.
    """
    unit = np.array(points, dtype=np.float32)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    n = len(unit)
    kept = list(range(min(n, 1)))  # unit[: len(kept)] holds the kept rows: they are moved to the front
    step, start = (block if batch == 1 else batch), 1
    while start < n and (limit is None or len(kept) < limit):
        some = unit[start : start + step]
        alive = np.ones(len(some), dtype=bool)
        for first in range(0, len(kept), COLUMNS):
            alive &= ~_above(some, unit[first : min(first + COLUMNS, len(kept))], threshold).any(axis=1)
        inside = _above(some, some, threshold)
        if batch == 1:
            for i in np.flatnonzero(alive):
                if alive[i]:
                    alive[i + 1 :] &= ~inside[i, i + 1 :]
        else:
            alive &= ~np.tril(inside, -1).any(axis=1)
        stay = np.flatnonzero(alive)
        unit[len(kept) : len(kept) + len(stay)] = some[stay]
        kept += (start + stay).tolist()
        start += step
    return np.array(kept[:limit], dtype=np.int64)


def _above(a: np.ndarray, b: np.ndarray, threshold: float) -> np.ndarray:
    """(len(a), len(b)) bool: whether the cosine of two unit rows is above ``threshold``."""
    cosines = a @ b.T
    result = cosines > threshold
    cosines -= np.float32(threshold)
    i, j = np.nonzero(np.abs(cosines, out=cosines) <= DOUBTFUL)
    for start in range(0, len(i), COLUMNS):
        some = slice(start, start + COLUMNS)
        left, right = a[i[some]].astype(np.float64), b[j[some]].astype(np.float64)
        exact = np.einsum("ij,ij->i", left, right)
        exact /= np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1)
        result[i[some], j[some]] = exact > threshold + ROUNDING
    return result


# -- the scorers -----------------------------------------------------------------------------------------


class Rater:
    """A scorer: the expected level under its distribution of the next token, among the six levels alone."""

    def __init__(self, model: Any, tokenizer: Any, tokens_per_batch: int = 4096) -> None:
        self._model, self._tokenizer, self.tokens_per_batch = model, tokenizer, tokens_per_batch
        self.positions = int(getattr(model.config, "max_position_embeddings", 1 << 30))
        self.levels = [tokenizer.convert_tokens_to_ids(level) for level in LEVELS]
        if len({*self.levels, tokenizer.unk_token_id, None}) < len(LEVELS) + 1 + (tokenizer.unk_token_id is not None):
            raise BadInput(
                f"the scorer's tokenizer has the ids {self.levels} for the levels 1 to 6; expected a token for each"
            )

    def rate(self, texts: Sequence[str]) -> np.ndarray:
        """(n,) float64 in [1, 6]: sum over levels k of k p_k, p the softmax of the logits that follow the text.

        NaN where a text has more tokens than the model has positions (the official code runs those as they are, and
        answers 3.0 where logits are missing). Raises ``BadMeasurement`` when the model gives no finite number.
        """
        import torch

        ids: list[list[int]] = []
        for start in range(0, len(texts), 1000):
            batch_ = self._tokenizer(list(texts[start : start + 1000]), split_special_tokens=True, verbose=False)
            ids += [list(row) for row in batch_["input_ids"]]
        result = np.full(len(texts), np.nan)
        device, scale = self._model.device, torch.arange(1, len(LEVELS) + 1, dtype=torch.float64)
        fit = [i for i, row in enumerate(ids) if len(row) <= self.positions]
        with torch.inference_mode():
            for batch in batching.batches(fit, lambda i: len(ids[i]), self.tokens_per_batch):
                lengths = torch.tensor([len(ids[i]) for i in batch], device=device)
                width = int(lengths.max())
                # padding stands on the right, where no token that counts can see it
                padded = torch.tensor([ids[i] + [0] * (width - len(ids[i])) for i in batch], device=device)
                states = self._model.base_model(input_ids=padded, use_cache=False).last_hidden_state
                last = states[torch.arange(len(batch), device=device), lengths - 1]
                logits = self._model.get_output_embeddings()(last)[:, self.levels].double().cpu()
                result[batch] = (torch.softmax(logits, dim=1) @ scale).numpy()
                if not np.isfinite(result[batch]).all():
                    bad = texts[batch[int(np.flatnonzero(~np.isfinite(result[batch]))[0])]]
                    raise BadMeasurement(f"the scorer gave NaN or infinity for the text {bad[-200:]!r}")
        return result


def prompt(record: Record, side: str) -> str:
    """What the scorer of ``side`` reads; the input stands below the instruction."""
    return PROMPTS[side].format(instruction=instruction_text(record), output=record.output)


@dataclass(frozen=True)
class RatingsConfig:
    """Identity of the ratings of a pool: for each side what the scorer was made from, and its digest."""

    complexity: tuple[str, str, str | None]
    quality: tuple[str, str, str | None]
    paths: tuple[str, str] = field(metadata={"identity": False})


def build(job: Job) -> dict[str, Any]:
    """Stage "deita-ratings": ``ratings.parquet``, id and both scores of every record, null where a text is too long.

    Equal texts are rated once; a finished shard is found again in ``job.work`` after a kill.
    """
    import pyarrow as pa

    pool = records.load(job.inputs["pool"])
    device = loading.device(job.exec)
    tokens = batching.batch_tokens(job.exec.tokens_per_batch, device)
    columns: dict[str, Any] = {"id": [record.key for record in pool]}
    for side, path in zip(SIDES, job.config.paths, strict=True):
        folder = checkpoints.folder(f"{side}_scorer", path, getattr(job.config, side)[2])
        texts = [prompt(record, side) for record in pool]
        rater = functools.partial(_rater, folder, device, tokens)
        columns[side] = pa.array(_rated_once(texts, job.work, side, rater), pa.float64(), from_pandas=True)
    write_atomic(job.folder / "ratings.parquet", parquet(pa.table(columns)))
    return {"rows_in": len(pool), "rows_out": len(pool), "too_long": {side: columns[side].null_count for side in SIDES}}


def _rater(folder: Path, device: str, tokens_per_batch: int) -> Rater:
    return Rater(*checkpoints.pretrained(folder, device, head=True), tokens_per_batch)


def _rated_once(texts: Sequence[str], work: Path, side: str, rater: Callable[[], Rater]) -> list[float]:
    """The rating of each text; ``rater`` is called when the first text is not in ``work`` yet."""
    loaded = functools.cache(rater)
    unique = list(dict.fromkeys(texts))
    ratings = text_encoder.in_shards(unique, work, side, lambda some: loaded().rate(some), nan_is_a_result=True)
    rating_of = dict(zip(unique, ratings.tolist(), strict=True))
    return [rating_of[text] for text in texts]


# -- the selector ----------------------------------------------------------------------------------------


class Deita(VectorSelector):
    """Highest complexity x quality first (summed over turns), without records too similar to a better one.

    What the filter leaves out has no score but that reason, so a smaller budget is always the beginning of a larger
    one, and a budget that the filter cannot meet is refused (the released code returns fewer). ``deita`` is the score
    of every record.
    """

    name = "deita"
    Config = DeitaConfig

    def inputs(self, cell: Mapping[str, Node]) -> dict[str, Node]:
        c, nodes, pool = self.config, super().inputs(cell), cell["pool"]
        if c.complexity_scorer is None:
            nodes["annotated"] = checked(pool, self, (c.complexity, c.quality), c.annotations_sha256)
        else:
            config = RatingsConfig(
                (c.complexity_hub, c.complexity_revision, c.complexity_scorer_sha256),
                (c.quality_hub, c.quality_revision, c.quality_scorer_sha256),
                (c.complexity_scorer, c.quality_scorer),
            )
            nodes["ratings"] = Node(RATINGS, f"{pool.label}+deita", config, {"pool": pool})
        return nodes

    def scores(self, data: SelectorData) -> ScoreTable:
        c = self.config
        annotated = self.annotations(data) if c.complexity_scorer is None else self._rated(data)
        points, missing = vectors_.load(data)
        invalid = {i: value for i, value in enumerate(annotated) if isinstance(value, str)}
        whole = np.array([np.nan if isinstance(value, str) else sum(value) for value in annotated])
        invalid = {**missing, **invalid}
        rows = np.array([i for i in range(len(annotated)) if i not in invalid], dtype=np.int64)
        ranked = rows[np.argsort(-whole[rows], kind="stable")]
        if c.variant == "released" and c.threshold < 0:
            kept = ranked[:1]  # it compares a record with itself as 0
        else:
            kept = ranked[diverse(points[ranked], c.threshold, batch=c.batch_size)]
        left_out = SIMILAR.format(threshold=c.threshold)
        invalid |= dict.fromkeys(sorted(set(rows.tolist()) - set(kept.tolist())), left_out)
        score = np.full(len(annotated), np.nan)
        score[kept] = whole[kept]
        return ScoreTable(score, {"deita": whole}, invalid)

    def annotations(self, data: SelectorData) -> list[list[float] | str]:
        """Complexity x quality of each turn of each record, or what the record lacks."""
        c = self.config
        annotated, source = read(
            data,
            c.annotations,
            c.annotations_sha256,
            lambda row: products(row, c.quality, c.complexity) or "no quality or complexity score",
        )
        if all(isinstance(value, str) for value in annotated):
            raise NotRunnable(
                f"needs checkpoints {c.complexity_hub} and {c.quality_hub}, or their scores: no record has "
                f"'{c.complexity}' and '{c.quality}' in {source}; set selector.annotations=<JSON Lines with id and "
                f"these fields>, or selector.complexity_scorer=<folder> and selector.quality_scorer=<folder> with the "
                f"scorers' files, weights as safetensors"
            )
        return annotated

    def _rated(self, data: SelectorData) -> list[list[float] | str]:
        import pyarrow.parquet as pq

        artifact = data.features["ratings"]
        table = pq.read_table(artifact.file("ratings.parquet"))
        if table["id"].to_pylist() != data.keys:
            raise BadMeasurement(
                f"{artifact.path} holds other records than the pool; delete that folder and run the same command again"
            )
        pairs = zip(table["complexity"].to_pylist(), table["quality"].to_pylist(), strict=True)
        return [TOO_LONG if a is None or b is None else [a * b] for a, b in pairs]
