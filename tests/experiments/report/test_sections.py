"""Analyses in a report: figures the same each time, what is missing stays a word, one set of files."""

from __future__ import annotations

import csv
import io
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest

from adg.errors import BadInput
from experiments.report import as_html, as_markdown, as_terminal, plots
from experiments.report import files as files_
from experiments.report.sections import Section
from experiments.report.table import Row, Table

FIGURES = {
    "bars": lambda: plots.bars(["a & b", "c"], [12.5, None], "average", [10.0, None], "published"),
    "curves": lambda: plots.curves([3, 5], {"adg": [1.0, None], "adg (paper)": [2.0, 3.0]}, "x", "y", dashed="(paper)"),
    "heatmap": lambda: plots.heatmap(["a", "b"], [[1.0, None], [None, 1.0]], "overlap"),
    "quadrants": lambda: plots.quadrants(np.arange(4.0), np.arange(4.0), np.array([True, False, True, False]), (1, 2)),
}


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_is_valid_svg_and_the_same_each_time(name: str) -> None:
    text = FIGURES[name]()
    assert ElementTree.fromstring(text).tag.endswith("svg")
    assert text == FIGURES[name]()


def test_a_missing_value_is_a_word_in_the_figure() -> None:
    text = FIGURES["bars"]()
    assert ">missing<" in text and "12.50" in text and "0.00" not in text


def test_a_row_of_another_length_is_refused() -> None:
    with pytest.raises(BadInput, match="row 1 of section x has 1 cells; expected 2"):
        Section("x", "X", head=("a", "b"), body=[("1", "2"), ("3",)])


SECTION = Section(
    "overlap",
    "Overlap | of subsets",
    ["Some words."],
    ("what", "value"),
    [("a <b>", "missing")],
    "<svg xmlns='http://www.w3.org/2000/svg'/>",
)
TABLE = Table("Stability", "mini", "a statement", rows=[], sections=[SECTION])


def test_a_report_without_evaluated_cells_shows_its_sections(tmp_path: Path) -> None:
    files = {path.name: path.read_text() for path in files_.write(TABLE, tmp_path)}
    assert set(files) == {"table.md", "table.json", "index.html", "overlap.csv", "overlap.svg"}
    assert (
        "![Overlap | of subsets](overlap.svg)" in files["table.md"] and "| a &lt;b&gt; | missing |" in files["table.md"]
    )
    assert '<svg class="plot" role="img"' in files["index.html"] and "a &lt;b&gt;" in files["index.html"]
    assert "cells" not in files["table.md"]
    assert list(csv.reader(io.StringIO(files["overlap.csv"]))) == [["what", "value"], ["a <b>", "missing"]]
    shown = as_terminal.terminal(TABLE)
    assert "a statement" in shown and "missing" in shown
    again = {path.name: path.read_text() for path in files_.write(TABLE, tmp_path)}
    assert again == files


def test_sections_stand_beside_a_table() -> None:
    rows = [Row("b", "p", "adg")]
    table = Table("T", "mini", "s", rows=rows, sections=[SECTION])
    assert "<h2>Overlap | of subsets</h2>" in as_html.page(table)
    assert "## Overlap | of subsets" in as_markdown.markdown(table)


def test_a_terminal_cuts_what_is_too_wide() -> None:
    text = as_terminal.section(Section("x", "X", head=("a",), body=[("z" * 200,)]))
    assert max(map(len, text.splitlines())) == 120 and text.endswith("…")
