"""Choosing a subset: the contract every selector meets, the checks no selector can skip, and the quota rules.

A selector gives every record of the pool a score or a reason why it has none, then chooses row indices for a
budget. Everything else (order, ties, exact budget, the tables on disk) is done here, once for all.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from adg import records as records_
from adg.errors import BadInput, BadMeasurement, nearest
from adg.records import Record
from adg.store import Artifact, Job, Node, Stage

SCORES = Stage("scores", 1, "adg.selection:build_scores", gpu=True)
SUBSET = Stage("subset", 1, "adg.selection:build_subset")

RULES = ("largest_remainder", "released")
PARTS = ("top", "middle", "bottom")


# -- quota rules ---------------------------------------------------------------------------------------


def largest_remainder(sizes: np.ndarray, budget: int) -> np.ndarray:
    """Quotas proportional to ``sizes`` (B,), exactly ``budget`` in total and never above a bin's size.

    Each bin gets the floor of its share; what is left goes to the largest remainders, ties to the lower bin.
    """
    sizes = np.asarray(sizes, dtype=np.int64)
    total = int(sizes.sum())
    if not 0 <= budget <= total:
        raise BadInput(f"budget {budget} is outside 0..{total} (the records that can be selected)")
    quotas = sizes * budget // max(total, 1)
    remainders = sizes * budget - quotas * total
    short = budget - int(quotas.sum())
    # a remainder above 0 means the floor is below the bin's size, so one more always fits
    order = np.lexsort((np.arange(len(sizes)), -remainders))
    quotas[order[:short]] += 1
    return quotas


def binwise(
    scores: np.ndarray, bins: np.ndarray, budget: int, rule: str = "largest_remainder", part: str = "top"
) -> np.ndarray:
    """Indices chosen bin by bin: a quota proportional to the bin's size, filled by score.

    ``scores`` (n,) float, ``bins`` (n,) int; rows are in canonical id order, so ties go to the lowest id.
    ``part`` takes the head, the tail or the middle of each bin ranked by score, highest first.

    ``rule="largest_remainder"`` (ours) returns exactly ``budget`` indices, bins in ascending order and ranked
    within a bin; the middle is the window that starts at floor((size - quota) / 2).
    ``rule="released"`` is the released code's rule to the letter: bins under 3 members go whole to the middle;
    otherwise q = max(1, floor(size * budget / n)) for each of three parts, cut so that they fit; a part longer than
    the budget is cut globally, best first (bottom: lowest first). It may return fewer than ``budget``; the paper
    states only that quotas are proportional.
    """
    scores = np.asarray(scores, dtype=np.float64)
    bins = np.asarray(bins)
    if scores.ndim != 1 or scores.shape != bins.shape:
        raise BadInput(f"scores have shape {scores.shape} and bins {bins.shape}; expected the same (n,)")
    if rule not in RULES:
        raise BadInput(f"rule is {rule!r}; expected one of {', '.join(RULES)}")
    if part not in PARTS:
        raise BadInput(f"part is {part!r}; expected one of {', '.join(PARTS)}")
    if not np.isfinite(scores).all():
        raise BadMeasurement(f"score of row {int(np.flatnonzero(~np.isfinite(scores))[0])} is not finite")
    if budget < 0 or (budget > len(scores) and rule != "released"):  # the released rule is defined above the pool too
        raise BadInput(f"budget {budget} is outside 0..{len(scores)}")
    if len(scores) == 0:
        return np.empty(0, dtype=np.int64)
    return (_exact if rule == "largest_remainder" else _released)(scores, bins, budget, part)


def _ranked_bins(scores: np.ndarray, codes: np.ndarray) -> list[np.ndarray]:
    """Row indices of each bin code 0..B-1, highest score first, ties in row order."""
    order = np.lexsort((np.arange(len(scores)), -scores, codes))
    edges = np.flatnonzero(np.diff(codes[order])) + 1
    return np.split(order, edges)


def _exact(scores: np.ndarray, bins: np.ndarray, budget: int, part: str) -> np.ndarray:
    _, codes = np.unique(bins, return_inverse=True)
    groups = _ranked_bins(scores, codes)
    quotas = largest_remainder(np.array([len(g) for g in groups]), budget)
    taken = []
    for group, quota in zip(groups, quotas, strict=True):
        start = {"top": 0, "bottom": len(group) - quota, "middle": (len(group) - quota) // 2}[part]
        taken.append(group[start : start + quota])
    return np.concatenate(taken)


def _released(scores: np.ndarray, bins: np.ndarray, budget: int, part: str) -> np.ndarray:
    _, first, codes = np.unique(bins, return_index=True, return_inverse=True)
    by_appearance = np.argsort(np.argsort(first))  # code -> position in order of first appearance
    lists: dict[str, list[np.ndarray]] = {"top": [], "middle": [], "bottom": []}
    for group in _ranked_bins(scores, by_appearance[codes]):
        size = len(group)
        if size < 3:
            lists["middle"].append(group)
            continue
        top = middle = bottom = max(1, int(size * (budget / len(scores))))
        if top + middle + bottom > size:
            scale = size / (top + middle + bottom)
            top = bottom = max(1, int(top * scale))
            middle = size - top - bottom
        lists["top"].append(group[:top])
        lists["bottom"].append(group[size - bottom :])
        rest = group[top : size - bottom]
        start = max(0, (len(rest) - middle) // 2)
        lists["middle"].append(rest[start : start + middle])
    chosen = np.concatenate(lists[part]) if lists[part] else np.empty(0, dtype=np.int64)
    if len(chosen) > budget:
        sign = 1 if part == "bottom" else -1
        chosen = chosen[np.argsort(sign * scores[chosen], kind="stable")[:budget]]
    return chosen


def top(scores: np.ndarray, valid: np.ndarray, budget: int) -> np.ndarray:
    """The ``budget`` highest of the valid ``scores`` (n,), highest first, ties to the lowest row."""
    rows = np.flatnonzero(valid)
    return rows[np.argsort(-np.asarray(scores)[rows], kind="stable")[:budget]]


# -- the contract --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SelectorData:
    """What a selector may read. Row i of every array a selector returns belongs to ``records[i]``.

    ``records`` are in canonical id order whatever the order of the file. ``features`` holds the artifacts the
    selector asked for by name (``Selector.requires``); ``pool`` is the artifact of the records themselves, for
    selectors that read further fields of the original rows (``records.load_original``).
    """

    records: Sequence[Record]
    features: Mapping[str, Artifact] = field(default_factory=dict)
    pool: Artifact | None = None

    @property
    def keys(self) -> list[str]:
        """The records' ids as they stand in every table on disk."""
        return [records_.key(r.id) for r in self.records]


