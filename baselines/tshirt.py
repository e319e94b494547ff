"""T-SHIRT: IFD over informative tokens, for responses that keep it when the embeddings are shaken (arXiv 2506.01317).

Follows Dynamite321/T-SHIRT at 0f96e76: SuperFiltering's text and model, thirty noisy copies of each record, a token
counts where the instruction changes its loss by more than the pool's median; of the 2n highest the n steadiest.
Ours where it differs: the noise of a record depends on its text and the seed alone, and a record that cannot be
measured gets a reason (there one such record ends the run and nothing is saved).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from adg import seeds
from adg.artifacts.artifact import Artifact, Job, Node, Stage
from adg.artifacts.files import new_npy, write_json
from adg.errors import BadInput, BadMeasurement
from adg.pools.records import Record
from adg.selection.contract import ScoreTable, Selector, SelectorData, counted
from adg.selection.quotas import top
from baselines.shared import loss_texts, scorer_stage
from baselines.shared.loss_texts import LossesConfig, LossTexts, Text
from baselines.shared.scorer import Scorer
from baselines.shared.scorer_stage import LossesIdentity, PoolScorer, ScorerOptions

STAGE = Stage("deltas", 1, "baselines.tshirt:build", gpus="tensor_parallel", work="records to read")
CHUNK = 4096  # records whose tokens are looked at together


@dataclass(frozen=True)
class TshirtConfig(ScorerOptions):
    """Options; the text has no template, so there is none to choose."""

    scorer: str = "auto"  # gpt2, but an embedded backbone scores for itself
    max_tokens: int = 1024  # M
    ratio: float = 0.5  # share of the pool's tokens that count as informative (official: 0.5 and 0.75)
    copies: int = 30  # noisy copies of a record
    noise: float = 5.0  # of T tokens of width d: uniform in [-1, 1] x noise / sqrt(T d)
    seed: int = 42

    def __post_init__(self) -> None:
        if not 0 < self.ratio <= 1:
            raise BadInput(f"selector.ratio is {self.ratio}; expected a share of the tokens above 0, at most 1")
        if self.copies < 1:
            raise BadInput(f"selector.copies is {self.copies}; expected 1 noisy copy or more (official: 30)")
        if not self.noise >= 0:
            raise BadInput(f"selector.noise is {self.noise}; expected 0 or more (official: 5)")
        if self.scorer_engine != "hf":
            raise BadInput("selector.scorer_engine is vllm, which takes no embeddings with noise; expected hf")


@dataclass(frozen=True)
class NoisyIdentity(LossesIdentity):
    """What makes two artifacts of token differences the same, beside pool and model."""

    copies: int = 30
    noise: float = 5.0
    seed: int = 42


@dataclass(frozen=True)
class Deltas:
    """What the instruction does to each token: n records in canonical order, R noisy copies, D tokens in all.

    delta of a token = its NLL after instruction and response so far - its NLL after the response so far. The first
    token of a response has no NLL of the second kind where the tokenizer adds no BOS, and none here.
    """

    ids: list[str]
    deltas: np.ndarray  # (D, R) float32, the tokens of all records one after the other; read from disk as it is used
    tokens: np.ndarray  # (n,) int64, how many are each record's
    log_ifd: np.ndarray  # (n, R) float64, mean NLL with the instruction - mean NLL without; NaN where invalid
    invalid: dict[int, str]

    def spread(self, ratio: float) -> tuple[np.ndarray, np.ndarray, float]:
        """S-IFD of every record, its mean and standard deviation over the copies, (n,) each, and the threshold.

        threshold = the (1 - ratio) quantile of |delta| over all tokens, records and copies; S-IFD of a copy =
        exp(mean delta of its tokens with |delta| above the threshold), 1 where there is none (released code).
        """
        mean, deviation = np.full(len(self.ids), np.nan), np.full(len(self.ids), np.nan)
        if not len(self.deltas):
            return mean, deviation, float("nan")
        threshold = float(np.percentile(np.abs(self.deltas), 100 * (1 - ratio)))
        ends = np.cumsum(self.tokens)
        rows = np.flatnonzero(self.tokens)
        for part in (rows[i : i + CHUNK] for i in range(0, len(rows), CHUNK)):
            first = ends[part[0]] - self.tokens[part[0]]
            values = np.asarray(self.deltas[first : ends[part[-1]]], dtype=np.float64)
            starts = ends[part] - self.tokens[part] - first
            informative = np.abs(values) > threshold
            count = np.add.reduceat(informative, starts, axis=0, dtype=np.int64)
            sums = np.add.reduceat(np.where(informative, values, 0.0), starts, axis=0)
            sifd = np.exp(sums / np.maximum(count, 1))
            mean[part], deviation[part] = sifd.mean(1), sifd.std(1)
        return mean, deviation, threshold


class Tshirt(Selector):
    """Of the 2n records with the highest mean S-IFD those n whose S-IFD changes least under noise, steadiest first.

    Only records whose mean IFD over the noisy copies (SuperFiltering's ratio of perplexities) is below 1.
    """

    name = "tshirt"
    Config = TshirtConfig

    def inputs(self, cell: Mapping[str, Node]) -> dict[str, Node]:
        c = self.config
        losses = LossesConfig("none", c.max_tokens)
        identity = NoisyIdentity(losses, loss_texts.templates("none"), copies=c.copies, noise=c.noise, seed=c.seed)
        return {"deltas": scorer_stage.by_scorer(STAGE, cell["pool"], cell["backbone"], identity, c)}

    def note(self, backbone: Node) -> str:
        return self.config.note(self.name, backbone, "gpt2")

    def scores(self, data: SelectorData) -> ScoreTable:
        deltas = load(data.features["deltas"], data.keys)
        mean, deviation, threshold = deltas.spread(self.config.ratio)
        with np.errstate(over="ignore"):
            noisy = np.exp(deltas.log_ifd).mean(1)
        invalid = dict(deltas.invalid)
        for row in map(int, np.flatnonzero(~(np.isfinite(mean) & np.isfinite(deviation) & np.isfinite(noisy)))):
            invalid.setdefault(row, "its ratio of perplexities exceeds the largest number")
        invalid |= {
            int(row): "IFD under noise not below 1" for row in np.flatnonzero(noisy >= 1) if int(row) not in invalid
        }
        score = mean.copy()
        score[list(invalid)] = np.nan
        parts = {
            "s_ifd": mean,
            "s_ifd_deviation": deviation,
            "ifd_noisy": noisy,
            "tokens": deltas.tokens,
            "threshold": np.full(len(score), threshold),
        }
        return ScoreTable(score, parts, invalid)

    def choose(self, data: SelectorData, table: ScoreTable, budget: int) -> np.ndarray:
        best = np.sort(top(table.score, table.valid, 2 * budget))
        return best[np.argsort(table.parts["s_ifd_deviation"][best], kind="stable")[:budget]]


# -- texts and noise -------------------------------------------------------------------------------------


def texts(layout: LossTexts, record: Record) -> tuple[Text, Text] | str:
    """The response after its prompt and alone, with the very same tokens of the response, or why there is none.

    The released code encodes both texts as a whole and stops where a token merges across the end of the prompt.
    """
    alone = layout.texts(record)[1]
    if isinstance(alone, str):
        return alone
    prompt = layout.encode(layout.prompt(record))
    ids = np.concatenate([np.array(prompt, dtype=np.int32), alone.ids[layout.head_tokens :]])
    return Text(ids, len(prompt)), alone


def shake(text: Text, width: int, cfg: NoisyIdentity, copy: int) -> np.ndarray:
    """Noise on the embeddings of ``text``, (T, width) float32; it depends on the tokens, the seed and the copy."""
    draw = seeds.generator(cfg.seed, "tshirt", text.digest, copy).random((len(text.ids), width), dtype=np.float32)
    return (2 * draw - 1) * np.float32(cfg.noise / np.sqrt(len(text.ids) * width))


def measure(
    pairs: Sequence[tuple[Text, Text]], scorer: Scorer, cfg: NoisyIdentity, head: int
) -> tuple[list[np.ndarray], np.ndarray]:
    """delta of every token under every copy, (tokens, R) float32 a pair, and the pairs' log IFD, (len(pairs), R).

    Both texts get the same noise on the response's tokens (and on the ``head``, a BOS, that both begin with).
    """
    rows = [(pair, copy) for pair in range(len(pairs)) for copy in range(cfg.copies)]
    at_once = max(1, scorer.tokens_per_batch // max(len(pair[0].ids) for pair in pairs))
    deltas: list[list[np.ndarray]] = [[] for _ in pairs]
    log_ifd = np.empty((len(pairs), cfg.copies))
    for part in (rows[i : i + at_once] for i in range(0, len(rows), at_once)):
        shifts = [shake(pairs[pair][0], scorer.width, cfg, copy) for pair, copy in part]
        bare = [
            np.concatenate([shift[:head], shift[pairs[p][0].start :]])
            for shift, (p, _) in zip(shifts, part, strict=True)
        ]
        after = scorer.tokens([pairs[pair][0] for pair, _ in part], shifts)
        alone = scorer.tokens([pairs[pair][1] for pair, _ in part], bare)
        for (pair, copy), with_prompt, without in zip(part, after, alone, strict=True):
            deltas[pair].append((with_prompt[len(with_prompt) - len(without) :] - without).astype(np.float32))
            log_ifd[pair, copy] = with_prompt.mean() - without.mean()
    return [np.stack(copies, axis=1) for copies in deltas], log_ifd


def distinct_texts(
    layout: LossTexts, pool: Sequence[Record]
) -> tuple[dict[str, tuple[Text, Text]], dict[str, list[int]], dict[int, str]]:
    """The different pairs of texts by digest, the rows of each, and the rows that have none with the reason.

    Raises ``BadMeasurement`` where no record has any.
    """
    pairs: dict[str, tuple[Text, Text]] = {}
    owners: dict[str, list[int]] = {}
    invalid: dict[int, str] = {}
    for row, record in enumerate(pool):
        pair = texts(layout, record)
        if isinstance(pair, str):
            invalid[row] = pair
        else:
            pairs.setdefault(pair[0].digest, pair)
            owners.setdefault(pair[0].digest, []).append(row)
    if not pairs:
        raise BadMeasurement(f"none of the {len(pool)} records can be measured: {counted(invalid.values())}")
    return pairs, owners, invalid


# -- the stage -------------------------------------------------------------------------------------------


def build(job: Job) -> dict[str, Any]:
    """Stage "deltas": ``deltas.npy`` (D, R), ``log_ifd.npy`` (n, R) and ``records.json``; see ``Deltas``."""
    cfg: NoisyIdentity = job.config
    with PoolScorer(job, cfg.losses) as scoring:
        pool = scoring.pool
        pairs, owners, invalid = distinct_texts(scoring.layout, pool)
        names = list(pairs)
        tokens = np.zeros(len(pool), dtype=np.int64)
        for name, rows in owners.items():
            tokens[rows] = pairs[name][1].tokens
        ends = np.cumsum(tokens)
        log_ifd = np.full((len(pool), cfg.copies), np.nan)
        path = job.folder / "deltas.npy"
        deltas = new_npy(path, (int(ends[-1]), cfg.copies), np.float32)
        failed: list[str] = []

        def run(batch: list[int]) -> dict[str, np.ndarray]:
            made, ratios = measure([pairs[names[i]] for i in batch], scoring.scorer(), cfg, scoring.layout.head_tokens)
            return {"deltas": np.concatenate(made), "log_ifd": ratios}

        def size(i: int) -> int:
            return cfg.copies * len(pairs[names[i]][0].ids)

        for batch, arrays in scorer_stage.shards(names, size, run, job.work, scoring.tokens_per_batch, "token losses"):
            counts = [pairs[names[i]][1].tokens for i in batch]
            own = np.split(arrays["deltas"], np.cumsum(counts)[:-1])
            for i, values, ratios in zip(batch, own, arrays["log_ifd"], strict=True):
                finite = np.isfinite(values).all() and np.isfinite(ratios).all()
                for row in owners[names[i]]:
                    deltas[ends[row] - tokens[row] : ends[row]] = values
                    log_ifd[row] = ratios if finite else np.nan
                    if not finite:
                        invalid[row] = scorer_stage.FAILED
                        failed.append(pool[row].key)
            scorer_stage.check_failed(failed, scoring)
    kept = np.where([row in invalid for row in range(len(pool))], 0, tokens)
    if failed:  # their tokens take no part in the threshold
        np.save(path, np.array(deltas)[np.repeat(kept > 0, tokens)])
    np.save(job.folder / "log_ifd.npy", log_ifd)
    write_json(
        job.folder / "records.json",
        {
            "ids": [record.key for record in pool],
            "tokens": kept.tolist(),
            "invalid": {str(row): invalid[row] for row in sorted(invalid)},
        },
    )
    return {
        "rows_in": len(pool),
        "rows_out": len(pool) - len(invalid),
        "invalid": counted(invalid.values()),
        "failed": [[key, scorer_stage.FAILED] for key in failed[: scorer_stage.REPORTED]],
        "failed_count": len(failed),
        "scorer": job.node.inputs["model"].label,
        "dtype": scoring.dtype,
        "max_tokens": cfg.losses.max_tokens,
        "copies": cfg.copies,
        "tokens": int(kept.sum()),
    }


def load(artifact: Artifact, ids: Sequence[str]) -> Deltas:
    """The payload of a deltas artifact; ``ids`` must be its id keys in order (``BadMeasurement``)."""
    rows = json.loads(artifact.file("records.json").read_text(encoding="utf-8"))
    if rows["ids"] != list(ids):
        raise BadMeasurement(
            f"{artifact.path} holds {len(rows['ids'])} records, the pool {len(ids)}; they must be the same ids in the "
            f"same order. Delete that folder and run the same command again"
        )
    return Deltas(
        rows["ids"],
        np.load(artifact.file("deltas.npy"), allow_pickle=False, mmap_mode="r"),
        np.array(rows["tokens"], dtype=np.int64),
        np.load(artifact.file("log_ifd.npy"), allow_pickle=False),
        {int(row): reason for row, reason in rows["invalid"].items()},
    )
