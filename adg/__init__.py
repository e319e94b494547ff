"""Answer-divergence selection: sample answers, measure their geometry, select, and evaluate the selection.

As a library, on lists of records and answers (each name is loaded when it is first used)::

    from adg import load_backbone, sample, embed, gram, score, cluster, choose

    model, tokenizer = load_backbone("smollm2_135m")
    records = [{"instruction": "Name a colour."}, ...]
    answers = sample(records, model, tokenizer)
    vectors = embed(records, answers, model, tokenizer)
    scores = score(gram(vectors.answers[:, :, 0]))
    rows = choose(scores.score, budget=100, bins=cluster(vectors.instructions))

``select_from_answers`` does all but the sampling at once; ``docs/notebooks`` has worked examples.
"""

from __future__ import annotations

from typing import Any

# The public names, by the module that each is defined in.
_PUBLIC = {
    "adg.api": ("Scores", "Selection", "choose", "embed", "load_backbone", "score", "select_from_answers"),
    "adg.answers.config": ("SamplingConfig",),
    "adg.answers.in_memory": ("sample",),
    "adg.embedding.config": ("BinsConfig", "EmbeddingConfig"),
    "adg.embedding.encoder": ("Vectors",),
    "adg.errors": ("BadInput", "BadMeasurement"),
    "adg.geometry": ("anisotropy", "dispersion", "gram"),
    "adg.pools.records": ("Record",),
    "adg.selection.bins": ("cluster",),
    "adg.selection.diagnostics": ("Diagnosis", "diagnose"),
}
_MODULE_OF = {name: module for module, names in _PUBLIC.items() for name in names}
__all__ = list(_MODULE_OF)


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'adg' has no attribute '{name}'")
    from importlib import import_module

    return getattr(import_module(_MODULE_OF[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
