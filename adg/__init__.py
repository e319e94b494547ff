"""Answer-divergence selection: sample answers, measure their geometry, select, and evaluate the selection.

As a library, on lists of records and answers (each name is loaded when it is first used)::

    from adg import Record, embed, gram, score, cluster, choose

    vectors = embed(records, answers, model, tokenizer)
    scores = score(gram(vectors.answers[:, :, 0]))
    rows = choose(scores.score, budget=100, bins=cluster(vectors.instructions))

``select_from_answers`` does all of it at once; ``docs/select_from_answers.py`` is a worked example.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from adg.binning import BinsConfig, cluster
    from adg.embedding import EmbeddingConfig, Vectors
    from adg.errors import BadInput, BadMeasurement
    from adg.geometry import anisotropy, dispersion, gram
    from adg.library import Scores, Selection, choose, embed, load_backbone, score, select_from_answers
    from adg.records import Record

_HOME = {
    "BadInput": "errors",
    "BadMeasurement": "errors",
    "BinsConfig": "binning",
    "EmbeddingConfig": "embedding",
    "Record": "records",
    "Scores": "library",
    "Selection": "library",
    "Vectors": "embedding",
    "anisotropy": "geometry",
    "choose": "library",
    "cluster": "binning",
    "dispersion": "geometry",
    "embed": "library",
    "gram": "geometry",
    "load_backbone": "library",
    "score": "library",
    "select_from_answers": "library",
}

__all__ = [
    "BadInput",
    "BadMeasurement",
    "BinsConfig",
    "EmbeddingConfig",
    "Record",
    "Scores",
    "Selection",
    "Vectors",
    "anisotropy",
    "choose",
    "cluster",
    "dispersion",
    "embed",
    "gram",
    "load_backbone",
    "score",
    "select_from_answers",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'adg' has no attribute '{name}'")
    from importlib import import_module

    return getattr(import_module(f"adg.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
