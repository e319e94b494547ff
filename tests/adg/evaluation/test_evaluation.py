"""The evaluation stage on a tiny random model: real lm-eval tasks on the small sets, one load, resume, refusals."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import socket
import sys
import types
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml

from adg import live, prompts
from adg.artifacts.artifact import Artifact, Job, Node, Stage
from adg.artifacts.shards import Shard
from adg.artifacts.store import Store
from adg.backbones import loading
from adg.backbones import stage as backbone_stage
from adg.backbones.config import BackboneConfig
from adg.errors import BadInput, BadMeasurement
from adg.evaluation import external_adapter, lm_eval_tasks
from adg.evaluation import stage as evaluation_stage
from adg.evaluation.benchmarks import BENCHMARKS
from adg.evaluation.config import SuiteConfig
from adg.evaluation.shared_context import SharedRuns
from adg.evaluation.stage import Evaluation
from adg.execution import ExecConfig
from adg.sandbox import host as sandbox
from tests import processes

TASKS = ["bbh", "gsm8k", "mmlu", "truthfulqa_mc2", "mbpp", "humaneval"]
CODING = ["mbpp", "humaneval"]
EXEC = ExecConfig(device="cpu", run_model_code=True, isolation="none")
needs_sandbox = pytest.mark.skipif(isinstance(sandbox.available(), str), reason=f"{sandbox.available()}")


@pytest.fixture(scope="module")
def suite(root: Path) -> SuiteConfig:
    """The mini suite with two items a subtask and few tokens."""
    values = yaml.safe_load((root / "conf" / "suite" / "mini.yaml").read_text())
    return SuiteConfig.of({**values, "limit": 2, "max_gen_toks": 8, "dtype": "auto"})


def part(suite: SuiteConfig, *names: str, **changes: Any) -> SuiteConfig:
    return dataclasses.replace(suite, tasks={name: suite.tasks[name] for name in names}, **changes)


@pytest.fixture(scope="module")
def backbone() -> Node:
    return backbone_stage.node(BackboneConfig(name="tiny", builder="tiny_random", dtype="float32"))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(tmp_path_factory.mktemp("runs"), EXEC)


class Seen:
    """What happened while the shared evaluation ran."""

    def __init__(self) -> None:
        self.loads = 0
        self.connections: list[Any] = []


@pytest.fixture(scope="module")
def whole(store: Store, suite: SuiteConfig, backbone: Node) -> tuple[Artifact, Seen]:
    """All six tasks, evaluated once; model loads are counted and every connection is refused."""
    store.ensure(backbone)
    seen, load = Seen(), loading.load_model

    def counted(*args: Any, **kwargs: Any) -> Any:
        seen.loads += 1
        return load(*args, **kwargs)

    def refused(self: socket.socket, address: Any) -> None:
        seen.connections.append(address)
        raise OSError(f"no network in this test: {address}")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loading, "load_model", counted)
        patch.setattr(socket.socket, "connect", refused)
        artifact = store.ensure(evaluation_stage.node(None, backbone, suite))
    return artifact, seen


def results_of(artifact: Artifact) -> dict[str, Any]:
    return json.loads(artifact.file("results.json").read_text())


def rows_of(artifact: Artifact, task: str) -> list[dict[str, Any]]:
    import pyarrow.parquet as pq

    return pq.read_table(artifact.file(f"samples/{task}.parquet")).to_pylist()


@needs_sandbox
def test_six_tasks_one_load_no_network(whole: tuple[Artifact, Seen]) -> None:
    artifact, seen = whole
    assert seen.loads == 1 and seen.connections == []
    results = results_of(artifact)
    assert list(results["tasks"]) == TASKS
    assert {task["status"] for task in results["tasks"].values()} == {"done"}
    assert None not in results["categories"].values()
    assert artifact.info["rows_out"] == sum(task["n"] for task in results["tasks"].values()) == 2 * 7


@needs_sandbox
def test_results_hold_what_was_asked_and_are_marked_partial(whole: tuple[Artifact, Seen], suite: SuiteConfig) -> None:
    results = results_of(whole[0])
    assert results["schema"] == "adg-results/1" and results["partial"] and results["partial_reasons"]
    for name, task in results["tasks"].items():
        cfg = suite.tasks[name]
        assert (task["num_fewshot"], task["metric"], task["filter"], task["version"]) == (
            cfg.num_fewshot,
            cfg.metric,
            cfg.filter,
            cfg.version,
        )
        assert task["partial"] and 0 <= task["value"] <= 1
    mmlu = results["tasks"]["mmlu"]
    assert {part["n"] for part in mmlu["subtasks"].values()} == {2} and len(mmlu["subtasks"]) == 2  # a limit each
    assert set(results["tasks"]["gsm8k"]["beside"]) == {"flexible-extract"}
    assert not any("max_gen_toks" in reason for reason in results["tasks"]["mmlu"]["partial_reasons"])


@needs_sandbox
def test_samples_give_the_score_back(whole: tuple[Artifact, Seen]) -> None:
    artifact, _ = whole
    results = results_of(artifact)
    for name, task in results["tasks"].items():
        rows = [row for row in rows_of(artifact, name) if row["filter"] == task["filter"]]
        assert sum(row["score"] for row in rows) / len(rows) == pytest.approx(task["value"])
        assert all(row["prompt"] and row["prompt_hash"] and row["target"] != "" for row in rows)
    assert {row["filter"] for row in rows_of(artifact, "gsm8k")} == {"strict-match", "flexible-extract"}
    assert all(row["error"] for name in CODING for row in rows_of(artifact, name) if row["score"] == 0)


@needs_sandbox
def test_shots_stand_in_the_prompts(whole: tuple[Artifact, Seen], suite: SuiteConfig) -> None:
    def prompt(task: str) -> str:
        return rows_of(whole[0], task)[0]["prompt"]

    marks = {"bbh": "A: Let's think step by step.", "gsm8k": "Question:", "mmlu": "Answer:", "mbpp": "[BEGIN]"}
    for task, mark in marks.items():
        assert prompt(task).count(mark) == suite.tasks[task].num_fewshot + 1
    assert prompt("humaneval").startswith("def ")


@needs_sandbox
def test_same_scores_as_lm_evals_own_entry_point(
    whole: tuple[Artifact, Seen], suite: SuiteConfig, store: Store, backbone: Node, tmp_path: Path
) -> None:
    """Model loaded by lm-eval from the folder, same task, shots and limit; item by item."""
    import random

    import numpy as np
    import torch
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    names = ("gsm8k", "mmlu_astronomy")
    folders = sorted({folder for name in names for folder in lm_eval_tasks.known_tasks()[name]})
    shots = {name: suite.tasks[name].num_fewshot for name in ("gsm8k", "mmlu")}
    fresh = {"dataset_kwargs": {"cache_dir": str(tmp_path)}}  # else earlier rows of a data set of that name come back
    spec = {
        "group": "theirs",
        "task": [
            {"task": "gsm8k", "num_fewshot": shots["gsm8k"], "dataset_path": str(suite.root / "openai/gsm8k"), **fresh},
            {
                "task": "mmlu_astronomy",
                "num_fewshot": shots["mmlu"],
                "dataset_path": str(suite.root / "cais/mmlu"),
                **fresh,
            },
        ],
    }
    state = random.getstate(), np.random.get_state()  # noqa: NPY002
    with torch.random.fork_rng(devices=[]):
        theirs = simple_evaluate(
            model="hf",
            model_args={"pretrained": str(loading.model_path(store.ensure(backbone))), "dtype": "float32"},
            tasks=[spec],
            limit=2,
            batch_size=8,
            device="cpu",
            gen_kwargs={"max_gen_toks": 8},
            task_manager=TaskManager(include_defaults=False, include_path=folders),
        )
    random.setstate(state[0])
    np.random.set_state(state[1])  # noqa: NPY002
    for name, task in (("gsm8k", "gsm8k"), ("mmlu_astronomy", "mmlu")):
        ours = {(r["doc_id"], r["filter"]): r for r in rows_of(whole[0], task) if r["subtask"] == name}
        assert len(theirs["samples"][name]) == len(ours)
        for sample in theirs["samples"][name]:
            row = ours[sample["doc_id"], sample["filter"]]
            assert row["prompt_hash"] == sample["prompt_hash"]
            if task == "gsm8k":
                assert row["response"] == sample["resps"][0][0]
            else:
                ours_ll = [choice[1] for choice in json.loads(row["response"])]
                assert ours_ll == pytest.approx([r[0] for r in sample["filtered_resps"]], abs=1e-4)


def test_answers_of_several_tasks_are_written_together(
    suite: SuiteConfig, backbone: Node, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.ensure(backbone)
    node, answer, asked, found = (
        evaluation_stage.node(None, backbone, part(suite, "bbh", "gsm8k")),
        SharedRuns.answer,
        [],
        [],
    )

    def counted(self: SharedRuns, prompts: Any, *more: Any) -> Any:
        asked.append(len(prompts))
        return answer(self, prompts, *more)

    monkeypatch.setattr(SharedRuns, "answer", counted)
    for name in ("together", "apart"):
        again = Store(tmp_path / name, EXEC)
        shutil.copytree(store.path(backbone), again.path(backbone))
        artifact = again.ensure(node)
        found.append([rows_of(artifact, task) for task in ("bbh", "gsm8k")])
        monkeypatch.setattr(evaluation_stage, "TOGETHER", asked[0] - 1)
    assert found[0] == found[1]
    assert len(asked) == 3 and asked[0] == asked[1] + asked[2]


@needs_sandbox
def test_killed_evaluation_repeats_no_finished_task_and_ends_the_same(
    whole: tuple[Artifact, Seen],
    suite: SuiteConfig,
    backbone: Node,
    store: Store,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    again = Store(tmp_path, EXEC)
    shutil.copytree(store.path(backbone), again.path(backbone))
    node, run, ran = evaluation_stage.node(None, backbone, suite), evaluation_stage._run, []

    def stopping(job: Job, name: str, *loaded: Any) -> Shard:
        if name == "truthfulqa_mc2" and ran.count(name) == 0:
            ran.append(name)
            raise KeyboardInterrupt
        ran.append(name)
        return run(job, name, *loaded)

    monkeypatch.setattr(evaluation_stage, "_run", stopping)
    with pytest.raises(KeyboardInterrupt):
        again.ensure(node)
    assert ran == TASKS[:4]
    told, _ = live.read(again.partial(node) / "work" / live.FILE)
    assert [line["task"] for line in told] == TASKS[:3] and all(line["summary"]["n"] for line in told)
    spoilt = sorted((again.partial(node) / "work").glob("task-*.shard"), key=lambda path: path.stat().st_mtime_ns)[1]
    data = bytearray(spoilt.read_bytes())
    data[-400] ^= 1
    spoilt.write_bytes(data)
    artifact = again.ensure(node)
    # the broken one again and the one that was damaged since, the two other finished ones not
    assert ran == [*TASKS[:4], TASKS[1], *TASKS[3:]]
    assert f"{spoilt} is damaged" in capfd.readouterr().err
    for name in TASKS:
        found, wanted = (one.file(f"samples/{name}.parquet") for one in (artifact, whole[0]))
        assert pq.read_table(found).to_pylist() == pq.read_table(wanted).to_pylist(), name
    digests = {name: entry["sha256"] for name, entry in artifact.manifest["files"].items()}
    assert digests == {name: entry["sha256"] for name, entry in whole[0].manifest["files"].items()}


@needs_sandbox
def test_without_consent_the_rest_completes_and_consent_later_runs_only_what_is_left(
    whole: tuple[Artifact, Seen],
    suite: SuiteConfig,
    backbone: Node,
    store: Store,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(
        evaluation_stage.sandbox.Sandbox, "run", lambda *a: pytest.fail("a program ran without consent")
    )
    cautious = Store(tmp_path, dataclasses.replace(EXEC, run_model_code=False))
    shutil.copytree(store.path(backbone), cautious.path(backbone))
    node = evaluation_stage.node(None, backbone, suite)
    artifact = cautious.ensure(node)
    results = results_of(artifact)
    assert [name for name, task in results["tasks"].items() if task["status"] == "not-run"] == CODING
    assert "exec.run_model_code=true" in results["tasks"]["mbpp"]["reason"]
    assert results["tasks"]["mbpp"]["value"] is None
    assert results["categories"]["coding"] is None and results["categories"]["avg"] is None
    assert results["categories"]["reasoning"] is not None
    assert not evaluation_stage.can_complete(results, cautious.exec)
    monkeypatch.undo()

    assert evaluation_stage.can_complete(results, EXEC)
    other = tmp_path / "damaged"
    shutil.copytree(tmp_path, other, ignore=lambda *_: ["damaged"])
    cautious.reopen(node)
    ran, run = [], evaluation_stage._run
    monkeypatch.setattr(evaluation_stage, "_run", lambda job, name, *a: (ran.append(name), run(job, name, *a))[1])
    completed = Store(tmp_path, EXEC).ensure(node)
    assert ran == CODING
    assert results_of(completed) == results_of(whole[0])
    assert not (completed.path / "work").exists()

    ran.clear()  # an earlier result that is not as it was built is not continued
    damaged = Store(other, EXEC)
    damaged.reopen(node)
    results_file = damaged.partial(node) / "work" / "earlier" / "results.json"
    results_file.write_text(results_file.read_text().replace('"value": 0', '"value": 1', 1))
    assert results_of(damaged.ensure(node)) == results_of(whole[0])
    assert ran == TASKS and "all tasks are evaluated again" in capfd.readouterr().err


def test_no_sandbox_reads_not_run_and_says_what_to_install(
    suite: SuiteConfig, backbone: Node, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluation_stage.sandbox, "available", lambda: f"no sandbox ({sandbox.INSTALL})")
    artifact = store.ensure(evaluation_stage.node(None, backbone, part(suite, "humaneval", "truthfulqa_mc2")))
    tasks = results_of(artifact)["tasks"]
    assert tasks["humaneval"]["status"] == "not-run" and "install bubblewrap" in tasks["humaneval"]["reason"]
    assert tasks["truthfulqa_mc2"]["status"] == "done"


def test_alpaca_prompts_wrap_the_whole_prompt(suite: SuiteConfig, backbone: Node, store: Store) -> None:
    plain = evaluation_stage.node(None, backbone, part(suite, "mmlu"))
    wrapped = evaluation_stage.node(None, backbone, part(suite, "mmlu", prompt="alpaca"))
    rows = [rows_of(store.ensure(node), "mmlu") for node in (plain, wrapped)]
    assert [row["prompt"] for row in rows[1]] == [prompts.render(row["prompt"]) for row in rows[0]]
    assert wrapped.config.template == prompts.HASH and plain.config.template == ""


def test_chat_template_of_a_model_without_one_is_refused(suite: SuiteConfig, backbone: Node, store: Store) -> None:
    with pytest.raises(BadInput, match="no chat template"):
        store.ensure(evaluation_stage.node(None, backbone, part(suite, "mmlu", chat_template=True)))


# -- adapters -----------------------------------------------------------------------------------------


def write_adapter(job: Job) -> dict[str, Any]:
    """A LoRA adapter with weights that are not zero, and the model it makes when merged."""
    import torch
    from peft import LoraConfig, get_peft_model

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = get_peft_model(
            loading.load_model(job.inputs["backbone"], "cpu"),
            LoraConfig(r=4, init_lora_weights=False, target_modules="all-linear", task_type="CAUSAL_LM"),
        )
    if job.config["merged"]:
        model.merge_and_unload().save_pretrained(job.folder / "model")
    else:
        model.save_pretrained(job.folder / "adapter")
    return {"rows_in": 1, "rows_out": 1, "failed": []}


@pytest.fixture(scope="module")
def adapter_stage() -> Stage:
    module = types.ModuleType("adapter_of_this_test")
    module.build = write_adapter  # type: ignore[attr-defined]
    sys.modules[module.__name__] = module
    return Stage("adapter", 1, f"{module.__name__}:build")


def test_adapter_unmerged_equals_the_merged_model_and_differs_from_the_base(
    adapter_stage: Stage, suite: SuiteConfig, backbone: Node, store: Store
) -> None:
    def likelihoods(adapter: Node | None, merge: bool = False) -> list[float]:
        chosen = part(suite, "truthfulqa_mc2", merge_adapter=merge)
        artifact = store.ensure(evaluation_stage.node(adapter, backbone, chosen))
        return [c[1] for row in rows_of(artifact, "truthfulqa_mc2") for c in json.loads(row["response"])]

    adapter, merged = (Node(adapter_stage, "a", {"merged": m}, {"backbone": backbone}) for m in (False, True))
    base, ours, full = likelihoods(None), likelihoods(adapter), likelihoods(merged)
    assert ours == pytest.approx(full, rel=1e-3)
    assert ours != pytest.approx(base, rel=1e-2)
    assert likelihoods(adapter, merge=True) == pytest.approx(ours, rel=1e-5)

    outside = external_adapter.node(store.ensure(adapter).path / "adapter", backbone, "tiny")
    assert likelihoods(outside) == ours


@pytest.mark.vllm
@pytest.mark.slow
def test_vllm_gives_what_transformers_gives(
    adapter_stage: Stage, backbone: Node, store: Store, root: Path, tmp_path: Path
) -> None:
    """Both backends with the same LoRA adapter: the same items and answers, likelihoods up to rounding."""
    pytest.importorskip("vllm")
    adapter = store.ensure(Node(adapter_stage, "a", {"merged": False}, {"backbone": backbone}))
    found = {}
    for backend in ("hf", "vllm"):
        command = [
            "evaluate/run.py",
            "--model",
            "tiny_random",
            "--adapter",
            adapter.path / "adapter",
            "--suite",
            "mini",
            "--tasks",
            "gsm8k,mmlu,truthfulqa_mc2",
            "--limit",
            "2",
            "--max-gen-toks",
            "8",
            "--runs",
            tmp_path / backend,
            "--device",
            "cpu",
            "--backend",
            backend,
        ]
        env = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}  # vLLM takes that for a cluster
        done = processes.run(command, cwd=root, env=env)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
        (folder,) = (tmp_path / backend / "eval").glob("*/results.json")
        assert json.loads(folder.read_text())["backend"] == backend
        found[backend] = {
            name: pq.read_table(folder.parent / "samples" / f"{name}.parquet").to_pylist()
            for name in ("gsm8k", "mmlu", "truthfulqa_mc2")
        }
    for name, rows in found["hf"].items():
        for ours, theirs in zip(rows, found["vllm"][name], strict=True):
            same = ("subtask", "doc_id", "filter", "answer", "prompt_tokens", "prompt_hash", "target")
            assert [ours[key] for key in same] == [theirs[key] for key in same]
            if name == "gsm8k":
                assert ours["response"] == theirs["response"]
            else:
                choices, others = (json.loads(row["response"]) for row in (ours, theirs))
                assert [c[1] for c in choices] == pytest.approx([c[1] for c in others], rel=1e-3)
                assert ours["score"] == pytest.approx(theirs["score"], rel=1e-3)


def test_adapter_of_another_backbone_is_refused(
    adapter_stage: Stage, suite: SuiteConfig, backbone: Node, store: Store, tmp_path: Path
) -> None:
    other = backbone_stage.node(BackboneConfig(name="other", builder="tiny_random", dtype="bfloat16"))
    adapter = Node(adapter_stage, "a", {"merged": False}, {"backbone": backbone})
    with pytest.raises(BadInput, match="was trained on the backbone"):
        evaluation_stage.node(adapter, other, suite)
    with pytest.raises(BadInput, match="was trained on the backbone"):
        external_adapter.node(store.ensure(adapter).path, other, "other")
    node = Node(evaluation_stage.STAGE, "x", Evaluation(suite), {"adapter": adapter, "backbone": other})
    job = Job(node, tmp_path, {"adapter": store.ensure(adapter), "backbone": store.ensure(other)}, EXEC)
    with pytest.raises(BadInput, match="was trained on the backbone"):
        evaluation_stage.build(job)


def test_external_adapter_that_names_another_base_is_refused(backbone: Node, tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    settings = {"peft_type": "LORA", "base_model_name_or_path": "org/one"}
    (tmp_path / external_adapter.CONFIG).write_text(json.dumps(settings))
    with pytest.raises(BadInput, match=external_adapter.WEIGHTS):
        external_adapter.node(tmp_path, backbone, "org/one")
    (tmp_path / external_adapter.WEIGHTS).write_bytes(b"")
    with pytest.raises(BadInput, match="is not a whole safetensors file"):
        external_adapter.node(tmp_path, backbone, "org/one")
    save_file({}, tmp_path / external_adapter.WEIGHTS)
    with pytest.raises(BadInput, match="org/one"):
        external_adapter.node(tmp_path, backbone, "org/two")
    assert external_adapter.node(tmp_path, backbone, "/models/one").inputs["backbone"] is backbone
    for text in ("[]", "{", '{"schema": "adg-artifact/2", "inputs": {}}'):  # what is not ours is never to be deleted
        (tmp_path / "manifest.json").write_text(text)
        with pytest.raises(BadInput, match=r"manifest\.json is damaged.*Copy the adapter's files") as told:
            external_adapter.node(tmp_path, backbone, "/models/one")
        assert "elete" not in str(told.value)


# -- what comes back is held against what was asked ---------------------------------------------------


def changed(suite: SuiteConfig, task: str, **values: Any) -> SuiteConfig:
    return dataclasses.replace(suite, tasks={task: dataclasses.replace(suite.tasks[task], **values)})


@pytest.mark.parametrize(
    ("task", "values", "said"),
    [
        ("gsm8k", {"version": 2.0}, "its version is 3.0"),
        ("gsm8k", {"num_fewshot": 11}, "11 shots are expected"),
        ("truthfulqa_mc2", {"metric": "acc_norm"}, "no metric 'acc_norm' .*; it has acc "),
        ("truthfulqa_mc2", {"filter": "get-answer"}, "no filter 'get-answer'; it has none "),
        ("truthfulqa_mc2", {"items": 817}, "holds 12 items, expected 817"),
        ("truthfulqa_mc2", {"runs_code": True}, "model-written code"),
        (
            "mmlu",
            {"subtasks": ("mmlu_astronomie",)},
            r"did you mean 'mmlu_astronomy'\?\); check suite\.tasks\.mmlu\.sub",
        ),
    ],
)
def test_wrong_expectations_are_refused_before_the_model_is_loaded(
    suite: SuiteConfig,
    backbone: Node,
    store: Store,
    monkeypatch: pytest.MonkeyPatch,
    task: str,
    values: dict,
    said: str,
) -> None:
    """By what lm-eval's tasks are, also those that this project has no entry for; in the last task as in the first."""
    monkeypatch.delitem(BENCHMARKS, "truthfulqa_mc2")
    monkeypatch.setattr(evaluation_stage, "make_model", lambda job: pytest.fail("the model was loaded"))
    tasks = {"bbh": suite.tasks["bbh"], **changed(suite, task, **values).tasks}
    with pytest.raises(BadInput, match=said):
        store.ensure(evaluation_stage.node(None, backbone, dataclasses.replace(suite, tasks=tasks)))


