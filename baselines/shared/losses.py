"""The losses stage: mean loss of every response after its prompt and alone, under a language model.

IFD, SuperFiltering and perplexity are ratios and powers of these two numbers (negative log-likelihood, natural log),
so they share one artifact. Selectors that need more of the model build their own on the same scorer
(``scorer_stage.py``). Identity: the texts (``loss_texts.py``) and the model that scores.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from adg.artifacts.artifact import Artifact, Job, Node, Stage
from adg.artifacts.files import write_atomic
from adg.artifacts.shards import Shard, Shards, parquet
from adg.batching import batches
from adg.errors import BadMeasurement
from adg.pools.records import Record
from adg.progress import progress
from adg.selection.contract import counted
from baselines.shared import scorer_stage
from baselines.shared.loss_texts import LossesConfig, LossTexts, Text, templates
from baselines.shared.scorer import Scorer, VllmScorer
from baselines.shared.scorer_stage import FAILED, REPORTED, LossesIdentity, PoolScorer, ScorerOptions

STAGE = Stage("losses", 1, "baselines.shared.losses:build", gpus="tensor_parallel", work="records to read")


@dataclass(frozen=True)
class Losses:
    """Both losses of n records, rows in canonical id order. A loss is NaN exactly where its reason is not ""."""

    ids: list[str]  # id keys, see adg.pools.records
    nll_conditioned: np.ndarray  # (n,) float64, mean over the response tokens that have a loss, natural log
    tokens_conditioned: np.ndarray  # (n,) int64, how many tokens that is
    nll_alone: np.ndarray
    tokens_alone: np.ndarray
    invalid_conditioned: list[str]  # reasons
    invalid_alone: list[str]

    def invalid(self) -> dict[int, str]:
        """Row -> why one of the two losses is missing."""
        pairs = zip(self.invalid_conditioned, self.invalid_alone, strict=True)
        return {i: first or second for i, (first, second) in enumerate(pairs) if first or second}


def node(pool: Node, model: Node, cfg: LossesConfig) -> Node:
    """The losses of ``pool``'s responses under ``model``, a backbone artifact."""
    return Node(STAGE, f"{pool.label}+{model.label}+{cfg.prompt}", _identity(cfg), {"pool": pool, "model": model})


def by_scorer(pool: Node, backbone: Node, cfg: LossesConfig, options: ScorerOptions) -> Node:
    """The losses of ``pool``'s responses under the model that ``options`` name."""
    return scorer_stage.by_scorer(STAGE, pool, backbone, _identity(cfg), options)


def _identity(cfg: LossesConfig) -> LossesIdentity:
    return LossesIdentity(cfg, templates(cfg.prompt))


def measure(
    pool: Sequence[Record],
    layout: LossTexts,
    scorer: Callable[[], Scorer | VllmScorer],
    work: Path,
    tokens_per_batch: int = 4096,
    max_failed: int = 0,
) -> Losses:
    """Both losses of every record.

    Texts of the whole pool go in batches of similar length, longest first, equal texts once. Each batch is saved
    in ``work`` when it is done and found there by a later call; ``scorer`` is called when there is something to run.
    Raises ``BadMeasurement`` once more records than ``max_failed`` have a loss that is not a finite number.
    """
    pairs = [layout.texts(record) for record in pool]
    owners: dict[str, list[int]] = {}
    texts: dict[str, Text] = {}
    for row, pair in enumerate(pairs):
        for text in pair:
            if isinstance(text, Text):
                texts.setdefault(text.digest, text)
                owners.setdefault(text.digest, []).append(row)
    names = list(texts)
    shards = Shards(work, "losses")
    known = {name: value for shard in shards.every() for name, value in shard.facts["losses"].items()}
    failed: dict[int, None] = {}
    runner: Scorer | VllmScorer | None = None
    with progress(sum(len(text.ids) for text in texts.values()), "losses", unit="tokens") as bar:
        for batch in batches(range(len(names)), lambda i: len(texts[names[i]].ids), tokens_per_batch):
            todo = [names[i] for i in batch if names[i] not in known]
            if todo:
                runner = runner or scorer()
                values = dict(zip(todo, runner.batch([texts[name] for name in todo]).tolist(), strict=True))
                finite = {name: value for name, value in values.items() if np.isfinite(value)}
                shards.save(todo, Shard({"losses": finite}))
                known |= finite
                failed |= dict.fromkeys(row for name in values if name not in finite for row in owners[name])
                if len(failed) > max_failed:
                    shown = ", ".join(pool[row].key for row in sorted(failed)[:REPORTED])
                    raise BadMeasurement(
                        f"{len(failed)} records have a loss of NaN or infinity in {runner.dtype}, exec.max_failed "
                        f"allows {max_failed}; their ids: {shown}. Try selector.scorer_dtype=float32, drop them from "
                        f"the pool, or allow failures with exec.max_failed=<n>"
                    )
            bar.update(sum(len(texts[names[i]].ids) for i in batch))
    return _table(pool, pairs, known)


