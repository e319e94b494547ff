"""The held-out loss in cells and tables: there only where rows are held out, paired row by row, never made up."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from adg.artifacts.artifact import Job, Node
from adg.artifacts.store import Store
from adg.evaluation import heldout as stage
from adg.evaluation.heldout import HeldOutLosses
from adg.execution import ExecConfig
from experiments import run
from experiments.cells import Cell, cells
from experiments.report import as_csv, as_html, as_markdown, as_terminal, heldout
from experiments.report.rows import row
from experiments.report.table import HeldOut, Row, Table

N = 30


def held(loss: Any, **changes: Any) -> HeldOut:
    values = np.atleast_2d(np.asarray(loss, dtype=float))
    ids = tuple(map(str, range(values.shape[1])))
    return HeldOut(**{"ids": ids, "loss": values, "tokens": np.arange(1, values.shape[1] + 1), **changes})


def shown(selector: str, losses: HeldOut | None, **changes: Any) -> Row:
    return Row(**{"backbone": "tiny", "pool": "general", "selector": selector, "heldout": losses, **changes})


def texts(*rows: Row) -> dict[str, str]:
    table = Table("Main table", "mini", "a statement", rows)
    return {
        "csv": as_csv.comma_separated(table),
        "md": as_markdown.markdown(table),
        "html": as_html.page(table),
        "txt": as_terminal.terminal(table),
    }


def test_means_intervals_and_paired_differences() -> None:
    """Rows differ far more than models do: the means' intervals overlap, the paired difference is sure."""
    draw = np.random.default_rng(0)
    base = draw.uniform(1, 3, N)
    ours = base - 0.02 + draw.normal(0, 0.005, N)
    rows = [shown("untrained", held(base + 0.5)), shown("random", held(base)), shown("adg", held(ours))]
    untrained, random, adg = heldout.values(rows)
    assert adg is not None and random is not None and untrained is not None
    assert adg.by_row == pytest.approx(ours.mean()) and adg.rows == N
    assert adg.by_token == pytest.approx((ours * np.arange(1, N + 1)).sum() / np.arange(1, N + 1).sum())
    assert adg.interval is not None and random.by_row is not None
    assert adg.interval[0] < random.by_row < adg.interval[1]
    difference = adg.to_random
    assert difference is not None and difference.interval is not None and difference.p is not None
    assert difference.difference == pytest.approx((ours - base).mean()) and difference.n == N
    assert -0.025 < difference.interval.low < difference.interval.high < -0.015 and difference.p < 0.01
    assert random.to_random is None and untrained.to_untrained is None
    assert random.to_untrained is not None and random.to_untrained.difference == pytest.approx(-0.5)
    assert adg.holm[1] is not None and adg.to_untrained is not None and adg.to_untrained.p is not None
    assert adg.holm[1] >= adg.to_untrained.p


def test_seeds_are_paired_by_seed_or_held_against_their_mean() -> None:
    base = np.linspace(1, 2, N)
    two = np.stack([base, base + 0.1])
    (_, adg) = heldout.values([shown("random", held(two)), shown("adg", held(two - 0.3))])
    assert adg is not None and adg.to_random is not None
    assert adg.to_random.difference == pytest.approx(-0.3)
    (_, adg) = heldout.values([shown("random", held(two)), shown("adg", held(base - 0.3))])
    assert adg is not None and adg.to_random is not None
    assert adg.to_random.difference == pytest.approx(-0.35)


def test_other_rows_are_not_compared() -> None:
    one, other = held(np.ones(N)), held(np.ones(N), ids=tuple(f"x{i}" for i in range(N)))
    for near in (
        shown("random", other),
        shown("random", one, pool="evolved"),
        shown("random", HeldOut("failed", "no")),
        shown("random", None),
        shown("random", one, variant="seed=2"),
    ):
        (_, adg) = heldout.values([near, shown("adg", one)])
        assert adg is not None and adg.to_random is None and adg.holm == (None, None)


