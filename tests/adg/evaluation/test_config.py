"""The suites of conf/: what the paper ran, and small sets with the same settings."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from pathlib import Path

import pytest
import yaml

from adg import hub
from adg.artifacts.artifact import plain
from adg.artifacts.files import sha256_file
from adg.errors import BadInput
from adg.evaluation.config import EMBEDDED, SuiteConfig, TaskConfig

PAPER = {  # task: (shots, metric, filter, data set, first digits of its revision)
    "bbh": (3, "exact_match", "get-answer", "SaylorTwift/bbh", "b5306be6"),
    "gsm8k": (8, "exact_match", "strict-match", "openai/gsm8k", "e53f0488"),
    "mmlu": (4, "acc", "none", "cais/mmlu", "c30699e8"),
    "truthfulqa_mc2": (0, "acc", "none", "truthfulqa/truthful_qa", "741b8276"),
    "mbpp": (1, "pass_at_1", "none", "google-research-datasets/mbpp", "4bb6404f"),
    "humaneval": (0, "pass@1", "create_test", "openai/openai_humaneval", "7dce6050"),
}


def read(root: Path, name: str) -> SuiteConfig:
    return SuiteConfig.of(yaml.safe_load((root / "conf" / "suite" / f"{name}.yaml").read_text()))


def test_paper_suite_is_the_papers(root: Path) -> None:
    suite = read(root, "paper")
    found = {name: (t.num_fewshot, t.metric, t.filter, t.repo, str(t.revision)[:8]) for name, t in suite.tasks.items()}
    assert found == PAPER
    assert (suite.limit, suite.max_gen_toks, suite.data_root) == (None, None, None)
    assert not [r for name in suite.tasks for r in suite.partial_reasons(name, generates=True)]
    assert {name for name, t in suite.tasks.items() if t.runs_code} == {"mbpp", "humaneval"}
    assert sum(t.items or 0 for t in suite.tasks.values()) == 23353
    assert suite.tasks["gsm8k"].beside == ("flexible-extract",)


def test_mini_suite_differs_only_in_data_and_size(root: Path) -> None:
    paper, mini = read(root, "paper"), read(root, "mini")
    for name, task in mini.tasks.items():
        size = {"items": None, "subtasks": task.subtasks, "limit": task.limit, "num_fewshot": task.num_fewshot}
        assert task.num_fewshot <= paper.tasks[name].num_fewshot
        assert task == dataclasses.replace(paper.tasks[name], revision=None, **size)
        assert mini.partial_reasons(name, generates=True)
    assert list(mini.tasks) == list(paper.tasks)
    fewer = {name for name, task in mini.tasks.items() if task.num_fewshot < paper.tasks[name].num_fewshot}
    assert fewer == {"gsm8k"}
    assert [len(t.subtasks) for t in mini.tasks.values() if t.subtasks] == [1, 2]
    assert mini.root == EMBEDDED and EMBEDDED.is_dir()


def test_plain_yaml_composes_as_structured_config(root: Path) -> None:
    """The schema accepts the files, types included, and gives the same dataclasses back."""
    OmegaConf = pytest.importorskip("omegaconf").OmegaConf
    for name in ("paper", "mini"):
        schema = OmegaConf.structured(SuiteConfig)
        OmegaConf.set_readonly(schema, False)
        OmegaConf.set_readonly(schema.tasks, False)
        merged = OmegaConf.merge(schema, OmegaConf.load(root / "conf" / "suite" / f"{name}.yaml"))
        assert OmegaConf.to_object(merged) == read(root, name)


def test_identity_holds_the_data_not_its_place(root: Path, tmp_path: Path) -> None:
    here = read(root, "mini")
    shutil.copytree(EMBEDDED, tmp_path / "copy")
    there = dataclasses.replace(here, data_root=str(tmp_path / "copy"))
    assert plain(here) == plain(there)
    assert here.digests() == there.digests()
    assert set(here.digests()) == {task.repo for task in here.tasks.values()}
    with open(next((tmp_path / "copy" / "openai" / "gsm8k").rglob("test.jsonl")), "a") as file:
        file.write("\n")
    changed = {repo for repo, digest in there.digests().items() if digest != here.digests()[repo]}
    assert changed == {"openai/gsm8k"}


def test_missing_local_data_names_it_and_the_command(root: Path, tmp_path: Path) -> None:
    suite = dataclasses.replace(read(root, "paper"), data_root=str(tmp_path))
    with pytest.raises(BadInput, match=r"SaylorTwift/bbh.*hf download SaylorTwift/bbh .*--revision b5306be6"):
        suite.digests()


def test_hub_data_needs_no_digest(root: Path) -> None:
    assert read(root, "paper").digests() == {}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"prompt": "alpacca"}, "did you mean 'alpaca'"),
        ({"backend": "vllm2"}, "suite.backend"),
        ({"limit": 0}, "suite.limit is 0"),
        ({"dtype": "bf16"}, "suite.dtype"),
        ({"max_gen_toks": -1}, "suite.max_gen_toks is -1"),
        ({"limits": 3}, "did you mean 'limit'"),
        ({"tasks": {"gsm8k": {"shots": 3, "metric": "m", "repo": "a/b"}}}, "suite.tasks.gsm8k has no 'shots'"),
        ({"tasks": {"gsm8k": {"repo": "a/b"}}}, "needs a metric"),
        ({"data_root": None}, "has no revision"),
        ({"tasks": {}}, "suite.tasks is empty"),
        ({"tasks": {"gsm8k": "all"}}, "suite.tasks.gsm8k is 'all'"),
        ({"limit": "4"}, "limit of the suite is '4'; expected a whole number or null"),
        ({"limit": 2.5}, "limit of the suite is 2.5"),
        ({"limit": True}, "limit of the suite is True"),
        ({"chat_template": "no"}, "chat_template of the suite is 'no'; expected true or false"),
        ({"seed": None}, "seed of the suite is None; expected a whole number"),
        ({"chat_template": True, "prompt": "alpaca"}, "set suite.prompt=plain or suite.chat_template=false"),
        ({"merge_adapter": True, "backend": "vllm"}, "set suite.merge_adapter=false"),
    ],
)
def test_wrong_values_are_refused_by_name(root: Path, change: dict, said: str) -> None:
    values = yaml.safe_load((root / "conf" / "suite" / "mini.yaml").read_text())
    with pytest.raises(BadInput, match=said):
        SuiteConfig.of({**values, **change})


@pytest.mark.parametrize(
    ("task", "values", "said"),
    [
        (
            "gsm8k",
            {"metric": "exact_mach"},
            r"metric is 'exact_mach' \(did you mean 'exact_match'\?\); gsm8k has exact_match",
        ),
        ("gsm8k", {"filter": "none"}, "filter is 'none'; gsm8k has strict-match, flexible-extract"),
        ("gsm8k", {"beside": ["flexible"]}, "beside is 'flexible' .*did you mean 'flexible-extract'"),
        ("mmlu", {"num_fewshot": 6}, "num_fewshot is 6; mmlu has 5 examples to show"),
        ("bbh", {"num_fewshot": 4}, "num_fewshot is 4; bbh has 3 examples"),
        ("gsm8k", {"runs_code": True}, "runs_code is true; scoring gsm8k does not run"),
        ("humaneval", {"runs_code": False}, "runs_code is false; scoring humaneval runs"),
        ("mmlu", {"subtasks": "mmlu_astronomy"}, "subtasks .* is 'mmlu_astronomy'; expected a list of names or null"),
        ("mmlu", {"items": 0}, "items is 0"),
        ("mmlu", {"version": "one"}, "version .* is 'one'; expected a number"),
        ("mmlu", {"limit": -1}, "limit of a task is -1"),
    ],
)
def test_what_a_benchmark_has_not_is_refused_with_its_key(root: Path, task: str, values: dict, said: str) -> None:
    mini = yaml.safe_load((root / "conf" / "suite" / "mini.yaml").read_text())
    with pytest.raises(BadInput, match=rf"suite\.tasks\.{task}.*{said}"):
        SuiteConfig.of({**mini, "tasks": {task: {**mini["tasks"][task], **values}}})


@pytest.mark.parametrize("values", [{"num_fewshot": -1}, {"num_fewshot": "3"}, {"revision": "main"}, {"subtasks": []}])
def test_wrong_task_values_are_refused(values: dict) -> None:
    with pytest.raises(BadInput):
        TaskConfig(metric="acc", repo="a/b", **values)


def test_the_smaller_limit_counts(root: Path) -> None:
    mini = read(root, "mini")
    tasks = {**mini.tasks, "bbh": dataclasses.replace(mini.tasks["bbh"], limit=2)}
    mini = dataclasses.replace(mini, tasks=tasks)
    assert dataclasses.replace(mini, limit=1).limit_of("bbh") == 1
    assert dataclasses.replace(mini, limit=None).limit_of("bbh") == 2
    assert dataclasses.replace(mini, limit=None).limit_of("gsm8k") is None


def test_reasons_for_partial(root: Path) -> None:
    suite = dataclasses.replace(read(root, "paper"), max_gen_toks=64)
    assert suite.partial_reasons("mmlu", generates=False) == []
    assert len(suite.partial_reasons("bbh", generates=True)) == 1


def test_a_mirror_is_held_against_its_manifest(root: Path, tmp_path: Path) -> None:
    mini, revision = read(root, "mini"), "0123456789abcdef0123456789abcdef01234567"
    assert mini.root is not None
    task = dataclasses.replace(mini.tasks["gsm8k"], revision=revision)
    suite = dataclasses.replace(mini, tasks={"gsm8k": task}, data_root=str(tmp_path / "benchmarks"))
    folder = tmp_path / "benchmarks" / task.repo
    shutil.copytree(mini.root / task.repo, folder)
    plain = suite.digests()

    def manifest(revision: str) -> None:
        files = {path.relative_to(folder).as_posix(): {"sha256": sha256_file(path)} for path in folder.rglob("*.*")}
        entry = {"folder": f"benchmarks/{task.repo}", "revision": revision, "files": files}
        (tmp_path / "manifest.json").write_text(json.dumps({"schema": hub.SCHEMA, "sources": {"one": entry}}))

    manifest(revision)
    assert suite.digests() == plain
    manifest("f" * 40)
    with pytest.raises(BadInput, match=r"holds the revision ffff.*the suite expects 0123"):
        suite.digests()
    manifest(revision)
    with (folder / "main" / "test.jsonl").open("a") as file:
        file.write("\n")
    with pytest.raises(BadInput, match=r"main/test\.jsonl has sha256 .*--repair"):
        suite.digests()
    (folder / "main" / "test.jsonl").unlink()
    os.utime(folder, ns=(2**62, 2**62))  # two changes within a tick of the clock look like one
    with pytest.raises(BadInput, match=r"main/test\.jsonl has sha256 None"):
        suite.digests()
