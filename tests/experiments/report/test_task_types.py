"""Types of task in a report and in the claims: from artifacts alone, by hand, and what is missing or unseen said."""

from __future__ import annotations

import functools
import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from adg.artifacts.artifact import Artifact, Node, run_builder
from adg.artifacts.store import Store
from adg.execution import ExecConfig
from adg.pools import records
from adg.tasktypes.labels import TYPES
from experiments.cells import Cell, cells
from experiments.claims import page, rules
from experiments.report import task_types
from experiments.report.task_types import HEAD

RULE, CLAIMS, DIGEST = rules.load()
C11 = next(claim for claim in CLAIMS if claim.id == "C11")
MATH, DECISION, WRITING = "math", "discrete_decision", "writing"
KNOWN = dict.fromkeys(TYPES, 4)


def run(
    chosen: Mapping[str, int],
    probes: Mapping[str, int],
    node: Node,
    folder: Path,
    inputs: Mapping[str, Artifact],
    exec_: Any,
) -> dict[str, Any]:
    """The real pool, of which each third is math, decision and writing; a subset with as many of each as ``chosen``."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if node.stage.name == "pool":
        return run_builder(node, folder, inputs, exec_)
    rows = records.load(inputs["pool"]) if "pool" in inputs else []
    kinds = [(MATH, DECISION, WRITING)[row % 3] for row in range(len(rows))]
    info = {"rows_in": len(rows), "rows_out": len(rows), "failed": []}
    if node.stage.name == "task-types":
        columns: dict[str, Any] = {"id": [row.key for row in rows], "type": kinds, "invalid": [""] * len(rows)}
        pq.write_table(pa.table(columns | {name: [0.0] * len(rows) for name in TYPES}), folder / "types.parquet")
        return {**info, "probes": dict(probes)}
    if node.stage.name == "subset":
        left, taken = dict(chosen), []
        for row, kind in zip(rows, kinds, strict=True):
            if left.get(kind, 0):
                left[kind] -= 1
                taken.append(row)
        records.save_rows(folder / "records.parquet", taken)
        return info
    (folder / "made").write_text(node.label)
    return info


Finish = Callable[..., tuple[Store, list[Cell]]]


@pytest.fixture
def finish(tmp_path: Path) -> Finish:
    def made(chosen: Mapping[str, int], probes: Mapping[str, int] = KNOWN) -> tuple[Store, list[Cell]]:
        rows = [{"id": i, "instruction": f"Do thing {i}.", "output": "done"} for i in range(120)]
        (tmp_path / "pool.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        own = ["pool=local", f"pool.path={tmp_path}/pool.jsonl", f"exec.runs={tmp_path}/runs"]
        found = cells(["profile=smoke", "experiment=task_types", *own])
        store = Store(tmp_path / "runs", ExecConfig(), functools.partial(run, chosen, probes))
        for cell in found:
            for node in cell.nodes.values():
                store.ensure(node)
        return store, found

    return made


def judged(store: Store, found: list[Cell]) -> page.Judged:
    return page.judged(C11, found, store, RULE)


def test_nothing_is_trained_and_the_types_are_the_pools(tmp_path: Path) -> None:
    found = cells(["profile=smoke", "experiment=task_types", f"exec.runs={tmp_path}"])
    assert [cell.selector.name for cell in found] == ["random", "adg"]
    assert len({cell.nodes["task-types"].fingerprint for cell in found}) == 1, "both cells share one pass"
    assert not {"adapter", "eval"} & {role for cell in found for role in cell.nodes}
    assert "task-types" not in cells(["profile=smoke", "selector=adg", f"exec.runs={tmp_path}"])[0].nodes


def test_the_section_by_hand(finish: Finish) -> None:
    store, found = finish({MATH: 20, DECISION: 10})
    first, second = task_types.sections(found, store, [])
    assert [first.title, second.title] == [f"Types of task: {cell.name}" for cell in found]
    lines = {row[0]: dict(zip(HEAD, row, strict=True)) for row in second.body}
    assert list(lines) == list(TYPES)
    assert second.body[0][:7] == ["math", "4 of 4", "40", "33.3", "20", "66.7", "+33.3"]
    assert lines[WRITING]["shift"] == "-33.3" and lines[WRITING]["corrected p"] == "0.000"
    assert lines[DECISION]["shift"] == "+0.0" and lines["coding"]["pool"] == "0"
    assert "names 40 of 40 rightly (4 by guessing)" in second.text[0] and second.svg


def test_what_is_not_there_is_missing(finish: Finish, tmp_path: Path) -> None:
    store, found = finish({MATH: 20, DECISION: 10})
    shutil.rmtree(store.path(found[1].nodes["subset"]))
    _, section = task_types.sections(found, Store(tmp_path / "runs"), [])
    assert section.body[0] == ["math", "4 of 4", "40", "33.3", *["missing"] * 6]
    verdict = judged(Store(tmp_path / "runs"), found)
    assert verdict.verdict == "not run" and "is missing at subset" in verdict.effects[0].missing
    shutil.rmtree(store.path(found[1].nodes["task-types"]))
    _, section = task_types.sections(found, Store(tmp_path / "runs"), [])
    assert {value for row in section.body for value in row[1:]} == {"missing"}


@pytest.mark.parametrize(
    ("chosen", "verdict"),
    [
        ({MATH: 25, DECISION: 25}, "supports at this scale"),
        ({MATH: 10, DECISION: 10, WRITING: 40}, "contradicts at this scale"),
        ({MATH: 15, DECISION: 15, WRITING: 14}, "inconclusive"),
    ],
)
def test_the_claim_is_judged_by_the_shifts(finish: Finish, chosen: dict[str, int], verdict: str) -> None:
    store, found = finish(chosen)
    answer = judged(store, found)
    assert answer.verdict == verdict
    assert [effect.label for effect in answer.effects] == [
        f"{name} {way} in {found[1].name}" for name, way in ((MATH, "up"), (DECISION, "up"), (WRITING, "down"))
    ]
    taken = sum(chosen.values())
    assert answer.effects[0].value == pytest.approx(100 * (chosen[MATH] / taken - 1 / 3))
    assert answer.effects[2].value == pytest.approx(100 * (1 / 3 - chosen.get(WRITING, 0) / taken))
    for effect in answer.effects:
        assert effect.low < effect.lower < effect.value < effect.high  # type: ignore[operator]
        assert effect.items == taken
    assert "types named by the backbone in place of an API model" in answer.fidelity["deviation"]
    assert all("suite" not in reason for reason in answer.fidelity["scaled down"]), "nothing was evaluated"


def test_a_type_that_the_backbone_does_not_know_is_not_judged(finish: Finish) -> None:
    store, found = finish({MATH: 25, DECISION: 25}, {**KNOWN, DECISION: 1})
    answer = judged(store, found)
    assert answer.verdict == "inconclusive" and answer.effects[1].low is None
    (section,) = page.sections(found, store)
    unseen = f"C11: {DECISION} up in {found[1].name} is not judged, since the backbone names 1 of 4"
    assert any(unseen in line for line in section.text)
