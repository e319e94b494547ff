"""MIG (arXiv 2504.13835; yichengchen24/MIG, commit 969eb53): cover the label graph, weighted by quality.

A record spreads its score over its labels and their neighbours; the greedy step takes the record with the largest
gain under a concave utility. Sparse and lazy here: same order as trying every record in every step, seconds
instead of hours.
"""

from __future__ import annotations

import heapq
import math
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from adg.artifacts.artifact import Node
from adg.errors import BadInput, BadMeasurement, NotRunnable
from adg.options import location
from adg.selection.contract import ScoreTable, Selector, SelectorData
from baselines.shared import checkpoints
from baselines.shared.annotations import products, read, read_rows, value_of

ENCODER = "intfloat/e5-mistral-7b-instruct"  # the paper's encoder of the labels
MAKE_VECTORS = "python -m baselines.mig <annotations.jsonl> <encoder folder> <out.safetensors>"


@dataclass(frozen=True)
class MigConfig:
    """Where the annotations are, and the constants of the official command line.

    Tags and scores come from the pool's own rows, or from ``annotations``: JSON Lines, each row with the record's
    ``id`` and the fields named by ``tags``, ``quality`` and ``complexity`` (dots reach into nested objects, so the
    official layout is ``annotation.instag.content``, ``annotation.deita.quality_scores``,
    ``annotation.deita.complexity_scores``). A score is a number, or a list with one number a turn.

    ``label_graph="embeddings"`` is the method: labels whose vectors have a cosine of ``threshold`` or more are
    neighbours. ``"identity"`` has no neighbours: no propagation, hence no encoder, and not the paper's MIG; the table
    says so. ``None`` means identity for tags that the pool itself carries where no label embeddings are given either
    (the mini pools' tags are written by hand), and embeddings otherwise.
    """

    tags: str = "tags"
    quality: str = "quality"
    complexity: str = "complexity"
    annotations: str | None = location()
    annotations_sha256: str | None = None
    valid_tags: str | None = location()  # a tag a line; None: every tag counts
    valid_tags_sha256: str | None = None
    label_graph: str | None = None
    label_embeddings: str | None = location()  # safetensors, a vector a label
    label_embeddings_sha256: str | None = None
    threshold: float = 0.9
    prop_weight: float = 1.0  # weight of neighbours against the label itself
    phi: str = "pow"  # pow: (x + a)^b | exp: 1 - exp(-alpha x)
    a: float = 1e-6
    b: float = 0.8
    alpha: float = 1.0
    norm: bool = False  # divide a record's score by its number of labels

    def __post_init__(self) -> None:
        checkpoints.check_paths(self, "annotations", "valid_tags", "label_embeddings")
        if self.label_graph is None:
            bare = self.annotations_sha256 is None and self.label_embeddings_sha256 is None
            object.__setattr__(self, "label_graph", "identity" if bare else "embeddings")
        if self.label_graph == "identity" and self.label_embeddings_sha256 is not None:
            raise BadInput("selector.label_graph is identity, which uses no selector.label_embeddings; leave one out")
        for name, allowed in (("label_graph", ("embeddings", "identity")), ("phi", ("pow", "exp"))):
            if getattr(self, name) not in allowed:
                raise BadInput(f"selector.{name} is {getattr(self, name)!r}; expected one of {', '.join(allowed)}")
        for name in ("threshold", "prop_weight", "a", "b", "alpha"):
            low_ok = getattr(self, name) >= 0 if name in ("threshold", "prop_weight") else getattr(self, name) > 0
            high_ok = getattr(self, name) <= 1 if name in ("threshold", "b") else math.isfinite(getattr(self, name))
            if not (low_ok and high_ok):
                raise BadInput(
                    f"selector.{name} is {getattr(self, name)}; expected 0 <= threshold <= 1, prop_weight >= 0, a > 0, "
                    f"0 < b <= 1 and alpha > 0: with others gains could grow and the greedy choice would not be one"
                )


@dataclass(frozen=True)
class Annotation:
    """What is known of a record: its labels as given (repeats kept) and its score."""

    labels: tuple[str, ...]
    score: float


# -- annotations -----------------------------------------------------------------------------------------


