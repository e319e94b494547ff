"""Cells that share what is composed are the cells that Hydra composes one by one."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from experiments import compose, parts, resolve, search_path
from experiments.cells import cells
from experiments.schema import session


def one_by_one(lines: list[tuple[str, ...]]) -> list[Any]:
    from hydra import compose as hydra_compose

    with session():
        return [resolve.resolve(hydra_compose("config", list(line))) for line in lines]


@pytest.fixture
def composed(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What Hydra is asked to compose."""
    import hydra

    asked: list[Any] = []
    plain = hydra.compose
    monkeypatch.setattr(hydra, "compose", lambda *a, **k: asked.append(a) or plain(*a, **k))
    return asked


@pytest.mark.parametrize(
    "asked",
    [
        [
            "profile=smoke",
            "selector=random,adg,longest",
            "pool=mini_cot,mini_general",
            "backbone=tiny_random,smollm2_135m",
        ],
        ["profile=paper", "selector=adg,scar", "backbone=llama3_8b,qwen2_5_7b", "pool.rows=100", "seed=1,2"],
        ["profile=mini", "selector=adg,cluster_random", "selector.rule=released", "finetune=lora,full"],
        ["profile=smoke", "selector=ifd", "finetune.epochs=2,3", "suite.limit=null", "exec.runs='a b'"],
        ["profile=smoke", "experiment=bins"],
        ["profile=smoke", "experiment=stability"],
        ["profile=smoke", "experiment=controls"],
        ["profile=mini", "experiment=layers"],
        ["profile=mini", "experiment=cross_backbone"],
        ["profile=mini", "experiment=chinese"],
    ],
)
def test_every_config_is_what_hydra_composes(asked: list[str], composed: list[Any]) -> None:
    found = cells(asked)
    assert not composed, "all of them are made of parts"
    assert [cell.config for cell in found] == one_by_one([cell.overrides for cell in found])


def test_a_launcher_is_no_reason_to_compose_each_cell(composed: list[Any]) -> None:
    asked, launcher = ["profile=smoke", "selector=random,longest"], ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]
    found = cells([*asked, *launcher])
    assert [made[0] for made in composed] == ["config"], "once, for the sweep: an unknown launcher is refused there"
    assert [cell.config for cell in found] == [cell.config for cell in cells(asked)]
    assert [cell.name for cell in found] == [cell.name for cell in cells(asked)]


def test_each_section_is_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []
    plain = parts.section
    monkeypatch.setattr(parts, "section", lambda name, tree: made.append(name) or plain(name, tree))
    with parts.shared():
        assert len(cells(["profile=mini"])) == 54, "48 cells and row 0 of each"
        once = {name: made.count(name) for name in made}
        assert once == {**dict.fromkeys(once, 1), "backbone": 2, "pool": 3, "selector": 9}
        made.clear()
        assert len(cells(["profile=mini", "experiment=terms"])) == 3
    assert sorted(made) == ["experiment", "selector", "selector", "selector"]


def test_a_section_follows_what_it_refers_to() -> None:
    lines = [
        ("profile=mini", *more) for more in ((), ("profile.rows=7",), ("seed=7", "pool=mini_cot"), ("pool.rows=7",))
    ]
    found = compose.compose_many(lines)
    assert found == one_by_one(lines)
    assert [config.pool.rows for config in found] == [48, 7, 48, 7] and found[2].sampling.seed != found[0].sampling.seed


def test_what_only_hydra_can_tell_is_left_to_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, composed: list[Any]
) -> None:
    """Files of a group that write elsewhere, choose others or are chosen by what another is called."""
    conf = tmp_path / "conf"
    shutil.copytree(search_path.CONF, conf)
    monkeypatch.setattr(search_path, "CONF", conf)
    (conf / "pool" / "wide.yaml").write_text("# @package _global_\npool: {name: wide, path: a}\nbudget: 7\n")
    (conf / "backbone" / "made.yaml").write_text("defaults:\n  - tiny_random\n  - _self_\nname: made\n")
    for selector in ("longest", "random"):
        (conf / "finetune" / f"{selector}.yaml").write_text(f"learning_rate: 0.{len(selector)}\n")
    lines = [
        ("profile=smoke", "pool=mini_cot", "selector=random"),
        ("profile=smoke", "pool=wide", "selector=random"),
        ("profile=smoke", "backbone=made", "pool=mini_cot", "selector=random"),
        ("profile=smoke", "pool=mini_cot", "selector=random", "+selector.more=1"),
        ("profile=smoke", "pool=mini_cot", "selector=random", "~selector.seed"),
        ("profile=smoke", "pool=named", "selector=random"),
        ("profile=smoke", "pool=mini_cot", "selector=longest"),
    ]
    (conf / "pool" / "named.yaml").write_text("name: named\npath: a\nrows: ${${oc.env:WHICH}}\n")
    monkeypatch.setenv("WHICH", "budget")
    assert compose.compose_many(lines) == one_by_one(lines)
    left = [asked[1] for asked in composed[: -len(lines)]]
    assert left == [list(line) for line in lines[3:6]], "what adds, deletes, and names what it refers to"

    text = (conf / "config.yaml").read_text()
    (conf / "config.yaml").write_text(text.replace("finetune: lora", "finetune: ${selector}"))
    lines = [("profile=own", f"selector={name}", "pool=mini_cot") for name in ("random", "longest")]
    found = compose.compose_many(lines)
    assert found == one_by_one(lines) and [config.finetune.learning_rate for config in found] == [0.6, 0.7]
