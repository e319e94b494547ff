"""SelectIT: the backbone rates each example from 1 to 5, and its own doubt lowers the rating (arXiv 2402.16705).

Follows Blue-Raincoat/SelectIT at 4813250, token and sentence level: probabilities of "1" to "5" after several rating
prompts. The level of several models (7B, 13B and 70B, weights that do not sum to 1) is left out: a cell has one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from adg import prompts
from adg.artifacts.artifact import Artifact, Job, Node, Stage
from adg.artifacts.files import write_json
from adg.backbones import loading
from adg.errors import BadInput, BadMeasurement
from adg.execution import DTYPES
from adg.options import location
from adg.pools.records import Record
from adg.selection.contract import ScoreTable, Selector, SelectorData, counted
from adg.selection.quotas import top
from baselines.shared import scorer_stage
from baselines.shared.loss_texts import LossesConfig, Text
from baselines.shared.scorer_stage import PoolScorer

STAGE = Stage("selectit-ratings", 1, "baselines.selectit:build", gpus="tensor_parallel", work="records to read")
VARIANTS = ("corrected", "released")
WORDS = ("1", "2", "3", "4", "5")
END = "\nThe answer is: \n"
TEMPLATE = "{prompt}\nInstruction:{instruction}\nResponse:{response}" + END
ORIGINAL = "data/rating_prompt.txt of github.com/Blue-Raincoat/SelectIT"

# Ours, in the form of the original's: the same task in other words, a score from 1 to 5, and nothing but the score.
PROMPTS = (
    "On a scale from 1 to 5, say how well the response below does what the instruction asks, and give the number only.",
    "Grade the following response with a whole number between 1 and 5, where 5 means that it answers the instruction "
    "correctly and completely.",
    "Read the instruction and its response, judge how exact the response is, and write down one score from 1 to 5.",
    "Give 1 for a response that misses its instruction, 5 for one that follows it in every respect, or a score between "
    "the two.",
    "Judge from 1 to 5 how correct and how faithful to the instruction this response is; the score stands by itself.",
)


@dataclass(frozen=True)
class SelectitConfig:
    """Options.

    - ``corrected`` (ours): the five probabilities are divided by their sum, and the rating's margin is taken of those;
      one line feed after the rating prompt; ties to the lowest id.
    - ``released``: a softmax over those five numbers follows, which leaves them nearly equal; the line feed that ends
      each prompt in its file stays, so that two follow; ties to the highest id. Needs the original's prompts.
    """

    prompts: str | None = location(counts="by its lines, in the ratings")  # a prompt a line; the ratings hold them
    count: int = 5  # k, rating prompts that are asked: the first ones
    alpha: float = 0.2  # weight of the spread over the prompts
    variant: str = "corrected"
    dtype: str = "auto"  # of the weights; auto: the backbone's own

    def __post_init__(self) -> None:
        if self.variant not in VARIANTS:
            raise BadInput(f"selector.variant is {self.variant!r}; expected one of {', '.join(VARIANTS)}")
        if self.count < 1:
            raise BadInput(f"selector.count is {self.count}; expected 1 rating prompt or more (official: 5)")
        if not self.alpha >= 0:
            raise BadInput(f"selector.alpha is {self.alpha}; expected 0 or more (official: 0.2)")
        if self.dtype not in ("auto", *DTYPES):
            raise BadInput(f"selector.dtype is {self.dtype!r}; expected auto or one of {', '.join(DTYPES)}")


@dataclass(frozen=True)
class Questions:
    """What makes two artifacts of ratings the same, beside pool and backbone."""

    prompts: tuple[str, ...]  # as they stand in the text
    dtype: str
    template: str = TEMPLATE
    lacking: bool = False  # the original's prompts were not given: planned, but refused when built

    @property
    def lacks(self) -> str:
        """Why nothing can be rated, or ""."""
        return f"needs the original's rating prompts: set selector.prompts=<{ORIGINAL}>" if self.lacking else ""


class Selectit(Selector):
    """mean over the prompts / (1 + alpha x standard deviation) of: rating x its mean margin over the other four.

    rating r = the most probable of 1 to 5; margin = mean over j != r of p_r - p_j.
    """

    name = "selectit"
    Config = SelectitConfig

    def inputs(self, cell: Mapping[str, Node]) -> dict[str, Node]:
        c, pool, backbone = self.config, cell["pool"], cell["backbone"]
        released = c.variant == "released"
        lines = PROMPTS if c.prompts is None else read_prompts(Path(c.prompts).expanduser())
        if len(lines) < c.count:
            source = "this selector" if c.prompts is None else c.prompts
            raise BadInput(
                f"selector.count is {c.count} but {source} has {len(lines)} rating prompts; set "
                f"selector.count={len(lines)} or less, or selector.prompts=<a file with more lines>"
            )
        questions = tuple(line + ("\n" if released else "") for line in lines[: c.count])
        identity = Questions(questions, c.dtype, lacking=released and c.prompts is None)
        return {"ratings": Node(STAGE, f"{pool.label}+{backbone.label}", identity, {"pool": pool, "model": backbone})}

    def scores(self, data: SelectorData) -> ScoreTable:
        log_probabilities, reasons = load(data.features["ratings"], data.keys)
        invalid = {row: reason for row, reason in enumerate(reasons) if reason}
        score, ratings, deviation = rate(log_probabilities, self.config.alpha, self.config.variant == "released")
        for values in (score, ratings, deviation):
            values[list(invalid)] = np.nan
        return ScoreTable(score, {"rating": ratings, "deviation": deviation}, invalid)

    def choose(self, data: SelectorData, table: ScoreTable, budget: int) -> np.ndarray:
        if self.config.variant == "released":
            rows = np.flatnonzero(table.valid)[::-1]
            return rows[np.argsort(-table.score[rows], kind="stable")[:budget]]
        return top(table.score, table.valid, budget)


def rate(log_probabilities: np.ndarray, alpha: float, released: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Score, mean rating and standard deviation over the prompts, (n,) each, of the log-probabilities (n, k, 5)."""
    p = np.exp(log_probabilities - log_probabilities.max(-1, keepdims=True))
    p /= p.sum(-1, keepdims=True)
    if released:
        p = np.exp(p)
        p /= p.sum(-1, keepdims=True)
    rating = p.argmax(-1) + 1
    margin = (p.max(-1, keepdims=True) - p).sum(-1) / (len(WORDS) - 1)
    token = rating * margin
    mean, deviation = token.mean(1), token.std(1)
    return mean / (1 + alpha * deviation), rating.mean(1).astype(np.float64), deviation


