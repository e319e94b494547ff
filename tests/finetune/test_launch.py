"""Several processes: the launched script, how its errors come back, and that it never outlives its parent."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from adg.artifacts.sealed import write_sealed
from adg.artifacts.store import Store
from adg.backbones import stage as backbone_stage
from adg.backbones.config import BackboneConfig
from adg.errors import BadInput
from adg.execution import ExecConfig
from adg.pools import stage as pool_stage
from adg.pools.config import PoolConfig
from finetune import stage as finetune_stage
from finetune.config import FinetuneConfig


def run_script(root: Path, request: Path, content: Any, stdin: Any = None) -> Any:
    request.write_text(json.dumps(content))
    return subprocess.run(
        [sys.executable, str(root / "finetune" / "run.py"), str(request)],
        stdin=stdin,
        capture_output=True,
        text=True,
        cwd=request.parent,
        timeout=120,
    )


@pytest.mark.slow
def test_two_processes_learn_what_one_learns(tmp_path: Path, backbone_folder: Path, pool_file: Path) -> None:
    """`accelerate launch` for real, two processes without a GPU: the same updates as one process with the same
    effective batch (eight of the ten rows, so that every batch can be shared)."""
    from safetensors.numpy import load_file

    backbone = backbone_stage.node(BackboneConfig(name="tiny", path=str(backbone_folder), dtype="float32"))
    subset = pool_stage.node(PoolConfig(name="rows", path=str(pool_file), rows=8))
    recipe = FinetuneConfig(lora_rank=4, lora_dropout=0.0, epochs=2, batch_size=4, learning_rate=1e-2, max_length=64)
    node = finetune_stage.node(subset, backbone, recipe)
    two = Store(tmp_path / "two", ExecConfig(device="cpu", train_micro_batch=1, train_processes=2)).ensure(node)
    one = Store(tmp_path / "one", ExecConfig(device="cpu", train_micro_batch=4)).ensure(node)
    assert two.info["layout"]["processes"] == 2 and two.info["layout"]["distributed"] == "MULTI_CPU"
    assert two.info["tokens_trained"] == one.info["tokens_trained"]
    assert sorted(two.manifest["files"]) == sorted(one.manifest["files"])
    first, second = (load_file(a.file("adapter/adapter_model.safetensors")) for a in (one, two))
    assert first.keys() == second.keys()
    assert max(abs(first[name] - second[name]).max() for name in first) < 1e-5
    assert max(abs(first[name]).max() for name in first if "lora_B" in name) > 1e-3


def test_an_error_comes_back_as_what_it_was(tmp_path: Path, root: Path) -> None:
    """A managed script leaves its error for the builder; one run by hand prints it."""
    request, content = tmp_path / "request.json", {"subset": str(tmp_path), "backbone": str(tmp_path), "folder": "out"}
    request.write_text(json.dumps({**content, "managed": True}))
    with subprocess.Popen(
        [sys.executable, str(root / "finetune" / "run.py"), str(request)],
        stdin=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as process:
        assert process.wait(timeout=120) == 1
    left = json.loads((tmp_path / "failure.json").read_text())
    assert left["kind"] == "BadInput" and "no finished artifact" in left["reason"]
    done = run_script(root, request, {**content, "subsets": "x"})
    assert done.returncode == 1 and "unknown key 'subsets' (did you mean 'subset'?)" in done.stderr


def test_a_damaged_request_of_the_launcher_is_refused_by_name(tmp_path: Path, root: Path) -> None:
    request = tmp_path / "request.json"
    write_sealed(request, {"subset": "a", "backbone": "b", "config": {"epochs": 3}, "folder": "c"})
    run = [sys.executable, str(root / "finetune" / "run.py"), str(request)]
    for old, new, told in (
        ('"epochs": 3', '"epochs": 7', "differs from its own digest"),
        ('"digest"', '"eigest"', "unknown key 'eigest'"),
        ("{", "[", "no valid JSON"),
    ):
        whole = request.read_text()
        request.write_text(whole.replace(old, new, 1))
        done = subprocess.run(run, capture_output=True, text=True)
        assert done.returncode == 1 and str(request) in done.stderr and told in done.stderr, done.stderr
        assert "Traceback" not in done.stderr
        request.write_text(whole)


def test_it_ends_when_its_parent_is_gone(tmp_path: Path, root: Path) -> None:
    done = run_script(
        root,
        tmp_path / "request.json",
        {"managed": True, "subset": "", "backbone": "", "folder": ""},
        subprocess.DEVNULL,
    )
    assert done.returncode == 70


def test_a_batch_the_processes_cannot_share_is_refused_before_they_start(
    tmp_path: Path, backbone_folder: Path, pool_file: Path
) -> None:
    backbone = backbone_stage.node(BackboneConfig(name="tiny", path=str(backbone_folder), dtype="float32"))
    subset = pool_stage.node(PoolConfig(name="rows", path=str(pool_file)))
    with pytest.raises(BadInput, match="4, which 3 processes"):
        Store(tmp_path, ExecConfig(device="cpu", train_processes=3)).ensure(
            finetune_stage.node(subset, backbone, FinetuneConfig(batch_size=4))
        )


def test_configs_name_what_they_do(root: Path) -> None:
    """accelerate reads both files, and neither decides the precision."""
    from accelerate.commands.config.config_args import load_config_from_file

    kinds = {}
    for path in (root / "finetune" / "accelerate").glob("*.yaml"):
        config = load_config_from_file(str(path))
        kinds[path.stem] = config.distributed_type.value
        assert config.mixed_precision == "no"
    assert kinds == {"ddp": "MULTI_GPU", "fsdp": "FSDP"}