def test_what_is_missing_prints_as_missing_and_what_nobody_asked_for_not_at_all() -> None:
    done = shown("random", held(np.linspace(1, 2, N)))
    rows = [done, shown("adg", HeldOut("missing")), shown("ifd", HeldOut("failed", "NaN in row 3"))]
    for form, text in texts(*rows).items():
        assert "held-out loss" in text or form == "csv", form
        assert "heldout" in text or "nats" in text
    (first, second, third) = csv.DictReader(io.StringIO(texts(*rows)["csv"]))
    assert first["heldout"] == "1.5000" and first["heldout_rows"] == str(N) and first["heldout_to_random"] == ""
    assert second["heldout"] == "missing" and second["heldout_low"] == "" and third["heldout"] == "failed"
    assert "held-out loss failed: NaN in row 3" in texts(*rows)["md"] and "missing |" in texts(*rows)["md"]
    for text in texts(shown("random", None), shown("adg", None)).values():
        assert "held" not in text.lower().split("<style>")[0].split("</style>")[-1]


def of(*overrides: str) -> list[Cell]:
    return cells(["profile=smoke", "selector=untrained,random", *overrides])


def test_a_cell_measures_it_only_where_rows_are_held_out() -> None:
    for cell in of("pool.heldout=0"):
        assert "heldout" not in cell.nodes
    untrained, random = of("pool.heldout=3")
    assert list(untrained.nodes) == ["pool", "backbone", "eval", "heldout"]
    assert list(random.nodes)[-3:] == ["adapter", "eval", "heldout"]
    assert untrained.nodes["eval"].fingerprint == of("pool.heldout=0")[0].nodes["eval"].fingerprint
    assert random.nodes["heldout"].inputs["adapter"] is random.nodes["adapter"]
    assert untrained.fingerprint != of("pool.heldout=0")[0].fingerprint
    (chosen,) = cells(["profile=smoke", "selector=random", "pool.heldout=3", "experiment.last=subset"])
    assert "heldout" not in chosen.nodes


def test_a_whole_cell_and_one_whose_loss_is_missing(study: Any, flat: Any) -> None:
    """Scores stand in the table although the held-out loss is not there yet, and a loss that failed says why."""
    (cell,) = study.cells("selector=random", "pool.heldout=3")
    study.finish(cell, flat(0.5))
    early = row(cell, study.store)
    assert early.state == "done" and early.heldout is not None and early.heldout.state == "missing"
    node = cell.nodes["heldout"]

    def build(node: Node, folder: Path, inputs: Any, exec_: Any) -> dict[str, Any]:
        losses = HeldOutLosses(["1", "4", "9"], np.array([1.0, 2.0, 3.0]), np.array([5, 1, 4]), np.array([0, 1, 0]) > 0)
        stage.save(Job(node, folder, inputs, exec_), losses)
        return {"rows_in": 3, "rows_out": 3, "failed": []}

    done = Store(study.runs, ExecConfig(), build)
    done.ensure(node)
    measured = row(cell, study.store).heldout
    assert measured is not None and measured.loss.tolist() == [[1.0, 2.0, 3.0]] and measured.truncated == 1
    value = heldout.values([row(cell, study.store)])[0]
    assert value is not None and (value.by_row, value.by_token) == (2.0, pytest.approx(1.9))


def test_a_budget_above_what_may_be_selected_is_refused_before_anything_is_sampled(tmp_path: Path) -> None:
    rows = [{"instruction": f"do {i}", "output": "done"} for i in range(40)]
    (tmp_path / "own.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    own = [f"pool.path={tmp_path}/own.jsonl", "pool.heldout=10", "budget=35", f"exec.runs={tmp_path}/runs"]
    (cell,) = cells(["profile=smoke", "selector=adg", "pool=local", *own])
    assert run.run_cell(cell) == "failed"
    assert not (tmp_path / "runs" / "answers").exists()
    assert "the pool holds 30" in run.record_path(cell, Store(tmp_path / "runs")).read_text()