@pytest.mark.parametrize(
    ("values", "said"),
    [({"metric": "f1"}, "no score 'f1'"), ({"filter": "get-answer"}, "no figure 'acc,get-answer'")],
)
def test_wrong_figure_is_no_figure(
    suite: SuiteConfig, backbone: Node, store: Store, monkeypatch: pytest.MonkeyPatch, values: dict, said: str
) -> None:
    """Where nothing was known before: a metric that is a function names its figures itself."""
    monkeypatch.delitem(BENCHMARKS, "truthfulqa_mc2")
    monkeypatch.setattr(lm_eval_tasks, "_refuse_other_figure", lambda *_: None)
    with pytest.raises(BadMeasurement, match=said):
        store.ensure(evaluation_stage.node(None, backbone, changed(suite, "truthfulqa_mc2", **values)))


def test_shots_of_a_task_that_says_zero_are_not_ignored(suite: SuiteConfig) -> None:
    loaded = lm_eval_tasks.load_task("truthfulqa_mc2", changed(suite, "truthfulqa_mc2", num_fewshot=1))
    assert loaded["tasks"]["truthfulqa_mc2"].get_config("num_fewshot") == 1


def test_a_template_is_compiled_once(suite: SuiteConfig) -> None:
    from lm_eval import utils

    loaded = lm_eval_tasks.load_task("gsm8k", suite)
    task = loaded["tasks"]["gsm8k"]
    docs = list(task.eval_docs)
    texts = [task.doc_to_text(doc) for doc in docs]
    assert len(set(texts)) == len(docs) > 1
    compiled = utils.env.from_string.cache_info().misses
    assert [task.doc_to_text(doc) for doc in docs] == texts
    assert utils.env.from_string.cache_info().misses == compiled


