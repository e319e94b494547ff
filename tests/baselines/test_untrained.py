"""Row 0: the backbone as it is, one evaluation for all pools, and refused where something must be selected."""

from __future__ import annotations

from pathlib import Path

import pytest

from adg.artifacts.store import Store
from adg.errors import BadInput
from experiments.cells import cells
from experiments.report import sweep
from experiments.report.rows import row


def test_nothing_is_selected_or_trained_and_pools_share_it(tmp_path: Path) -> None:
    chosen = cells(["profile=smoke", "selector=untrained", "pool=mini_cot,mini_general", f"exec.runs={tmp_path}"])
    assert [list(cell.nodes) for cell in chosen] == [["pool", "backbone", "eval", "heldout"]] * 2
    assert chosen[0].last.fingerprint == chosen[1].last.fingerprint
    assert chosen[0].nodes["heldout"].fingerprint != chosen[1].nodes["heldout"].fingerprint, (
        "each pool holds out its own"
    )
    assert [cell.name for cell in chosen] == ["tiny_random/mini_cot/untrained", "tiny_random/mini_general/untrained"]
    shown = row(chosen[0], Store(tmp_path))
    assert (shown.selector, shown.state, shown.paper) == ("untrained", "missing", None)
    assert "untrained" in sweep.write(chosen, Store(tmp_path))


def test_an_experiment_of_selections_refuses_it() -> None:
    (cell,) = cells(["profile=smoke", "selector=untrained", "experiment.last=subset"])
    with pytest.raises(BadInput, match="selects nothing"):
        _ = cell.nodes
