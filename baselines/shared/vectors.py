"""One vector a record, for the selectors that compare records: of the backbone or of a sentence encoder.

``bins`` are the instruction vectors that ADG's bins are made of, already there where ADG runs; the others are an
artifact of their own ("vectors"). All have length 1, so that Euclidean distance and cosine order pairs alike.
"""

from __future__ import annotations

import functools
import io
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from adg.artifacts.artifact import Job, Node, Stage
from adg.artifacts.files import write_atomic, write_json
from adg.backbones import loading
from adg.batching import batch_tokens
from adg.embedding import stage as embedding_stage
from adg.errors import BadInput, BadMeasurement
from adg.options import location
from adg.pools import records
from adg.pools.records import Record
from adg.prompts import instruction_text
from adg.selection.contract import ScoreTable, Selector, SelectorData
from baselines.shared import checkpoints
from baselines.shared.text_encoder import TextEncoder, in_shards

STAGE = Stage("vectors", 1, "baselines.shared.vectors:build", gpus="tensor_parallel", work="records to read")
SOURCES = ("bins", "backbone", "encoder", "auto")
POOLINGS = ("mean", "last")
REPORTED = 20  # failed rows listed in one message
EMPTY = "its text is empty"
FAILED = "the encoder gave NaN, infinity or zeros"
NO_BIN_VECTOR = "it has no instruction vector: its answers could not be sampled or embedded"
TEXTS: dict[str, Callable[[Record], str]] = {
    "instruction": instruction_text,
    "record": lambda r: f"{instruction_text(r)}\n{r.output}",
    # SuperFiltering.D as released: a line for the input even where it is empty (the official code leaves the line out
    # where a row has no such field at all, which a record no longer tells)
    "lines": lambda r: f"{r.instruction}\n{r.input}\n{r.output}",
    # Vicuna v1.1, what DEITA embeds; the end-of-text token follows it
    "conversation": lambda r: (
        "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, "
        f"detailed, and polite answers to the user's questions. USER: {instruction_text(r)} ASSISTANT: {r.output}"
    ),
}


@dataclass(frozen=True)
class VectorOptions:
    """Options of a selector that say which vectors it compares; its config inherits them.

    ``vectors``: "bins", the instruction vectors of ADG's bins (the backbone's, see ``embedding``); "backbone", the
    cell's own backbone over ``vector_text``; "encoder", the checkpoint in the folder ``encoder``; "auto", an embedded
    backbone (mini, smoke) for itself and the encoder otherwise.
    ``encoder`` holds the files of ``encoder_hub`` at ``encoder_revision``; without it a selector that needs it does
    not run. All options but ``vectors`` count only where the vectors are not the bins'.
    """

    vectors: str = "bins"
    vector_text: str | None = None  # instruction | record | lines | conversation; None: as ``defaults``
    vector_pooling: str | None = None  # mean over tokens of the last hidden state | last token; None: as ``defaults``
    vector_tokens: int | None = None  # first tokens kept; None: the tokenizer's own limit
    encoder_hub: str = "sentence-transformers/all-MiniLM-L6-v2"
    encoder_revision: str = "???"
    encoder: str | None = location()
    encoder_sha256: str | None = None

    def __post_init__(self) -> None:
        if self.vectors == "bins" and self.vector_text not in (None, "instruction"):
            raise BadInput(
                f"selector.vector_text is {self.vector_text!r}, but the bins' vectors are of the instruction; "
                f"set selector.vectors=backbone (or encoder) too"
            )
        for name, allowed in (("vectors", SOURCES), ("vector_pooling", POOLINGS), ("vector_text", tuple(TEXTS))):
            value = getattr(self, name)
            if value not in allowed and (value is not None or name == "vectors"):
                raise BadInput(f"selector.{name} is {value!r}; expected one of {', '.join(allowed)}")
        if self.vector_tokens is not None and self.vector_tokens < 1:
            raise BadInput(f"selector.vector_tokens is {self.vector_tokens}; expected a number above 0, or null")
        checkpoints.check_paths(self, folders=("encoder",))

    def defaults(self, own: bool) -> tuple[str, str]:
        """Text and pooling where the options leave them open; ``own``: of the backbone, else of the encoder."""
        return "instruction", "mean"


