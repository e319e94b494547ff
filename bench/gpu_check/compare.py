"""When two engines agree: what is compared, and how far apart it may lie in each precision.

Every tolerance is several times what rounding alone gives, and a part of what a mistake gives. Measured on a CPU with
SmolLM2-135M in bfloat16, transformers against vLLM: 0.012 nats a token, 0.0006 in a Gram matrix, 2 % of a choice, 3 of
35 items scored otherwise (2 of 5 in MBPP), 19 of 20 texts begun alike; with an adapter of two steps left out on one
side the choices lay 23 to 30 % apart. In float32 a tiny random model gives 2e-6 nats and equal answers.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from adg.artifacts.artifact import Artifact
from adg.errors import BadMeasurement
from adg.evaluation import samples
from adg.evaluation.results import DONE

BEGINNING = 12  # characters: in reduced precision greedy texts part ways later on, and only there


@dataclass(frozen=True)
class Tolerance:
    """Of one precision. ``nats``: of a token's log-probability, on average over the tokens of all answers. ``gram``: of
    an entry of a Gram matrix of vectors of length 1, at most. ``choice``: of the log-likelihood of a benchmark's
    choice, as a share of it, on average. ``score``: of an item's score; ``apart``: the share of a benchmark's items
    that may lie further apart than that, one more in any case. ``begin``: the share of written answers that must begin
    alike."""

    nats: float
    gram: float
    choice: float
    score: float
    apart: float
    begin: float


TOLERANCES = {
    "float32": Tolerance(nats=1e-3, gram=1e-4, choice=1e-3, score=1e-3, apart=0.02, begin=0.9),
    "float16": Tolerance(nats=0.02, gram=5e-3, choice=0.03, score=0.05, apart=0.2, begin=0.7),
    "bfloat16": Tolerance(nats=0.1, gram=0.02, choice=0.1, score=0.15, apart=0.4, begin=0.5),
}


@dataclass(frozen=True)
class Verdict:
    """``said``: what was found; ``wrong``: what of it lies outside of the tolerance, "" where all is well."""

    said: str
    wrong: str = ""


def likelihoods(reported: Sequence[float], recomputed: Sequence[float], tokens: Sequence[int], dtype: str) -> Verdict:
    """Of each answer the sum of its tokens' log-probabilities as vLLM gave it and as transformers does."""
    ours, theirs, counts = (np.asarray(values, dtype=np.float64) for values in (reported, recomputed, tokens))
    if not (np.isfinite(ours).all() and np.isfinite(theirs).all()):
        return Verdict("", "a log-likelihood is not finite")
    apart = float(np.abs(ours - theirs).sum() / counts.sum())
    most = TOLERANCES[dtype].nats
    said = f"{len(ours)} answers, {int(counts.sum())} tokens: {apart:.2g} nats a token apart (at most {most:g})"
    return Verdict(said, "" if apart <= most else f"log-likelihoods lie {apart:.3g} nats a token apart")


def grams(found: np.ndarray, expected: np.ndarray, dtype: str, reference: str = "float64") -> Verdict:
    """Gram matrices (n, K, K) of this device and those of one answer at a time on the CPU, in ``reference``."""
    if not np.isfinite(found).all():
        return Verdict("", "a Gram matrix is not finite")
    apart, most = float(np.abs(found - expected).max()), TOLERANCES[dtype].gram
    said = f"{len(found)} records within {apart:.2g} of {reference} on the CPU (at most {most:g})"
    return Verdict(said, "" if apart <= most else f"Gram matrices lie {apart:.3g} from those of {reference} on the CPU")


def backends(one: Artifact, other: Artifact, dtype: str) -> Verdict:
    """Two evaluations of one model, item by item. Raises ``BadMeasurement`` where they have no benchmark in common."""
    shared = samples.same_items(one, other, [name for name in samples.SETTINGS if name != "backend"])
    if not shared:
        raise BadMeasurement(f"{one.path} and {other.path} have no benchmark in common")
    said, wrong = [], []
    for task in shared:
        verdict = _task(task, samples.rows(one, task), samples.rows(other, task), TOLERANCES[dtype])
        said.append(verdict.said)
        wrong += [verdict.wrong] if verdict.wrong else []
    for here, there in ((one, other), (other, one)):  # what ran in neither is told by the evaluations
        done = {task for task, entry in samples.results(there)["tasks"].items() if entry["status"] == DONE}
        result = samples.results(here)
        wrong += [
            f"{task} was not run in {result['backend']}: {entry['reason']}"
            for task, entry in result["tasks"].items()
            if entry["status"] != DONE and task in done
        ]
    return Verdict("; ".join(said), "; ".join(wrong))


def _task(
    task: str, ours: Sequence[Mapping[str, Any]], theirs: Sequence[Mapping[str, Any]], allowed: Tolerance
) -> Verdict:
    by_item = {(row["subtask"], row["doc_id"]): row for row in theirs}
    pairs = [(row, by_item[row["subtask"], row["doc_id"]]) for row in ours]
    apart = sum(abs(a["score"] - b["score"]) > allowed.score for a, b in pairs)
    most = 1 + int(allowed.apart * len(pairs))
    said = f"{task} {len(pairs) - apart} of {len(pairs)} alike"
    wrong = [f"{apart} of {len(pairs)} items score otherwise, at most {most} may"] if apart > most else []
    choices = [(a, b) for x, y in pairs if (a := _choices(x)) and (b := _choices(y)) and len(a) == len(b)]
    if choices:
        far = sum(abs(p - q) for a, b in choices for p, q in zip(a, b, strict=True))
        share = far / sum(abs(p) for a, _ in choices for p in a)
        said += f", choices within {share:.1%}"
        if share > allowed.choice:
            wrong.append(f"log-likelihoods of choices lie {share:.1%} apart, at most {allowed.choice:.1%} may")
    else:
        begin = sum(_begin_alike(str(x["response"]), str(y["response"])) for x, y in pairs)
        said += f", {begin} begin alike"
        if begin < int(allowed.begin * len(pairs)):
            wrong.append(f"{begin} of {len(pairs)} texts begin alike, at least {allowed.begin:.0%} must")
    return Verdict(said, f"{task}: {', '.join(wrong)}" if wrong else "")


def _choices(row: Mapping[str, Any]) -> list[float] | None:
    """The log-likelihoods of an item's choices; None where the model wrote its answer."""
    try:
        scored = json.loads(row["response"])
        return [float(likelihood) for _, likelihood, *_ in scored] or None
    except (ValueError, TypeError):
        return None


def _begin_alike(one: str, other: str) -> bool:
    """Whether two texts have their first ``BEGINNING`` characters in common."""
    return one[:BEGINNING] == other[:BEGINNING]
