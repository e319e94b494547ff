"""SuperFiltering.D: the records with the largest IFD by a small model, then the most representative among them.

Follows tianyi-lab/Superfiltering at f0764af, ``code_diversity_fla/do_fla.py`` (arXiv 2402.00530): SuperFiltering as a
filter, then facility location over sentence vectors.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from adg.artifacts.artifact import Node
from adg.errors import BadInput
from adg.selection.contract import ScoreTable, SelectorData
from adg.selection.quotas import top
from baselines.facility_location import check_kernel, greedy
from baselines.shared import vectors as vectors_
from baselines.shared.vectors import VectorOptions, VectorSelector
from baselines.superfiltering import Superfiltering, SuperfilteringConfig

VARIANTS = ("corrected", "released")
SHARE = 10  # candidates for each record of the budget, as in the official script (10,400 for 1,040)


@dataclass(frozen=True)
class SuperfilteringDConfig(SuperfilteringConfig, VectorOptions):
    """Options besides those of SuperFiltering and of the vectors.

    ``candidates`` records with the largest IFD go on to facility location; None: ten for each record of the budget, or
    all where there are fewer. ``lower`` instead lets on all whose IFD lies strictly above it (official: 0.9).
    ``variant="corrected"`` (ours): similarities in float64, ties to the lowest id, a record's text without an empty
    line where it has no input. ``"released"``: ties to the highest id, the empty line kept. Its float32 similarities,
    all within 1 % of 1, are not rebuilt: where rounding decided there, the choice may differ.
    """

    variant: str = "corrected"
    candidates: int | None = None
    lower: float | None = None
    kernel: str = "distance"  # the official one | cosine
    vectors: str = "auto"

    def __post_init__(self) -> None:
        SuperfilteringConfig.__post_init__(self)
        if self.variant not in VARIANTS:
            raise BadInput(f"selector.variant is {self.variant!r}; expected one of {', '.join(VARIANTS)}")
        VectorOptions.__post_init__(self)
        check_kernel(self.kernel)
        if self.candidates is not None and self.candidates < 1:
            raise BadInput(f"selector.candidates is {self.candidates}; expected a number above 0, or null")
        if self.lower is not None and not 0 <= self.lower < self.threshold:
            raise BadInput(f"selector.lower is {self.lower}; expected 0 or more, below threshold ({self.threshold:g})")
        if self.lower is not None and self.candidates is not None:
            raise BadInput("selector.candidates and selector.lower are set; expected one of them")

    def defaults(self, own: bool) -> tuple[str, str]:
        return "lines" if self.variant == "released" else "record", "mean"


class SuperfilteringD(VectorSelector):
    """Facility location among the records with the largest IFD below 1, in the order chosen. ``score`` is the IFD."""

    name = "superfiltering_d"
    version = 2
    Config = SuperfilteringDConfig

    def inputs(self, cell: Mapping[str, Node]) -> dict[str, Node]:
        return {**Superfiltering(self.config).inputs(cell), **super().inputs(cell)}

    def note(self, backbone: Node) -> str:
        losses = self.config.note(self.name, backbone, "gpt2")
        return "; ".join(part for part in (losses, super().note(backbone)) if part)

    def scores(self, data: SelectorData) -> ScoreTable:
        table = Superfiltering(self.config).scores(data)
        _, missing = vectors_.load(data)
        table.invalid = {**missing, **table.invalid}
        if self.config.lower is not None:
            low = f"IFD not above {self.config.lower:g}"
            table.invalid |= {int(row): low for row in np.flatnonzero(table.score <= self.config.lower)}
        table.score[list(table.invalid)] = np.nan
        return table

    def choose(self, data: SelectorData, table: ScoreTable, budget: int) -> np.ndarray:
        usable = int(table.valid.sum())
        candidates = SHARE * budget if self.config.candidates is None else self.config.candidates
        if candidates < budget:
            raise BadInput(
                f"selector.candidates is {candidates:,} but the budget {budget:,}; set it to the budget or more, or to "
                f"null"
            )
        number = usable if self.config.lower is not None else min(candidates, usable)
        rows = top(table.score, table.valid, number)
        released = self.config.variant == "released"
        if not released or self.config.lower is not None:  # the official list of candidates is in the order of IFD
            rows = np.sort(rows)
        points, _ = vectors_.load(data)
        ties = "highest" if released else "lowest"
        return rows[greedy(points[rows], budget, self.config.kernel, ties)]