@dataclass(frozen=True)
class VectorsIdentity:
    """What makes two vectors artifacts of the same pool the same; without ``hub`` they are the backbone's."""

    text: str
    pooling: str
    tokens: int | None
    hub: str | None = None  # what the encoder's folder was made from
    revision: str | None = None
    sha256: str | None = None
    path: str | None = field(default=None, metadata={"identity": False})

    @property
    def lacks(self) -> str:
        """Why nothing can be encoded, or ""."""
        if self.hub is None or self.path is not None:
            return ""
        return (
            f"needs encoder {self.hub}: set selector.encoder=<folder with its files, weights as safetensors>, or "
            f"selector.vectors=backbone or bins for the backbone's own vectors"
        )


class VectorSelector(Selector):
    """A selector that compares records by their vectors; its ``Config`` inherits ``VectorOptions``."""

    def inputs(self, cell: Mapping[str, Node]) -> dict[str, Node]:
        """The vectors; those of the bins are part of the grams."""
        return inputs(cell, self.config)

    def note(self, backbone: Node) -> str:
        """What a table must say where an embedded backbone embeds in place of the sentence encoder."""
        if self.config.vectors != "auto" or backbone.config.source != "embedded":
            return ""
        return f"{self.name}: the embedded backbone gives the vectors, in place of {self.config.encoder_hub}"


def about_mean(data: SelectorData, measure: Callable[[np.ndarray, np.ndarray], float]) -> ScoreTable:
    """``measure`` of each record's vector and the mean of all, as a score."""
    points, invalid = load(data)
    valid = np.array([i for i in range(len(points)) if i not in invalid], dtype=np.int64)
    score = np.full(len(points), np.nan)
    if len(valid):
        mean = points[valid].mean(axis=0, dtype=np.float64)
        score[valid] = [measure(points[row], mean) for row in valid]  # one by one: equal ones tie exactly
    return ScoreTable(score, invalid=invalid)


def inputs(cell: Mapping[str, Node], options: VectorOptions) -> dict[str, Node]:
    """What ``Selector.inputs`` returns for these options: "vectors", or "grams", which hold the bins' vectors."""
    if options.vectors == "bins":
        return {"grams": cell["grams"]}
    o, pool, backbone = options, cell["pool"], cell["backbone"]
    own = o.vectors == "backbone" or (o.vectors == "auto" and backbone.config.source == "embedded")
    text, pooling = (
        option or default for option, default in zip((o.vector_text, o.vector_pooling), o.defaults(own), strict=True)
    )
    if own:
        label = f"{pool.label}+{backbone.label}+{text}"
        inputs = {"pool": pool, "backbone": backbone}
        return {"vectors": Node(STAGE, label, VectorsIdentity(text, pooling, o.vector_tokens), inputs)}
    identity = VectorsIdentity(
        text, pooling, o.vector_tokens, o.encoder_hub, o.encoder_revision, o.encoder_sha256, o.encoder
    )
    label = f"{pool.label}+{o.encoder_hub.rsplit('/', 1)[-1]}+{text}"
    return {"vectors": Node(STAGE, label, identity, {"pool": pool})}


def load(data: SelectorData) -> tuple[np.ndarray, dict[int, str]]:
    """The records' vectors, (n, d) float32 of length 1, and row -> why a record has none (its row is zeros).

    Raises ``BadMeasurement`` when the artifact holds a record that the pool does not.
    """
    if "vectors" in data.features:
        artifact = data.features["vectors"]
        ids = json.loads(artifact.file("ids.json").read_text(encoding="utf-8"))
        missing = json.loads(artifact.file("missing.json").read_text(encoding="utf-8"))
        rows = np.load(artifact.file("vectors.npy"), allow_pickle=False)
    else:
        artifact = data.features["grams"]
        grams = embedding_stage.load(artifact)
        ids, missing, rows = grams.ids, {}, np.asarray(grams.instructions)
    place = {key: i for i, key in enumerate(data.keys)}
    strangers = sorted(set(ids) - place.keys())
    if strangers:
        raise BadMeasurement(
            f"{artifact.path} holds {len(strangers)} records that the pool does not, first {strangers[0]}; "
            f"delete that folder and run the same command again"
        )
    matrix = np.zeros((len(place), rows.shape[1]), dtype=np.float32)
    matrix[[place[key] for key in ids]] = rows
    here = set(ids)
    return matrix, {row: missing.get(key, NO_BIN_VECTOR) for key, row in place.items() if key not in here}


