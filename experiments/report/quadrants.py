"""Dispersion against anisotropy: where records stand, with an example of each quadrant. Nothing here bears identity."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from adg.artifacts.store import Store
from adg.selection import stability
from adg.selection import stage as selection_stage
from adg.selection.divergence import DivergenceConfig
from adg.selection.stability import QUADRANTS
from experiments.cells import Cell
from experiments.report import plots, selections
from experiments.report.sections import Section
from experiments.report.table import Row

ANSWERS, LETTERS = 3, 240  # of an example that are shown


def sections(chosen: Sequence[Cell], store: Store, rows: Sequence[Row]) -> list[Section]:
    """D against I with an example of each quadrant, for the first finished ADG cell of each backbone and pool."""
    done: dict[tuple[str, str], Cell] = {}
    for cell in chosen:
        scores = cell.nodes.get("scores")
        if isinstance(cell.selector.config, DivergenceConfig) and scores is not None and store.complete(scores):
            done.setdefault((cell.config.backbone.name, cell.config.pool.name), cell)
    return [_quadrant(number, cell, store) for number, cell in enumerate(done.values())]


def _quadrant(number: int, cell: Cell, store: Store) -> Section:
    artifact = store.find(cell.nodes["scores"])
    assert artifact is not None
    table = selection_stage.load_scores(artifact)
    keys = selection_stage.load_keys(artifact)
    rows = np.flatnonzero(table.valid)
    d, i = table.parts["dispersion"][rows], table.parts["anisotropy"][rows]
    ids = set(selections.ids(cell, store) or ())
    mask = np.array([keys[row] in ids for row in rows], dtype=bool)
    where, split = stability.quadrants(d, i)
    picked = stability.examples(d, i)
    shown = [keys[rows[row]] for row in picked if row is not None]
    texts = _texts(cell, store, shown)
    body = []
    for quadrant, row in enumerate(picked):
        inside = where == quadrant
        line = [QUADRANTS[quadrant], str(int(inside.sum())), str(int((inside & mask).sum())) if ids else "missing"]
        if row is None:
            body.append([*line, *["–"] * (3 + ANSWERS)])
        else:
            body.append([*line, f"{d[row]:.3f}", f"{i[row]:.3f}", *texts[keys[rows[row]]]])
    title = f"Dispersion and anisotropy: {cell.config.backbone.name} / {cell.config.pool.name}"
    return Section(
        f"quadrants-{number}",
        title,
        [
            f"Every record with a score, split at the medians of D ({split[0]:.3f}) and I ({split[1]:.3f}); "
            f"{cell.name}. The example of a quadrant is the record that lies deepest in it; "
            f"its first answers are cut short."
        ],
        ("quadrant", "records", "chosen", "D", "I", "instruction", *(f"answer {k + 1}" for k in range(ANSWERS))),
        body,
        plots.quadrants(d, i, mask, split),
    )


def _texts(cell: Cell, store: Store, keys: Sequence[str]) -> dict[str, list[str]]:
    """Instruction and first answers of some records; "missing" where their artifact is not there."""
    import pyarrow.parquet as pq

    shown = {key: ["missing"] * (1 + ANSWERS) for key in keys}
    pool, answers = store.find(cell.nodes["pool"]), store.find(cell.nodes["answers"])
    only = [("id", "in", list(keys))]
    if pool is not None:
        table = pq.read_table(pool.file("records.parquet"), columns=["id", "instruction"], filters=only)
        for key, text in zip(table["id"].to_pylist(), table["instruction"].to_pylist(), strict=True):
            shown[key][0] = _cut(text)
    if answers is not None:
        table = pq.read_table(answers.file("answers.parquet"), columns=["id", "sample", "text"], filters=only)
        for key, sample, text in zip(*(table[name].to_pylist() for name in table.column_names), strict=True):
            if sample < ANSWERS:
                shown[key][1 + sample] = _cut(text) or "(empty)"
    return shown


def _cut(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= LETTERS else line[: LETTERS - 1] + "…"
