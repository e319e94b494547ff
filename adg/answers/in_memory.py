"""Answers of a model that is loaded already, as lists: what the stage of answers does, without a folder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from adg import seeds
from adg.answers.config import SamplingConfig
from adg.answers.stage import batches_of, encode, text_of
from adg.answers.transformers_engine import TransformersEngine
from adg.errors import BadInput
from adg.pools.given import as_records


def sample(
    records: Sequence[Any], model: Any, tokenizer: Any, cfg: SamplingConfig | None = None, batch_size: int = 16
) -> list[list[str]]:
    """``cfg.n`` sampled answers to each record, in the order of ``records``: what ``select_from_answers`` scores.

    ``records`` as ``adg.embed`` takes them; ``model`` with its head, as ``load_backbone`` gives it; the settings are
    the paper's unless ``cfg`` says otherwise (``SamplingConfig(n=3, max_new_tokens=64)``). Texts, ids, settings,
    ``batch_size`` and ``cfg.seed`` decide on the answers, which are those of the stage; the order of the records does
    not. Raises ``BadInput`` for a model without a head, and names the records whose prompts leave no room.
    """
    cfg = cfg or SamplingConfig()
    given = as_records(records)
    if not given:
        raise BadInput("records is empty; expected one record or more")
    if batch_size < 1:
        raise BadInput(f"batch_size is {batch_size}; expected a number of prompts from 1 on")
    if not hasattr(model, "get_output_embeddings") or model.get_output_embeddings() is None:
        raise BadInput(
            f"{type(model).__name__} has no head to write with; load it by adg.load_backbone, or as a model for causal "
            f"language modelling"
        )
    prompts, failed = encode(given, tokenizer, cfg, getattr(model.config, "max_position_embeddings", None))
    if failed:
        shown = "; ".join(f"record {row['id']}: {row['reason']}" for row in failed[:5])
        raise BadInput(f"{len(failed)} of {len(given)} records cannot be sampled: {shown}; leave them out")
    engine = TransformersEngine.of(model, tokenizer)
    answers: dict[str, list[str]] = {}
    for index, batch in enumerate(batches_of(prompts, batch_size)):
        seed = seeds.child(cfg.seed, "answers", index)
        drawn = engine.sample([prompts[key] for key in batch], cfg, seed)
        answers |= {
            key: [text_of(tokenizer, one, cfg.strip) for one in own] for key, own in zip(batch, drawn, strict=True)
        }
    return [answers[record.key] for record in given]
