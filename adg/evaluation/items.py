"""The benchmarks' items as texts: the question and the answer of every row, test and other splits apart.

Read from the data sets themselves, so what is compared with a pool or counted in a mirror is what lm-eval is given.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from adg import hub
from adg.errors import BadInput
from adg.evaluation.benchmarks import BENCHMARKS, Row


@dataclass(frozen=True)
class Split:
    """One split of one config. ``items`` are (question, answer) in the order of the file."""

    config: str
    name: str
    test: bool
    items: Sequence[tuple[str, str]]


COLLECTIONS = ("all", "auxiliary_train", "default")  # configs that repeat others, or that the task does not read


def read(task: str, folder: Path, subtasks: Sequence[str] | None = None) -> Iterator[Split]:
    """The splits of a task's data set in ``folder``, laid out as on the hub; ``subtasks`` (lm-eval names) leaves out
    other configs.

    Raises ``BadInput`` where a config, the test split or a column is missing.
    """
    import datasets

    data = BENCHMARKS[task].data
    try:
        if subtasks is not None and data.configs is None:
            configs = [name.removeprefix(data.prefix) for name in subtasks]
        else:
            configs = list(data.configs or _configs(folder))
        for config in configs:
            builder = datasets.load_dataset_builder(str(folder), config)
            splits = [str(name) for name in builder.config.data_files]
            if data.test not in splits:
                raise BadInput(
                    f"{folder}: the config {config} has the splits {', '.join(splits)}; expected "
                    f"'{data.test}', the one that {task} scores. Fetch the data set again"
                )
            for name in (data.test, *data.train):
                if name in splits:
                    rows = builder.as_streaming_dataset(split=name)
                    yield Split(config, name, name == data.test, [_texts(task, folder, config, row) for row in rows])
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
                f"{root / repo} is missing; adg fetch fills such a folder, or set "
                f"suite.data_root to one that holds {repo}/"
            )
        return root / repo
    return hub.download(repo, revision, offline=offline)


def _configs(folder: Path) -> list[str]:
    """Every config of the data set, in order of name, but for collections of others."""
    import datasets

    names = sorted(datasets.get_dataset_config_names(str(folder)))
    configs = [name for name in names if name not in COLLECTIONS]
    if not configs:
        raise BadInput(f"{folder} has the configs {', '.join(names)}; expected one a subtask. Fetch the data set again")
    return configs


def _texts(task: str, folder: Path, config: str, row: Row) -> tuple[str, str]:
    try:
        question, answer = BENCHMARKS[task].data.texts(row)
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise BadInput(
            f"{folder}: a row of the config {config} has the columns {', '.join(row)}, in which {task} "
            f"finds no question and answer ({type(error).__name__}: {error}); it is another data set, or "
            f"another revision of it"
        ) from error
    return str(question), str(answer)
