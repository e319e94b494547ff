"""Figures of the analyses as SVG text, drawn with matplotlib and the same to the byte each time.

Nothing is shown on a screen and matplotlib's settings are left as they were. A value of None was not measured: its
place stays empty and says so.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

BLUE, ORANGE, GREY, GREEN, VIOLET, OCHRE = "#3b6fb6", "#c2410c", "#9aa7b5", "#2f855a", "#805ad5", "#b7791f"
COLOURS = (BLUE, ORANGE, GREEN, VIOLET, OCHRE, GREY)
MARKERS = "osD^v"  # of the first six curves, of the next six and so on
MISSING = "missing"
Ends = tuple[float, float] | None  # low and high end of an interval
ON_DARK, ON_LIGHT, EMPTY = "#fefefe", "#101010", "#d0d4d9"  # numbers of a map and its empty places, on any ground
MANY = 2_000  # points from which on they are drawn as an image
_STYLE: Any = {
    "svg.hashsalt": "adg",
    "svg.fonttype": "none",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "font.family": "sans-serif",
}


def bars(
    labels: Sequence[str],
    values: Sequence[float | None],
    ylabel: str,
    marks: Sequence[float | None] = (),
    mark: str = "",
    intervals: Sequence[Ends] = (),
) -> str:
    """Upright bars from 0, with the ``intervals`` as whiskers. ``marks`` are drawn as ticks across the bars, ``mark``
    says what they are."""

    def draw(axes: Any) -> None:
        measured = [(x, value) for x, value in enumerate(values) if value is not None]
        axes.bar([x for x, _ in measured], [value for _, value in measured], color=BLUE, width=0.6)
        ends = {x: of for x, of in enumerate(intervals) if of is not None and values[x] is not None}
        for x, (low, high) in ends.items():
            axes.plot([x, x], [low, high], color="black", linewidth=1, marker="_", markersize=8)
        for x, value in measured:
            at = max(value, ends[x][1]) if x in ends else value
            axes.annotate(
                f"{value:.2f}", (x, at), (0, 2), textcoords="offset points", ha="center", va="bottom", fontsize=9
            )
        for x in range(len(values)):
            if values[x] is None:
                axes.annotate(MISSING, (x, 0), ha="center", va="bottom", fontsize=9, color=GREY, rotation=90)
        ticks = [(x, value) for x, value in enumerate(marks) if value is not None]
        if ticks:
            axes.scatter([x for x, _ in ticks], [y for _, y in ticks], marker="_", s=300, color=ORANGE, label=mark)
            _legend(axes)
        slanted = max(map(len, labels)) > 10
        axes.set_xticks(range(len(labels)), labels, rotation=25 if slanted else 0, ha="right" if slanted else "center")
        axes.set_xlim(-0.6, len(labels) - 0.4)
        axes.margins(y=0.1)
        axes.set_ylim(bottom=0)
        axes.set_ylabel(ylabel)

    return _svg(draw, (1.6 + 0.9 * max(3, len(labels)), 3.4))


def curves(
    x: Sequence[float],
    series: Mapping[str, Sequence[float | None]],
    xlabel: str,
    ylabel: str,
    dashed: str = "",
    intervals: Mapping[str, Sequence[Ends]] | None = None,
) -> str:
    """One line a series over ``x``; a point without a value leaves a gap. Names containing ``dashed`` are dashed.
    ``intervals`` of a series are whiskers, those of several series beside one another."""
    whiskers = intervals or {}
    step = min((b - a for a, b in zip(sorted(x), sorted(x)[1:], strict=False)), default=1.0) / 40

    def draw(axes: Any) -> None:
        places: dict[str, int] = {}
        for name, values in series.items():
            base = name.split(" (")[0]
            place = places.setdefault(base, len(places))
            colour, marker = COLOURS[place % len(COLOURS)], MARKERS[place // len(COLOURS) % len(MARKERS)]
            y = [np.nan if value is None else value for value in values]
            style = "--" if dashed and dashed in name else "-"
            aside = step * (place - len(whiskers) / 2) if whiskers else 0.0
            axes.plot([at + aside for at in x], y, style, marker=marker, markersize=4, color=colour, label=name)
            for at, ends in zip(x, whiskers.get(name, ()), strict=False):
                if ends is not None:
                    axes.plot([at + aside] * 2, ends, color=colour, linewidth=1, marker="_", markersize=6)
        axes.set_xticks(list(x), [f"{value:g}" for value in x])
        axes.set_xlabel(xlabel)
        axes.set_ylabel(ylabel)
        _legend(axes)

    return _svg(draw, (5.6, 3.6))


def heatmap(labels: Sequence[str], values: Sequence[Sequence[float | None]], title: str) -> str:
    """A square map of values from 0 to 1 with the number in each place; None is grey with a dash."""

    def draw(axes: Any) -> None:
        matrix = np.array([[np.nan if v is None else v for v in row] for row in values], dtype=float)
        small = len(labels) > 12
        from matplotlib import colormaps

        shades = colormaps["Blues"].with_extremes(bad=EMPTY)
        image = axes.pcolormesh(np.ma.masked_invalid(matrix), vmin=0, vmax=1, cmap=shades)
        axes.invert_yaxis()
        axes.set_aspect("equal")
        for i, row in enumerate(matrix):
            for j, value in enumerate(row):
                text = "–" if np.isnan(value) else f"{value:.2f}"
                colour = ON_DARK if value > 0.6 else ON_LIGHT
                axes.text(j + 0.5, i + 0.5, text, ha="center", va="center", fontsize=5 if small else 7, color=colour)
        places = [place + 0.5 for place in range(len(labels))]
        axes.set_xticks(places, labels, rotation=60, ha="right", rotation_mode="anchor", fontsize=6 if small else 8)
        axes.set_yticks(places, labels, fontsize=6 if small else 8)
        axes.set_title(title, fontsize=9)
        axes.figure.colorbar(image, ax=axes, shrink=0.8)

    side = 2.6 + 0.42 * max(4, len(labels))
    return _svg(draw, (side + 0.6, side))


def quadrants(dispersion: np.ndarray, anisotropy: np.ndarray, chosen: np.ndarray, split: tuple[float, float]) -> str:
    """Every record by D and I, (n,) each; those of the mask ``chosen`` (n,) stand out; named lines at ``split``, the
    medians."""

    def draw(axes: Any) -> None:
        image = len(dispersion) > MANY
        for rows, colour, marker, label in ((~chosen, GREY, "o", "not chosen"), (chosen, BLUE, "D", "chosen")):
            label = f"{label} ({int(rows.sum()):,})"
            axes.scatter(
                dispersion[rows], anisotropy[rows], 16, colour, marker, alpha=0.8, label=label, rasterized=image, lw=0
            )
        axes.axvline(split[0], color=ORANGE, linewidth=0.8)
        axes.axhline(split[1], color=ORANGE, linewidth=0.8)
        said: Any = {"fontsize": 9, "color": ORANGE, "textcoords": "offset points"}
        across, along = axes.get_xaxis_transform(), axes.get_yaxis_transform()
        axes.annotate(
            f"median D {split[0]:.3f}", (split[0], 0), (3, 3), xycoords=across, rotation=90, va="bottom", **said
        )
        axes.annotate(f"median I {split[1]:.3f}", (1, split[1]), (0, 3), xycoords=along, ha="right", **said)
        axes.set_xlabel("dispersion D")
        axes.set_ylabel("anisotropy I")
        _legend(axes)

    return _svg(draw, (5.6, 4.2))


def lengths(pool: np.ndarray, chosen: np.ndarray, xlabel: str) -> str:
    """How long texts are, of the whole pool and of the chosen, (n,) each: the share of either in each of the same
    bins, which are as wide as one another in the logarithm, and both medians by name."""

    def draw(axes: Any) -> None:
        known = pool[pool > 0]
        low, high = float(known.min()), float(known.max())
        bins = min(30, int(np.ceil(2 * len(chosen) ** (1 / 3))))  # as Rice's rule says of the smaller sample
        edges = np.geomspace(low, high * 1.001 if high > low else high + 1, bins + 1)
        for values, colour, name, style in ((pool, GREY, "all", "-"), (chosen, BLUE, "chosen", "--")):
            counts, _ = np.histogram(np.clip(values, low, high), edges)
            middle = float(np.median(values))
            label = f"{name} ({len(values):,}), median {middle:,.0f}"
            axes.stairs(100 * counts / len(values), edges, color=colour, fill=name == "all", label=label, alpha=0.9)
            axes.axvline(middle, color=colour if name == "chosen" else "black", linestyle=style, linewidth=0.8)
        _logarithmic(axes, low, high)
        axes.set_xlabel(xlabel)
        axes.set_ylabel("percent")
        _legend(axes)

    return _svg(draw, (5.6, 2.8))


def boxes(groups: Mapping[str, np.ndarray], xlabel: str) -> str:
    """Values of several groups as lying boxes: median, quartiles, and whiskers from the 5th to the 95th percentile."""

    def draw(axes: Any) -> None:
        labels = [f"{name} ({len(values):,})" for name, values in groups.items()]
        parts = axes.boxplot(
            list(groups.values()), orientation="horizontal", whis=(5, 95), showfliers=False, tick_labels=labels
        )
        for line in parts["medians"]:
            line.set(color=ORANGE, linewidth=1.5)
        axes.invert_yaxis()
        _logarithmic(axes, min(values.min() for values in groups.values()), max(v.max() for v in groups.values()))
        axes.set_xlabel(xlabel)

    return _svg(draw, (5.6, 0.9 + 0.32 * len(groups)))


def training(steps: Sequence[float], loss: Sequence[float], rate: Sequence[float | None]) -> str:
    """The loss and the learning rate of a training, step by step."""

    def draw(axes: Any) -> None:
        dots = "o" if len(steps) <= 50 else ""
        axes.plot(steps, loss, color=BLUE, label="loss", marker=dots, markersize=3)
        axes.set_xlabel("step")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.set_ylabel("loss (nats a token)")
        other = axes.twinx()
        other.spines["right"].set_visible(True)
        values = [np.nan if value is None else value for value in rate]
        other.plot(steps, values, color=ORANGE, linestyle="--", label="learning rate")
        other.set_ylabel("learning rate")
        other.ticklabel_format(axis="y", style="sci", scilimits=(-2, 3))
        lines = [*axes.get_lines(), *other.get_lines()]
        axes.legend(
            lines, [line.get_label() for line in lines], frameon=False, loc="lower left", bbox_to_anchor=(0, 1), ncols=2
        )

    return _svg(draw, (5.6, 2.8))


def _logarithmic(axes: Any, low: float, high: float) -> None:
    """An axis of lengths from ``low`` to ``high``, with round numbers on it; straight where they are much the same."""
    from matplotlib.ticker import LogLocator, NullLocator

    if high > 4 * low:
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter("{x:,.0f}")


def _legend(axes: Any) -> None:
    """Above the figure, where it hides nothing."""
    axes.legend(frameon=False, fontsize=9, loc="lower left", bbox_to_anchor=(0, 1), ncols=4)


def _svg(draw: Any, size: tuple[float, float]) -> str:
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=size, dpi=150, layout="constrained")
        FigureCanvasSVG(figure)
        draw(figure.subplots())
        sink = io.StringIO()
        figure.savefig(sink, format="svg", metadata={"Date": None, "Creator": None})
    text = sink.getvalue()
    return text[text.index("<svg") :]
