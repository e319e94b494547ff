"""The benchmarks' items as texts: the question and the answer of every row, test and other splits apart.

Read from the data sets themselves, so what is compared with a pool or counted in a mirror is what lm-eval is given.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adg import hub
from adg.errors import BadInput

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Columns:
    """How a task's data set is laid out. ``texts`` gives (question, answer) of a row."""

    texts: Callable[[Row], tuple[str, str]]
    test: str = "test"  # the split that is scored
    train: tuple[str, ...] = ()  # splits that training or few-shot examples may come from
    configs: tuple[str, ...] | None = None  # those that the task reads; None: every one of the data set
    prefix: str = ""  # an lm-eval subtask's name without it is a config


@dataclass(frozen=True)
class Split:
    """One split of one config. ``items`` are (question, answer) in the order of the file."""

    config: str
    name: str
    test: bool
    items: Sequence[tuple[str, str]]


def _gsm8k(row: Row) -> tuple[str, str]:
    # without the calculator's marks, which published copies leave out, and without the final figure
    return row["question"], re.sub(r"<<[^>]*>>", "", row["answer"].split("####")[0])


def _letters(question: str, answer: str) -> Callable[[Row], tuple[str, str]]:
    """Columns A to D hold the choices, ``answer`` the letter of the right one."""
    return lambda row: (row[question], str(row.get(row[answer]) or ""))


def _truthfulqa(row: Row) -> tuple[str, str]:
    targets = row["mc1_targets"]
    return row["question"], targets["choices"][list(targets["labels"]).index(1)]


TASKS = {
    "bbh": Columns(lambda row: (row["input"], row["target"]), prefix="bbh_cot_fewshot_"),
    "gsm8k": Columns(_gsm8k, train=("train",), configs=("main",)),
    "mmlu": Columns(lambda row: (row["question"], row["choices"][row["answer"]]), train=("dev",), prefix="mmlu_"),
    "truthfulqa_mc2": Columns(_truthfulqa, test="validation", configs=("multiple_choice",)),
    "mbpp": Columns(lambda row: (row["text"], row["code"]), train=("train", "validation", "prompt"), configs=("full",)),
    "humaneval": Columns(lambda row: (row["prompt"], row["canonical_solution"]), configs=("openai_humaneval",)),
    "cmmlu": Columns(_letters("Question", "Answer"), train=("dev",), prefix="cmmlu_"),
    "ceval-valid": Columns(_letters("question", "answer"), test="val", train=("dev",), prefix="ceval-valid_"),
}
COLLECTIONS = ("all", "auxiliary_train", "default")  # configs that repeat others, or that the task does not read


def read(task: str, folder: Path, subtasks: Sequence[str] | None = None) -> Iterator[Split]:
    """The splits of a task's data set in ``folder``, laid out as on the hub; ``subtasks`` (lm-eval names) leaves out
    other configs.

    Raises ``BadInput`` where a config, the test split or a column is missing.
    """
    import datasets

    columns = TASKS[task]
    try:
        if subtasks is not None and columns.configs is None:
            configs = [name.removeprefix(columns.prefix) for name in subtasks]
        else:
            configs = list(columns.configs or _configs(folder))
        for config in configs:
            builder = datasets.load_dataset_builder(str(folder), config)
            found = [str(name) for name in builder.config.data_files]
            if columns.test not in found:
                raise BadInput(
                    f"{folder}: the config {config} has the splits {', '.join(found)}; expected "
                    f"'{columns.test}', the one that {task} scores. Fetch the data set again"
                )
            for name in (columns.test, *columns.train):
                if name in found:
                    rows = builder.as_streaming_dataset(split=name)
                    yield Split(config, name, name == columns.test, [_texts(task, folder, config, row) for row in rows])
    except (FileNotFoundError, ValueError, datasets.exceptions.DatasetsError) as error:
        raise BadInput(
            f"the data of {task} cannot be read from {folder} ({type(error).__name__}: {error}); "
            f"fetch the data set again"
        ) from error


def locate(repo: str, revision: str | None, root: Path | None, offline: bool) -> Path:
    """The folder of a data set: below ``root``, or the hub's at ``revision``, downloaded unless ``offline``.

    Raises ``BadInput`` with the command that fetches it.
    """
    if root is not None:
        if not (root / repo).is_dir():
            raise BadInput(
                f"{root / repo} is missing; python -m experiments.fetch fills such a folder, or set "
                f"suite.data_root to one that holds {repo}/"
            )
        return root / repo
    return hub.download(repo, revision, offline=offline)


def _configs(folder: Path) -> list[str]:
    """Every config of the data set, in order of name, but for collections of others."""
    import datasets

    names = sorted(datasets.get_dataset_config_names(str(folder)))
    found = [name for name in names if name not in COLLECTIONS]
    if not found:
        raise BadInput(f"{folder} has the configs {', '.join(names)}; expected one a subtask. Fetch the data set again")
    return found


def _texts(task: str, folder: Path, config: str, row: Row) -> tuple[str, str]:
    try:
        question, answer = TASKS[task].texts(row)
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise BadInput(
            f"{folder}: a row of the config {config} has the columns {', '.join(row)}, in which {task} "
            f"finds no question and answer ({type(error).__name__}: {error}); it is another data set, or "
            f"another revision of it"
        ) from error
    return str(question), str(answer)
