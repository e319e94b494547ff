"""A figure as a part of a page: in the colours of the page, in light and in dark, as wide as its place."""

from __future__ import annotations

import re
from html import escape

from markupsafe import Markup

from adg.printable import printable
from experiments.report import plots

# colours by the variable of a page's style sheet that stands for them
THEME = {
    plots.BLUE: "bar",
    plots.ORANGE: "mark",
    plots.GREEN: "green",
    plots.VIOLET: "violet",
    plots.OCHRE: "ochre",
    plots.GREY: "quiet",
    "#000000": "ink",
    "#ffffff": "ground",
    "#cccccc": "line",
}


def inline(svg: str, name: str, title: str) -> Markup:
    """A figure as a part of a page: as wide as its place, in the colours of the page (``THEME``), and its ids its own
    by beginning with ``name``. ``title`` is what it says to those who do not see it."""
    text = re.sub(r"<metadata>.*?</metadata>\s*|<style.*?</style>\s*", "", printable(svg), flags=re.DOTALL)
    text = re.sub(r"<defs>\s*</defs>\s*", "", text)
    used = set(re.findall(r'(?:href="#|url\(#)([^")]+)', text))
    text = re.sub(r' id="([^"]*)"', lambda of: f' id="{name}-{of[1]}"' if of[1] in used else "", text)
    text = re.sub(r'(href="#|url\(#)', rf"\g<1>{name}-", text)
    text = re.sub(r"(?<=[:\s])#[0-9a-f]{6}\b", lambda of: f"var(--{THEME[of[0]]})" if of[0] in THEME else of[0], text)
    width = re.search(r'^<svg[^>]*?\swidth="([\d.]+)pt"', text)
    text = re.sub(r'\s(width|height)="[\d.]+pt"', "", text, count=2)
    room = f' style="max-width:{float(width[1]) * 4 / 3:.0f}px"' if width else ""
    return Markup(
        text.replace("<svg", f'<svg class="plot" role="img" aria-label="{escape(printable(title))}"{room}', 1)
    )
