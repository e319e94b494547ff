"""ADG on lists of records and answers, without configuration files: vectors -> Gram matrices -> scores -> subset.

For notebooks and other people's code; everything here is also ``from adg import ...``. Any vectors will do: those of
``embed`` are the method's, but a (n, K, width) array from another encoder can be scored as well.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from adg import geometry
from adg.embedding.config import BinsConfig
from adg.errors import BadInput, BadMeasurement, nearest
from adg.pools.given import as_answers, as_records
from adg.pools.records import Record
from adg.selection import bins as bins_stage
from adg.selection import quotas

if TYPE_CHECKING:
    from adg.backbones.config import BackboneConfig
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
    source: str | Path, revision: str | None = None, device: str = "auto", runs: str | Path | None = None
) -> tuple[Any, Any]:
    """A model, with its head, and its tokenizer, for ``sample`` and ``embed``.

    ``source`` is an embedded backbone (``smollm2_135m``, ``smollm2_qwen2``, ``tiny_random``), a folder written by
    ``save_pretrained``, or a hub id, for which ``revision`` must be a full commit hash. ``device``: auto, cpu, cuda.
    ``runs`` is the folder that keeps what is built of an embedded backbone; None: ``library`` in this user's cache
    (``$ADG_CACHE``, by default ``~/.cache/adg``). Raises ``BadInput`` naming the argument that is wrong.
    """
    from adg.artifacts import digests
    from adg.artifacts.store import Store
    from adg.backbones import loading
    from adg.backbones import stage as backbone_stage
    from adg.execution import ExecConfig

    exec_ = ExecConfig(device=_device(device))
    node = backbone_stage.node(_backbone(str(source), revision))
    artifact = Store(digests.cache() / "library" if runs is None else runs, exec_).ensure(node)
    model, tokenizer = loading.load_model(artifact, loading.device(exec_)), loading.load_tokenizer(artifact)
    model.generation_config.eos_token_id = loading.stop_ids(artifact, tokenizer)
    return model, tokenizer


def _device(name: str) -> str:
    if name not in ("auto", "cpu", "cuda"):
        raise BadInput(f"device is {name!r}; expected auto, cpu or cuda")
    if name == "cuda":
        import torch

        if not torch.cuda.is_available():
            raise BadInput("device is 'cuda' but torch sees no GPU; use device='cpu' (or 'auto')")
    return name


def _backbone(source: str, revision: str | None) -> BackboneConfig:
    """What ``source`` names, in the words of ``load_backbone``."""
    from adg import hub
    from adg.backbones import content, embedded
    from adg.backbones.config import BackboneConfig

    folder = Path(source).expanduser()
    if source in embedded.BUILDERS or folder.is_dir():
        if revision is not None:
            raise BadInput(f"revision is {revision!r}, but {source} is no model of the hub; leave it out")
        if source in embedded.BUILDERS:
            return BackboneConfig(name=source, builder=source, dtype="float32")
        content.check_folder(folder, "source takes a folder written by save_pretrained, tokenizer and all")
        return BackboneConfig(name=folder.absolute().name, path=str(folder))
    if source.count("/") != 1 or source.startswith((".", "/", "~")):
        known = list(embedded.BUILDERS)
        raise BadInput(
            f"source is {source!r}{nearest(source, known)}: no embedded backbone ({', '.join(known)}), no folder that "
            f"is there, no id of the hub (owner/name)"
        )
    if not hub.is_commit(revision):
        raise BadInput(
            f"revision is {revision!r}; {source} comes from the hub and needs a 40-digit commit hash, which the "
            f"model's page names: load_backbone({source!r}, revision='<commit>')"
        )
    return BackboneConfig(name=source.split("/")[-1], hub=source, revision=revision)


def embed(
    records: Sequence[Any],
    answers: Sequence[Sequence[str]] | Mapping[Any, Sequence[str]],
    model: Any,
    tokenizer: Any,
    cfg: EmbeddingConfig | None = None,
    tokens_per_batch: int = 4096,
) -> Vectors:
    """Vectors of the records' answers and of their instructions.

    ``records`` are ``Record``s, or dicts or dataclasses with ``instruction``, ``input``, ``output`` and ``id`` (or a
    chat; without an id the position is one). ``answers`` are lists of K answers in the records' order, or a mapping
    from ids to them. ``model``, with its head or without, is afterwards as it was. The result's ``answers`` are
    (m, K, windows, width), ``instructions`` (m, width); ``failed`` names the records, by key, that could not be
    embedded and why: a record with fewer than K answers is one of them.
    Raises ``BadInput`` for lists that do not fit together, naming the records without answers.
    """
    from adg.embedding.config import EmbeddingConfig
    from adg.embedding.encoder import Encoder

    given = as_records(records)
    texts = as_answers(given, answers)
    if not given or not any(texts):
        raise BadInput(f"{len(given)} records and no answer at all; adg.sample(records, model, tokenizer) draws some")
    base = model.base_model
    layers, count = getattr(base, "layers", None), getattr(base.config, "num_hidden_layers", None)
    try:
        encoder = Encoder(model, tokenizer, cfg or EmbeddingConfig(), tokens_per_batch)
        return encoder.embed(list(zip(given, texts, strict=True)), max(map(len, texts)))
    finally:  # blocks above the last one used were dropped
        if layers is not None:
            base.layers, base.config.num_hidden_layers = layers, count


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
    records: Sequence[Any],
    answers: Sequence[Sequence[str]] | Mapping[Any, Sequence[str]],
    model: Any,
    tokenizer: Any,
    budget: int,
    lam: float = geometry.LAMBDA,
    clusters: BinsConfig | None = None,
    cfg: EmbeddingConfig | None = None,
    max_failed: int = 0,
) -> Selection:
    """The whole method on answers that are there: embed, score, cluster the instructions, best of each cluster.

    ``records`` and ``answers`` as ``embed`` takes them; ``adg.sample`` draws answers. Records are worked on in
    canonical id order, so the result does not depend on the order of the lists.
    Raises ``BadInput`` for lists that do not fit together or too few answers, and ``BadMeasurement`` when more than
    ``max_failed`` records cannot be embedded.
    """
    from adg.pools.records import order

    given = as_records(records)
    texts = as_answers(given, answers)
    if texts:
        _enough(max(map(len, texts)), lam)
    rows = sorted(range(len(given)), key=lambda row: order(given[row].id))
    vectors = embed([given[row] for row in rows], [texts[row] for row in rows], model, tokenizer, cfg)
    place = {given[row].key: row for row in rows}
    if len(vectors.failed) > max_failed:
        shown = "; ".join(f"record {key}: {reason}" for key, reason in vectors.failed[:5])
        raise BadMeasurement(
            f"{len(vectors.failed)} of {len(given)} records could not be embedded, max_failed allows {max_failed}: "
            f"{shown}"
        )
    scores = score(geometry.gram(vectors.answers[:, :, 0]), lam)
    bins = bins_stage.cluster(vectors.instructions, clusters or BinsConfig())
    scored = np.array([place[key] for key in vectors.keys], dtype=np.int64)
    chosen = scored[choose(scores.score, budget, bins)]
    failed = {place[key]: reason for key, reason in vectors.failed}
    return Selection([given[row] for row in chosen], chosen, scored, scores, bins, failed)
