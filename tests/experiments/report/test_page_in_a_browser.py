"""The pages in a real browser: three widths, light and dark, printed, without script; every test leaves its pictures.

They lie below the test's own folder, or where ``ADG_PICTURES`` says.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

WIDTHS = (390, 800, 1400)
A4 = 1032  # pixels of a page on its side, within its margins
Report = tuple[Path, list[Any]]
WIDER = """[...document.querySelectorAll('body *')].filter(e => !e.closest('.wide, svg'))
  .filter(e => e.getBoundingClientRect().right > innerWidth + 1).map(e => e.tagName + ' ' + e.className)"""
TEXT_OF = "[...document.querySelectorAll('{}')].map(e => e.textContent.trim())"


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = Path(os.environ.get("ADG_PICTURES", tmp_path))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture(scope="module")
def pages(report: Report) -> dict[str, Path]:
    folder, _ = report
    return {"index": folder / "index.html", "cell": next(folder.glob("cells/*mini_cot-adg*.html"))}


def brightness(picture: bytes) -> float:
    from PIL import Image

    return float(np.asarray(Image.open(io.BytesIO(picture)).convert("L")).mean())


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", ["index", "cell"])
def test_nothing_overflows_and_both_grounds_are_whole(
    browser: Any, pages: dict[str, Path], pictures: Path, name: str, width: int
) -> None:
    seen = {}
    for scheme in ("light", "dark"):
        browser.open(pages[name], width, dark=scheme == "dark")
        assert browser.value("document.documentElement.scrollWidth") <= width
        assert browser.value(WIDER) == []
        seen[scheme] = brightness(browser.picture(pictures / f"{name}-{width}-{scheme}.png"))
    assert seen["light"] > 200 and seen["dark"] < 70, seen


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_figures_have_the_ground_and_the_ink_of_the_page(browser: Any, pages: dict[str, Path], dark: bool) -> None:
    browser.open(pages["index"], 1400, dark)
    style = "getComputedStyle(document.querySelector('{}')).{}"
    grounds = browser.value(
        "[...document.querySelectorAll('svg.plot')].map(e => getComputedStyle(e.querySelector('path')).fill)"
    )
    assert len(grounds) >= 6 and set(grounds) == {browser.value(style.format("body", "backgroundColor"))}
    inks = browser.value("[...document.querySelectorAll('svg.plot text')].map(e => getComputedStyle(e).fill)")
    assert browser.value(style.format("body", "color")) in inks and "rgb(0, 0, 0)" not in inks


def test_figures_say_what_they_show(browser: Any, pages: dict[str, Path]) -> None:
    browser.open(pages["index"], 1400)
    said = browser.value(TEXT_OF.format("svg.plot text"))
    for beginning in ("median D 0.", "median I 0.", "chosen (8)", "not chosen (16)", "all (24), median "):
        assert any(text.startswith(beginning) for text in said), beginning
    bars, whiskers = (browser.value(f"document.querySelectorAll('{kind}').length") for kind in (".fill", ".whisker"))
    assert bars == whiskers >= 14, "eight averages and six differences, each with its interval"


def test_columns_sort(browser: Any, pages: dict[str, Path]) -> None:
    browser.open(pages["index"], 1400)
    rows = (
        "[...document.querySelector('table.scores').tBodies[0].rows].slice(1).map(r => r.cells[0].textContent.trim())"
    )
    as_written = browser.value(rows)
    click = "document.querySelectorAll('table.scores thead button')[{}].click()"
    average = browser.value(TEXT_OF.format("table.scores thead th")).index("Average")
    browser.value(click.format(average))
    assert browser.value(rows) == ["adg", "longest", "random", "untrained", "ifd"], "highest first, no number last"
    browser.value(click.format(average))
    assert browser.value(rows) == ["untrained", "random", "longest", "adg", "ifd"]
    browser.value(click.format(average))
    assert browser.value(rows) == as_written
    browser.value(click.format(0))
    assert browser.value(rows) == ["untrained", "random", "longest", "ifd", "adg"], "names from the last"
    assert browser.value("document.querySelector('table.scores').tBodies[0].rows[0].className") == "block"


def test_rows_filter_by_backbone_pool_and_selector(browser: Any, pages: dict[str, Path]) -> None:
    browser.open(pages["index"], 1400)
    shown = """[...document.querySelectorAll('{}')].filter(e => e.offsetParent !== null).length"""
    rows, panels, bars = ("table.scores tr[data-selector]", ".chart", ".bar")
    assert [browser.value(shown.format(of)) for of in (rows, panels, bars)] == [10, 4, 16]
    names = browser.value(TEXT_OF.format(".filters label"))
    assert names == ["mini_general", "mini_cot", "untrained", "random", "longest", "adg", "ifd"]
    click = "document.querySelectorAll('.filters input')[{}].click()"
    browser.value(click.format(0))
    assert [browser.value(shown.format(of)) for of in (rows, panels, bars)] == [5, 2, 8]
    browser.value(click.format(3))
    assert [browser.value(shown.format(of)) for of in (rows, panels, bars)] == [4, 2, 7]
    browser.value(click.format(0))
    browser.value(click.format(3))
    assert [browser.value(shown.format(of)) for of in (rows, panels, bars)] == [10, 4, 16]


def test_headings_and_names_stay_in_sight(browser: Any, pages: dict[str, Path]) -> None:
    browser.open(pages["index"], 390)
    browser.value("document.querySelector('table.scores').parentElement.style.maxHeight = '200px'")
    place = """(() => {{ const box = document.querySelector('table.scores').parentElement;
      const of = box.getBoundingClientRect();
      box.scrollTo(300, 120); const e = box.querySelector('{}').getBoundingClientRect();
      return [box.scrollLeft, box.scrollTop, e.left - of.left, e.top - of.top].map(Math.round); }})()"""
    assert browser.value(place.format("thead th")) == [300, 120, 0, 0], "the corner stays"
    assert browser.value(place.format("thead th:nth-child(3)"))[3] == 0, "a heading stays above its column"
    assert browser.value(place.format("tr[data-selector] td"))[2] == 0, "a name stays beside its row"


@pytest.mark.parametrize("name", ["index", "cell"])
def test_a_page_reads_without_script(browser: Any, pages: dict[str, Path], pictures: Path, name: str) -> None:
    browser.open(pages[name], 800, script=False)
    browser.picture(pictures / f"{name}-without-script.png")
    said = browser.value("document.body.innerText")  # asked from outside; the page itself runs nothing
    assert browser.value("document.querySelectorAll('th button').length") == 0
    if name == "index":
        assert browser.value("document.querySelector('.filters').offsetParent") is None
        assert said.count("mini_cot") > 3 and "Rule " in browser.value("document.body.textContent")
    else:
        assert browser.value("document.querySelectorAll('details:not([open])').length") == 0 and "says 1" in said


@pytest.mark.parametrize("name", ["index", "cell"])
def test_a_page_prints(browser: Any, pages: dict[str, Path], pictures: Path, name: str) -> None:
    browser.open(pages[name], A4, dark=True)
    assert browser.printed(pictures / f"{name}.pdf").startswith(b"%PDF")
    browser.call("Emulation.setEmulatedMedia", media="print")
    try:
        assert browser.value("document.documentElement.scrollWidth") <= A4, "all of every table is on the paper"
        assert brightness(browser.picture(pictures / f"{name}-printed.png")) > 200, "dark on white"
        hidden = "[...document.querySelectorAll('.wide')].filter(e => e.scrollHeight > e.clientHeight + 2).length"
        assert browser.value(hidden) == 0
    finally:
        browser.call("Emulation.setEmulatedMedia", media="")


def test_answers_are_three_clicks_from_a_claim(
    browser: Any, pages: dict[str, Path], visit: Callable[[str], None]
) -> None:
    browser.open(pages["index"], 1400)
    visit("#claims .card a")
    assert "made-of" in browser.value("document.head.innerHTML"), "a cell's page"
    visit("table a[href='#mmlu']")
    place = "Math.round(document.querySelector(location.hash).getBoundingClientRect().top)"
    assert browser.value("location.hash") == "#mmlu" and -1 <= browser.value(place) < 900
    assert browser.value("document.querySelectorAll('#mmlu .item').length") == 20


@pytest.fixture
def visit(browser: Any) -> Callable[[str], None]:
    """Click on the first link of a kind and wait until its page is there."""

    def click(selector: str) -> None:
        link = browser.value(f'document.querySelector("{selector}").href')
        if link.split("#")[0] == browser.value("location.href").split("#")[0]:
            browser.value(f'document.querySelector("{selector}").click()')
        else:
            browser.follow(f'document.querySelector("{selector}").click()')

    return click