def test_cap_on_generated_tokens_never_raises_a_tasks_own(suite: SuiteConfig) -> None:
    for cap, expected in ((8, 8), (5000, 256)):
        loaded = lm_eval_tasks.load_task("gsm8k", dataclasses.replace(suite, max_gen_toks=cap))
        assert loaded["tasks"]["gsm8k"].get_config("generation_kwargs")["max_gen_toks"] == expected


def test_other_version_of_lm_eval_is_refused(suite: SuiteConfig) -> None:
    with pytest.raises(BadInput, match=r"pip install lm-eval==0\.4\.12"):
        lm_eval_tasks.check(dataclasses.replace(suite, harness="0.4.12"))


def broken_model(job: Job) -> dict[str, Any]:
    import torch

    model = loading.load_model(job.inputs["backbone"], "cpu")
    with torch.no_grad():
        model.model.norm.weight.fill_(float("nan"))
    model.save_pretrained(job.folder / "model")
    return {"rows_in": 1, "rows_out": 1, "failed": []}


def test_model_with_nan_weights_gets_no_score(
    adapter_stage: Stage, suite: SuiteConfig, backbone: Node, store: Store
) -> None:
    """MMLU would read 'acc' off the first NaN and generation would write token 0: both plausible numbers."""
    sys.modules["adapter_of_this_test"].broken = broken_model  # type: ignore[attr-defined]
    broken = Node(Stage("adapter", 1, "adapter_of_this_test:broken"), "nan", {}, {"backbone": backbone})
    with pytest.raises(BadMeasurement, match="not finite"):
        store.ensure(evaluation_stage.node(broken, backbone, part(suite, "mmlu")))