def _table(pool: Sequence[Record], pairs: Sequence[tuple[Text | str, Text | str]], known: dict[str, float]) -> Losses:
    columns: dict[str, Any] = {}
    for side, name in enumerate(("conditioned", "alone")):
        texts = [pair[side] for pair in pairs]
        values = [known.get(text.digest) if isinstance(text, Text) else None for text in texts]
        tokens = [text.tokens if isinstance(text, Text) else 0 for text in texts]
        columns[f"nll_{name}"] = np.array([np.nan if value is None else value for value in values], dtype=np.float64)
        columns[f"tokens_{name}"] = np.array(tokens, dtype=np.int64)
        columns[f"invalid_{name}"] = [
            text if isinstance(text, str) else FAILED if value is None else ""
            for text, value in zip(texts, values, strict=True)
        ]
    return Losses([record.key for record in pool], **columns)


def build(job: Job) -> dict[str, Any]:
    """Stage "losses": payload ``losses.parquet``, a row for every record of the pool; see ``Losses``."""
    cfg: LossesConfig = job.config.losses
    with PoolScorer(job, cfg) as scoring:
        layout, pool = scoring.layout, scoring.pool
        losses = measure(pool, layout, scoring.means, job.work, scoring.tokens_per_batch, scoring.max_failed)
    save(job.folder / "losses.parquet", losses)
    invalid = losses.invalid()
    failed = [losses.ids[row] for row, reason in invalid.items() if reason == FAILED]
    return {
        "rows_in": len(pool),
        "rows_out": len(pool) - len(invalid),
        "invalid": counted(invalid.values()),
        "failed": [[key, FAILED] for key in failed[:REPORTED]],
        "failed_count": len(failed),
        "scorer": job.node.inputs["model"].label,
        "dtype": scoring.dtype,
        "engine": cfg.engine,
        "prompt": cfg.prompt,
        "max_tokens": cfg.max_tokens,
        "slack": layout.slack,
        "head_tokens": layout.head_tokens,
        "tokens_conditioned": int(losses.tokens_conditioned.sum()),
        "tokens_alone": int(losses.tokens_alone.sum()),
    }


def save(path: Path, losses: Losses) -> None:
    """Write ``losses.parquet``; a missing loss is null."""
    import pyarrow as pa

    columns = {}
    for f in dataclasses.fields(losses):
        values = getattr(losses, f.name)
        columns["id" if f.name == "ids" else f.name] = pa.array(values, from_pandas=True)
    write_atomic(path, parquet(pa.table(columns)))


def load(artifact: Artifact, ids: Sequence[str] | None = None) -> Losses:
    """The payload of a losses artifact; ``ids``, when given, must be its id keys in order (``BadMeasurement``)."""
    import pyarrow.parquet as pq

    table = pq.read_table(artifact.file("losses.parquet"))
    stored = table["id"].to_pylist()
    if ids is not None and stored != list(ids):
        raise BadMeasurement(
            f"{artifact.path} holds {len(stored)} records, the pool {len(ids)}; they must be the same "
            f"ids in the same order. Delete that folder and run the same command again"
        )
    arrays = {
        f.name: table[f.name].to_numpy() if f.name.startswith(("nll", "tokens")) else table[f.name].to_pylist()
        for f in dataclasses.fields(Losses)
        if f.name != "ids"
    }
    return Losses(stored, **arrays)
