"""What the published figures alone say of each claim, and where they contradict one another. Nothing is typed in:
every number here is computed from ``experiments/report/published.yaml``."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping

from adg.evaluation.benchmarks import CATEGORIES
from experiments.report.published import ANALYSED, averages, figures

ROUNDING = 0.015  # points by which the printed average of three printed categories may differ from their mean
METHOD = "adg"


def _blocks() -> dict[str, Mapping[str, list[float]]]:
    """The main table: "backbone / pool" -> selector -> (reasoning, knowledge, coding, average)."""
    return {f"{b} / {p}": rows for b, pools in figures()["main"].items() for p, rows in pools.items()}


def _points(values: list[float]) -> str:
    return ", ".join(f"{value:+.2f}" for value in values)


def _every_selector() -> str:
    margins = [
        rows[METHOD][-1] - max(row[-1] for name, row in rows.items() if name != METHOD) for rows in _blocks().values()
    ]
    word = "consistent" if min(margins) > 0 else "contradicted"
    return f"{word}; margins over the next best {_points(margins)}"


def _every_category() -> str:
    firsts = [
        max(rows, key=lambda name, rows=rows, i=i: rows[name][i]) == METHOD  # type: ignore[misc]
        for rows in _blocks().values()
        for i in range(len(CATEGORIES) - 1)
    ]
    word = "consistent" if all(firsts) else "contradicted"
    return f"{word}; first in {sum(firsts)} of {len(firsts)} columns"


def _random_and_all() -> str:
    parts = []
    for other in ("random", "all"):
        gains = [rows[METHOD][-1] - rows[other][-1] for rows in _blocks().values()]
        parts.append((min(gains), f"{min(gains):+.2f} to {max(gains):+.2f} over {other}"))
    word = "consistent" if min(low for low, _ in parts) > 0 else "contradicted"
    return f"{word}; {' and '.join(text for _, text in parts)}"


def _main(selector: str) -> float:
    return figures()["main"][ANALYSED[0]][ANALYSED[1]][selector][-1]


def _layers() -> str:
    windows = averages("layers")[METHOD]
    best = max(windows, key=lambda name: windows[name])
    below = sum(value < _main("random") for value in windows.values())
    word = "consistent" if best == list(windows)[-1] else "contradicted"
    return (
        f"{word}; best is {best} ({windows[best]:.2f}); {below} of {len(windows)} windows lie below Random of the "
        f"main table ({_main('random'):.2f})"
    )


def _answers() -> str:
    counts = averages("answers")[METHOD]
    best = max(counts, key=lambda k: counts[k])
    below_all = [k for k, value in counts.items() if value < _main("all")]
    below_random = [k for k, value in counts.items() if value < _main("random")]
    word = "consistent" if int(best) == 5 else "contradicted"
    shown = ", ".join(f"K = {k} {value:.2f}" for k, value in counts.items())
    return (
        f"{word}; {shown}; K = {', '.join(map(str, below_all)) or 'none'} below All ({_main('all'):.2f}), "
        f"K = {', '.join(map(str, below_random)) or 'none'} below Random ({_main('random'):.2f})"
    )


def _budgets() -> str:
    chart = averages("budget")
    gains, over_random = (
        [average - chart[other][budget] for budget, average in chart[METHOD].items()]
        for other in ("superfiltering", "random")
    )
    low = min([*gains, *over_random])
    return f"{'consistent' if low > 0 else 'contradicted'}; {_points(gains)} over superfiltering"


def _saturation() -> str:
    values = [*averages("budget")[METHOD].values()]
    steps = [b - a for a, b in itertools.pairwise(values)]
    falls = any(step < 0 for step in steps[:-1]) and any(step > 0 for step in steps[1:])
    shown = ", ".join(f"{value:.2f}" for value in values)
    return f"{'doubtful, the curve goes down and up' if falls else 'consistent'}; {shown}"


def _transfer() -> str:
    parts, best = [], True
    for backbone, by in figures()["analyses"]["cross_backbone"]["rows"].items():
        own = by[backbone][-1]
        others = figures()["main"][backbone][ANALYSED[1]]
        for chooser, row in by.items():
            if chooser != backbone:
                parts.append(row[-1] - own)
                best &= row[-1] > max(value[-1] for name, value in others.items() if name != METHOD)
    return (
        f"{'consistent' if best else 'doubtful'}; {_points(parts)}, {'still' if best else 'not'} best of all selectors"
    )


def _chinese() -> str:
    table = figures()["analyses"]["chinese"]["figures"]
    leads = [
        table[METHOD][i] - max(row[i] for name, row in table.items() if name != METHOD)
        for i in range(len(table[METHOD]))
    ]
    word = "consistent" if min(leads) > 0 else "contradicted"
    return f"{word}; {_points(leads)} over the next best; the pool is not named"


NO_FIGURES = "cannot be judged: no figures on the page"
VERDICTS: dict[str, Callable[[], str]] = {
    "C1": _every_selector,
    "C2": _every_category,
    "C3": _random_and_all,
    "C5": _layers,
    "C6": _answers,
    "C7": _budgets,
    "C7b": _saturation,
    "C8": _transfer,
    "C9": _chinese,
    "C10": lambda: f"{figures()['selection_cost_hours_4gpu'][METHOD]} h, to be measured",
}


def verdict(claim: str) -> str:
    """What the published numbers alone say of a claim, in words."""
    return VERDICTS[claim]() if claim in VERDICTS else NO_FIGURES


def contradictions() -> list[str]:
    """Where published figures of the same thing differ, or do not add up, each in a sentence."""
    lines = []
    chart, main = averages("budget"), figures()["main"][ANALYSED[0]][ANALYSED[1]]
    for budget in chart[METHOD]:
        if budget != 10_000:  # the main table's
            continue
        for selector in ("random", "superfiltering", METHOD):
            here, there = chart[selector][budget], main[selector][-1]
            if abs(here - there) > ROUNDING:
                lines.append(
                    f"{selector} at {budget:,} examples is {here:.2f} in the budget chart and {there:.2f} in the main "
                    f"table ({here - there:+.2f})"
                )
    rows = [(block, name, row) for block, table in _blocks().items() for name, row in table.items()]
    wrong = [
        (block, name, row, sum(row[:3]) / 3) for block, name, row in rows if abs(sum(row[:3]) / 3 - row[3]) > ROUNDING
    ]
    for block, name, row, mean in wrong:
        lines.append(f"the average of {name} in {block} is printed as {row[3]:.2f}, its categories give {mean:.2f}")
    if chart and _saturation().startswith("doubtful"):
        values = ", ".join(f"{value:.2f}" for value in chart[METHOD].values())
        lines.append(f"the gain is said to saturate, and the averages by budget are {values}")
    if not any("untrained" in table for table in _blocks().values()):
        lines.append("the page has no row of the untrained backbones, so no figure says what training gained")
    return lines