def read_annotation(row: Mapping[str, Any], config: MigConfig) -> Annotation | str:
    """The annotation of a row, or what the row lacks.

    Score: mean over turns of quality x complexity (official code; DEITA sums instead). Raises ``ValueError`` saying
    what is wrong with a field that is there.
    """
    tags, scores = value_of(row, config.tags), products(row, config.quality, config.complexity)
    if tags is None:
        return "no tags"
    if scores is None:
        return "no quality or complexity score"
    if not isinstance(tags, list) or not all(isinstance(tag, str) for tag in tags):
        raise ValueError(f"'{config.tags}' is {tags!r:.60}, expected a list of texts")
    return Annotation(tuple(tags), sum(scores) / len(scores))


def annotate(data: SelectorData, config: MigConfig) -> list[Annotation | str]:
    """Each record's annotation or what it lacks, in the order of the records.

    Raises ``NotRunnable`` when no record has one, ``BadMeasurement`` naming the records whose annotation is wrong.
    """
    annotated, source = read(
        data, config.annotations, config.annotations_sha256, lambda row: read_annotation(row, config)
    )
    if not any(isinstance(a, Annotation) for a in annotated):
        raise NotRunnable(
            f"needs InsTagger tags and DEITA scores: no record has '{config.tags}', '{config.quality}' and "
            f"'{config.complexity}' in {source}; set selector.annotations=<JSON Lines with id and these fields>, or "
            f"selector.tags, selector.quality and selector.complexity to the names of the fields"
        )
    return annotated


# -- label graph -----------------------------------------------------------------------------------------


def similarity_graph(vectors: np.ndarray, threshold: float) -> Any:
    """Cosine similarities of ``vectors`` (L, d), those below ``threshold`` left out, diagonal 1: sparse (L, L).

    Computed in blocks, so that no dense (L, L) matrix is held. The official code lets the diagonal round; a
    diagonal below the threshold made everything NaN there.
    """
    import scipy.sparse as sp

    unit = np.asarray(vectors, dtype=np.float64)
    lengths = np.linalg.norm(unit, axis=1, keepdims=True)
    if not np.isfinite(lengths).all() or (lengths == 0).any():
        row = int(np.flatnonzero(~np.isfinite(lengths[:, 0]) | (lengths[:, 0] == 0))[0])
        raise BadMeasurement(
            f"vector {row} of the label embeddings has length {lengths[row, 0]}; expected a finite one above 0"
        )
    unit = unit / lengths
    size = len(unit)
    rows, columns, values = [], [], []
    for start in range(0, size, 512):
        block = unit[start : start + 512] @ unit[start:].T
        i, j = np.nonzero(block >= threshold)
        above = j > i
        i, j = i[above], j[above]
        rows.append(i + start)
        columns.append(j + start)
        values.append(block[i, j])
    half = sp.csr_matrix((np.concatenate(values), (np.concatenate(rows), np.concatenate(columns))), shape=(size, size))
    return (half + half.T + sp.identity(size, format="csr")).tocsr()


def propagation(graph: Any, weight: float) -> Any:
    """P: the graph with its neighbours times ``weight``, every **column** divided by its sum (as coded)."""
    import scipy.sparse as sp

    diagonal = sp.diags(graph.diagonal())
    mixed = (diagonal + weight * (graph - diagonal)).tocsr()
    sums = np.asarray(mixed.sum(axis=0)).ravel()
    return (mixed @ sp.diags(1 / sums)).tocsr()


def label_matrix(annotations: Sequence[Annotation | None], labels: Sequence[str], norm: bool) -> Any:
    """V (n, L) sparse: a record's score at each of its labels; a record without an annotation is a row of zeros.

    With ``norm`` the score is divided by the number of valid labels, repeats counted (as coded).
    """
    import scipy.sparse as sp

    place = {label: i for i, label in enumerate(labels)}
    starts, columns, values = [0], [], []
    for annotation in annotations:
        if annotation is not None:
            valid = [place[label] for label in annotation.labels if label in place]
            share = annotation.score / len(valid) if norm and valid else annotation.score
            distinct = sorted(set(valid))
            columns += distinct
            values += [share] * len(distinct)
        starts.append(len(columns))
    return sp.csr_matrix(
        (np.array(values, dtype=np.float64), np.array(columns, dtype=np.int32), np.array(starts)),
        shape=(len(annotations), len(labels)),
    )


# -- greedy ----------------------------------------------------------------------------------------------


