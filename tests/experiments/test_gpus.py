"""Which GPUs a cell takes, with made-up lists of GPUs and real locks."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from adg.errors import BadInput
from experiments import gpus

FOUR = {str(i): f"GPU-{i:08x}" for i in range(4)}


@pytest.mark.parametrize(
    ("chosen", "expected"),
    [(None, ["0", "1", "2"]), ("", []), ("2,0", ["2", "0"]), ("GPU-b", ["GPU-b"]), ("1,-1,0", ["1"])],
)
def test_what_is_visible(monkeypatch: pytest.MonkeyPatch, chosen: str | None, expected: list[str]) -> None:
    monkeypatch.setattr(gpus, "listed", lambda: ("GPU-a", "GPU-b", "GPU-c"))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if chosen is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", chosen)
    assert list(gpus.visible()) == expected
    if chosen == "2,0":
        assert list(gpus.visible().values()) == ["GPU-c", "GPU-a"], "the same names in every process"


def test_cells_at_once_take_different_gpus_and_give_them_back(tmp_path: Path) -> None:
    first, second = gpus.Lease(1, FOUR, tmp_path), gpus.Lease(2, FOUR, tmp_path)
    assert (first.names, second.names) == (["0"], ["1", "2"])
    first.close()
    third = gpus.Lease(2, FOUR, tmp_path)
    assert third.names == ["0", "3"]
    with pytest.raises(BadInput, match=r"5 GPUs are asked for .* but 4 are visible"):
        gpus.Lease(5, FOUR, tmp_path)


def test_a_cell_waits_for_a_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpus, "WAIT", 0.02)
    held = gpus.Lease(4, FOUR, tmp_path)
    found: list[gpus.Lease] = []
    waiting = [threading.Thread(target=lambda: found.append(gpus.Lease(2, FOUR, tmp_path))) for _ in range(2)]
    for thread in waiting:
        thread.start()
    time.sleep(0.1)
    assert not found
    held.close()
    for thread in waiting:
        thread.join(10)
    assert sorted(name for lease in found for name in lease.names) == list(FOUR), "nobody held half of what it needs"


def test_who_waits_does_not_hold_up_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One process waits for GPU 0; another that may only use GPU 1 gets it at once."""
    monkeypatch.setattr(gpus, "WAIT", 0.05)
    held = gpus.Lease(1, {"0": "GPU-a"}, tmp_path)
    waiting = threading.Thread(target=lambda: gpus.Lease(1, {"0": "GPU-a"}, tmp_path))
    waiting.start()
    time.sleep(0.1)
    free = gpus.Lease(1, {"1": "GPU-b"}, tmp_path)
    assert free.names == ["1"] and free.waited == 0
    held.close()
    waiting.join(10)
    assert not waiting.is_alive()
