"""The two charts of a table on a page: averages, and differences to random, with their intervals as whiskers.

Positions are percent of a track's width, so that a page needs no library to draw them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from experiments.report.layout import Line, TableLayout
from experiments.report.legend import gap, signed
from experiments.report.table import BASELINE, Row

SCALES = (1, 2, 5, 10, 20, 30, 40, 50, 60, 80, 100, 150, 200)


@dataclass(frozen=True)
class Bar:
    """One row of a panel: a bar from ``left`` over ``width``, whiskers from ``low`` over ``span``, a published
    figure at ``tick``; None where there is none of these."""

    row: Row
    text: str
    title: str
    word: bool = False  # whether the text says why there is no value
    left: float | None = None
    width: float = 0.0
    low: float | None = None
    span: float = 0.0
    tick: float | None = None


@dataclass(frozen=True)
class Panel:
    """The bars of a backbone and pool."""

    backbone: str
    pool: str
    bars: Sequence[Bar]


@dataclass(frozen=True)
class Chart:
    """Panels on one scale; ``zero``: where 0 stands, None where the tracks begin with it."""

    name: str
    title: str
    note: str
    panels: Sequence[Panel]
    zero: float | None = None


def charts(computed: TableLayout) -> list[Chart]:
    """Those that there is something to draw in."""
    return [chart for chart in (_averages(computed), _differences(computed)) if chart is not None]


def _panels(computed: TableLayout, bar: Callable[[Line], Bar], shown: Callable[[Line], bool]) -> list[Panel]:
    panels = [
        Panel(backbone, pool, [bar(line) for line in lines if shown(line)])
        for backbone, pool, lines in computed.blocks()
    ]
    return [panel for panel in panels if panel.bars]


def _averages(computed: TableLayout) -> Chart | None:
    """Averages as bars from 0."""
    values = [line.values["avg"] for line in computed.lines if "avg" in line.values]
    if all(value.percent is None for value in values):
        return None
    ends = [number for value in values for number in (value.percent, value.paper, *(value.interval or ()))]
    highest = max(number for number in ends if number is not None)
    top = min(100, next(scale for scale in SCALES if scale >= min(highest, 100)))

    def bar(line: Line) -> Bar:
        value = line.values["avg"]
        title = f"{line.row.name}: {value.text()}"
        tick = None if value.paper is None else 100 * value.paper / top
        title += "" if value.paper is None else f", paper {value.paper:.2f}"
        if value.percent is None:
            return Bar(line.row, value.text(), title, True, tick=tick)
        low = span = None
        if value.interval is not None:
            low, span = 100 * value.interval[0] / top, 100 * (value.interval[1] - value.interval[0]) / top
            title += f", 95 % interval {value.interval[0]:.2f} to {value.interval[1]:.2f}"
        return Bar(line.row, value.text(), title, False, 0.0, 100 * value.percent / top, low, span or 0.0, tick)

    note = f"Mean of the three categories in percent, bars from 0 to {top}; whiskers: 95 % interval"
    note += "; the upright mark is the published figure." if computed.has_paper else "."
    return Chart("average", "Average", note, _panels(computed, bar, lambda line: True))


def _differences(computed: TableLayout) -> Chart | None:
    """Differences of the average to random, to both sides of 0."""
    gaps = [line.gaps[BASELINE] for line in computed.lines if BASELINE in line.gaps]
    if not gaps:
        return None
    farthest = max(abs(number) for entry in gaps for number in (entry.value, *(entry.interval or ())))
    top = next((scale for scale in SCALES if scale >= farthest), SCALES[-1])

    def at(number: float) -> float:
        return 50 + 50 * number / top

    def bar(line: Line) -> Bar:
        entry = line.gaps[BASELINE]
        low = span = None
        if entry.interval is not None:
            low, span = at(entry.interval[0]), at(entry.interval[1]) - at(entry.interval[0])
        left, width = min(50.0, at(entry.value)), abs(at(entry.value) - 50)
        return Bar(
            line.row, signed(entry.value), f"{line.row.name}: {gap(entry)}", False, left, width, low, span or 0.0
        )

    note = (
        f"Points of the average above the {BASELINE} row of the same backbone and pool, from -{top} to +{top}; "
        "whiskers: 95 % interval of the difference. Where they reach across the line, no difference was seen."
    )
    panels = _panels(computed, bar, lambda line: BASELINE in line.gaps)
    return Chart("difference", f"Difference to {BASELINE}", note, panels, zero=50.0)
