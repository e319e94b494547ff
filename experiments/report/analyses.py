"""What a report shows beside the table: figures of what was swept, overlaps of subsets, and where records stand.

Read from artifacts alone; neither a model nor a clustering library is imported. What is not there stays missing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from adg.artifacts.store import Store
from adg.embedding import stage as embedding_stage
from adg.selection import bins as bins_stage
from adg.selection import stability
from adg.selection import stage as selection_stage
from adg.selection.divergence import DivergenceConfig
from adg.selection.stability import QUADRANTS, Choice, Matrices, Summary, Terms
from experiments.cells import Cell
from experiments.report import plots
from experiments.report import published as published_
from experiments.report.sections import Section
from experiments.report.table import WORDS, Row

DRAWS = 20  # random sub-sets of answers behind an interval
COUNTS = (3, 5, 7, 10)  # numbers of answers of the paper's analysis
SHOWN = 20  # subsets in one overlap map
PAPER = " (paper)"  # marks a curve of published averages
ANSWERS, LETTERS = 3, 240  # of an example that are shown
AXES = {
    "sampling.seed": "sampling seed",
    "embedding.bins.seed": "clustering seed",
    "preset": "preset",
    "backbone": "backbone",
}


def sections(chosen: Sequence[Cell], store: Store, rows: Sequence[Row]) -> list[Section]:
    """The analyses that fit these cells; ``rows`` are those of the table, in the cells' order, or none."""
    first = chosen[0].config.experiment
    found: list[Section] = []
    if rows and first.name != "main":
        found.append(_swept(chosen, rows))
    if first.untrained:  # nothing is scored or chosen
        return found
    if first.last == "subset":
        found += [_states(chosen, store), _between(chosen, store), *_within(chosen, store)]
    elif first.name != "main":
        found += _overlaps(chosen, store)
    return found + _quadrants(chosen, store)


# -- what was swept --------------------------------------------------------------------------------------
def _labels(chosen: Sequence[Cell]) -> list[str]:
    """What tells these cells apart, in words."""
    columns: list[Callable[[Cell], str]] = [
        lambda c: c.config.backbone.name,
        lambda c: c.config.pool.name,
        lambda c: str(c.config.selector["name"]),
        lambda c: c.config.suite.name,
        lambda c: c.variant,
    ]
    telling = [column for column in columns if len({column(cell) for cell in chosen}) > 1]
    return [", ".join(column(cell) for column in telling if column(cell)) or cell.name for cell in chosen]


def _lines(chosen: Sequence[Cell]) -> list[str]:
    """The curve that each cell is a point of: what tells it apart, without its budget and its seeds."""

    def stays(override: str) -> bool:
        key = override.partition("=")[0]
        return key not in ("budget", "seed") and not key.endswith((".seed", "_seed"))

    return _labels([replace(cell, overrides=tuple(filter(stays, cell.overrides))) for cell in chosen])


def _curves(at: Sequence[tuple[str, int]], values: Sequence[float | None], published: Sequence[float | None]) -> str:
    """Values by budget, ``at`` being the (line, budget) of each; several at one point are averaged."""
    budgets = sorted({budget for _, budget in at})
    points: dict[str, dict[int, list[float]]] = {line: {} for line, _ in at}
    for source, suffix in ((values, ""), (published, PAPER)):
        for (line, budget), value in zip(at, source, strict=True):
            if value is not None:
                points.setdefault(line + suffix, {}).setdefault(budget, []).append(value)
    series = {
        line: [float(np.mean(found[budget])) if budget in found else None for budget in budgets]
        for line, found in points.items()
    }
    return plots.curves(budgets, series, "examples chosen", "average (percent)", dashed=PAPER)


def _swept(chosen: Sequence[Cell], rows: Sequence[Row]) -> Section:
    """Averages over what was swept: curves where budgets are, bars otherwise, the published averages beside them."""
    experiment = chosen[0].config.experiment
    labels = _labels(chosen)
    values = [None if row.results is None else row.results["categories"].get("avg") for row in rows]
    percent = [None if value is None else 100 * value for value in values]
    published = [(row.paper or {}).get("avg") for row in rows]
    several = False  # seeds at a point of a curve
    if experiment.name == "budget":
        at = [(line, cell.config.budget) for line, cell in zip(_lines(chosen), chosen, strict=True)]
        several = len(set(at)) < len(at)
        svg = _curves(at, percent, published)
    else:
        svg = plots.bars(labels, percent, "average (percent)", published, "published")
    body = []
    for label, row, value, figure in zip(labels, rows, percent, published, strict=True):
        word = WORDS.get(row.state, "missing")
        shortfall = row.facts.get("shortfall")
        partial = "*" * bool(row.results and row.results.get("partial"))
        average = word if value is None else f"{value:.2f}{partial}"
        examples = "–" if experiment.untrained else "missing" if not row.facts else str(row.facts["rows_out"])
        body.append(
            [
                label,
                average,
                "–" if figure is None else f"{figure:.2f}",
                examples,
                "–" if not shortfall else str(shortfall),
            ]
        )
    text = ["A cell that has no average is named and left out of the figure."] * (None in percent)
    text += ["Each point of a curve is the mean over those of its seeds that have an average."] * several
    if any(row.results and row.results.get("partial") for row in rows):
        text.append("* partial, not the whole benchmark: the notes of the table say in what.")
    if experiment.name == "answers":
        text.append(
            "lam weighs otherwise at each K: anisotropy reaches at most 1 - 1/(K-1), that is 0.50 for K = 3, "
            "0.75 for 5, 0.83 for 7 and 0.89 for 10."
        )
    if experiment.name == "chinese":
        figures = published_.figures()["chinese"]
        text.append(
            "Published for its own Chinese pool, which is not named (CMMLU, C-Eval): "
            + "; ".join(f"{name} {a:.2f}, {b:.2f}" for name, (a, b) in figures.items())
            + "."
        )
    return Section(
        "swept",
        f"Average: {experiment.title or experiment.name}",
        text,
        ("cell", "average", "paper", "examples", "short of the budget"),
        body,
        svg,
    )