@dataclass
class ScoreTable:
    """One row a record: ``score`` (n,) float, further ``parts`` (n,) each, and why a record has no score.

    ``invalid`` maps a row to its reason; such rows are never selected and their score must be NaN, so that a
    failed measurement cannot be mistaken for a number. ``notes`` is what a reader of the manifest must know.
    """

    score: np.ndarray
    parts: dict[str, np.ndarray] = field(default_factory=dict)
    invalid: dict[int, str] = field(default_factory=dict)
    notes: dict[str, Any] = field(default_factory=dict)

    @property
    def valid(self) -> np.ndarray:
        mask = np.ones(len(self.score), dtype=bool)
        mask[list(self.invalid)] = False
        return mask

    def check(self, n: int) -> None:
        """Refuse a table of the wrong length, or a missing score without a reason, or a reason with a score."""
        self.score = np.asarray(self.score, dtype=np.float64)
        for name, column in {"score": self.score, **self.parts}.items():
            if np.shape(column) != (n,):
                raise BadMeasurement(f"column '{name}' has shape {np.shape(column)}; expected ({n},)")
        finite = np.isfinite(self.score)
        wrong = np.flatnonzero(finite != self.valid)
        if len(wrong):
            row = int(wrong[0])
            raise BadMeasurement(
                f"row {row} has score {self.score[row]} and reason {self.invalid.get(row)!r}: a record has either "
                f"a finite score or a reason why it has none ({len(wrong)} such rows)"
            )


