"""evaluate/run.py: what is wrong is said in one line before a model is loaded; what finetune/run.py makes is taken."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from adg.artifacts.artifact import Artifact, Node
from adg.artifacts.store import Store
from adg.backbones import loading
from adg.backbones import stage as backbone_stage
from adg.backbones.config import BackboneConfig
from adg.errors import BadInput
from adg.evaluation import lm_eval_tasks
from adg.execution import ExecConfig
from adg.pools import stage as pool_stage
from adg.pools.config import PoolConfig
from finetune.request import run_request
from tests import processes

COMMIT = "0123456789abcdef0123456789abcdef01234567"
FEW = ("--suite", "mini", "--tasks", "truthfulqa_mc2,gsm8k", "--limit", "2", "--max-gen-toks", "4", "--device", "cpu")


@pytest.fixture(scope="module")
def script(root: Path) -> ModuleType:
    path = list(sys.path)
    spec = importlib.util.spec_from_file_location("evaluate_run_script", root / "evaluate" / "run.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    sys.path[:] = path
    return module


class Trained:
    """A backbone, and what finetune/run.py's request makes of it."""

    def __init__(self, folder: Path) -> None:
        rows = [{"instruction": f"Count to {n}.", "output": " ".join(map(str, range(n)))} for n in range(2, 10)]
        (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        self.runs = folder / "runs"
        store = Store(self.runs, ExecConfig(device="cpu"))
        config = BackboneConfig(name="tiny_random", builder="tiny_random", dtype="float32")
        self.node: Node = backbone_stage.node(config)
        self.backbone: Artifact = store.ensure(self.node)
        # the rows to train on are read from records.parquet, which a pool holds as a subset does
        self.subset = store.ensure(pool_stage.node(PoolConfig(name="rows", path=str(folder / "rows.jsonl"))))
        self.folder = folder

    def train(self, method: str) -> Path:
        target = self.folder / method
        config = {"method": method, "epochs": 1, "batch_size": 4, "max_length": 128, "warmup_ratio": 0.0}
        request = {"subset": str(self.subset.path), "backbone": str(self.backbone.path), "folder": str(target)}
        path = self.folder / f"{method}.json"
        path.write_text(json.dumps({**request, "config": config, "exec": {"device": "cpu"}}))
        run_request(path)
        return target


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return Trained(tmp_path_factory.mktemp("trained"))


@pytest.fixture(scope="module")
def adapter(trained: Trained) -> Path:
    return trained.train("lora")


def scores(runs: Path) -> dict[str, Any]:
    (results,) = (runs / "eval").glob("*/results.json")
    return {name: task["value"] for name, task in json.loads(results.read_text())["tasks"].items()}


def test_what_finetune_makes_is_taken(script: ModuleType, trained: Trained, adapter: Path, tmp_path: Path) -> None:
    """By the backbone's name or its artifact's folder, as the output folder or the adapter in it: one evaluation."""
    script.main(["--model", "tiny_random", "--adapter", str(adapter), "--runs", str(tmp_path / "a"), *FEW])
    again = ["--model", str(trained.backbone.path), "--adapter", str(adapter / "adapter")]
    script.main([*again, "--runs", str(tmp_path / "a"), *FEW])
    tuned = scores(tmp_path / "a")
    script.main(["--model", "tiny_random", "--runs", str(tmp_path / "b"), *FEW])
    base = scores(tmp_path / "b")
    assert tuned["truthfulqa_mc2"] != base["truthfulqa_mc2"] and 0 < tuned["truthfulqa_mc2"] < 1


def test_a_model_that_was_trained_whole_is_taken(
    script: ModuleType, trained: Trained, root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = trained.train("full")
    script.main(["--model", str(whole), "--dtype", "float32", "--runs", str(tmp_path), *FEW])
    assert set(scores(tmp_path)) == {"truthfulqa_mc2", "gsm8k"}
    shots = yaml.safe_load((root / "conf" / "suite" / "mini.yaml").read_text())["tasks"]["gsm8k"]["num_fewshot"]
    assert f"gsm8k 0.00 [0.00, 65.76] 2 items, {shots}-shot exact_match" in " ".join(capsys.readouterr().out.split())
    with pytest.raises(BadInput, match=r"holds a whole model, no adapter; give .*model as --model"):
        script.main(["--model", "tiny_random", "--adapter", str(whole), "--runs", str(tmp_path), *FEW])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "--model"),
        (["--modle", "x"], "no option --modle (did you mean '--model'?)|arguments are required: --model"),
        (["--model", "tiny_random", "--lim", "3"], "no option --lim (did you mean '--limit'?)"),
        (["--model", "tiny_random", "--limit", "-5"], "--limit: '-5' is no whole number from 1 on"),
        (["--model", "tiny_random", "--limit", "2.5"], "--limit: '2.5' is no whole number"),
        (["--model", "tiny_random", "--batch-size", "0"], "--batch-size: '0' is no whole number from 1 on"),
        (["--model", "tiny_random", "--max-gen-toks", "x"], "--max-gen-toks: 'x' is no whole number"),
        (["--model", "tiny_random", "--device", "gpu"], "--device: invalid choice: 'gpu'"),
        (["--model", "tiny_random", "--dtype", "bf16"], "--dtype: invalid choice: 'bf16'"),
        (["--model", "tiny_random", "--backend", "vlm"], "--backend: invalid choice: 'vlm'"),
        (["--model", "tiny_random", "--suite", "papr"], "--suite papr is not known (did you mean 'paper'?)"),
        (["--model", "tiny_random", "--tasks", "gsm8k,mmul"], "--tasks names 'mmul' (did you mean 'mmlu'?)"),
        (["--model", "tiny_random", "--tasks", ""], "--tasks names ''"),
        (["--model", "tiny_randm"], "no embedded backbone (did you mean 'tiny_random'?)"),
        (["--model", "owner/name", "--revision", "main"], "needs --revision with a 40-digit commit hash"),
        (["--model", "./nowhere"], "--model ./nowhere is no folder"),
        (["--model", "/nowhere/model"], "--model /nowhere/model is no folder"),
        (["--model", "tiny_random", "--revision", COMMIT], "--revision is of models from the hub"),
        (["--model", "tiny_random", "--adapter", "/nowhere"], "the adapter /nowhere is not a folder"),
        (["--model", "tiny_random", "--data-root", "/nowhere"], "/nowhere/SaylorTwift/bbh is missing"),
    ],
)
def test_a_bad_request_is_one_line(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, words: list[str], said: str
) -> None:
    monkeypatch.setattr(loading, "load_model", lambda *a, **k: pytest.fail("a model was loaded"))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadInput) as refused:
        script.main(words)
    assert any(part in str(refused.value) for part in said.split("|")) and "\n" not in str(refused.value)
    assert not list(tmp_path.iterdir()), "nothing was begun"


