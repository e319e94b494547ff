"""What stays of a subset when one setting of the method changes, from saved matrices. Nothing here bears identity."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from adg.artifacts.store import Store
from adg.embedding import stage as embedding_stage
from adg.selection import bins as bins_stage
from adg.selection import stability
from adg.selection.divergence import DivergenceConfig
from adg.selection.stability import Choice, Matrices, Summary, Terms
from experiments.cells import Cell
from experiments.report.overlaps import overlap_map
from experiments.report.sections import Section
from experiments.report.table import Row

DRAWS = 20  # random sub-sets of answers behind an interval
COUNTS = (3, 5, 7, 10)  # numbers of answers of the paper's analysis


def matrices(cell: Cell, store: Store) -> Matrices | None:
    """The saved matrices and bins that an ADG cell chose from; None when they are not there, and for a cell that reads
    them otherwise or chooses within strata, which a ``Choice`` does not say."""
    cfg = cell.selector.config
    if not isinstance(cfg, DivergenceConfig) or cfg.reading != "adg" or cfg.matched or "grams" not in cell.nodes:
        return None
    artifacts = {role: store.find(cell.nodes[role]) for role in ("grams", "bins") if role in cell.nodes}
    if None in artifacts.values() or "bins" not in artifacts:
        return None
    grams, bins = embedding_stage.load(artifacts["grams"]), bins_stage.load(artifacts["bins"])  # type: ignore[arg-type]
    return Matrices(grams.windows, grams.grams, np.array([bins[key] for key in grams.ids], dtype=np.int64))


def reference(cell: Cell) -> Choice:
    """How an ADG cell chooses, as a ``Choice``."""
    cfg = cell.selector.config
    answers = None if cfg.answers is None else tuple(range(cfg.answers))
    return Choice(cell.config.budget, cfg.lam, cfg.window, answers, cfg.bins, cfg.rule, cfg.part)


def sections(chosen: Sequence[Cell], store: Store, rows: Sequence[Row]) -> list[Section]:
    """What can be changed without other answers, from the first finished cell of each backbone, pool and preset."""
    body: list[list[str]] = []
    maps: list[Section] = []
    seen: set[tuple[str, ...]] = set()
    pools = len({cell.config.pool.name for cell in chosen}) > 1  # one pool needs no column
    for cell in chosen:
        of = (cell.config.backbone.name, *[cell.config.pool.name] * pools, cell.config.preset.name)
        if of in seen or (saved := matrices(cell, store)) is None:
            continue
        seen.add(of)
        terms = Terms(saved)
        for line in stability.stability(terms, reference(cell), COUNTS, DRAWS, cell.config.seed):
            body.append(
                [
                    *of,
                    line.axis,
                    line.setting,
                    *_interval(line.jaccard),
                    *_interval(line.overlap),
                    "–" if line.first is None else f"{line.first:.3f}",
                    f"{line.chance:.3f}",
                ]
            )
        maps = maps or _maps(terms, reference(cell), ", ".join(of))
    if not body:
        return []
    return [
        Section(
            "within",
            "Subsets when one setting changes",
            [
                f"From saved matrices, of the first finished cell where several differ in something else: each line "
                f"changes one setting and nothing else. The interval holds the middle 95 % over {DRAWS} random "
                f"sub-sets of the answers, the same on both sides. K: a random sub-set against all answers; answers: "
                f"two sub-sets drawn apart, which is the noise of sampling. lam weighs otherwise at each K.",
                "first answers: the overlap when the first answers are used instead of drawn ones.",
            ],
            (
                "backbone",
                *["pool"] * pools,
                "preset",
                "changed",
                "to",
                "Jaccard",
                "95 %",
                "overlap",
                "95 %",
                "first answers",
                "by chance",
            ),
            body,
        ),
        *maps,
    ]


def _maps(terms: Terms, base: Choice, name: str) -> list[Section]:
    """All pairs of lam, of layer windows and of numbers of answers."""
    counts = [count for count in COUNTS if count <= terms.matrices.answers]
    lams = stability.lambdas(terms.matrices.answers if base.answers is None else len(base.answers))
    rows = []
    for stem, title, labels, choices in (
        ("lam", "lam", [f"{lam:g}" for lam in lams], [replace(base, lam=lam) for lam in lams]),
        (
            "windows",
            "layer windows",
            list(terms.matrices.windows),
            [replace(base, window=window) for window in terms.matrices.windows],
        ),
        (
            "counts",
            "numbers of answers",
            [f"K = {count}" for count in counts],
            [replace(base, answers=tuple(range(count))) for count in counts],
        ),
    ):
        if len(choices) > 1:
            values = stability.pairwise([terms.subset(choice) for choice in choices])
            rows.append(
                overlap_map(
                    f"overlap-{stem}",
                    f"Overlap between {title} ({name})",
                    labels,
                    values,
                    "The first answers; everything else as configured.",
                )
            )
    return rows


def _interval(value: Summary | None) -> tuple[str, str]:
    if value is None:
        return "none", "a subset was empty"
    return f"{value.mean:.3f}", f"{value.low:.3f} to {value.high:.3f}" if value.n > 1 else "one draw"
