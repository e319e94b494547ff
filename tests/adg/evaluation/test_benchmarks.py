"""The table of benchmarks: whole, as the suites use it, and all that is said of a benchmark."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from adg import plugins
from adg.artifacts.artifact import Node, Stage
from adg.errors import BadInput
from adg.evaluation import aggregate, benchmarks, contamination, items, lm_eval_tasks
from adg.evaluation.benchmarks import BENCHMARKS, CATEGORIES, Benchmark, Benchmarks, DataSet
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


ADDED = """
from adg.evaluation.benchmarks import Benchmark, DataSet
texts = DataSet(lambda row: (row["a"], row["b"]))
own = Benchmark("Own", texts, ("acc",), tasks={tasks!r})
paper = Benchmark("Own", texts, ("acc",), category="coding")
away = Benchmark("Own", texts, ("acc",), tasks="/no/such/folder")
"""


def test_a_package_adds_a_benchmark_with_its_task(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    """By entry point, after the project's own; what cannot be meant is refused with the package's name. The file of the
    task is found, and is part of what identifies an evaluation."""
    info, tasks = tmp_path / "adds-1.0.dist-info", tmp_path / "tasks"
    for folder in (info, tasks):
        folder.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: adds\nVersion: 1.0\n")
    (tasks / "own.yaml").write_text("task: own\n")
    (tmp_path / "adds_one.py").write_text(ADDED.format(tasks=str(tasks)))
    monkeypatch.syspath_prepend(str(tmp_path))
    request.addfinalizer(plugins.found.cache_clear)

    def table(line: str) -> Benchmarks:
        (info / "entry_points.txt").write_text(f"[adg.benchmarks]\n{line}\n")
        plugins.found.cache_clear()
        return Benchmarks({"gsm8k": BENCHMARKS["gsm8k"]})

    found = table("own = adds_one:own")
    assert list(found) == ["gsm8k", "own"] and len(found) == 2 and found["own"].title == "Own"
    for line, why in (
        ("own = adds_one:texts", "is no Benchmark"),
        ("gsm8k = adds_one:own", "has the name of a benchmark that is there, GSM8K"),
        ("own = adds_one:paper", "has the category 'coding'"),
        ("own = adds_one:away", "names the folder /no/such/folder of tasks, which is not there"),
    ):
        with pytest.raises(BadInput, match=why):
            list(table(line))

    values = yaml.safe_load((root / "conf/suite/mini.yaml").read_text())
    own = {"num_fewshot": 0, "metric": "acc", "repo": "openai/gsm8k", "version": 1.0}
    monkeypatch.setitem(BENCHMARKS, "own", found["own"])
    suite = SuiteConfig.of({**values, "tasks": {**values["tasks"], "own": own}})
    request.addfinalizer(lm_eval_tasks.known_tasks.cache_clear)
    lm_eval_tasks.known_tasks.cache_clear()
    lm_eval_tasks.check(suite)
    before = lm_eval_tasks.digests(suite)
    assert list(before) == ["task:own"] and lm_eval_tasks.digests(SuiteConfig.of(values)) == {}
    (tasks / "own.yaml").write_text("task: own\ndoc_to_text: otherwise\n")
    assert lm_eval_tasks.digests(suite) != before