def test_adapters_that_do_not_fit_are_refused_by_name(
    script: ModuleType, trained: Trained, adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "load_model", lambda *a, **k: pytest.fail("a model was loaded"))

    def refused(folder: Path, *words: str) -> str:
        with pytest.raises(BadInput) as error:
            script.main(["--model", "tiny_random", "--adapter", str(folder), "--runs", str(tmp_path / "runs"), *words])
        assert "\n" not in str(error.value)
        return str(error.value)

    assert "was trained on the backbone tiny_random-" in refused(adapter, "--dtype", "bfloat16")
    other = tmp_path / "other"
    shutil.copytree(adapter / "adapter", other)
    settings = json.loads((other / "adapter_config.json").read_text())
    (other / "adapter_config.json").write_text(json.dumps({**settings, "base_model_name_or_path": "org/one"}))
    assert "names 'org/one' as its base model" in refused(other)
    (other / "adapter_config.json").write_text("{")
    assert "adapter_config.json is not valid JSON" in refused(other)
    shutil.copy(adapter / "adapter" / "adapter_config.json", other)
    content = (other / "adapter_model.safetensors").read_bytes()
    (other / "adapter_model.safetensors").write_bytes(content[:-100])
    assert "adapter_model.safetensors is not a whole safetensors file" in refused(other)
    (other / "adapter_model.safetensors").unlink()
    assert "holds no adapter_model.safetensors" in refused(other)
    with pytest.raises(BadInput, match="is an adapter; give it as --adapter"):
        script.main(["--model", str(adapter)])


def test_another_lm_eval_is_refused_first(script: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lm_eval_tasks.importlib.metadata, "version", lambda name: "0.4.9")
    with pytest.raises(BadInput, match=r"lm-eval 0\.4\.9 is installed, suite\.harness expects 0\.4\.13"):
        script.main(["--model", "tiny_random"])


def test_as_a_command_it_prints_help_or_one_line_and_does_nothing_else(root: Path, tmp_path: Path) -> None:
    def run(*words: str) -> subprocess.CompletedProcess[str]:
        return processes.run([root / "evaluate" / "run.py", *words], cwd=tmp_path)

    helped = run("--help")
    assert helped.returncode == 0 and "--adapter" in helped.stdout and "finetune/run.py" in helped.stdout
    bad = run("--model", "tiny_random", "--sute", "mini")
    assert (bad.returncode, bad.stdout) == (1, "") and bad.stderr.splitlines()[0].startswith(
        "error: there is no option"
    )
    assert len(bad.stderr.splitlines()) == 1 and "did you mean '--suite'" in bad.stderr
    assert not list(tmp_path.iterdir())


def test_a_suite_may_stand_in_a_folder_of_the_users(script: ModuleType, tmp_path: Path, root: Path) -> None:
    (tmp_path / "suite").mkdir()
    values = yaml.safe_load((root / "conf/suite/mini.yaml").read_text())
    values |= {"name": "own", "data_root": "${package:adg/mini}", "tasks": {"gsm8k": values["tasks"]["gsm8k"]}}
    (tmp_path / "suite" / "own.yaml").write_text(yaml.safe_dump(values))
    words = ["--model", "tiny_random", "--suite", "own"]
    found = script.suite(script.arguments([*words, "--config-dir", str(tmp_path)]))
    assert found.name == "own" and list(found.tasks) == ["gsm8k"] and found.data_root == str(root / "adg/mini")
    with pytest.raises(BadInput, match="--suite own is not known"):
        script.suite(script.arguments(words))
