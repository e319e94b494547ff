"""ADG as a selector: the divergence of a record's sampled answers, best of each instruction cluster.

Score and parts come from the Gram matrices alone, so every value of lam, each single-term ablation and every
smaller number of answers costs nothing more than reading them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from adg import geometry
from adg.artifacts.artifact import UNLESS_DEFAULT, Node
from adg.embedding import stage as embedding_stage
from adg.errors import BadInput, BadMeasurement, nearest
from adg.selection import bins as bins_stage
from adg.selection.contract import ScoreTable, Selector, SelectorData
from adg.selection.quotas import PARTS, RULES, binwise, top
from adg.selection.readings import READINGS, THRESHOLD, cluster_entropy
from adg.selection.strata import MatchOptions, answer_lengths, strata


@dataclass(frozen=True)
class DivergenceConfig(MatchOptions):
    """Options of the method (paper: lam 0.4, K 5, bins on, top). ``match=length`` chooses within strata of the mean
    length of the scored answers as well (ours)."""

    lam: float = 0.4  # weight of anisotropy I; 1 - lam is the weight of dispersion D
    answers: int | None = None  # score with the first K' answers only; None: all that were sampled
    window: str | None = None  # a declared layer window; None: the first declared
    bins: bool = True  # choose within instruction clusters, or from the whole pool
    part: str = "top"
    rule: str = "largest_remainder"  # quota rule; "released" may return fewer than the budget
    reading: str = field(default="adg", metadata={"identity": UNLESS_DEFAULT})  # of the matrices; see ``readings``
    threshold: float = field(default=THRESHOLD, metadata={"identity": UNLESS_DEFAULT})  # cosine, of cluster_entropy

    def __post_init__(self) -> None:
        if self.reading not in ("adg", *READINGS):
            known = ["adg", *READINGS]
            near = nearest(str(self.reading), known)
            raise BadInput(f"selector.reading is {self.reading!r}{near}; expected one of {', '.join(known)}")
        if self.reading != "adg" and self.lam != geometry.LAMBDA:
            raise BadInput(f"selector.lam weighs ADG's two terms; with selector.reading={self.reading} leave it out")
        if self.threshold != THRESHOLD and self.reading != "cluster_entropy":
            raise BadInput("selector.threshold is of selector.reading=cluster_entropy alone; leave it out")
        if not -1 < self.threshold <= 1:
            raise BadInput(f"selector.threshold is {self.threshold}; expected a cosine above -1 and at most 1")
        if not 0 <= self.lam <= 1:
            raise BadInput(f"selector.lam is {self.lam}; expected a weight between 0 and 1")
        fewest = geometry.fewest_answers(self.lam)
        if self.answers is not None and self.answers < fewest:
            raise BadInput(
                f"selector.answers is {self.answers}; with selector.lam={self.lam:g} every record would score 0; "
                f"expected {fewest} or more"
            )
        if self.part not in PARTS:
            raise BadInput(f"selector.part is {self.part!r}; expected one of {', '.join(PARTS)}")
        if self.rule not in RULES:
            raise BadInput(f"selector.rule is {self.rule!r}; expected one of {', '.join(RULES)}")
        if not self.bins and self.rule == "released":
            raise BadInput(
                "selector.rule=released is a rule about bins; with selector.bins=false use largest_remainder"
            )
        self.check_match(self.rule)


class Divergence(Selector):
    """s(x) = (1 - lam) D(x) + lam I(x), best of each bin (paper; released code: the same formula, lam = 0.4)."""

    name = "adg"
    title = "ADG"
    Config = DivergenceConfig

    def inputs(self, cell: Mapping[str, Node]) -> dict[str, Node]:
        self._check_answers(cell["answers"].config.sampling.n, cell["grams"].config.embedding.declared)
        read = ["grams", *["bins"] * self.config.bins, *["answers"] * self.config.matched]
        return {name: cell[name] for name in read}

    def _check_answers(self, sampled: int, windows: Sequence[str]) -> None:
        """Refuse a window that is not among ``windows``, and fewer answers than the score needs."""
        c, fewest = self.config, geometry.fewest_answers(self.config.lam)
        if c.window is not None and c.window not in windows:
            raise BadInput(
                f"selector.window is {c.window!r}; the declared windows are {', '.join(windows)} (embedding.windows)"
            )
        if c.answers is not None and c.answers > sampled:
            raise BadInput(
                f"selector.answers is {c.answers} but sampling.n is {sampled}; set sampling.n={c.answers} or more"
            )
        if sampled < fewest:
            raise BadInput(
                f"sampling.n is {sampled}; with selector.lam={c.lam:g} every record would score 0; "
                f"set sampling.n={fewest} or more"
            )

    def scores(self, data: SelectorData) -> ScoreTable:
        """D, I and their weighted sum by record; NaN, with the reason, where a record has no matrix.

        Raises ``BadInput`` for a window that was not declared or too few sampled answers, ``BadMeasurement`` for the
        matrices of another pool.
        """
        artifact = data.features["grams"]
        grams = embedding_stage.load(artifact)
        place = {key: i for i, key in enumerate(grams.ids)}
        strangers = place.keys() - set(data.keys)
        if strangers:
            raise BadMeasurement(
                f"{artifact.path} holds {len(strangers)} records that the pool does not, first {min(strangers)}; "
                f"delete that folder and run the same command again"
            )
        sampled = grams.grams.shape[-1]
        self._check_answers(sampled, grams.windows)
        window = 0 if self.config.window is None else grams.windows.index(self.config.window)
        matrices = np.asarray(grams.grams[:, window], dtype=np.float64)
        if self.config.answers is not None:
            matrices = matrices[:, : self.config.answers, : self.config.answers]
        rows = np.array([i for i, key in enumerate(data.keys) if key in place], dtype=np.int64)
        order = np.array([place[data.keys[i]] for i in rows], dtype=np.int64)
        parts = {name: np.full(len(data.records), np.nan) for name in ("dispersion", "anisotropy")}
        parts["dispersion"][rows] = geometry.dispersion(matrices)[order]
        parts["anisotropy"][rows] = geometry.anisotropy(matrices)[order]
        score = geometry.combine(parts["dispersion"], parts["anisotropy"], self.config.lam)
        if self.config.reading != "adg":
            score = np.full(len(data.records), np.nan)
            score[rows] = self._read(matrices)[order]
        if self.config.bins:
            labels = bins_stage.load(data.features["bins"])
            parts["bin"] = np.array([labels.get(key, -1) for key in data.keys], dtype=np.int64)
        if self.config.matched:
            lengths = answer_lengths(data.features["answers"], data.keys, self.config.answers)
            lengths[~np.isfinite(score)] = np.nan
            parts |= {"answer_length": lengths, "stratum": strata(lengths, self.config.strata)}
        missing = set(range(len(data.records))) - set(rows.tolist())
        notes = {"answers": matrices.shape[1], "answers_sampled": sampled, "window": grams.windows[window]}
        if matrices.shape[1] < sampled:
            notes["note"] = (
                f"scored with the first {matrices.shape[1]} of {sampled} answers; anisotropy reaches at most "
                f"1 - 1/(K-1), so lam weighs otherwise than at K = {sampled}"
            )
        reasons = dict.fromkeys(sorted(missing), "its answers could not be sampled or embedded")
        return ScoreTable(score, parts, reasons, notes)

    def _read(self, matrices: np.ndarray) -> np.ndarray:
        """The configured other reading of each matrix, (n,)."""
        if self.config.reading == "cluster_entropy":
            return cluster_entropy(matrices, self.config.threshold)
        return READINGS[self.config.reading](matrices)

    def choose(self, data: SelectorData, table: ScoreTable, budget: int) -> np.ndarray:
        rows = np.flatnonzero(table.valid)
        if self.config.bins or self.config.matched:
            bins = table.parts["bin"][rows] if self.config.bins else np.zeros(len(rows), dtype=np.int64)
            layers = table.parts["stratum"][rows] if self.config.matched else None
            return rows[binwise(table.score[rows], bins, budget, self.config.rule, self.config.part, layers)]
        ranked = top(table.score, table.valid, len(rows))
        start = {"top": 0, "bottom": len(ranked) - budget, "middle": (len(ranked) - budget) // 2}[self.config.part]
        return ranked[start : start + budget]

    def may_return_fewer(self) -> bool:
        return self.config.rule == "released"
