"""The benchmarks: what each is called, what it counts for, how its data set is laid out and what lm-eval measures.

The one table. Texts and counts of items, averages, the checks of a suite, the columns of a report and the published
figures all read it, so that a benchmark is added by an entry here, or by a package's entry point
(``adg.plugins.BENCHMARKS``), and its place in a file of conf/suite. Nothing in here bears identity: what an evaluation
or a comparison is made of stands in the suite, and in the files of tasks that are not lm-eval's own.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adg import plugins

Row = Mapping[str, Any]


@dataclass(frozen=True)
class DataSet:
    """How a benchmark's data set is laid out. ``texts`` gives (question, answer) of a row."""

    texts: Callable[[Row], tuple[str, str]]
    test: str = "test"  # the split that is scored
    train: tuple[str, ...] = ()  # splits that training or few-shot examples may come from
    configs: tuple[str, ...] | None = None  # those that the task reads; None: every one of the data set
    prefix: str = ""  # an lm-eval subtask's name without it is a config


@dataclass(frozen=True)
class Benchmark:
    """One benchmark, by lm-eval's name of the task or group. The first of ``metrics`` and ``filters`` is the usual
    figure; with another, the suite says so."""

    title: str
    data: DataSet
    metrics: tuple[str, ...]  # lm-eval's names of the figures that an item has
    filters: tuple[str, ...] = ("none",)
    short: str = ""  # name in a terminal, up to 8 letters; "": the title
    category: str = ""  # of the paper's average, a key of CATEGORIES; "": none of the paper's benchmarks
    examples: int | None = None  # there are to show as shots; None: as many as a training split holds
    binary: bool = True  # an item scores 0 or 1, so that the score is a proportion
    runs_code: bool = False  # scoring runs model-written programs
    tasks: str | Path | None = None  # a folder with the file of a task that lm-eval has not


@dataclass(frozen=True)
class Category:
    """A column of the table that averages others."""

    title: str
    short: str


# of the project page, whose averages they reproduce; "avg" is the mean of the others
CATEGORIES = {
    "reasoning": Category("Reasoning", "Reason"),
    "knowledge": Category("Knowledge", "Know"),
    "coding": Category("Coding", "Coding"),
    "avg": Category("Average", "Avg"),
}


def _gsm8k(row: Row) -> tuple[str, str]:
    # without the calculator's marks, which published copies leave out, and without the final figure
    return row["question"], re.sub(r"<<[^>]*>>", "", row["answer"].split("####")[0])


def _letters(question: str, answer: str) -> Callable[[Row], tuple[str, str]]:
    """Columns A to D hold the choices, ``answer`` the letter of the right one."""
    return lambda row: (row[question], str(row.get(row[answer]) or ""))


def _truthfulqa(row: Row) -> tuple[str, str]:
    targets = row["mc1_targets"]
    return row["question"], targets["choices"][list(targets["labels"]).index(1)]


class Benchmarks(MutableMapping[str, Benchmark]):
    """The project's own and, after them, those of other packages, which are asked for when the table is first read.

    Raises ``BadInput`` then for an entry point that is no benchmark, or one with the name of another.
    """

    def __init__(self, own: Mapping[str, Benchmark]) -> None:
        self._own = own

    @functools.cached_property
    def _every(self) -> dict[str, Benchmark]:
        return {**self._own, **dict(_of_packages(self._own))}

    def __getitem__(self, task: str) -> Benchmark:
        return self._every[task]

    def __setitem__(self, task: str, benchmark: Benchmark) -> None:
        self._every[task] = benchmark

    def __delitem__(self, task: str) -> None:
        del self._every[task]

    def __iter__(self) -> Iterator[str]:
        return iter(self._every)

    def __len__(self) -> int:
        return len(self._every)


def _of_packages(own: Mapping[str, Benchmark]) -> Iterator[tuple[str, Benchmark]]:
    for name, point in plugins.found(plugins.BENCHMARKS).items():
        added = plugins.load(point)
        if not isinstance(added, Benchmark):
            raise plugins.refused(point, "is no Benchmark")
        if name in own:
            raise plugins.refused(point, f"has the name of a benchmark that is there, {own[name].title}")
        if added.category:
            raise plugins.refused(point, f"has the category '{added.category}', which is of the paper's six alone")
        if added.tasks is not None and not Path(added.tasks).is_dir():
            raise plugins.refused(point, f"names the folder {added.tasks} of tasks, which is not there")
        yield name, added


# in the order of the table's columns
_OWN = {
    "bbh": Benchmark(
        "BBH",
        DataSet(lambda row: (row["input"], row["target"]), prefix="bbh_cot_fewshot_"),
        ("exact_match",),
        ("get-answer",),
        category="reasoning",
        examples=3,
    ),
    "gsm8k": Benchmark(
        "GSM8K",
        DataSet(_gsm8k, train=("train",), configs=("main",)),
        ("exact_match",),
        ("strict-match", "flexible-extract"),
        category="reasoning",
    ),
    "mmlu": Benchmark(
        "MMLU",
        DataSet(lambda row: (row["question"], row["choices"][row["answer"]]), train=("dev",), prefix="mmlu_"),
        ("acc",),
        category="knowledge",
        examples=5,
    ),
    "truthfulqa_mc2": Benchmark(
        "TruthfulQA",
        DataSet(_truthfulqa, test="validation", configs=("multiple_choice",)),
        ("acc",),
        short="TQA",
        category="knowledge",
        binary=False,  # the probability of the true answers
    ),
    "mbpp": Benchmark(
        "MBPP",
        DataSet(lambda row: (row["text"], row["code"]), train=("train", "validation", "prompt"), configs=("full",)),
        ("pass_at_1",),
        category="coding",
        examples=3,
        runs_code=True,
    ),
    "humaneval": Benchmark(
        "HumanEval",
        DataSet(lambda row: (row["prompt"], row["canonical_solution"]), configs=("openai_humaneval",)),
        ("pass@1",),
        ("create_test",),
        short="HEval",
        category="coding",
        runs_code=True,
    ),
    "cmmlu": Benchmark(
        "CMMLU",
        DataSet(_letters("Question", "Answer"), train=("dev",), prefix="cmmlu_"),
        ("acc", "acc_norm"),
        examples=5,
    ),
    "ceval-valid": Benchmark(
        "C-Eval",
        DataSet(_letters("question", "answer"), test="val", train=("dev",), prefix="ceval-valid_"),
        ("acc", "acc_norm"),
        examples=5,
    ),
}
BENCHMARKS = Benchmarks(_OWN)


def members() -> dict[str, tuple[str, ...]]:
    """The tasks of each category of the paper's average."""
    return {
        name: tuple(task for task, benchmark in BENCHMARKS.items() if benchmark.category == name)
        for name in CATEGORIES
        if name != "avg"
    }


def title(task: str) -> str:
    """What a report calls a task or a category; an unknown one keeps its own name."""
    known = BENCHMARKS.get(task) or CATEGORIES.get(task)
    return known.title if known else task


def short(task: str) -> str:
    """The same in a terminal, in at most 8 letters."""
    known = BENCHMARKS.get(task) or CATEGORIES.get(task)
    return (known.short or known.title if known else task)[:8]


def binary(task: str) -> bool:
    """Whether an item of this task scores 0 or 1; of an unknown one it is not known, and no proportion is claimed."""
    return task in BENCHMARKS and BENCHMARKS[task].binary
