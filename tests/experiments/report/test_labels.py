"""What tells the rows of a report apart."""

from __future__ import annotations

from pathlib import Path

from adg.artifacts.store import Store
from adg.execution import ExecConfig
from experiments.cells import cells
from experiments.report import sweep
from experiments.report.labels import variants

STUDY = ["profile=mini", "pool=mini_cot", "backbone=tiny_random"]


def test_what_is_set_for_all_cells_is_not_in_their_names() -> None:
    chosen = cells([*STUDY, "selector=random,longest", "budget=4,8", "finetune.epochs=2"])
    assert [cell.variant for cell in chosen][:2] == ["budget=4, finetune.epochs=2", "budget=8, finetune.epochs=2"]
    assert variants(chosen) == ["budget=4", "budget=8"] * 2
    assert variants(chosen[:1]) == [chosen[0].variant], "one cell tells its own settings"


def test_a_value_that_differs_is_kept_whole() -> None:
    chosen = cells([*STUDY, "selector=adg", "experiment=bins", "finetune.epochs=2"])
    assert all("epochs" not in words for words in variants(chosen))
    assert len(set(variants(chosen))) == len(chosen) > 2


def test_a_precision_that_was_measured_is_said(tmp_path: Path) -> None:
    said = []
    for dtype in ("fastest", "float32"):
        (cell,) = cells([*STUDY, "selector=random", f"backbone.dtype={dtype}"])
        store = Store(tmp_path, ExecConfig(device="cpu", offline=True))
        artifact = store.ensure(cell.nodes["backbone"])
        said.append((artifact.info["dtype"], sweep._measured([cell], store)))
    (chosen, (note,)), plain = said
    assert f"training in {chosen}: where it was built, bfloat16 multiplied " in note and plain == ("float32", [])