def distinct(vectors: np.ndarray) -> np.ndarray:
    """For each row of ``vectors`` (n, d) the first row that holds the very same vector, (n,) int64."""
    first: dict[bytes, int] = {}
    rows = np.ascontiguousarray(vectors) + 0  # -0.0 becomes 0.0
    return np.array([first.setdefault(row.tobytes(), i) for i, row in enumerate(rows)], dtype=np.int64)


def build(job: Job) -> dict[str, Any]:
    """Stage "vectors": ``ids.json``, ``vectors.npy`` (m, d) float32 of length 1, ``missing.json`` (id key -> reason).

    Equal texts are encoded once, so they have the very same vector. A finished shard is found again in ``job.work``
    after a kill. Raises ``BadMeasurement`` naming the records once more of them fail than ``exec.max_failed``.
    """
    identity: VectorsIdentity = job.config
    pool = records.load(job.inputs["pool"])
    texts = [TEXTS[identity.text](record) for record in pool]
    unique = list(dict.fromkeys(text for text in texts if text.strip()))
    folder = _folder(identity)
    if not unique:
        raise BadMeasurement(f"all {len(pool)} records have an empty text ({identity.text}); there is nothing to embed")

    @functools.cache
    def encoder() -> TextEncoder:  # loaded when the first text is not there yet
        return _encoder(job, identity, folder)

    def run(some: list[str]) -> np.ndarray:
        return encoder().encode(some, end=identity.text == "conversation")

    vectors = in_shards(unique, job.work, "vectors", run)
    place = {text: i for i, text in enumerate(unique)}
    usable = np.isfinite(vectors).all(axis=1)
    missing = {
        record.key: FAILED if text in place else EMPTY
        for record, text in zip(pool, texts, strict=True)
        if text not in place or not usable[place[text]]
    }
    failed = [key for key, reason in missing.items() if reason == FAILED]
    if len(failed) > job.exec.max_failed:
        raise BadMeasurement(
            f"{len(failed)} records have no vector ({FAILED}), exec.max_failed allows {job.exec.max_failed}; their "
            f"ids: {', '.join(failed[:REPORTED])}. Drop them from the pool, or allow failures with exec.max_failed=<n>"
        )
    kept = [i for i, record in enumerate(pool) if record.key not in missing]
    buffer = io.BytesIO()
    np.save(buffer, vectors[[place[texts[i]] for i in kept]])
    write_atomic(job.folder / "vectors.npy", buffer.getvalue())
    write_json(job.folder / "ids.json", [pool[i].key for i in kept])
    write_json(job.folder / "missing.json", missing)
    return {
        "rows_in": len(pool),
        "rows_out": len(kept),
        "failed": [[key, FAILED] for key in failed[:REPORTED]],
        "failed_count": len(failed),
        "empty": len(missing) - len(failed),
        "distinct_texts": len(unique),
        "width": int(vectors.shape[1]),
        "text": identity.text,
        "pooling": identity.pooling,
        "encoder": identity.hub or job.node.inputs["backbone"].label,
    }


def _folder(identity: VectorsIdentity) -> Path | None:
    """The encoder's folder, checked; None for the backbone."""
    if identity.hub is None:
        return None
    assert identity.path is not None, "refused before, since it lacks its encoder"
    return checkpoints.folder("encoder", identity.path, identity.sha256)


def _encoder(job: Job, identity: VectorsIdentity, folder: Path | None) -> TextEncoder:
    device = loading.device(job.exec)
    if folder is None:
        backbone = job.inputs["backbone"]
        model, tokenizer = loading.load_model(backbone, device, headless=True), loading.load_tokenizer(backbone)
    else:
        model, tokenizer = checkpoints.pretrained(folder, device)
    tokens = batch_tokens(job.exec.tokens_per_batch, device)
    return TextEncoder(model, tokenizer, identity.pooling, identity.tokens, tokens)