class Selector(ABC):
    """A way of choosing instruction data. Subclasses say what they read, how they score and how they choose.

    ``Config`` is a frozen dataclass of options (the keys of ``conf/selector/<name>.yaml`` besides ``name``).
    ``requires`` names the artifacts to be built first: any of ``backbone, answers, grams, bins`` and those that
    ``extra`` adds.
    ``version`` is bumped by hand when results change. Randomness comes from ``config.seed`` through ``adg.seeds``.
    """

    name: ClassVar[str]
    version: ClassVar[int] = 1
    Config: ClassVar[type]
    requires: ClassVar[tuple[str, ...]] = ()
    whole_pool: ClassVar[bool] = False  # takes every record, whatever the budget

    def __init__(self, config: Any) -> None:
        self.config = config

    def needs(self) -> tuple[str, ...]:
        """The artifacts this configuration reads (by default ``requires``)."""
        return self.requires

    def extra(self, pool: Node, backbone: Node) -> dict[str, Node]:
        """Further artifacts by name, parents first, beside those every cell knows; default none.

        Those that the selector reads itself are named in ``requires`` as well. Nothing is built or fetched here.
        """
        return {}

    def check_answers(self, sampled: int, windows: Sequence[str]) -> None:  # noqa: B027 - nothing to refuse by default
        """Raise ``BadInput`` where ``sampled`` answers a record and these layer windows do not serve this selector.

        Asked before anything is built of a cell that reads grams.
        """

    def note(self, backbone: Node) -> str:
        """One sentence that stands above every table with this selector; default none ("")."""
        return ""

    @abstractmethod
    def scores(self, data: SelectorData) -> ScoreTable:
        """One row a record; higher is better unless ``choose`` says otherwise."""

    def choose(self, data: SelectorData, table: ScoreTable, budget: int) -> np.ndarray:
        """Row indices in output order, exactly ``budget`` of them, distinct. Default: the highest scores."""
        return top(table.score, table.valid, budget)

    def may_return_fewer(self) -> bool:
        """True only for the released quota rule, whose shortfall is recorded and never padded."""
        return False


def make(types: Mapping[str, type[Selector]], options: Mapping[str, Any]) -> Selector:
    """The selector a config describes; unknown names and options are refused with the nearest known one."""
    options = dict(options)
    name = options.pop("name", None)
    if name not in types:
        raise BadInput(f"selector.name is {name!r}{nearest(str(name), list(types))}; known: {', '.join(sorted(types))}")
    cls = types[name]
    known = [f.name for f in dataclasses.fields(cls.Config)]
    for key in options:
        if key not in known:
            raise BadInput(
                f"selector '{name}' has no option '{key}'{nearest(key, known)}; it has {', '.join(known) or 'none'}"
            )
    return cls(cls.Config(**options))


def check_budget(budget: int, n: int) -> None:
    """Refuse a budget that a pool of ``n`` records cannot give."""
    if budget < 1 or budget > n:
        raise BadInput(f"budget is {budget:,} but the pool holds {n:,} records; set budget between 1 and {n}")


def select(selector: Selector, data: SelectorData, table: ScoreTable, budget: int) -> np.ndarray:
    """Row indices chosen by ``selector``, checked: the exact budget, distinct, all of them valid rows.

    Raises ``BadInput`` when the budget exceeds the records that have a score, ``BadMeasurement`` when the selector
    breaks the contract.
    """
    n = len(data.records)
    table.check(n)
    if selector.whole_pool:
        budget = n
    check_budget(budget, n)
    usable = int(table.valid.sum())
    if budget > usable:
        reasons = counted(table.invalid.values())
        raise BadInput(
            f"budget is {budget:,} but only {usable:,} of {n:,} records have a score ({reasons}); "
            f"lower the budget or repair those records"
        )
    rows = np.asarray(selector.choose(data, table, budget), dtype=np.int64)
    if len(np.unique(rows)) != len(rows):
        raise BadMeasurement(f"selector '{selector.name}' returned {len(rows)} rows, {len(np.unique(rows))} distinct")
    if len(rows) and (rows.min() < 0 or rows.max() >= n or not table.valid[rows].all()):
        raise BadMeasurement(f"selector '{selector.name}' returned a row outside the pool or one without a score")
    if len(rows) != budget and not (selector.may_return_fewer() and len(rows) < budget):
        raise BadMeasurement(f"selector '{selector.name}' returned {len(rows):,} of {budget:,} rows")
    return rows


def counted(reasons: Any) -> str:
    counts: dict[str, int] = {}
    for reason in reasons:
        counts[reason] = counts.get(reason, 0) + 1
    return "; ".join(f"{count:,} x {reason}" for reason, count in sorted(counts.items(), key=lambda e: -e[1]))


# -- the stages ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ScoresConfig:
    """Identity of a scores table: the selector's name, version and options."""

    name: str
    version: int
    options: Any
    kind: type[Selector] = field(metadata={"identity": False})  # the class that does it


@dataclass(frozen=True)
class SubsetConfig(ScoresConfig):
    """Identity of a subset: the same and the budget (None: the whole pool)."""

    budget: int | None = None


