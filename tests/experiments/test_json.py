"""``--json``: what a command prints as text, for other programs; ``--open``."""

from __future__ import annotations

import json
import sys
import webbrowser
from collections.abc import Callable
from typing import Any

import pytest

from experiments import compare, contamination, plan, power, status
from experiments.claims import __main__ as claims
from experiments.report import __main__ as report

Command = Callable[..., Any]


@pytest.fixture
def shown(study: Any, flat: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Run a command on three cells, of which the second is not evaluated; what it printed."""
    for cell in study.cells("selector=random,longest,adg"):
        study.finish(cell, flat(0.5 if cell.config.selector["name"] == "random" else 0.8))

    def run(module: Any, *switches: str, ours: str = "adg") -> str:
        line = ["adg", "profile=smoke", f"selector=random,all,{ours}", f"exec.runs={study.runs}", *switches]
        monkeypatch.setattr(sys, "argv", line)
        module.main()
        return capsys.readouterr().out

    return run


def of(shown: Command, module: Any, **options: str) -> Any:
    """The document, which is all that is printed."""
    return json.loads(shown(module, "--json", **options), parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))


def test_plan(shown: Command) -> None:
    found = of(shown, plan)
    assert ["eval" in cell["to_do"] for cell in found["cells"]] == [False, True, False]
    evaluations = next(stage for stage in found["stages"] if stage["stage"] == "eval")
    assert (evaluations["distinct"], evaluations["cached"], evaluations["to_build"]) == (3, 2, 1)
    assert found["gpu"] is None and found["gpu_hours"] == []


def test_plan_of_the_paper_has_gpu_hours(monkeypatch: pytest.MonkeyPatch, capsys: Any, tmp_path: Any) -> None:
    line = ["profile=paper", "selector=adg", "pool=cot", "backbone=llama3_8b", f"exec.runs={tmp_path}"]
    monkeypatch.setattr(sys, "argv", ["adg", *line, "--json"])
    plan.main()
    found = json.loads(capsys.readouterr().out)
    total = sum(entry["hours"] for entry in found["gpu_hours"])
    assert total > 1 and not any(entry["measured"] for entry in found["gpu_hours"])
    monkeypatch.setattr(sys, "argv", ["adg", *line])
    plan.main()
    assert f"the study   {total:>8.1f}" in capsys.readouterr().out


def test_status(shown: Command) -> None:
    found = of(shown, status)
    assert [cell["stage"] == "heldout" for cell in found["cells"]] == [True, False, True]
    assert found["counts"] == {"missing": 3} and {cell["state"] for cell in found["cells"]} == {"missing"}


def test_compare(shown: Command) -> None:
    done, missing = sorted(of(shown, compare), key=lambda pair: pair["theirs"], reverse=True)
    assert (done["ours"], done["theirs"], done["reason"]) == ("adg", "random", None)
    average = done["tasks"]["avg"]
    assert average["difference"] == pytest.approx(0.3) and average["interval"][0] < 0.3 < average["interval"][1]
    assert missing["theirs"] == "all" and missing["tasks"] == {} and "is missing" in missing["reason"]


def test_claims(shown: Command) -> None:
    found = of(shown, claims)
    claim = next(entry for entry in found["claims"] if entry["id"] == "C3")
    values = [effect["value"] for effect in claim["effects"]]
    assert None in values, "a cell that is not there has no effect"
    assert found["unknown"] or len(found["claims"]) > 5


def test_power(shown: Command) -> None:
    found = of(shown, power)
    assert set(found["smallest"]) == set(found["errors"]) and found["seeds"] == 1


def test_contamination(shown: Command) -> None:
    (found,) = of(shown, contamination)
    assert found["pool"] == "mini_general" and found["records"] > 0 and set(found["subsets"]) < {"", *found["subsets"]}
    assert all(kind["items"] > 0 for kinds in found["counts"].values() for kind in kinds.values())


def test_report(shown: Command, study: Any) -> None:
    found = of(shown, report, ours="longest")
    random, everything, longest = found["rows"]
    assert longest["scores"]["avg"]["percent"] == pytest.approx(80) and longest["state"] == "done"
    assert longest["average_against"]["random"]["points"] == pytest.approx(30)
    assert everything["scores"]["avg"] == {**everything["scores"]["avg"], "percent": None, "word": "missing"}
    assert random["average_against"] == {} and found["deviations"]


def test_open_shows_the_page(shown: Command, study: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    monkeypatch.setattr(webbrowser, "open", lambda address: not opened.append(address))
    assert "Main table" in shown(report, "--open", ours="longest")
    (page,) = (study.runs / "report").glob("*/index.html")
    assert opened == [page.as_uri()]
