"""ADG on lists of records and answers, without configuration files: vectors -> Gram matrices -> scores -> subset.

For notebooks and other people's code; everything here is also ``from adg import ...``. Any vectors will do: those of
``embed`` are the method's, but a (n, K, width) array from another encoder can be scored as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from adg import geometry
from adg.embedding.config import BinsConfig
from adg.errors import BadInput, BadMeasurement
from adg.pools.records import Record
from adg.selection import bins as bins_stage
from adg.selection import quotas

if TYPE_CHECKING:
    from adg.embedding.config import EmbeddingConfig
    from adg.embedding.encoder import Vectors


@dataclass(frozen=True)
class Scores:
    """D, I and their weighted sum for n records, (n,) float64 each, in the order of the Gram matrices."""

    dispersion: np.ndarray
    anisotropy: np.ndarray
    score: np.ndarray


@dataclass(frozen=True)
class Selection:
    """Chosen records in output order, with everything that led to them.

    ``rows`` are their positions in the list that was given. ``scores`` and ``bins`` belong to ``scored``, the
    positions of the records that could be embedded; ``failed`` says for the others why not.
    """

    records: list[Record]
    rows: np.ndarray
    scored: np.ndarray
    scores: Scores
    bins: np.ndarray
    failed: dict[int, str]


def load_backbone(
    source: str, revision: str | None = None, device: str = "auto", runs: str | Path = "runs"
) -> tuple[Any, Any]:
    """A model and its tokenizer for ``embed``.

    ``source`` is an embedded backbone (``smollm2_135m``, ``tiny_random``, kept under ``runs``), a folder written by
    ``save_pretrained``, or a hub id, for which ``revision`` must be a full commit hash. ``device``: auto, cpu, cuda.
    """
    from adg.artifacts.store import Store
    from adg.backbones import embedded, loading
    from adg.backbones import stage as backbone_stage
    from adg.backbones.config import BackboneConfig
    from adg.execution import ExecConfig

    if source in embedded.BUILDERS:
        cfg = BackboneConfig(name=source, builder=source, dtype="float32")
    elif Path(source).is_dir():
        cfg = BackboneConfig(name=Path(source).name, path=source)
    else:
        cfg = BackboneConfig(name=source.split("/")[-1], hub=source, revision=revision)
    exec_ = ExecConfig(device=device)
    artifact = Store(runs, exec_).ensure(backbone_stage.node(cfg))
    return loading.load_model(artifact, loading.device(exec_), headless=True), loading.load_tokenizer(artifact)


def embed(
    records: Sequence[Record],
    answers: Sequence[Sequence[str]],
    model: Any,
    tokenizer: Any,
    cfg: EmbeddingConfig | None = None,
    tokens_per_batch: int = 4096,
) -> Vectors:
    """Vectors of the records' answers and of their instructions.

    ``answers[i]`` are the K answers of ``records[i]``, as many for each. ``model`` loses its blocks above the last one
    used, so load another for anything else. The result's ``answers`` are (m, K, windows, width), ``instructions``
    (m, width); ``failed`` names the records, by key, that could not be embedded and why.
    Raises ``BadInput`` for lists that do not fit together.
    """
    from adg.embedding.config import EmbeddingConfig
    from adg.embedding.encoder import Encoder

    if len(records) != len(answers) or not len(records):
        raise BadInput(f"{len(records)} records and {len(answers)} lists of answers; expected one list a record")
    keys = [record.key for record in records]
    if len(set(keys)) != len(keys):
        twice = next(key for key in keys if keys.count(key) > 1)
        raise BadInput(f"the record id {twice} is given twice; ids must be distinct")
    encoder = Encoder(model, tokenizer, cfg or EmbeddingConfig(), tokens_per_batch)
    return encoder.embed(list(zip(records, answers, strict=True)), len(answers[0]))


def score(grams: np.ndarray, lam: float = geometry.LAMBDA, answers: int | None = None) -> Scores:
    """D, I and (1 - lam) D + lam I of Gram matrices (n, K, K), from the first ``answers`` of them if given.

    lam weighs otherwise at each K, because I reaches at most 1 - 1/(K-1).
    Raises ``BadInput`` for lam outside [0, 1], fewer than 2 answers (3 for lam = 1) or more than are there,
    ``BadMeasurement`` for values that are not finite.
    """
    held = grams.shape[-1]
    fewest = _enough(held, lam)
    if answers is not None:
        if not fewest <= answers <= held:
            raise BadInput(f"answers is {answers}; these matrices hold {held}, expected {fewest} to that many")
        grams = grams[:, :answers, :answers]
    d, i = geometry.dispersion(grams), geometry.anisotropy(grams)
    return Scores(d, i, geometry.combine(d, i, lam))


def _enough(answers: int, lam: float) -> int:
    """The fewest answers that can be scored with ``lam``. Raises ``BadInput`` where a record has fewer."""
    fewest = geometry.fewest_answers(lam)
    if answers < fewest:
        raise BadInput(
            f"{answers} of the {fewest} answers that lam {lam:g} needs: every record would score 0; "
            f"sample {fewest} or more for each record (paper: 5)"
        )
    return fewest


def choose(
    scores: np.ndarray, budget: int, bins: np.ndarray | None = None, rule: str = "largest_remainder", part: str = "top"
) -> np.ndarray:
    """Rows chosen from ``scores`` (n,): the best of each bin, (budget,) int64; without ``bins`` the best of all.

    Exactly ``budget`` distinct rows, but for ``rule="released"``, which may return fewer. Ties go to the lower row.
    Raises ``BadInput`` for a budget outside 1..n and ``BadMeasurement`` for a score that is not finite.
    """
    scores = np.asarray(scores, dtype=np.float64)
    if not 1 <= budget <= len(scores):
        raise BadInput(f"budget is {budget} but {len(scores)} records have a score; expected 1 to {len(scores)}")
    if bins is None:
        bins = np.zeros(len(scores), dtype=np.int64)
    return quotas.binwise(scores, np.asarray(bins), budget, rule, part)


def select_from_answers(
    records: Sequence[Record],
    answers: Sequence[Sequence[str]],
    model: Any,
    tokenizer: Any,
    budget: int,
    lam: float = geometry.LAMBDA,
    clusters: BinsConfig | None = None,
    cfg: EmbeddingConfig | None = None,
    max_failed: int = 0,
) -> Selection:
    """The whole method on answers that are there: embed, score, cluster the instructions, best of each cluster.

    Records are worked on in canonical id order, so the result does not depend on the order of the lists.
    Raises ``BadInput`` for lists that do not fit together or too few answers, and ``BadMeasurement`` when more than
    ``max_failed`` records cannot be embedded.
    """
    from adg.pools.records import order

    if len(records) != len(answers):
        raise BadInput(f"{len(records)} records and {len(answers)} lists of answers; expected one list a record")
    if answers:
        _enough(max(map(len, answers)), lam)
    rows = sorted(range(len(records)), key=lambda row: order(records[row].id))
    vectors = embed([records[row] for row in rows], [answers[row] for row in rows], model, tokenizer, cfg)
    place = {records[row].key: row for row in rows}
    if len(vectors.failed) > max_failed:
        shown = "; ".join(f"record {key}: {reason}" for key, reason in vectors.failed[:5])
        raise BadMeasurement(
            f"{len(vectors.failed)} of {len(records)} records could not be embedded, max_failed allows {max_failed}: "
            f"{shown}"
        )
    scores = score(geometry.gram(vectors.answers[:, :, 0]), lam)
    bins = bins_stage.cluster(vectors.instructions, clusters or BinsConfig())
    scored = np.array([place[key] for key in vectors.keys], dtype=np.int64)
    chosen = scored[choose(scores.score, budget, bins)]
    failed = {place[key]: reason for key, reason in vectors.failed}
    return Selection([records[row] for row in chosen], chosen, scored, scores, bins, failed)