def test_chinese_suite_on_the_real_data(root: Path, shared_dir: Path, backbone: Node, store: Store) -> None:
    values = yaml.safe_load((root / "conf" / "suite" / "chinese.yaml").read_text())
    some = ["cmmlu_anatomy", "cmmlu_chinese_driving_rule"]
    chinese = SuiteConfig.of(
        {
            **values,
            "limit": 2,
            "data_root": str(shared_dir / "data" / "benchmarks"),
            "tasks": {"cmmlu": {**values["tasks"]["cmmlu"], "subtasks": some}},
        }
    )
    artifact = store.ensure(evaluation_stage.node(None, backbone, chinese))
    results = results_of(artifact)
    assert list(results["tasks"]["cmmlu"]["subtasks"]) == some and results["tasks"]["cmmlu"]["n"] == 4
    assert results["categories"] == {"avg": results["tasks"]["cmmlu"]["value"]}
    assert all(row["prompt"].count("答案：") == 6 for row in rows_of(artifact, "cmmlu")), "five examples"


def test_small_chinese_sets_are_read_by_the_real_tasks(root: Path, backbone: Node, store: Store) -> None:
    values = yaml.safe_load((root / "conf" / "suite" / "mini_chinese.yaml").read_text())
    artifact = store.ensure(evaluation_stage.node(None, backbone, SuiteConfig.of(values)))
    tasks = results_of(artifact)["tasks"]
    assert {name: (task["n"], len(task["subtasks"])) for name, task in tasks.items()} == {
        "cmmlu": (4, 2),
        "ceval-valid": (4, 2),
    }
    assert all(row["prompt"].count("答案：") == 2 for name in tasks for row in rows_of(artifact, name)), "one example"


