"""Figures of the analyses as SVG text, drawn with matplotlib and the same to the byte each time.

Nothing is shown on a screen and matplotlib's settings are left as they were. A value of None was not measured: its
place stays empty and says so.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

BLUE, ORANGE, GREY, GREEN = "#3b6fb6", "#c2410c", "#9aa7b5", "#2f855a"
COLOURS = (BLUE, ORANGE, GREEN, "#805ad5", "#b7791f", GREY)
MARKERS = "osD^v"  # of the first six curves, of the next six and so on
MISSING = "missing"
_STYLE: Any = {
    "svg.hashsalt": "adg",
    "svg.fonttype": "none",
    "font.size": 9,
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
) -> str:
    """Upright bars from 0. ``marks`` are drawn as ticks across the bars, ``mark`` says what they are."""

    def draw(axes: Any) -> None:
        measured = [(x, value) for x, value in enumerate(values) if value is not None]
        axes.bar([x for x, _ in measured], [value for _, value in measured], color=BLUE, width=0.6)
        for x, value in measured:
            axes.annotate(f"{value:.2f}", (x, value), ha="center", va="bottom", fontsize=8)
        for x in range(len(values)):
            if values[x] is None:
                axes.annotate(MISSING, (x, 0), ha="center", va="bottom", fontsize=8, color=GREY, rotation=90)
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
    x: Sequence[float], series: Mapping[str, Sequence[float | None]], xlabel: str, ylabel: str, dashed: str = ""
) -> str:
    """One line a series over ``x``; a point without a value leaves a gap. Names containing ``dashed`` are dashed."""

    def draw(axes: Any) -> None:
        places: dict[str, int] = {}
        for name, values in series.items():
            base = name.split(" (")[0]
            place = places.setdefault(base, len(places))
            colour, marker = COLOURS[place % len(COLOURS)], MARKERS[place // len(COLOURS) % len(MARKERS)]
            y = [np.nan if value is None else value for value in values]
            style = "--" if dashed and dashed in name else "-"
            axes.plot(x, y, style, marker=marker, markersize=4, color=colour, label=name)
        axes.set_xticks(list(x), [f"{value:g}" for value in x])
        axes.set_xlabel(xlabel)
        axes.set_ylabel(ylabel)
        _legend(axes)

    return _svg(draw, (5.6, 3.6))


def heatmap(labels: Sequence[str], values: Sequence[Sequence[float | None]], title: str) -> str:
    """A square map of values from 0 to 1 with the number in each place; None stays white."""

    def draw(axes: Any) -> None:
        matrix = np.array([[np.nan if v is None else v for v in row] for row in values], dtype=float)
        image = axes.imshow(matrix, vmin=0, vmax=1, cmap="Blues")
        small = len(labels) > 12
        for i, row in enumerate(matrix):
            for j, value in enumerate(row):
                text = "–" if np.isnan(value) else f"{value:.2f}"
                axes.text(
                    j,
                    i,
                    text,
                    ha="center",
                    va="center",
                    fontsize=5 if small else 7,
                    color="white" if value > 0.6 else "black",
                )
        axes.set_xticks(range(len(labels)), labels, rotation=60, ha="right", fontsize=6 if small else 8)
        axes.set_yticks(range(len(labels)), labels, fontsize=6 if small else 8)
        axes.set_title(title, fontsize=9)
        axes.figure.colorbar(image, ax=axes, shrink=0.8)

    side = 2.6 + 0.42 * max(4, len(labels))
    return _svg(draw, (side + 0.6, side))


def quadrants(dispersion: np.ndarray, anisotropy: np.ndarray, chosen: np.ndarray, split: tuple[float, float]) -> str:
    """Every record by D and I, (n,) each; those of the mask ``chosen`` (n,) stand out; lines at ``split``."""

    def draw(axes: Any) -> None:
        for rows, colour, label in ((~chosen, GREY, "not chosen"), (chosen, BLUE, "chosen")):
            axes.scatter(dispersion[rows], anisotropy[rows], s=6, color=colour, alpha=0.6, label=label, rasterized=True)
        axes.axvline(split[0], color=ORANGE, linewidth=0.8)
        axes.axhline(split[1], color=ORANGE, linewidth=0.8)
        axes.set_xlabel("dispersion D")
        axes.set_ylabel("anisotropy I")
        _legend(axes)

    return _svg(draw, (5.6, 4.2))


def _legend(axes: Any) -> None:
    """Above the figure, where it hides nothing."""
    axes.legend(frameon=False, fontsize=8, loc="lower left", bbox_to_anchor=(0, 1), ncols=4)


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
