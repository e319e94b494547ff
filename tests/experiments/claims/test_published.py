"""What the published figures say by themselves: computed, so that another figure gives another verdict."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml

from experiments.claims import published
from experiments.report import published as figures_of


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A copy of the published figures that a test may change."""
    changed = copy.deepcopy(figures_of.figures())
    for module in (published, figures_of):
        monkeypatch.setattr(module, "figures", lambda: changed)
    return changed


def test_margins_and_ranks() -> None:
    assert published.verdict("C1") == (
        "consistent; margins over the next best +1.46, +1.38, +0.81, +1.01, +1.29, +0.87"
    )
    assert published.verdict("C2") == "contradicted; first in 12 of 18 columns"
    assert published.verdict("C3") == "consistent; +2.30 to +6.46 over random and +2.18 to +5.04 over all"
    assert "3 of 8 windows lie below Random of the main table (46.06)" in published.verdict("C5")
    assert published.verdict("C6").endswith("K = 7, 10 below All (47.15), K = 10 below Random (46.06)")
    assert published.verdict("C7") == "consistent; +0.80, +2.09, +2.43, +1.10, +1.82 over superfiltering"
    assert published.verdict("C7b").startswith("doubtful")
    assert published.verdict("C8") == "consistent; -0.43, -0.66, still best of all selectors"
    assert published.verdict("C9").startswith("consistent; +1.07, +1.02 over the next best")
    for claim in ("C4", "C11", "C12"):
        assert published.verdict(claim) == published.NO_FIGURES


def test_contradictions_are_all_found_and_no_other() -> None:
    lines = published.contradictions()
    assert [line.split()[0] for line in lines[:3]] == ["random", "superfiltering", "adg"]
    assert "54.04 in the budget chart and 50.85 in the main table (+3.19)" in lines[2]
    assert "scar in qwen2_5_7b / alpaca_gpt4 is printed as 67.10, its categories give 67.14" in lines[3]
    assert "saturate" in lines[4] and "untrained" in lines[5] and len(lines) == 6


def test_other_figures_give_other_verdicts(figures: Any) -> None:
    table = figures["main"]["llama3_8b"]["cot"]
    table["adg"][3] = table["ifd"][3] - 0.01
    assert published.verdict("C1").startswith("contradicted")
    chart = figures["analyses"]["budget"]["averages"]
    chart["adg"] = dict(zip(chart["adg"], [50.0, 51.0, 51.5, 51.6, 51.6], strict=True))
    assert published.verdict("C7b").startswith("consistent")
    for selector in ("random", "superfiltering", "adg"):
        chart[selector][10_000] = figures["main"]["llama3_8b"]["alpaca_gpt4"][selector][3]
    figures["main"]["qwen2_5_7b"]["alpaca_gpt4"]["scar"][3] = 67.14
    lines = published.contradictions()
    assert not [line for line in lines if "budget chart" in line or "printed as 67" in line]


def test_the_same_as_the_reference_says(shared_dir: Path) -> None:
    """The figures that verdicts are computed from are those of the reference."""
    reference = yaml.safe_load((shared_dir / "reference" / "paper_results.yaml").read_text(encoding="utf-8"))
    ours = figures_of.figures()
    analyses = ours["analyses"]
    assert ours["main"] == reference["main"]
    assert analyses["cross_backbone"]["rows"] == reference["cross_backbone"]
    assert analyses["layers"]["averages"]["adg"] == reference["layer_window_avg"]
    assert analyses["chinese"]["figures"] == reference["chinese"]
    budgets = {name: [*values.values()] for name, values in analyses["budget"]["averages"].items()}
    assert {"budgets": [*analyses["budget"]["averages"]["adg"]], **budgets} == reference["budget_avg"]
