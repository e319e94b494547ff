"""Under every ADG cell: what its score goes by, how often that is one term alone, and where the chosen stand.

From artifacts alone, without a model. Nothing here bears identity.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from adg.artifacts.store import Store
from adg.pools import records
from adg.selection import diagnostics, strata
from adg.selection import stage as selection_stage
from adg.selection.diagnostics import TERMS, Agreement, Diagnosis
from adg.selection.divergence import DivergenceConfig
from adg.selection.stability import QUADRANTS
from experiments.cells import Cell
from experiments.report import selections
from experiments.report.sections import Section
from experiments.report.table import Row

LENGTHS = ("answer length", "output length", "instruction length")  # characters
MISSING = "missing"


def of_cell(cell: Cell, store: Store) -> Diagnosis | None:
    """The diagnosis of an ADG cell; None where its scores are not there. A length whose artifact is gone is None."""
    artifact = store.find(cell.nodes["scores"]) if "scores" in cell.nodes else None
    if artifact is None:
        return None
    table, cfg = selection_stage.load_scores(artifact), cell.selector.config
    keys, rows = selection_stage.load_keys(artifact), np.flatnonzero(table.valid)
    held = [keys[row] for row in rows]
    ids = selections.ids(cell, store)
    place = {key: row for row, key in enumerate(held)}
    return diagnostics.diagnose(
        table.score[rows],
        table.parts["dispersion"][rows],
        table.parts["anisotropy"][rows],
        min(cell.config.budget, len(rows)),
        _lengths(cell, store, held),
        None if ids is None else np.array([place[key] for key in ids], dtype=np.int64),
        cfg.lam if cfg.reading == "adg" else None,
    )


def _lengths(cell: Cell, store: Store, keys: Sequence[str]) -> dict[str, np.ndarray | None]:
    """Characters of the answers that were scored (mean), of the output, and of the instruction with its input."""
    pool, answers = store.find(cell.nodes["pool"]), store.find(cell.nodes["answers"])
    found: dict[str, np.ndarray | None] = dict.fromkeys(LENGTHS)
    if answers is not None:
        found[LENGTHS[0]] = strata.answer_lengths(answers, keys, cell.selector.config.answers)
    if pool is not None:
        by_key = {record.key: record for record in records.load(pool)}
        held = [by_key[key] for key in keys]
        found[LENGTHS[1]] = np.array([len(record.output) for record in held], dtype=np.float64)
        found[LENGTHS[2]] = np.array([len(r.instruction) + len(r.input) for r in held], dtype=np.float64)
    return found


def sections(chosen: Sequence[Cell], store: Store, rows: Sequence[Row]) -> list[Section]:
    """Three tables over all ADG cells: rank correlations, the weight of each term, and the chosen."""
    cells = [cell for cell in chosen if isinstance(cell.selector.config, DivergenceConfig)]
    if not cells:
        return []
    found = {cell.name: of_cell(cell, store) for cell in cells}
    return [_ranks(found), _terms(found), _chosen(found)]


def _ranks(found: dict[str, Diagnosis | None]) -> Section:
    names = (*TERMS, *LENGTHS)
    body: list[list[str]] = []
    first: dict[object, str] = {}  # cells that share their scores are shown once
    for name, of in found.items():
        if of is None:
            body.append([name, *[MISSING] * (1 + len(names))])
        elif (same := first.setdefault(of.correlations, name)) != name:
            body.append([name, f"as {same}", *["–"] * len(names)])
        else:
            body += [
                [name, what, *map(_correlation, line)] for what, line in zip(of.names, of.correlations, strict=True)
            ]
    return Section(
        "score-ranks",
        "What the score goes by",
        [
            "Rank correlations (Spearman) over all records with a score. Lengths are in characters: the mean of the "
            "answers that were scored, the output, and the instruction with its input. –: a value that is the same for "
            f"all records, or was not kept; {MISSING}: the cell has no scores yet."
        ],
        ("cell", "of", *names),
        body,
    )


def _terms(found: dict[str, Diagnosis | None]) -> Section:
    head = ("cell", "spread of D", "of I", "even at lam", "as by I", "tau", "top", "as by D", "tau", "top", "by chance")
    body = [[name, *([MISSING] * (len(head) - 1) if of is None else _term_line(of))] for name, of in found.items()]
    text = [
        "spread: standard deviation, over the pool, of (1 - lam) D and of lam I, the two parts of the score; even at "
        "lam: the weight at which both would be equal. as by I, as by D: pairs of records that the score orders as "
        "that term alone does, of the pairs that both order; tau: Kendall's tau-b; top: overlap of the best by score "
        "and by that term, as many as the budget, whatever their bins; by chance: what two random choices would share.",
        *(f"{name}: {diagnostics.in_words(of)}" for name, of in found.items() if of is not None),
    ]
    return Section("score-terms", "How often the ranking is that of one term", text, head, body)


def _term_line(of: Diagnosis) -> list[str]:
    spread = ["–", "–"] if of.spread is None else [f"{value:.4f}" for value in of.spread]
    even = "–" if of.even is None else f"{of.even:.2f}"
    return [*spread, even, *_agreement(of.anisotropy), *_agreement(of.dispersion), f"{of.dispersion.chance:.3f}"]


def _agreement(of: Agreement) -> list[str]:
    pairs = "–" if of.pairs is None else f"{100 * of.pairs:.1f} %"
    return [pairs, _correlation(of.tau), f"{of.top:.3f}"]


def _chosen(found: dict[str, Diagnosis | None]) -> Section:
    head = ("cell", *QUADRANTS, *LENGTHS)
    body = [[name, *([MISSING] * (len(head) - 1) if of is None else _chosen_line(of))] for name, of in found.items()]
    text = [
        "Share of the pool's records with a score, then of the chosen, in each quadrant of D and I, split at the "
        "pool's medians; and mean lengths in characters, of the pool and of the chosen."
    ]
    return Section("score-chosen", "Where the chosen stand", text, head, body)


def _chosen_line(of: Diagnosis) -> list[str]:
    shares = [
        f"{_percent(of.pool, place)} → {MISSING if of.chosen is None else _percent(of.chosen, place)}"
        for place in range(len(QUADRANTS))
    ]
    lengths = []
    for name in LENGTHS:
        pool, chosen = of.means.get(name, (None, None))
        lengths.append(MISSING if pool is None else f"{pool:.0f} → {MISSING if chosen is None else f'{chosen:.0f}'}")
    return [*shares, *lengths]


def _percent(counts: Sequence[int], place: int) -> str:
    return f"{100 * counts[place] / max(1, sum(counts)):.1f} %"


def _correlation(value: float | None) -> str:
    return "–" if value is None else f"{value + 0.0:+.2f}"
