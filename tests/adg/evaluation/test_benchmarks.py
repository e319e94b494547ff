"""The table of benchmarks: whole, as the suites use it, and all that is said of a benchmark."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from adg.artifacts.artifact import Node, Stage
from adg.evaluation import aggregate, benchmarks, contamination, items
from adg.evaluation.benchmarks import BENCHMARKS, CATEGORIES, Benchmark, DataSet
from adg.evaluation.config import SuiteConfig

ENTRY = re.compile(r"```python\n(\"\w+\": Benchmark\(.*?)```", re.DOTALL)


def suites(root: Path) -> dict[str, dict[str, Any]]:
    return {path.stem: yaml.safe_load(path.read_text()) for path in sorted((root / "conf/suite").glob("*.yaml"))}


def test_every_task_of_a_suite_has_its_entry_and_uses_its_figures(root: Path) -> None:
    for name, suite in suites(root).items():
        for task, values in suite["tasks"].items():
            entry = BENCHMARKS[task]
            assert (values["metric"], values.get("filter", "none")) == (entry.metrics[0], entry.filters[0]), (
                name,
                task,
            )
            assert values.get("runs_code", False) == entry.runs_code
            assert entry.examples is None or values["num_fewshot"] <= entry.examples


def test_the_papers_average_is_of_six() -> None:
    assert benchmarks.members() == {
        "reasoning": ("bbh", "gsm8k"),
        "knowledge": ("mmlu", "truthfulqa_mc2"),
        "coding": ("mbpp", "humaneval"),
    }
    assert list(CATEGORIES) == [*benchmarks.members(), "avg"]
    assert [task for task in BENCHMARKS if not benchmarks.binary(task)] == ["truthfulqa_mc2"]
    assert (benchmarks.title("x"), benchmarks.short("a_long_name"), benchmarks.binary("x")) == ("x", "a_long_n", False)


def test_the_documented_entry_is_all_that_a_benchmark_needs(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """docs/extending.md: items, averages, the comparison with a pool and the names follow."""
    (text,) = ENTRY.findall((root / "docs" / "extending.md").read_text())
    ((task, entry),) = eval(f"{{{text}}}", {"Benchmark": Benchmark, "DataSet": DataSet}).items()  # noqa: S307 - our own text
    assert task not in BENCHMARKS
    monkeypatch.setitem(BENCHMARKS, task, entry)
    folder = tmp_path / "allenai" / "ai2_arc" / "ARC-Easy"
    folder.mkdir(parents=True)
    choices = {"label": ["A", "B"], "text": ["a wren", "an owl"]}
    row = json.dumps({"question": "Which bird hunts at night?", "choices": choices, "answerKey": "B"})
    for split in ("train", "test"):
        (folder / f"{split}.jsonl").write_text(row + "\n")
    files = [{"split": s, "path": f"ARC-Easy/{s}.jsonl"} for s in ("train", "test")]
    header = yaml.safe_dump({"configs": [{"config_name": "ARC-Easy", "data_files": files}]})
    (folder.parent / "README.md").write_text(f"---\n{header}---\n")
    splits = list(items.read(task, folder.parent))
    assert [(s.name, s.test, s.items) for s in splits] == [
        ("test", True, [("Which bird hunts at night?", "an owl")]),
        ("train", False, [("Which bird hunts at night?", "an owl")]),
    ]
    values = {"num_fewshot": 0, "metric": entry.metrics[0], "repo": "allenai/ai2_arc", "version": 1.0}
    suite = SuiteConfig(name="mine", data_root=str(tmp_path), tasks={task: values})
    compared = contamination.node(Node(Stage("pool", 1, "x:y"), "p", {}), suite)
    assert list(compared.config.benchmarks) == [task] and compared.config.unknown == ()
    assert aggregate.categories({task: 0.5}) == {"avg": 0.5}
    assert "avg" in aggregate.categories(dict.fromkeys([*BENCHMARKS], 0.5)) and benchmarks.title(task) == "ARC easy"
