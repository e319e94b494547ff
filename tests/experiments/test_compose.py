"""Cells that share what is composed are the cells that Hydra composes one by one."""

from __future__ import annotations

from typing import Any

import pytest

from experiments import compose
from experiments.cells import cells
from experiments.schema import session


def one_by_one(lines: list[tuple[str, ...]]) -> list[Any]:
    from hydra import compose as hydra_compose

    with session():
        return [compose.resolve(hydra_compose("config", list(line))) for line in lines]


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
        ["profile=smoke", "experiment=bins"],
        ["profile=smoke", "experiment=stability"],
    ],
)
def test_every_config_is_what_hydra_composes(asked: list[str]) -> None:
    found = cells(asked)
    assert [cell.config for cell in found] == one_by_one([cell.overrides for cell in found])


def test_a_table_composes_each_name_once(monkeypatch: pytest.MonkeyPatch) -> None:
    import hydra

    composed = []
    plain = hydra.compose
    monkeypatch.setattr(hydra, "compose", lambda *a, **k: composed.append(a) or plain(*a, **k))
    chosen = cells(["profile=mini"])
    assert len(chosen) == 54, "48 cells and row 0 of each"
    names = sum(len({cell.swept[group] for cell in chosen}) for group in compose.GROUPS)
    assert len(composed) <= names - len(compose.GROUPS) + 2  # the grid itself, the first cell, each further name


def test_a_name_that_changes_more_than_its_section_is_composed_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """Were a section taken from a file that writes elsewhere, the cell would not be what Hydra composes."""
    real = compose.Composed._whole

    def wider(self: Any, line: tuple[str, ...]) -> Any:
        import dataclasses

        config = real(self, line)
        return dataclasses.replace(config, budget=7) if "pool=mini_cot" in line else config

    monkeypatch.setattr(compose.Composed, "_whole", wider)
    configs = compose.compose_many(
        [
            [f"pool={pool}", f"selector={name}"]
            for pool in ("mini_general", "mini_cot")
            for name in ("random", "longest")
        ]
    )
    assert [config.budget == 7 for config in configs] == [False, False, True, True]
    assert [config.selector["name"] for config in configs] == ["random", "longest"] * 2
