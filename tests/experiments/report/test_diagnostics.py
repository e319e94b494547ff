"""The diagnostics of a report: from artifacts alone, every ADG cell, what is missing said."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from adg.artifacts.artifact import Artifact, Node, run_builder
from adg.artifacts.store import Store
from adg.execution import ExecConfig
from adg.pools import records
from experiments.cells import Cell, cells
from experiments.report import as_html, as_markdown, diagnostics
from experiments.report.table import Table

CHOSEN = 8


def run(node: Node, folder: Path, inputs: Mapping[str, Artifact], exec_: Any) -> dict[str, Any]:
    """The real pool; scores, answers and subset written by hand: I falls with the row, D is nearly the same for all."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if node.stage.name == "pool":
        return run_builder(node, folder, inputs, exec_)
    if node.stage.name not in ("scores", "answers", "subset"):
        (folder / "made").write_text(node.label)
        return {"rows_in": 1, "rows_out": 1, "failed": []}
    keys = [record.key for record in records.load(inputs["pool"])]
    n = len(keys)
    if node.stage.name == "answers":
        rows = [(key, sample, "x" * (n - row)) for row, key in enumerate(keys) for sample in range(2)]
        columns = dict(zip(("id", "sample", "text"), map(list, zip(*rows, strict=True)), strict=True))
        pq.write_table(pa.table(columns), folder / "answers.parquet")
    elif node.stage.name == "scores":
        i, d = np.linspace(0.7, 0.1, n), np.linspace(0.2, 0.201, n)
        columns = {"id": keys, "score": 0.6 * d + 0.4 * i, "dispersion": d, "anisotropy": i, "invalid": [""] * n}
        pq.write_table(pa.table(columns), folder / "scores.parquet")
    else:
        records.save_rows(folder / "records.parquet", records.load(inputs["pool"])[:CHOSEN])
    return {"rows_in": n, "rows_out": n, "failed": []}


@pytest.fixture
def finished(tmp_path: Path) -> tuple[Store, list[Cell]]:
    chosen = cells(["profile=smoke", "selector=random,adg", f"exec.runs={tmp_path}"])
    store = Store(tmp_path, ExecConfig(), run)
    for node in chosen[1].nodes.values():
        if node.stage.name not in ("adapter", "eval"):
            store.ensure(node)
    return store, chosen


def lines(section: Any) -> list[dict[str, str]]:
    return [dict(zip(section.head, row, strict=True)) for row in section.body]


def test_every_adg_cell_has_its_diagnostics(finished: tuple[Store, list[Cell]]) -> None:
    store, chosen = finished
    ranks, terms, where = diagnostics.sections(chosen, store, [])
    found = {line["of"]: line for line in lines(ranks)}
    assert list(found) == ["s", "D", "I", *diagnostics.LENGTHS]
    assert {line["cell"] for line in lines(ranks)} == {chosen[1].name}, "random is no ADG cell"
    assert (found["s"]["I"], found["s"]["D"], found["s"]["answer length"]) == ("+1.00", "-1.00", "+1.00")
    assert all(found[name][name] == "+1.00" for name in found)
    (line,) = lines(terms)
    assert line["as by I"] == "100.0 %" and line["as by D"] == "0.0 %" and line["even at lam"] == "0.00"
    assert f"{chosen[1].name}: The score ranks records as I does at +1.00" in terms.text[1]
    (line,) = lines(where)
    assert line["low D, high I"].endswith("→ 100.0 %") and line["high D, low I"].endswith("→ 0.0 %")
    assert line["answer length"] == "12 → 20"  # 24 records: means of 24 .. 1 and of 24 .. 17, to even
    assert line["output length"].count("→") == 1


def test_what_is_gone_is_missing_and_never_a_number(finished: tuple[Store, list[Cell]], tmp_path: Path) -> None:
    store, chosen = finished
    for role in ("answers", "subset"):
        shutil.rmtree(store.path(chosen[1].nodes[role]))
    fresh = Store(tmp_path)
    ranks, _, where = diagnostics.sections(chosen, fresh, [])
    found = {line["of"]: line for line in lines(ranks)}
    assert found["answer length"] == {"cell": chosen[1].name, "of": "answer length", **dict.fromkeys(found, "–")}
    assert found["s"]["answer length"] == "–" and found["s"]["I"] == "+1.00"
    (line,) = lines(where)
    assert line["answer length"] == "missing" and line["high D, high I"].endswith("→ missing")
    assert line["output length"].endswith("→ missing")
    shutil.rmtree(store.path(chosen[1].nodes["scores"]))
    for section in diagnostics.sections(chosen, Store(tmp_path), []):
        assert set(section.body[0][1:]) == {"missing"}
    assert diagnostics.sections(chosen[:1], fresh, []) == []


def test_cells_with_the_same_scores_are_shown_once(finished: tuple[Store, list[Cell]], tmp_path: Path) -> None:
    store, _ = finished
    swept = cells(["profile=smoke", "selector=adg", "budget=4,8", f"exec.runs={tmp_path}"])
    for cell in swept:
        store.ensure(cell.nodes["subset"])
    ranks, terms, _ = diagnostics.sections(swept, store, [])
    assert [row[1] for row in ranks.body] == ["s", "D", "I", *diagnostics.LENGTHS, f"as {swept[0].name}"]
    assert [line["by chance"] for line in lines(terms)] == ["0.167", "0.333"]


def test_the_tables_stand_in_every_form(finished: tuple[Store, list[Cell]]) -> None:
    store, chosen = finished
    table = Table("T", "smoke", "a statement", [], sections=diagnostics.sections(chosen, store, []))
    for text in (as_markdown.markdown(table), as_html.page(table)):
        assert "What the score goes by" in text and "moves the sum" in text and "Where the chosen stand" in text
    assert json.dumps([section.body for section in table.sections])
