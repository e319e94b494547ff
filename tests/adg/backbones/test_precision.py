"""The fastest precision: measured on this machine, decided once, recorded with the backbone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from adg.artifacts.store import Store
from adg.backbones import loading, precision
from adg.backbones import stage as backbone_stage
from adg.backbones.config import BackboneConfig
from adg.errors import BadInput
from adg.execution import ExecConfig


def test_what_is_measured_decides_and_is_recorded(tmp_path: Path) -> None:
    node = backbone_stage.node(BackboneConfig(name="tiny", builder="tiny_random", dtype="fastest"))
    artifact = Store(tmp_path, ExecConfig(device="cpu", offline=True)).ensure(node)
    rates, chosen = artifact.info["gflops"], artifact.info["dtype"]
    assert all(rate > 0 for rate in rates.values()) and rates.keys() == {"float32", "bfloat16"}
    assert chosen == ("bfloat16" if rates["bfloat16"] > precision.GAIN * rates["float32"] else "float32")
    assert loading.dtype_of(artifact) == json.loads((artifact.path / "source.json").read_text())["dtype"] == chosen
    assert str(loading.load_model(artifact, "cpu").dtype) == f"torch.{chosen}"


@pytest.mark.parametrize(("rates", "expected"), [((100.0, 500.0), "bfloat16"), ((100.0, 150.0), "float32")])
def test_bfloat16_has_to_be_worth_it(
    rates: tuple[float, float], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured = dict(zip(("float32", "bfloat16"), rates, strict=True))
    monkeypatch.setattr(precision, "_rate", lambda width, inner, device, dtype: measured[dtype])
    assert precision.fastest({"hidden_size": 8}, "cpu") == (expected, measured)


def test_a_dtype_that_is_named_is_not_measured(tmp_path: Path) -> None:
    node = backbone_stage.node(BackboneConfig(name="tiny", builder="tiny_random", dtype="float32"))
    assert "gflops" not in Store(tmp_path, ExecConfig(device="cpu", offline=True)).ensure(node).info
    with pytest.raises(BadInput, match="expected fastest or one of"):
        BackboneConfig(name="tiny", builder="tiny_random", dtype="quick")
