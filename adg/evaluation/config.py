"""What is measured: the tasks of a suite, with every setting that lm-eval could silently choose written down.

Versions, shots, metrics and data revisions stand here as expectations; the harness holds what comes back against them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import cache
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from adg import hub, places
from adg.artifacts.files import sha256_file
from adg.errors import BadInput, nearest
from adg.evaluation.benchmarks import BENCHMARKS
from adg.execution import DTYPES, ENGINES
from adg.options import location

MINI = "mini:"  # prefix of the data folders that come with the project
EMBEDDED = places.ROOT / "evaluate" / "benchmarks" / "mini"
NAMES = {str: "a text", int: "a whole number", float: "a number", bool: "true or false", tuple: "a list of names"}
NAMES[dict] = "tasks by name"
CHOICES = {
    "prompt": ("plain", "alpaca"),
    "backend": ENGINES,
    "dtype": ("auto", *DTYPES),
}


@dataclass(frozen=True)
class TaskConfig:
    """One task as lm-eval names it (a group such as ``bbh`` counts as one task)."""

    num_fewshot: int = 0
    metric: str = "???"  # lm-eval's name of the metric and of the filter before it, together the table's figure
    filter: str = "none"
    version: float = 0.0  # metadata.version of the task (of a group: of its subtasks)
    repo: str = "???"  # data set on the hub, and folder below data_root
    revision: str | None = None  # commit of the data set; needed unless there is a data_root
    items: int | None = None  # items of the whole task, checked when nothing is left out
    subtasks: tuple[str, ...] | None = None  # lm-eval names; null = all; fewer mark the task as partial
    limit: int | None = None  # items per subtask; the smaller of this and the suite's counts
    beside: tuple[str, ...] = ()  # further filters whose figure is kept beside the table's
    runs_code: bool = False  # scoring runs model-written programs

    def __post_init__(self) -> None:
        _refuse_wrong_types(self, "of a task of the suite")
        for name in ("subtasks", "beside"):
            value = getattr(self, name)
            object.__setattr__(self, name, None if value is None else tuple(value))
        if self.subtasks == ():
            raise BadInput("a task of the suite has an empty list of subtasks; name some, or null for all")
        if self.limit is not None and self.limit < 1:
            raise BadInput(f"the limit of a task is {self.limit}; expected null or at least 1")
        if "???" in (self.metric, self.repo):
            raise BadInput("a task of the suite needs a metric and a repo; conf/suite/paper.yaml shows both")
        if self.num_fewshot < 0:
            raise BadInput(f"num_fewshot is {self.num_fewshot!r}; expected a whole number, 0 or more")
        if self.items is not None and self.items < 1:
            raise BadInput(f"items is {self.items}; expected null or at least 1")
        if self.revision is not None and not hub.is_commit(self.revision):
            raise BadInput(f"the revision of {self.repo} is {self.revision!r}; expected a 40-digit commit hash")


@dataclass(frozen=True)
class SuiteConfig:
    """A named set of tasks and how they are put to the model."""

    name: str = "???"
    tasks: dict[str, Any] = field(default_factory=dict)  # name -> TaskConfig, or its values
    limit: int | None = None  # items per subtask; marks every result as partial
    max_gen_toks: int | None = None  # cap on generated tokens, below the tasks' own; marks generating tasks as partial
    data_root: str | None = location()  # its files' digests identify it
    prompt: str = "plain"  # plain: the tasks' own | alpaca: wrapped in the template of training
    chat_template: bool = False
    backend: str = "hf"  # of lm-eval: hf | vllm; a table holds results of one only
    dtype: str = "auto"  # of the weights while evaluating; auto: the backbone's own
    merge_adapter: bool = False  # fold a LoRA adapter into the weights first: faster, the same up to their rounding
    seed: int = 1234  # draws few-shot examples where a task samples them (lm-eval's own default)
    harness: str = "0.4.13"  # version of lm-eval

    def __post_init__(self) -> None:
        _refuse_wrong_types(self, "of the suite")
        if not self.tasks:
            raise BadInput("suite.tasks is empty; name at least one task, as conf/suite/paper.yaml does")
        object.__setattr__(self, "tasks", {name: _task(name, values) for name, values in self.tasks.items()})
        for name, allowed in CHOICES.items():
            value = getattr(self, name)
            if value not in allowed:
                raise BadInput(
                    f"suite.{name} is {value!r}{nearest(str(value), list(allowed))}; "
                    f"expected one of {', '.join(allowed)}"
                )
        if self.chat_template and self.prompt == "alpaca":
            raise BadInput(
                "suite.prompt=alpaca wraps prompts in the template of training and suite.chat_template=true in the "
                "tokenizer's; set suite.prompt=plain or suite.chat_template=false"
            )
        if self.merge_adapter and self.backend == "vllm":
            raise BadInput(
                "suite.merge_adapter is true, but suite.backend=vllm runs adapters beside the weights; "
                "set suite.merge_adapter=false"
            )
        for name in ("limit", "max_gen_toks"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise BadInput(f"suite.{name} is {value}; expected null or at least 1")
        if self.data_root is None:
            for name, task in self.tasks.items():
                if task.revision is None:
                    raise BadInput(
                        f"suite.tasks.{name} has no revision of {task.repo}; pin one, or set "
                        f"suite.data_root to a folder that holds {task.repo}/"
                    )

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> SuiteConfig:
        """From plain values, as a file of conf/suite holds them."""
        _refuse_unknown("the suite", cls, values)
        return cls(**values)

    @property
    def root(self) -> Path | None:
        """The folder of local data, laid out as ``<owner>/<data set>/...``, or None for the hub."""
        if self.data_root is None:
            return None
        if self.data_root.startswith(MINI):
            return EMBEDDED / self.data_root.removeprefix(MINI)
        return Path(self.data_root).expanduser().absolute()

    def limit_of(self, task: str) -> int | None:
        """Items per subtask of this task, None for all."""
        return min((n for n in (self.limit, self.tasks[task].limit) if n is not None), default=None)

    def partial_reasons(self, task: str, generates: bool) -> list[str]:
        """Why the result of this task is not that of the whole benchmark; [] when it is. ``generates``: whether the
        task lets the model write (others are not touched by a cap on generated tokens)."""
        cfg, limit, reasons = self.tasks[task], self.limit_of(task), []
        if limit is not None:
            reasons.append(f"at most {limit} items a subtask (limit)")
        if self.max_gen_toks is not None and generates:
            reasons.append(f"at most {self.max_gen_toks} generated tokens (suite.max_gen_toks)")
        if cfg.subtasks is not None:
            reasons.append(f"{len(cfg.subtasks)} named subtasks of {task}")
        return reasons

    def digests(self) -> dict[str, str]:
        """Digest of each local data set by its name; {} when the data comes from the hub. Raises ``BadInput``."""
        if self.root is None:
            return {}
        digests = {}
        for name, task in sorted(self.tasks.items()):
            folder = self.root / task.repo
            if not folder.is_dir():
                raise BadInput(
                    f"{folder} is missing, the data of the task {name}; put a copy of the data set there: "
                    f"hf download {task.repo} --repo-type dataset --revision {task.revision or 'main'} "
                    f"--local-dir {folder}"
                )
            files = _digests(folder, max(p.stat().st_mtime_ns for p in [folder, *folder.rglob("*")]))
            hub.check(self.root, task.repo, task.revision, files)
            listed = "".join(f"{path} {digest}\n" for path, digest in files.items())
            digests[task.repo] = hashlib.sha256(listed.encode()).hexdigest()
        return digests


def _task(name: str, values: Any) -> TaskConfig:
    if not isinstance(values, (TaskConfig, Mapping)):
        raise BadInput(f"suite.tasks.{name} is {values!r}; expected its metric, repo, num_fewshot and so on")
    if isinstance(values, TaskConfig):
        task = values
    else:
        _refuse_unknown(f"suite.tasks.{name}", TaskConfig, values)
        try:
            task = TaskConfig(**values)
        except BadInput as error:
            raise BadInput(f"suite.tasks.{name}: {error}") from error
    if name in BENCHMARKS:
        _refuse_other_figures(name, task)
    return task


def _refuse_other_figures(name: str, task: TaskConfig) -> None:
    """Refuse what a benchmark has not: a metric, a filter, more examples, another mark for running programs."""
    benchmark = BENCHMARKS[name]
    figures = [("metric", task.metric, benchmark.metrics), ("filter", task.filter, benchmark.filters)]
    figures += [("beside", other, benchmark.filters) for other in task.beside]
    for key, value, known in figures:
        if value not in known:
            raise BadInput(
                f"suite.tasks.{name}.{key} is {value!r}{nearest(value, list(known))}; {name} has {', '.join(known)}"
            )
    if benchmark.examples is not None and task.num_fewshot > benchmark.examples:
        raise BadInput(
            f"suite.tasks.{name}.num_fewshot is {task.num_fewshot}; {name} has {benchmark.examples} examples to show"
        )
    if task.runs_code != benchmark.runs_code:
        raise BadInput(
            f"suite.tasks.{name}.runs_code is {str(task.runs_code).lower()}; scoring {name} "
            f"{'runs' if benchmark.runs_code else 'does not run'} model-written programs"
        )


def _refuse_wrong_types(config: Any, what: str) -> None:
    """Refuse a value that is not of its field's type; a file of conf/ may hold anything."""
    for name, kind in get_type_hints(type(config)).items():
        value, allowed = getattr(config, name), get_args(kind) or (kind,)
        if get_origin(kind) in (tuple, dict):
            allowed = (kind,)
        if not any(_is(value, one) for one in allowed):
            expected = " or ".join(NAMES.get(get_origin(one) or one, "null") for one in allowed)
            raise BadInput(f"{name} {what} is {value!r}; expected {expected}")


def _is(value: Any, kind: Any) -> bool:
    if kind is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if get_origin(kind) is tuple:
        return isinstance(value, (list, tuple)) and all(isinstance(one, str) for one in value)
    return isinstance(value, Mapping if get_origin(kind) is dict else kind)


def _refuse_unknown(where: str, kind: type, values: Mapping[str, Any]) -> None:
    known = [f.name for f in fields(kind)]
    for key in values:
        if key not in known:
            raise BadInput(f"{where} has no '{key}'{nearest(str(key), known)}; it has {', '.join(known)}")


@cache
def _digests(folder: Path, changed: int) -> dict[str, str]:
    """Path -> digest of all files below ``folder``; ``changed`` makes a later change a new question."""
    return {
        path.relative_to(folder).as_posix(): sha256_file(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    }