# -- overlaps --------------------------------------------------------------------------------------------
def _chosen_ids(cell: Cell, store: Store) -> list[str] | None:
    import pyarrow.parquet as pq

    if not store.complete(cell.nodes["subset"]):
        return None
    artifact = store.find(cell.nodes["subset"])
    assert artifact is not None
    return pq.read_table(artifact.file("records.parquet"), columns=["id"])["id"].to_pylist()


def _overlaps(chosen: Sequence[Cell], store: Store) -> list[Section]:
    """One map for each pool with two or more cells."""
    found = []
    for number, pool in enumerate(dict.fromkeys(cell.config.pool.name for cell in chosen)):
        every = [cell for cell in chosen if cell.config.pool.name == pool]
        cells = every[:SHOWN]
        subsets = [_chosen_ids(cell, store) for cell in cells]
        if sum(subset is not None for subset in subsets) < 2:
            continue
        title = f"Overlap of the subsets chosen from {pool}"
        text = "Shared examples over the size of the smaller subset; 1 means that one contains the other."
        if len(every) > SHOWN:
            text += f" Shown are the first {SHOWN} of {len(every)} cells."
        found.append(_map(f"overlap-{number}", title, _labels(cells), stability.pairwise(subsets), text))
    return found


def _map(name: str, title: str, labels: Sequence[str], values: list[list[float | None]], text: str) -> Section:
    body = [
        [label, *("missing" if v is None else f"{v:.3f}" for v in row)]
        for label, row in zip(labels, values, strict=True)
    ]
    return Section(name, title, [text], ["", *labels], body, plots.heatmap(labels, values, "overlap coefficient"))


# -- stability -------------------------------------------------------------------------------------------
def _states(chosen: Sequence[Cell], store: Store) -> Section:
    body = []
    for cell in chosen:
        status = store.status(cell.last)
        artifact = store.find(cell.last) if status.state == "done" else None
        what = [str(artifact.info["rows_out"]), str(artifact.info["shortfall"])] if artifact else ["–", "–"]
        body.append([cell.name, "done" if artifact else WORDS.get(status.state, status.state), *what])
    there = sum(row[1] == "done" for row in body)
    return Section(
        "selections",
        f"Selections ({there} of {len(body)} are there)",
        (),
        ("cell", "state", "examples", "short of the budget"),
        body,
    )


def _between(chosen: Sequence[Cell], store: Store) -> Section:
    """Pairs of cells that differ in one setting alone."""
    subsets = [_chosen_ids(cell, store) for cell in chosen]
    sizes = [_pool_size(cell, store) if subset else 0 for cell, subset in zip(chosen, subsets, strict=True)]
    body = []
    for key, name in AXES.items():
        pairs: list[tuple[list[str], list[str], int]] = []  # both subsets, and how many records their pool has
        absent = 0
        for a in range(len(chosen)):
            for b in range(a + 1, len(chosen)):
                first, second = chosen[a].swept, chosen[b].swept
                if {k for k in first.keys() | second.keys() if first.get(k) != second.get(k)} != {key}:
                    continue
                if (one := subsets[a]) and (other := subsets[b]):
                    pairs.append((one, other, sizes[a]))
                else:
                    absent += 1
        if not pairs:
            if absent:
                body.append([name, "0", *["missing"] * 5, str(absent)])
            continue
        chance = [stability.by_chance(len(one), len(other), size) for one, other, size in pairs]
        jaccards, overlaps = (
            [f(one, other) for one, other, _ in pairs] for f in (stability.jaccard, stability.overlap)
        )
        body.append(
            [name, str(len(pairs)), *_range(jaccards), *_range(overlaps), f"{np.mean(chance):.3f}", str(absent)]
        )
    return Section(
        "between",
        "Subsets when one thing is made anew",
        [
            "Each line compares all pairs of cells that differ in nothing else; the range is over pairs. By chance: "
            "the overlap coefficient of two random subsets of these sizes."
        ],
        (
            "changed",
            "pairs",
            "Jaccard",
            "lowest to highest",
            "overlap",
            "lowest to highest",
            "by chance",
            "pairs missing",
        ),
        body,
    )


