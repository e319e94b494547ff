"""How much a choice depends on its settings, and which records stand where: all from saved matrices.

A ``Matrices`` is one set of answers with its Gram matrices and bins; a ``Choice`` says how a subset is taken from it.
Nothing is sampled, embedded or trained here, and only numpy is needed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from adg import geometry, seeds
from adg.errors import BadInput
from adg.selection.quotas import PARTS, binwise

LAMBDAS = tuple(round(0.1 * i, 1) for i in range(11))
QUADRANTS = ("high D, high I", "high D, low I", "low D, high I", "low D, low I")


@dataclass(frozen=True)
class Matrices:
    """n records in canonical id order: ``grams`` (n, W, K, K) of the ``windows`` (W names), ``bins`` (n,)."""

    windows: Sequence[str]
    grams: np.ndarray
    bins: np.ndarray

    @property
    def answers(self) -> int:
        return self.grams.shape[-1]


@dataclass(frozen=True)
class Choice:
    """How a subset is taken: the options of the ADG selector, and which answers are used (None: all)."""

    budget: int
    lam: float = geometry.LAMBDA
    window: str | None = None  # None: the first
    answers: tuple[int, ...] | None = None
    bins: bool = True
    rule: str = "largest_remainder"
    part: str = "top"


@dataclass(frozen=True)
class Summary:
    """Values of one comparison: how many, their mean, and where the middle 95 % of them lie."""

    n: int
    mean: float
    low: float
    high: float


class Terms:
    """Dispersion and anisotropy of one ``Matrices``, computed once for each window and set of answers."""

    def __init__(self, matrices: Matrices) -> None:
        self.matrices = matrices
        self._last: dict[tuple[str, tuple[int, ...]], tuple[np.ndarray, np.ndarray]] = {}

    def of(self, window: str | None, answers: Sequence[int] | None) -> tuple[np.ndarray, np.ndarray]:
        """(D, I), each (n,). Raises ``BadInput`` for a window that was not declared or an answer that is not there."""
        windows = list(self.matrices.windows)
        name = windows[0] if window is None else window
        if name not in windows:
            raise BadInput(f"window {name!r} is not among the declared ones: {', '.join(windows)}")
        chosen = tuple(range(self.matrices.answers) if answers is None else answers)
        if len(chosen) < 2 or not set(chosen) <= set(range(self.matrices.answers)) or len(set(chosen)) != len(chosen):
            raise BadInput(f"answers {list(chosen)}: expected 2 or more of 0 to {self.matrices.answers - 1}, each once")
        key = (name, chosen)
        if key not in self._last:
            if len(self._last) > 32:
                self._last.clear()
            grams = self.matrices.grams[:, windows.index(name)][:, chosen][:, :, chosen]
            self._last[key] = geometry.dispersion(grams), geometry.anisotropy(grams)
        return self._last[key]

    def subset(self, choice: Choice) -> np.ndarray:
        """Rows that the ADG selector would choose, (m,) int64; m is ``choice.budget`` but for the released rule.

        Raises ``BadInput`` as ``of`` does, and for lam = 1 with two answers, under which every record scores 0.
        """
        answers = self.matrices.answers if choice.answers is None else len(choice.answers)
        if answers < (fewest := geometry.fewest_answers(choice.lam)):
            raise BadInput(f"{answers} answers with lam = {choice.lam:g}: all score 0; expected {fewest} or more")
        score = geometry.combine(*self.of(choice.window, choice.answers), choice.lam)
        bins = self.matrices.bins if choice.bins else np.zeros(len(score), dtype=np.int64)
        return binwise(score, bins, choice.budget, choice.rule, choice.part)


def jaccard(a: Sequence[object] | np.ndarray, b: Sequence[object] | np.ndarray) -> float:
    """Shared members over all members of two subsets, 0 to 1. Raises ``BadInput`` when both are empty."""
    first, second = set(_plain(a)), set(_plain(b))
    if not first | second:
        raise BadInput("two empty subsets have no overlap to measure")
    return len(first & second) / len(first | second)


def overlap(a: Sequence[object] | np.ndarray, b: Sequence[object] | np.ndarray) -> float:
    """Overlap coefficient: shared members over the size of the smaller subset. Raises ``BadInput`` for an empty one."""
    first, second = set(_plain(a)), set(_plain(b))
    if not first or not second:
        raise BadInput("an empty subset has no overlap coefficient")
    return len(first & second) / min(len(first), len(second))


def by_chance(a: int, b: int, n: int) -> float:
    """Expected overlap coefficient of random subsets of sizes ``a`` and ``b`` of ``n`` records: max(a, b) / n."""
    return max(a, b) / n


def summary(values: Sequence[float]) -> Summary:
    """Mean and 2.5 and 97.5 percentiles. Raises ``BadInput`` for no values."""
    if not len(values):
        raise BadInput("no values to summarise")
    low, high = np.percentile(np.asarray(values, dtype=float), [2.5, 97.5])
    return Summary(len(values), float(np.mean(values)), float(low), float(high))


def draws(answers: int, size: int, count: int, seed: int) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
    """``count`` random sub-sets of ``size`` of the ``answers``, each with a second that shares as little as can be.

    The pair stands for two independent samplings of ``size`` answers as long as 2 size <= answers.
    """
    if not 2 <= size <= answers:
        raise BadInput(f"{size} of {answers} answers cannot be drawn; expected 2 to {answers}")
    generator = seeds.generator(seed, "analysis", "answers", answers, size)
    for _ in range(count):
        order = generator.permutation(answers).tolist()
        yield tuple(sorted(order[:size])), tuple(sorted(order[-size:]))


@dataclass(frozen=True)
class Variation:
    """How one change moves the choice: what was changed, and overlaps with the reference over draws of answers.

    None stands where a subset was empty (the released rule may leave one so), since it overlaps with nothing.
    """

    axis: str
    setting: str
    jaccard: Summary | None
    overlap: Summary | None
    first: float | None  # overlap coefficient when both sides use the first answers instead of drawn ones
    chance: float  # expected overlap coefficient of random subsets of these sizes


def lambdas(answers: int) -> list[float]:
    """The values of ``LAMBDAS`` under which the scores of that many answers differ."""
    return [lam for lam in LAMBDAS if geometry.fewest_answers(lam) <= answers]


def stability(terms: Terms, reference: Choice, counts: Sequence[int], draws_: int, seed: int) -> list[Variation]:
    """Each setting changed alone, everything else as in ``reference`` (whose ``answers`` say how many are used).

    For lam, window, bins, rule and part both sides use the same drawn answers, so the interval is over which answers
    were sampled. "answers" compares two draws with each other (sampling noise), "K" a draw of K answers with all.
    """
    matrices = terms.matrices
    n, k = len(matrices.grams), matrices.answers
    size = k if reference.answers is None else len(reference.answers)
    variations: list[Variation] = []

    def add(axis: str, setting: str, pairs: Sequence[tuple[np.ndarray, np.ndarray]], first: float | None) -> None:
        whole = all(len(a) and len(b) for a, b in pairs)
        variations.append(
            Variation(
                axis,
                setting,
                summary([jaccard(a, b) for a, b in pairs]) if whole else None,
                summary([overlap(a, b) for a, b in pairs]) if whole else None,
                first,
                float(np.mean([by_chance(len(a), len(b), n) for a, b in pairs])),
            )
        )

    if size < k:
        pairs = [
            (terms.subset(replace(reference, answers=a)), terms.subset(replace(reference, answers=b)))
            for a, b in draws(k, size, draws_, seed)
        ]
        shared = max(0, 2 * size - k)
        add("answers", f"other {size} of {k}" + (f" ({shared} shared)" if shared else ""), pairs, None)
    whole = terms.subset(replace(reference, answers=None))
    for count in sorted({c for c in counts if geometry.fewest_answers(reference.lam) <= c < k}):
        pairs = [(terms.subset(replace(reference, answers=a)), whole) for a, _ in draws(k, count, draws_, seed)]
        mine = terms.subset(replace(reference, answers=tuple(range(count))))
        add("K", f"{count} instead of {k}", pairs, overlap(mine, whole) if len(mine) and len(whole) else None)
    others = _changed_alone(reference, size, matrices.windows)
    sets = [a for a, _ in draws(k, size, draws_, seed)] if size < k else [tuple(range(k))]
    collected: list[list[tuple[np.ndarray, np.ndarray]]] = [[] for _ in others]
    for answers in sets:
        base = terms.subset(replace(reference, answers=answers))
        for pairs, (_, _, other) in zip(collected, others, strict=True):
            pairs.append((base, terms.subset(replace(other, answers=answers))))
    head = tuple(range(size))
    base = terms.subset(replace(reference, answers=head))
    for pairs, (axis, setting, other) in zip(collected, others, strict=True):
        mine = terms.subset(replace(other, answers=head))
        add(axis, setting, pairs, overlap(base, mine) if len(base) and len(mine) else None)
    return variations


def _changed_alone(reference: Choice, size: int, windows: Sequence[str]) -> list[tuple[str, str, Choice]]:
    """Axis, setting and choice for every setting but the answers, each changed alone; ``size`` answers are used."""
    others = [
        ("lam", f"{lam:g} instead of {reference.lam:g}", replace(reference, lam=lam))
        for lam in lambdas(size)
        if lam != reference.lam
    ]
    first_window = reference.window or windows[0]
    others += [
        ("layer window", f"{window} instead of {first_window}", replace(reference, window=window))
        for window in windows
        if window != first_window
    ]
    if reference.bins:
        others.append(("bins", "none", replace(reference, bins=False, rule="largest_remainder")))
        rule = "released" if reference.rule == "largest_remainder" else "largest_remainder"
        others.append(("quota rule", f"{rule} instead of {reference.rule}", replace(reference, rule=rule)))
    others += [
        ("part", f"{part} instead of {reference.part}", replace(reference, part=part))
        for part in PARTS
        if part != reference.part
    ]
    return others


def pairwise(subsets: Sequence[np.ndarray | Sequence[object] | None]) -> list[list[float | None]]:
    """Overlap coefficients of all pairs, (m, m); None where a subset is missing or empty."""
    sets = [None if subset is None or not len(subset) else set(_plain(subset)) for subset in subsets]
    return [[None if a is None or b is None else len(a & b) / min(len(a), len(b)) for b in sets] for a in sets]


def quadrants(d: np.ndarray, i: np.ndarray) -> tuple[np.ndarray, tuple[float, float]]:
    """Quadrant of each record, (n,) positions in ``QUADRANTS``, split at the medians of D and I, which come second."""
    split = float(np.median(d)), float(np.median(i))
    return 2 * (np.asarray(d) < split[0]) + (np.asarray(i) < split[1]), split


def examples(d: np.ndarray, i: np.ndarray) -> list[int | None]:
    """The row that lies deepest in each of ``QUADRANTS`` by rank (ties: the first row), None for an empty one."""
    where, _ = quadrants(d, i)
    ranks = [np.argsort(np.argsort(v, kind="stable"), kind="stable") / max(1, len(v) - 1) for v in (d, i)]
    deepest: list[int | None] = []
    for quadrant in range(4):
        depth = np.minimum(ranks[0] if quadrant < 2 else 1 - ranks[0], ranks[1] if quadrant % 2 == 0 else 1 - ranks[1])
        rows = np.flatnonzero(where == quadrant)
        deepest.append(int(rows[np.argmax(depth[rows])]) if len(rows) else None)
    return deepest


def _plain(values: Sequence[object] | np.ndarray) -> list[object]:
    return values.tolist() if isinstance(values, np.ndarray) else list(values)