def test_chinese_tasks_are_named_and_versioned_as_lm_eval_does(root: Path) -> None:
    values = yaml.safe_load((root / "conf" / "suite" / "chinese.yaml").read_text())
    known = lm_eval_tasks.known_tasks()
    for name, folder in (("cmmlu", "_default_template_yaml"), ("ceval-valid", "_default_ceval_yaml")):
        (place,) = known[name]
        own = yaml.safe_load((Path(place) / folder).read_text())
        task = values["tasks"][name]
        assert (task["repo"], task["version"]) == (own["dataset_path"], own["metadata"]["version"])
        assert task["metric"] in [entry["metric"] for entry in own["metric_list"]]


def test_missing_subset_of_local_data_names_the_command(suite: SuiteConfig, tmp_path: Path) -> None:
    (tmp_path / "openai" / "gsm8k").mkdir(parents=True)
    lacking = part(suite, "gsm8k", data_root=str(tmp_path))
    with pytest.raises(BadInput, match=r"could not be loaded.*hf download openai/gsm8k"):
        lm_eval_tasks.load_task("gsm8k", lacking)


def test_data_of_the_hub_is_loaded_from_the_folder_of_its_revision(
    suite: SuiteConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub

    pin, other = "e53f048" + "0" * 33, "f" * 40
    asked: list[tuple[Any, ...]] = []

    def snapshot_download(repo: str, repo_type: str, revision: str | None, local_files_only: bool, **_: Any) -> str:
        asked.append((repo, repo_type, revision, local_files_only))
        if revision != pin:
            raise OSError("no such revision here")
        return str(suite.root / repo)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    pinned = part(changed(suite, "gsm8k", revision=pin), "gsm8k", data_root=None)
    (task,) = lm_eval_tasks.load_task("gsm8k", pinned, offline=True)["tasks"].values()
    assert asked == [("openai/gsm8k", "dataset", pin, True)] and len(list(task.test_docs())) > 0
    with pytest.raises(BadInput, match=f"openai/gsm8k at {other} is not on this machine"):
        lm_eval_tasks.load_task("gsm8k", part(changed(suite, "gsm8k", revision=other), "gsm8k", data_root=None))


def test_identity(suite: SuiteConfig, backbone: Node, root: Path) -> None:
    base = evaluation_stage.node(None, backbone, suite).fingerprint
    assert evaluation_stage.node(None, backbone, suite).fingerprint == base
    for change in ({"limit": 3}, {"max_gen_toks": 9}, {"prompt": "alpaca"}, {"seed": 1}, {"chat_template": True}):
        assert evaluation_stage.node(None, backbone, dataclasses.replace(suite, **change)).fingerprint != base
    assert set(evaluation_stage.node(None, backbone, suite).config.data) == {t.repo for t in suite.tasks.values()}


def test_edited_data_and_folders_of_the_same_name_are_read_anew(suite: SuiteConfig, tmp_path: Path) -> None:
    def first_answers(folder: Path) -> list[str]:
        loaded = lm_eval_tasks.load_task("gsm8k", part(suite, "gsm8k", data_root=str(folder)))
        (task,) = loaded["tasks"].values()
        return [doc["answer"] for doc in list(task.test_docs())[:2]]

    assert suite.root is not None
    for name, number in (("a", "17"), ("b", "18")):
        shutil.copytree(suite.root / "openai" / "gsm8k", tmp_path / name / "openai" / "gsm8k")
        path = tmp_path / name / "openai" / "gsm8k" / "main" / "test.jsonl"
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        rows[0]["answer"] = f"#### {number}"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        assert first_answers(tmp_path / name)[0] == f"#### {number}"
    rows[1]["answer"] = "#### 19"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert first_answers(tmp_path / "b") == ["#### 18", "#### 19"]