def read_prompts(path: Path) -> tuple[str, ...]:
    """The lines of a file that are not blank."""
    if not path.is_file():
        raise BadInput(f"selector.prompts is '{path}', which is not a file; expected one with a rating prompt a line")
    return tuple(line for line in path.read_text(encoding="utf-8").splitlines() if line.strip())


# -- the stage -------------------------------------------------------------------------------------------


def question(prompt: str, record: Record) -> str:
    """The text after which the rating is read."""
    return TEMPLATE.format(prompt=prompt, instruction=prompts.instruction_text(record), response=record.output)


def rating_tokens(tokenizer: Any) -> list[int]:
    """Ids of the tokens "1" to "5" as they follow the end of a question."""
    tokens = [prompts.encode(tokenizer, END + word)[-1] for word in WORDS]
    texts = tuple(tokenizer.decode([token]) for token in tokens)
    if texts != WORDS:
        raise BadInput(
            f"this tokenizer ends a question and its rating with the tokens {texts}; expected {WORDS}, so that ratings "
            f"can be read as single tokens. SelectIT cannot run with this backbone"
        )
    return tokens


def build(job: Job) -> dict[str, Any]:
    """Stage "selectit-ratings": ``ratings.npy`` (n, k, 5), natural logs of the probabilities over the whole vocabulary,
    and ``records.json`` (ids, and why a record has none)."""
    cfg: Questions = job.config
    k = len(cfg.prompts)
    with PoolScorer(job, LossesConfig("none", dtype=cfg.dtype)) as scoring:
        pool, words = scoring.pool, rating_tokens(scoring.tokenizer)
        limit = loading.positions(job.inputs["model"])
        texts: dict[str, Text] = {}
        owners: dict[str, list[tuple[int, int]]] = {}
        reasons = [""] * len(pool)
        for row, record in enumerate(pool):
            for place, prompt in enumerate(cfg.prompts):
                ids = np.array(scoring.layout.encode(question(prompt, record)), dtype=np.int32)
                if limit is not None and len(ids) > limit:
                    reasons[row] = f"too long to be rated: more than the backbone's {limit} positions"
                text = Text(ids, len(ids))
                texts.setdefault(text.digest, text)
                owners.setdefault(text.digest, []).append((row, place))
        names = [name for name, rows in owners.items() if not any(reasons[row] for row, _ in rows)]
        ratings = np.full((len(pool), k, len(WORDS)), np.nan)
        failed: dict[str, None] = {}

        def run(batch: list[int]) -> dict[str, np.ndarray]:
            return {"ratings": scoring.scorer().following([texts[names[i]] for i in batch], words)}

        def size(i: int) -> int:
            return len(texts[names[i]].ids)

        for batch, arrays in scorer_stage.shards(names, size, run, job.work, scoring.tokens_per_batch, "ratings"):
            for i, values in zip(batch, arrays["ratings"], strict=True):
                for row, place in owners[names[i]]:
                    ratings[row, place] = values
                    if not np.isfinite(values).all():
                        reasons[row] = scorer_stage.FAILED
                        failed[pool[row].key] = None
            scorer_stage.check_failed(list(failed), scoring, "selector.dtype")
    np.save(job.folder / "ratings.npy", ratings)
    write_json(job.folder / "records.json", {"ids": [record.key for record in pool], "invalid": reasons})
    return {
        "rows_in": len(pool),
        "rows_out": reasons.count(""),
        "invalid": counted(filter(None, reasons)),
        "failed": [[key, scorer_stage.FAILED] for key in failed][: scorer_stage.REPORTED],
        "failed_count": len(failed),
        "dtype": scoring.dtype,
        "prompts": k,
        "tokens": dict(zip(WORDS, words, strict=True)),
    }


def load(artifact: Artifact, ids: Sequence[str]) -> tuple[np.ndarray, list[str]]:
    """The payload of a ratings artifact: (n, k, 5) and n reasons; ``ids`` must be its id keys in order."""
    rows = json.loads(artifact.file("records.json").read_text(encoding="utf-8"))
    if rows["ids"] != list(ids):
        raise BadMeasurement(
            f"{artifact.path} holds {len(rows['ids'])} records, the pool {len(ids)}; they must be the same ids in the "
            f"same order. Delete that folder and run the same command again"
        )
    return np.load(artifact.file("ratings.npy"), allow_pickle=False), rows["invalid"]
