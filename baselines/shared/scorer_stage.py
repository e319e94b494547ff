"""What every stage that reads a pool with a language model shares: its node, its batches kept as shards, its failures.

Identity: how texts are made (``LossesConfig``), the prompt's words and the model that scores.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from adg import hub
from adg.artifacts.artifact import Job, Node, Stage
from adg.artifacts.shards import Shard, Shards
from adg.backbones import loading
from adg.backbones import stage as backbone_stage
from adg.backbones.config import BackboneConfig
from adg.batching import batch_tokens, batches
from adg.errors import BadInput, BadMeasurement
from adg.options import location
from adg.pools import records
from adg.progress import progress
from baselines.shared.loss_texts import LossesConfig, LossTexts
from baselines.shared.scorer import Scorer, VllmScorer

REPORTED = 20  # failed rows listed in the manifest
FAILED = "the model gave NaN or infinity"


@dataclass(frozen=True)
class ScorerOptions:
    """Options of a selector that say which model gives the losses; its config inherits them."""

    scorer: str = "backbone"  # backbone: the cell's own | a hub id, "gpt2" | auto: an embedded backbone, else gpt2
    scorer_revision: str = "???"  # commit of the hub's repository
    # a folder with the scorer's weights, taken instead of the hub; its files are the identity, not the path
    scorer_path: str | None = location(counts="by its files, in the losses")
    scorer_dtype: str = "auto"  # auto: the backbone's own, float32 for another model
    scorer_engine: str = "hf"  # hf | vllm

    def note(self, name: str, backbone: Node, official: str) -> str:
        """What a table must say where an embedded backbone scores in place of the ``official`` model, else ""."""
        if backbone.config.source != "embedded" or self.scorer not in ("auto", "backbone") or self.scorer_path:
            return ""
        return f"{name}: the embedded backbone gives the losses, in place of {official}"


@dataclass(frozen=True)
class LossesIdentity:
    """What makes two losses artifacts of the same pool and model the same."""

    losses: LossesConfig
    templates: str  # hash of the prompt's texts
    unpinned: str | None = None  # hub id of a scorer whose revision is not known: planned, but refused when built

    @property
    def lacks(self) -> str:
        """Why nothing can be scored, or ""."""
        if self.unpinned is None:
            return ""
        return (
            f"needs a pinned revision of {self.unpinned}: set selector.scorer_revision=<commit>, or "
            f"selector.scorer_path=<folder> of its weights, or selector.scorer=backbone"
        )


def by_scorer(stage: Stage, pool: Node, backbone: Node, identity: LossesIdentity, options: ScorerOptions) -> Node:
    """The artifact that ``stage`` makes of ``pool`` with the model that ``options`` name.

    Needs no network. A hub scorer without a pinned revision can be planned; building it is refused.
    """
    chosen, prompt = options.scorer, identity.losses.prompt
    losses = dataclasses.replace(identity.losses, engine=options.scorer_engine)

    def made(name: str, model: Node | None, **changes: Any) -> Node:
        inputs = {"pool": pool} if model is None else {"pool": pool, "model": model}
        return Node(stage, f"{pool.label}+{name}+{prompt}", dataclasses.replace(identity, **changes), inputs)

    if chosen == "auto":
        chosen = "backbone" if backbone.config.source == "embedded" else "gpt2"
    if chosen == "backbone" and options.scorer_path is None:
        losses = dataclasses.replace(losses, dtype=options.scorer_dtype)
        return made(backbone.label, backbone, losses=losses)
    name = "scorer" if chosen == "backbone" else chosen
    if options.scorer_path is None and options.scorer_revision in ("???", "", None):
        return made(name, None, losses=losses, unpinned=chosen)
    source: dict[str, Any] = {"path": options.scorer_path}
    if options.scorer_path is None:
        if not hub.is_commit(options.scorer_revision):
            raise BadInput(
                f"selector.scorer_revision is {options.scorer_revision!r}; expected the 40-digit commit "
                f"hash of {chosen} on its hub page"
            )
        source = {"hub": chosen, "revision": options.scorer_revision}
    dtype = "float32" if options.scorer_dtype == "auto" else options.scorer_dtype
    scorer = backbone_stage.node(BackboneConfig(name=name, dtype=dtype, **source))
    return made(scorer.label, scorer, losses=losses)


def shards(
    names: Sequence[str],
    size: Callable[[int], int],
    run: Callable[[list[int]], dict[str, np.ndarray]],
    work: Path,
    tokens_per_batch: int,
    description: str,
) -> Iterator[tuple[list[int], Mapping[str, np.ndarray]]]:
    """Batches of similar ``size`` in tokens, longest first, and the arrays that ``run`` makes of each.

    ``names`` are distinct and say what is run. A batch whose values are all finite is saved in ``work`` and found
    there by a later call.
    """
    saved = Shards(work, "batch")
    with progress(sum(map(size, range(len(names)))), description, unit="tokens") as bar:
        for batch in batches(range(len(names)), size, tokens_per_batch):
            key = [names[i] for i in batch]
            shard = saved.find(key)
            if shard is None:
                shard = Shard(arrays=run(batch))
                if all(np.isfinite(values).all() for values in shard.arrays.values()):
                    saved.save(key, shard)
            yield batch, shard.arrays
            bar.update(sum(map(size, batch)))


def check_failed(keys: Sequence[str], scoring: PoolScorer, option: str = "selector.scorer_dtype") -> None:
    """Raise ``BadMeasurement`` when more records than ``exec.max_failed`` gave a value that is not finite; ``option``
    sets the dtype."""
    if len(keys) > scoring.max_failed:
        raise BadMeasurement(
            f"{len(keys)} records gave NaN or infinity in {scoring.dtype}, exec.max_failed allows "
            f"{scoring.max_failed}; their ids: {', '.join(keys[:REPORTED])}. Try {option}=float32, drop "
            f"them from the pool, or allow failures with exec.max_failed=<n>"
        )


class PoolScorer:
    """What a stage that reads a pool with a scorer works with; its model is loaded when it is first asked for.

    Use as a context manager.
    """

    def __init__(self, job: Job, cfg: LossesConfig) -> None:
        self._model, self._exec, self._cfg = job.inputs["model"], job.exec, cfg
        self._engines = ExitStack()
        self.device = loading.device(job.exec)
        self.dtype = loading.dtype_of(self._model) if cfg.dtype == "auto" else cfg.dtype
        self.max_failed = job.exec.max_failed
        self.pool = records.load(job.inputs["pool"])
        self.tokenizer = loading.load_tokenizer(self._model)
        self.layout = LossTexts(cfg, self.tokenizer)
        self.tokens_per_batch = (
            job.exec.tokens_per_batch if cfg.engine == "vllm" else batch_tokens(job.exec.tokens_per_batch, self.device)
        )

    def scorer(self) -> Scorer:
        """The model behind transformers."""
        return self._transformers

    @functools.cached_property
    def _transformers(self) -> Scorer:
        scorer = Scorer(loading.load_model(self._model, self.device, self.dtype), self.tokens_per_batch)
        self._engines.callback(scorer.close)
        return scorer

    @functools.cached_property
    def _vllm(self) -> VllmScorer:
        scorer = VllmScorer(self._model, self.dtype, self._exec, self._cfg.max_tokens)
        self._engines.callback(scorer.close)
        return scorer

    def means(self) -> Scorer | VllmScorer:
        """The model behind the engine of the config, for mean losses."""
        return self.scorer() if self._cfg.engine == "hf" else self._vllm

    def __enter__(self) -> PoolScorer:
        return self

    def __exit__(self, *_: object) -> None:
        self._engines.close()