def _range(values: Sequence[float]) -> tuple[str, str]:
    return f"{np.mean(values):.3f}", f"{min(values):.3f} to {max(values):.3f}"


def _pool_size(cell: Cell, store: Store) -> int:
    artifact = store.find(cell.nodes["subset"])
    assert artifact is not None
    return int(artifact.info["rows_in"])


def _matrices(cell: Cell, store: Store) -> Matrices | None:
    """The saved matrices and bins that an ADG cell chose from; None when they are not there."""
    if not isinstance(cell.selector.config, DivergenceConfig) or "grams" not in cell.nodes:
        return None
    found = {role: store.find(cell.nodes[role]) for role in ("grams", "bins") if role in cell.nodes}
    if None in found.values() or "bins" not in found:
        return None
    grams, bins = embedding_stage.load(found["grams"]), bins_stage.load(found["bins"])  # type: ignore[arg-type]
    return Matrices(grams.windows, grams.grams, np.array([bins[key] for key in grams.ids], dtype=np.int64))


def reference(cell: Cell) -> Choice:
    """How an ADG cell chooses, as a ``Choice``."""
    cfg = cell.selector.config
    answers = None if cfg.answers is None else tuple(range(cfg.answers))
    return Choice(cell.config.budget, cfg.lam, cfg.window, answers, cfg.bins, cfg.rule, cfg.part)


def _within(chosen: Sequence[Cell], store: Store) -> list[Section]:
    """What can be changed without other answers, from the first finished cell of each backbone, pool and preset."""
    body: list[list[str]] = []
    maps: list[Section] = []
    seen: set[tuple[str, ...]] = set()
    pools = len({cell.config.pool.name for cell in chosen}) > 1  # one pool needs no column
    for cell in chosen:
        of = (cell.config.backbone.name, *[cell.config.pool.name] * pools, cell.config.preset.name)
        if of in seen or (matrices := _matrices(cell, store)) is None:
            continue
        seen.add(of)
        terms = Terms(matrices)
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
    found = []
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
            found.append(
                _map(
                    f"overlap-{stem}",
                    f"Overlap between {title} ({name})",
                    labels,
                    values,
                    "The first answers; everything else as configured.",
                )
            )
    return found


def _interval(value: Summary | None) -> tuple[str, str]:
    if value is None:
        return "none", "a subset was empty"
    return f"{value.mean:.3f}", f"{value.low:.3f} to {value.high:.3f}" if value.n > 1 else "one draw"


# -- quadrants -------------------------------------------------------------------------------------------
def _quadrants(chosen: Sequence[Cell], store: Store) -> list[Section]:
    """D against I with an example of each quadrant, for the first finished ADG cell of each backbone and pool."""
    done: dict[tuple[str, str], Cell] = {}
    for cell in chosen:
        if isinstance(cell.selector.config, DivergenceConfig) and store.complete(cell.nodes["scores"]):
            done.setdefault((cell.config.backbone.name, cell.config.pool.name), cell)
    return [_quadrant(number, cell, store) for number, cell in enumerate(done.values())]


def _quadrant(number: int, cell: Cell, store: Store) -> Section:
    import pyarrow.parquet as pq

    artifact = store.find(cell.nodes["scores"])
    assert artifact is not None
    table = selection_stage.load_scores(artifact)
    keys = pq.read_table(artifact.file("scores.parquet"), columns=["id"])["id"].to_pylist()
    rows = np.flatnonzero(table.valid)
    d, i = table.parts["dispersion"][rows], table.parts["anisotropy"][rows]
    ids = set(_chosen_ids(cell, store) or ())
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

    found = {key: ["missing"] * (1 + ANSWERS) for key in keys}
    pool, answers = store.find(cell.nodes["pool"]), store.find(cell.nodes["answers"])
    only = [("id", "in", list(keys))]
    if pool is not None:
        table = pq.read_table(pool.file("records.parquet"), columns=["id", "instruction"], filters=only)
        for key, text in zip(table["id"].to_pylist(), table["instruction"].to_pylist(), strict=True):
            found[key][0] = _cut(text)
    if answers is not None:
        table = pq.read_table(answers.file("answers.parquet"), columns=["id", "sample", "text"], filters=only)
        for key, sample, text in zip(*(table[name].to_pylist() for name in table.column_names), strict=True):
            if sample < ANSWERS:
                found[key][1 + sample] = _cut(text) or "(empty)"
    return found


def _cut(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= LETTERS else line[: LETTERS - 1] + "…"
