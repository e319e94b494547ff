"""How the types of a choice differ from those of its pool: each type's shift, with an interval and a corrected p.

The chosen are some of the pool's own records. With shares p of the n chosen, q of the N - n others and P of all N, the
shift is p - P = (1 - n/N) (p - q): a difference of two groups that have no record in common, shrunk by the part of the
pool that was not chosen. Its interval is Newcombe's for that difference, shrunk alike. It speaks of the kind of rows
that the pool is a sample of; a choice of nearly the whole pool has nearly no shift and nearly no interval.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from adg.errors import BadInput
from adg.evaluation import statistics
from adg.evaluation.statistics import Interval


@dataclass(frozen=True)
class Shift:
    """One type: how many of all records and of the chosen have it, and the difference of its shares (fractions).

    ``interval`` is two-sided, ``lower`` and ``upper`` are the ends of one-sided ones; ``p`` is Fisher's exact two-sided
    one, chosen against the others, and ``corrected`` Holm's over all types. None where every record was chosen.
    """

    pool: int
    chosen: int
    value: float
    interval: Interval | None
    lower: float | None
    upper: float | None
    p: float | None
    corrected: float | None


def shifts(
    pool: Mapping[str, int],
    chosen: Mapping[str, int],
    level: float = statistics.LEVEL,
    one_sided: float = statistics.LEVEL,
) -> dict[str, Shift]:
    """The shift of each type of ``pool`` (type -> records), the pool counting the ``chosen`` as well.

    Raises ``BadInput`` where nothing was chosen, or more of a type than the pool holds.
    """
    every, taken = sum(pool.values()), sum(chosen.values())
    more = [name for name in chosen if chosen[name] > pool.get(name, 0)]
    if more or not taken:
        what = f", more than there are of type {', '.join(more)}" if more else ""
        raise BadInput(f"{taken} of {every} records are chosen{what}; expected some of the pool's own")
    found: dict[str, Shift] = {}
    for name, count in pool.items():
        mine, others = chosen.get(name, 0), count - chosen.get(name, 0)
        value = mine / taken - count / every
        if taken == every:
            found[name] = Shift(count, mine, value, None, None, None, None, None)
            continue
        left, rest = 1 - taken / every, every - taken
        both, one = (
            statistics.difference_interval(mine, taken, others, rest, share) for share in (level, 2 * one_sided - 1)
        )
        found[name] = Shift(
            count,
            mine,
            value,
            Interval(left * both.low, left * both.high),
            left * one.low,
            left * one.high,
            _fisher(mine, taken, others, rest),
            None,
        )
    corrected = statistics.holm([shift.p for shift in found.values()])
    return {name: replace(shift, corrected=p) for (name, shift), p in zip(found.items(), corrected, strict=True)}


def _fisher(one: int, of: int, other: int, of_other: int) -> float:
    from scipy.stats import fisher_exact

    return float(fisher_exact([[one, of - one], [other, of_other - other]]).pvalue)
