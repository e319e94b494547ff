"""How long answers are: those that were sampled, and those that each selector chose to train on.

From artifacts alone; a page has room for the figures, a table of them stands in the diagnostics. Nothing here bears
identity.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from adg.artifacts.store import Store
from adg.pools import records
from adg.selection import strata
from adg.selection.divergence import DivergenceConfig
from experiments.cells import Cell
from experiments.report import plots, selections
from experiments.report.labels import labels
from experiments.report.sections import Section

FEWEST = 2  # lengths of a distribution


def sections(chosen: Sequence[Cell], store: Store) -> list[Section]:
    """Of each pool the chosen outputs by selector; of each backbone and pool the answers that the first finished ADG
    cell scored."""
    found = []
    for number, pool in enumerate(dict.fromkeys(cell.config.pool.name for cell in chosen)):
        members = [cell for cell in chosen if cell.config.pool.name == pool]
        found += [section for section in (_outputs(number, pool, members, store),) if section]
    done: dict[tuple[str, str], Cell] = {}
    for cell in chosen:
        named = cell.nodes.get("answers")
        if isinstance(cell.selector.config, DivergenceConfig) and named is not None and store.complete(named):
            if selections.ids(cell, store):
                done.setdefault((cell.config.backbone.name, cell.config.pool.name), cell)
    return found + [_sampled(number, cell, store) for number, cell in enumerate(done.values())]


def _pool(cell: Cell, store: Store) -> dict[str, int]:
    """Characters of each record's output, by its id; {} where the pool is not there."""
    node = cell.nodes.get("pool")
    artifact = store.find(node) if node is not None else None
    return {} if artifact is None else {record.key: len(record.output) for record in records.load(artifact)}


def _outputs(number: int, pool: str, cells: Sequence[Cell], store: Store) -> Section | None:
    """Lengths of outputs, of the whole pool and of what each different subset holds."""
    having = [(cell, ids) for cell in cells if (ids := selections.ids(cell, store))]
    every = _pool(having[0][0], store) if having else {}
    groups: dict[str, np.ndarray] = {}
    seen: set[str] = set()
    for (cell, ids), name in zip(having, labels([cell for cell, _ in having]), strict=True):
        subset = cell.nodes["subset"].fingerprint
        if subset not in seen and all(key in every for key in ids):
            seen.add(subset)
            groups[name] = np.array([every[key] for key in ids if every[key]], dtype=np.float64)
    groups = {"the pool": np.array([n for n in every.values() if n], dtype=np.float64), **groups}
    groups = {name: values for name, values in groups.items() if len(values) >= FEWEST}
    if len(groups) < FEWEST:
        return None
    text = (
        "Characters of the outputs that were trained on: median, quartiles, and whiskers from the 5th to the 95th "
        "percentile; of each subset how many outputs are not empty."
    )
    svg = plots.boxes(groups, "characters")
    return Section(f"output-lengths-{number}", f"Length of the outputs chosen from {pool}", [text], svg=svg)


def _sampled(number: int, cell: Cell, store: Store) -> Section:
    """Lengths of the sampled answers that a cell scored: of all records, and of those that it chose."""
    answers = store.find(cell.nodes["answers"])
    assert answers is not None
    pool, ids = _pool(cell, store), selections.ids(cell, store) or []
    keys, chosen = list(pool), set(ids)
    means = strata.answer_lengths(answers, keys, cell.selector.config.answers)
    known = np.isfinite(means) & (means > 0)
    mask = np.array([key in chosen for key in keys], dtype=bool)
    where = f"{cell.config.backbone.name} / {cell.config.pool.name}"
    title = f"Length of the sampled answers: {where}"
    if known.sum() < FEWEST or not (known & mask).any():
        return Section(f"answer-lengths-{number}", title, ["Too few records have answers for a distribution."])
    svg = plots.lengths(means[known], means[known & mask], "mean characters of a record's answers")
    text = f"Of all records with answers, and of those that {cell.name} chose: mean over the answers that it scored."
    return Section(f"answer-lengths-{number}", title, [text], svg=svg)
