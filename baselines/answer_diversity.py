"""Divergence of the sampled answers as texts: the question that ADG asks of hidden states, asked without a model.

A control of this project, in neither paper nor released code. The answers are those that ADG samples.
Identity: the measure and the options of ``AnswerOptions``.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from adg import geometry
from adg.answers import stage as answers_stage
from adg.errors import BadInput, BadMeasurement, nearest
from adg.progress import progress
from adg.selection.contract import ScoreTable, SelectorData
from baselines.shared.answers import AnswerOptions, AnswerSelector

Measure = Callable[[Sequence[Sequence[str]]], np.ndarray]


def self_bleu(answers: Sequence[Sequence[str]]) -> np.ndarray:
    """1 - Self-BLEU of each record's answers, (n,) in [0, 1]: 0 where all answers are the same.

    Self-BLEU (Zhu et al. 2018) is the mean BLEU of each answer against the others as references; sacreBLEU's
    sentence score, smoothed, international tokenisation left at its default (13a).
    """
    from sacrebleu.metrics import BLEU

    metric = BLEU(effective_order=True)
    diversity = np.empty(len(answers))
    with progress(len(answers), "self-BLEU", unit="records") as bar:
        for row, texts in enumerate(answers):
            scores = [metric.sentence_score(text, [*texts[:i], *texts[i + 1 :]]).score for i, text in enumerate(texts)]
            diversity[row] = 1.0 - sum(scores) / len(scores) / 100.0
            bar.update(1)
    return diversity


def distinct_n(answers: Sequence[Sequence[str]]) -> np.ndarray:
    """Distinct-2 over all K answers of a record (Li et al. 2016): different pairs of neighbouring words as a share of
    all pairs, (n,) in [0, 1]; 0 where no answer has two words."""

    def share(texts: Sequence[str]) -> float:
        pairs = [pair for text in texts for pair in _pairs(text.lower().split())]
        return len(set(pairs)) / len(pairs) if pairs else 0.0

    return np.array([share(texts) for texts in answers])


def exact_clusters(answers: Sequence[Sequence[str]]) -> np.ndarray:
    """Entropy (natural log) of the answers over groups of equal ones, white space and case aside, (n,)."""

    def entropy(texts: Sequence[str]) -> float:
        shares = np.array(list(Counter(" ".join(text.lower().split()) for text in texts).values())) / len(texts)
        return float(-(shares * np.log(shares)).sum())

    return np.array([entropy(texts) for texts in answers])


def length_spread(answers: Sequence[Sequence[str]]) -> np.ndarray:
    """Standard deviation of the answers' numbers of words, (n,)."""
    return np.array([float(np.std([len(text.split()) for text in texts])) for texts in answers])


def mean_length(answers: Sequence[Sequence[str]]) -> np.ndarray:
    """Mean number of words of a record's answers, (n,)."""
    return np.array([float(np.mean([len(text.split()) for text in texts])) for texts in answers])


def tfidf(answers: Sequence[Sequence[str]]) -> np.ndarray:
    """ADG's own score (lam 0.4) of TF-IDF vectors of the answers in place of hidden states, (n,).

    scikit-learn's vectoriser over all answers of the pool, words and pairs of words, each vector of length 1.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer

    count = len(answers[0])
    vectors = TfidfVectorizer(ngram_range=(1, 2), token_pattern=r"(?u)\S+").fit_transform(
        [text if text.strip() else "" for texts in answers for text in texts]
    )
    grams = np.empty((len(answers), count, count))
    for row in range(len(answers)):
        own = vectors[row * count : (row + 1) * count]
        grams[row] = (own @ own.T).toarray()
    return geometry.divergence(grams)


MEASURES: dict[str, Measure] = {
    "self_bleu": self_bleu,
    "distinct_n": distinct_n,
    "exact_clusters": exact_clusters,
    "length_spread": length_spread,
    "mean_length": mean_length,
    "tfidf": tfidf,
}


@dataclass(frozen=True)
class AnswerDiversityConfig(AnswerOptions):
    """Which measure of the answers."""

    measure: str = "self_bleu"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.measure not in MEASURES:
            raise BadInput(
                f"selector.measure is {self.measure!r}{nearest(str(self.measure), list(MEASURES))}; expected one of "
                f"{', '.join(MEASURES)}"
            )


class AnswerDiversity(AnswerSelector):
    """The records whose sampled answers differ most as texts, best of each bin; ties go to the lowest id."""

    name = "answer_diversity"
    Config = AnswerDiversityConfig

    def scores(self, data: SelectorData) -> ScoreTable:
        """The measure of each record's answers. Raises ``BadMeasurement`` where records have different numbers."""
        sampled = answers_stage.load(data.features["answers"])
        rows = [i for i, key in enumerate(data.keys) if key in sampled]
        texts = [sampled[data.keys[i]] for i in rows]
        counts = sorted({len(answers) for answers in texts})
        if len(counts) > 1:
            raise BadMeasurement(
                f"{data.features['answers'].path} holds {counts[0]} to {counts[-1]} answers a record; expected as many "
                f"for each. Sample the answers again"
            )
        if counts and counts[0] < 2 and self.config.measure != "mean_length":
            raise BadInput("one answer a record has no diversity; set sampling.n=2 or more")
        return self.table(data, rows, MEASURES[self.config.measure](texts) if rows else np.empty(0))


def _pairs(words: Sequence[str]) -> Iterator[tuple[str, str]]:
    return itertools.pairwise(words)
