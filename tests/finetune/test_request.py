"""Request files written by hand: one line with file, key and nearest name, before any model is loaded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from adg.artifacts.store import Store
from adg.backbones import loading
from adg.backbones import stage as backbone_stage
from adg.backbones.config import BackboneConfig
from adg.errors import BadInput, HarnessError
from adg.execution import ExecConfig
from adg.pools import stage as pool_stage
from adg.pools.config import PoolConfig
from finetune.request import run_request
from tests import processes


@pytest.fixture(scope="module")
def request_of(tmp_path_factory: pytest.TempPathFactory, backbone_folder: Path, pool_file: Path) -> Any:
    """Writes a request that works, but for what is changed in it; returns its path."""
    store = Store(tmp_path_factory.mktemp("runs"), ExecConfig(device="cpu"))
    backbone = store.ensure(
        backbone_stage.node(BackboneConfig(name="tiny", path=str(backbone_folder), dtype="float32"))
    )
    subset = store.ensure(pool_stage.node(PoolConfig(name="rows", path=str(pool_file))))

    def write(folder: Path, **changes: Any) -> Path:
        content = {
            "subset": str(subset.path),
            "backbone": str(backbone.path),
            "config": {"epochs": 1, "batch_size": 4, "max_length": 64, "lora_rank": 2, "warmup_ratio": 0.0},
            "exec": {"device": "cpu"},
            "folder": str(folder / "out"),
        }
        for key, value in changes.items():
            if key in ("config", "exec") and isinstance(value, dict):
                content[key] |= value  # type: ignore[operator]
            else:
                content[key] = value
        path = folder / "request.json"
        path.write_text(json.dumps({key: value for key, value in content.items() if value != "left out"}))
        return path

    return write


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"subsets": "x"}, r"unknown key 'subsets' \(did you mean 'subset'\?\)"),
        ({"subset": "left out"}, "'subset' is missing"),
        ({"subset": 3}, "subset is 3; expected a text"),
        ({"config": [1]}, r"config is \[1\]; expected an object"),
        ({"managed": "yes"}, 'managed is "yes"; expected true or false'),
        ({"config": {"epoch": 1}}, r"config: unknown key 'epoch' \(did you mean 'epochs'\?\)"),
        ({"config": {"epochs": "3"}}, 'config: epochs is "3"; expected a whole number'),
        ({"config": {"epochs": 1.5}}, r"config: epochs is 1\.5; expected a whole number"),
        ({"config": {"epochs": True}}, "config: epochs is true; expected a whole number"),
        ({"config": {"packing": 0}}, "config: packing is 0; expected true or false"),
        ({"config": {"lora_target": ["q_proj"]}}, r'config: lora_target is \["q_proj"\]; expected a text'),
        ({"config": {"neftune_alpha": "x"}}, 'neftune_alpha is "x"; expected a number or null'),
        ({"config": {"weight_decay": -1}}, r"finetune\.weight_decay is -1"),
        ({"config": {"lora_target": "q_proj,vv_proj"}}, r"'vv_proj' \(did you mean 'v_proj'\?\)"),
        ({"config": {"max_length": 512}}, "512 but the model has 256 positions"),
        ({"exec": {"devise": "cpu"}}, r"exec: unknown key 'devise' \(did you mean 'device'\?\)"),
        ({"exec": {"train_micro_batch": -4}}, r"exec\.train_micro_batch is -4"),
    ],
)
def test_what_is_wrong_is_named(
    request_of: Any, tmp_path: Path, changes: dict[str, Any], told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(loading, "load_model", never)
    path = request_of(tmp_path, **changes)
    with pytest.raises(BadInput, match=told) as error:
        run_request(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


def test_artifacts_that_are_none_or_others_are_named(request_of: Any, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=rf"'subset' is {tmp_path}, which is no finished artifact"):
        run_request(request_of(tmp_path, subset=str(tmp_path)))
    backbone = json.loads(request_of(tmp_path).read_text())["backbone"]
    with pytest.raises(BadInput, match=r"'subset' is .*, an artifact of the stage backbone without records\.parquet"):
        run_request(request_of(tmp_path, subset=backbone))
    for content in ("[]", "{"):
        (tmp_path / "request.json").write_text(content)
        with pytest.raises(HarnessError, match=r"request\.json is damaged"):
            run_request(tmp_path / "request.json")


def test_one_that_works_leaves_an_adapter_that_fits_its_model(request_of: Any, tmp_path: Path) -> None:
    from adg.backbones import adapters

    path = request_of(tmp_path, config={"lora_target": "q_proj, v_proj", "learning_rate": 1})  # a whole number will do
    info = run_request(path)
    assert info["rows_out"] == 10 and json.loads((tmp_path / "out" / "info.json").read_text())["steps"] == info["steps"]
    base = Path(json.loads((Path(json.loads(path.read_text())["backbone"]) / "source.json").read_text())["path"])
    adapters.check(tmp_path / "out" / "adapter", base)


@pytest.mark.parametrize(("arguments", "code", "told"), [(["--help"], 0, "request.json"), (["gone.json"], 2, "--help")])
def test_help_and_a_file_that_is_not_there(root: Path, arguments: list[str], code: int, told: str) -> None:
    done = processes.run(["finetune/run.py", *arguments], cwd=root)
    assert done.returncode == code and told in (done.stderr if code else done.stdout)
    assert "Traceback" not in done.stderr