def slope(config: MigConfig) -> Callable[[float], float]:
    """The derivative of the utility phi at what a label holds already."""
    if config.phi == "exp":
        return lambda x: config.alpha * math.exp(-config.alpha * x)
    return lambda x: config.b * (x + config.a) ** (config.b - 1)


def greedy(spread: Any, rows: Sequence[int], budget: int, derivative: Callable[[float], float]) -> list[int]:
    """``budget`` of ``rows`` in the order of the largest gain u_i . phi'(x), x the sum of the u chosen so far.

    ``spread`` is U (n, L), sparse and non-negative. Exact although lazy: phi' falls as x grows, so a gain computed
    earlier is an upper bound, and whoever still leads after being computed anew has the largest. Each gain is the
    exactly rounded sum of its products, so records with equal vectors tie, and ties go to the lowest row. (The
    official code multiplies float32 matrices, where the row's position decides.)
    """
    matrix = spread.tocsr()
    matrix.sum_duplicates()
    if not np.isfinite(matrix.data).all() or (matrix.data < 0).any():
        raise BadMeasurement("the label vectors hold NaN, infinite or negative numbers; expected 0 or more")
    starts, columns, values = matrix.indptr.tolist(), matrix.indices.tolist(), matrix.data.tolist()
    held = [0.0] * matrix.shape[1]
    slopes = [derivative(0.0)] * matrix.shape[1]

    def gain(row: int) -> float:
        where = slice(starts[row], starts[row + 1])
        return math.fsum(map(operator.mul, values[where], map(slopes.__getitem__, columns[where])))

    heap = [(-gain(row), row) for row in rows]
    heapq.heapify(heap)
    computed = dict.fromkeys(rows, 0)  # how many were chosen when the gain was computed
    chosen: list[int] = []
    while len(chosen) < budget:
        row = heap[0][1]
        if computed[row] < len(chosen):
            computed[row] = len(chosen)
            heapq.heapreplace(heap, (-gain(row), row))
            continue
        heapq.heappop(heap)
        chosen.append(row)
        for place in range(starts[row], starts[row + 1]):
            held[columns[place]] += values[place]
            slopes[columns[place]] = derivative(held[columns[place]])
    return chosen


# -- the selector ----------------------------------------------------------------------------------------


class Mig(Selector):
    """Greedy coverage of the label graph. ``score`` is quality x complexity; ``labels`` counts the valid labels.

    Records without an annotation are invalid (the official code skips them silently); annotated records without a
    valid label gain nothing and are chosen only when nothing else is left, lowest id first.
    """

    name = "mig"
    Config = MigConfig

    def note(self, backbone: Node) -> str:
        if self.config.label_graph != "identity":
            return ""
        if backbone.config.source != "embedded":
            return (
                f"{self.name}: no label graph spreads the tags (selector.label_graph=identity), as the original's does"
            )
        return (
            f"{self.name}: tags and scores are the pool's own and no label graph spreads them, in place of "
            "InsTagger's and DEITA's"
        )

    def scores(self, data: SelectorData) -> ScoreTable:
        annotated = annotate(data, self.config)
        labels = self._labels(annotated)
        self._graph(labels)  # a missing encoder is said now, not after the scores are written
        known = set(labels)
        score = np.array([a.score if isinstance(a, Annotation) else np.nan for a in annotated])
        counts = [len({*a.labels} & known) if isinstance(a, Annotation) else 0 for a in annotated]
        invalid = {i: a for i, a in enumerate(annotated) if isinstance(a, str)}
        return ScoreTable(score, {"labels": np.array(counts, dtype=np.int64)}, invalid)

    def choose(self, data: SelectorData, table: ScoreTable, budget: int) -> np.ndarray:
        annotated = annotate(data, self.config)
        labels = self._labels(annotated)
        graph = self._graph(labels)
        matrix = label_matrix([a if isinstance(a, Annotation) else None for a in annotated], labels, self.config.norm)
        spread = matrix if graph is None else matrix @ propagation(graph, self.config.prop_weight)
        rows = np.flatnonzero(table.valid).tolist()
        return np.array(greedy(spread, rows, budget, slope(self.config)), dtype=np.int64)

    def _labels(self, annotated: Sequence[Annotation | str]) -> list[str]:
        """The valid labels that occur, in alphabetical order."""
        used = {label for a in annotated if isinstance(a, Annotation) for label in a.labels}
        if self.config.valid_tags is None:
            return sorted(used)
        path = checkpoints.file("valid_tags", self.config.valid_tags, self.config.valid_tags_sha256)
        return sorted(used & {line.strip() for line in path.read_text(encoding="utf-8").split("\n")})

    def _graph(self, labels: Sequence[str]) -> Any:
        """The sparse label graph, or None for the identity."""
        if self.config.label_graph == "identity":
            return None
        if self.config.label_embeddings is None:
            raise NotRunnable(
                f"needs vectors of the {len(labels):,} labels (paper: {ENCODER}): make them with `{MAKE_VECTORS}` and "
                f"set selector.label_embeddings=<out.safetensors>; or, for no propagation between labels, which is not "
                f"the paper's MIG, selector.label_graph=identity"
            )
        path = checkpoints.file("label_embeddings", self.config.label_embeddings, self.config.label_embeddings_sha256)
        return similarity_graph(load_vectors(path, labels), self.config.threshold) if labels else None


