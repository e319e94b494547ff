"""experiments.run: what cannot be evaluated is refused before the first stage that costs anything."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from adg.artifacts.files import read_json
from adg.artifacts.store import Store
from adg.errors import BadInput
from adg.execution import ExecConfig
from experiments import app, run
from experiments.cells import cells

SMOKE = ("profile=smoke", "selector=longest")


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (("suite.harness=0.4.12",), r"lm-eval 0\.4\.13 is installed, suite\.harness expects 0\.4\.12"),
        (("suite.tasks.mmlu.subtasks=[mmlu_astronomie]",), r"did you mean 'mmlu_astronomy'.*suite\.tasks\.mmlu\.subt"),
        (
            ("suite.backend=vllm", "suite.merge_adapter=false", "finetune.lora_rank=1024"),
            "has rank 1024, vLLM takes at most 512",
        ),
    ],
)
def test_a_suite_that_cannot_be_run_is_refused_first(tmp_path: Path, overrides: tuple[str, ...], said: str) -> None:
    (cell,) = cells([*SMOKE, f"exec.runs={tmp_path}", *overrides])
    with pytest.raises(BadInput, match=said):
        run.refuse_suite(Store(tmp_path), cell)
    assert run.run_cell(cell) == "failed" and sorted(path.name for path in tmp_path.iterdir()) == ["cells"]


def test_a_head_that_vllm_scores_wrongly_is_refused_first(tmp_path: Path) -> None:
    overrides = ("suite.backend=vllm", "suite.merge_adapter=false", "finetune.lora_target='q_proj,lm_head'")
    (cell,) = cells([*SMOKE, f"exec.runs={tmp_path}", *overrides])
    with pytest.raises(BadInput, match="adapts lm_head"):
        run.refuse_suite(Store(tmp_path), cell)


def test_a_missing_chat_template_is_refused_before_anything_is_chosen_or_trained(tmp_path: Path) -> None:
    (cell,) = cells([*SMOKE, f"exec.runs={tmp_path}", "suite.chat_template=true"])
    assert run.run_cell(cell) == "failed"
    store = Store(tmp_path, ExecConfig())
    assert store.complete(cell.nodes["backbone"]) and not store.complete(cell.nodes["scores"])
    status = store.status(cell.nodes["eval"])
    assert status.state == "failed" and "tokenizer of tiny_random has no chat template" in status.reason


def test_what_is_finished_is_not_asked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A result that an earlier lm-eval gave can still be reported beside the others."""
    (cell,) = cells([*SMOKE, f"exec.runs={tmp_path}", "suite.harness=0.4.12"])
    monkeypatch.setattr(Store, "complete", lambda self, node: node is cell.nodes["eval"])
    run.refuse_suite(Store(tmp_path), cell)


def test_what_cannot_be_run_is_said_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No process of a launcher is started for a cell whose checkpoint no option names, and nothing of it is built."""
    launched: list[object] = []
    monkeypatch.setattr(app, "hydra_app", launched.append)
    asked = ["profile=smoke", "selector=scar", f"exec.runs={tmp_path}", "suite.harness=0.0.1"]
    monkeypatch.setattr(sys, "argv", ["run", "-m", *asked, "hydra/launcher=joblib"])
    run._sweep()
    (cell,), store = cells(asked), Store(tmp_path)
    assert not launched and not any(map(store.complete, cell.nodes.values()))
    record = read_json(run.record_path(cell, store))
    assert record is not None and record["state"] == "not-run" and "needs checkpoint" in record["reason"]
    assert store.status(cell.nodes["ranking"]).state == "not-run"
    monkeypatch.setattr(sys, "argv", ["run", "-m", *asked[:1], "selector=longest", *asked[2:]])
    with pytest.raises(BadInput, match=r"suite\.harness expects"):
        run._sweep()