def scores_node(selector: Selector, features: Mapping[str, Node], pool: Node) -> Node:
    """The scores of a whole pool; ``features`` must hold what ``selector.needs()`` names."""
    inputs = {"pool": pool, **{name: features[name] for name in selector.needs()}}
    owners = [n.label for role, n in inputs.items() if role != "pool"]
    label = "+".join([selector.name, owners[0] if owners else pool.label])
    config = ScoresConfig(selector.name, selector.version, selector.config, type(selector))
    return Node(SCORES, label, config, inputs)


def subset_node(selector: Selector, scores: Node, features: Mapping[str, Node], pool: Node, budget: int) -> Node:
    """The chosen subset of a pool for a budget."""
    inputs = {"pool": pool, "scores": scores, **{name: features[name] for name in selector.needs()}}
    size = None if selector.whole_pool else budget
    label = scores.label if size is None else f"{scores.label}+{size}"
    config = SubsetConfig(selector.name, selector.version, selector.config, type(selector), size)
    return Node(SUBSET, label, config, inputs)


def _open(job: Job) -> tuple[Selector, SelectorData]:
    selector = job.config.kind(job.config.options)
    features = {role: a for role, a in job.inputs.items() if role not in ("pool", "scores")}
    return selector, SelectorData(records_.load(job.inputs["pool"]), features, job.inputs["pool"])


def build_scores(job: Job) -> dict[str, Any]:
    """Stage "scores": ``scores.parquet`` with a row for every record of the pool."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    selector, data = _open(job)
    table = selector.scores(data)
    table.check(len(data.records))
    reasons = [table.invalid.get(i, "") for i in range(len(data.records))]
    columns = {"id": data.keys, "score": table.score, **table.parts, "invalid": reasons}
    pq.write_table(pa.table(columns), job.folder / "scores.parquet")
    return {
        "rows_in": len(data.records),
        "rows_out": int(table.valid.sum()),
        "invalid": counted(reasons_of(table)),
        **table.notes,
    }


def reasons_of(table: ScoreTable) -> list[str]:
    return [table.invalid[i] for i in sorted(table.invalid)]


def load_scores(artifact: Artifact) -> ScoreTable:
    """The table of a "scores" artifact, rows in canonical id order."""
    import pyarrow.parquet as pq

    table = pq.read_table(artifact.file("scores.parquet"))
    parts = {name: table[name].to_numpy() for name in table.column_names if name not in ("id", "score", "invalid")}
    invalid = {i: reason for i, reason in enumerate(table["invalid"].to_pylist()) if reason}
    return ScoreTable(table["score"].to_numpy(), parts, invalid)


def build_subset(job: Job) -> dict[str, Any]:
    """Stage "subset": ``records.parquet`` in output order, ``subset.jsonl`` with all original fields, ``scores.jsonl``.

    ``scores.jsonl`` has a row for every record of the pool: id, score, its parts, selected (its place in the
    output order, or null) and the reason why not.
    """
    import pyarrow.parquet as pq

    selector, data = _open(job)
    table = load_scores(job.inputs["scores"])
    budget = len(data.records) if job.config.budget is None else job.config.budget
    rows = select(selector, data, table, budget)
    pool = pq.read_table(job.inputs["pool"].file("records.parquet"))
    pq.write_table(pool.take(rows), job.folder / "records.parquet")
    originals = records_.load_original(job.inputs["pool"])
    keys = data.keys
    records_.write_lines(job.folder / "subset.jsonl", [originals[keys[i]] for i in rows])
    place = {int(row): i for i, row in enumerate(rows)}
    records_.write_lines(
        job.folder / "scores.jsonl",
        [
            {
                "id": record.id,
                "score": None if i in table.invalid else float(table.score[i]),
                **{name: _json_value(column[i]) for name, column in table.parts.items()},
                "selected": place.get(i),
                "reason": "" if i in place else table.invalid.get(i) or "not among the chosen for this budget",
            }
            for i, record in enumerate(data.records)
        ],
    )
    chosen = [data.records[i] for i in rows]
    return {
        "rows_in": len(data.records),
        "rows_out": len(rows),
        "budget": budget,
        "shortfall": budget - len(rows),
        "invalid": counted(table.invalid.values()),
        "mean_output_characters": round(float(np.mean([len(r.output) for r in chosen])), 1) if chosen else None,
    }


def _json_value(value: Any) -> Any:
    value = value.item() if hasattr(value, "item") else value
    return None if isinstance(value, float) and not np.isfinite(value) else value