def load_vectors(path: Path, labels: Sequence[str]) -> np.ndarray:
    """(L, d) float32 from a safetensors file that holds a vector under the name of each label."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np") as file:
            missing = sorted(set(labels) - set(file.keys()))
            if missing:
                raise BadInput(
                    f"{path} holds no vector for {len(missing):,} of {len(labels):,} labels (first: "
                    f"{missing[0]!r}); make it again with `{MAKE_VECTORS}`"
                )
            vectors = [file.get_tensor(label) for label in labels]
    except SafetensorError as error:
        raise BadInput(f"{path} is not a safetensors file ({error}); make it with `{MAKE_VECTORS}`") from error
    if len({v.shape for v in vectors}) > 1 or vectors[0].ndim != 1:
        raise BadInput(f"{path} holds vectors of shapes {sorted({v.shape for v in vectors})}; expected one shape (d,)")
    return np.stack(vectors).astype(np.float32)


def encode_labels(labels: Sequence[str], encoder: Path, out: Path, batch_size: int = 64) -> None:
    """Write the vector of each label: the encoder's last hidden state at the label's last token, no prompt.

    ``encoder`` is a folder of safetensors weights and a tokenizer (paper: e5-mistral-7b-instruct).
    """
    import torch
    from safetensors.numpy import save_file

    from adg.progress import progress

    device = "cuda" if torch.cuda.is_available() else "cpu"
    model, tokenizer = checkpoints.pretrained(encoder, device)
    model = model.to(torch.bfloat16 if device == "cuda" else torch.float32)
    vectors: dict[str, np.ndarray] = {}
    with torch.inference_mode(), progress(len(labels), "label vectors", unit="labels") as bar:
        for start in range(0, len(labels), batch_size):
            batch = list(labels[start : start + batch_size])
            ids = [torch.tensor(tokenizer(label)["input_ids"]) for label in batch]
            padded = torch.nn.utils.rnn.pad_sequence(ids, batch_first=True).to(device)
            lengths = torch.tensor([len(i) for i in ids], device=device)
            mask = (torch.arange(padded.shape[1], device=device) < lengths[:, None]).long()
            states = model(input_ids=padded, attention_mask=mask).last_hidden_state
            last = states[torch.arange(len(ids), device=device), lengths - 1].float().cpu().numpy()
            vectors.update(zip(batch, last, strict=True))
            bar.update(len(batch))
    save_file(vectors, out)


def main(arguments: Sequence[str]) -> None:
    """The command of ``MAKE_VECTORS``; an optional fourth argument names the field of the tags."""
    if len(arguments) not in (3, 4):
        raise SystemExit(f"usage: {MAKE_VECTORS} [field of the tags]")
    annotations, encoder, out = map(Path, arguments[:3])
    name = arguments[3] if len(arguments) == 4 else MigConfig.tags
    labels = sorted({tag for row in read_rows(annotations).values() for tag in value_of(row, name) or []})
    if not labels:
        raise SystemExit(f"error: no row of {annotations} has tags in the field '{name}'")
    encode_labels(labels, encoder, out)
    print(f"{len(labels):,} label vectors -> {out}")


if __name__ == "__main__":
    import sys

    main(sys.argv[1:])
