"""lm-eval's tasks loaded, pinned and checked against the suite: data, revision, shots, metric, prompt.

Nothing here bears identity: what is expected stands in ``SuiteConfig``, and what differs from it is refused.
"""

from __future__ import annotations

import functools
import importlib.metadata
import importlib.util
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from adg import prompts
from adg.artifacts.artifact import canonical
from adg.artifacts.files import sha256_file, sha256_text
from adg.errors import BadInput, nearest
from adg.evaluation import code_eval, items
from adg.evaluation.benchmarks import BENCHMARKS
from adg.evaluation.config import SuiteConfig, TaskConfig


@functools.cache
def known_tasks() -> dict[str, set[str]]:
    """Task or group name -> folders of lm-eval's tasks, or of a package's, that define it, found by reading one line of
    each file.

    lm-eval's own index parses 14,000 files, which takes longer than evaluating a small model.
    """
    package = importlib.util.find_spec("lm_eval")  # imports nothing, which takes longer than reading the files
    if package is None or package.origin is None:
        raise BadInput("lm-eval is not installed; `make setup` makes an environment that has it")
    root, known = Path(package.origin).parent / "tasks", dict[str, set[str]]()
    pattern = re.compile(rb"""^["']?(?:task|group)["']?:[ ]*["']?([^\s"'\[{]+)["']?[ ]*\r?$""", re.MULTILINE)
    for path in root.rglob("*.yaml"):
        for name in pattern.findall(path.read_bytes()):
            known.setdefault(name.decode(), set()).add(str(root / path.relative_to(root).parts[0]))
    for folder in {str(benchmark.tasks) for benchmark in BENCHMARKS.values() if benchmark.tasks is not None}:
        for path in Path(folder).rglob("*.yaml"):
            for name in pattern.findall(path.read_bytes()):
                known.setdefault(name.decode(), set()).add(folder)
    return known


def digests(suite: SuiteConfig) -> dict[str, str]:
    """Digest of the files of each task of a suite that is not lm-eval's own, by "task:<name>"; they bear identity."""
    found = {}
    for name in sorted(suite.tasks):
        folder = BENCHMARKS[name].tasks if name in BENCHMARKS else None
        if folder is not None:
            files = sorted(path for path in Path(folder).rglob("*") if path.suffix in (".yaml", ".py"))
            listed = [[path.relative_to(folder).as_posix(), sha256_file(path)] for path in files]
            found[f"task:{name}"] = sha256_text(canonical(listed))
    return found


def check(suite: SuiteConfig) -> None:
    """What of a suite depends on lm-eval and can be known without it: its version, and the names of all tasks.

    Raises ``BadInput``; takes under a second, once a process.
    """
    try:
        installed = importlib.metadata.version("lm-eval")
    except importlib.metadata.PackageNotFoundError as error:
        raise BadInput("lm-eval is not installed; `make setup` makes an environment that has it") from error
    if installed != suite.harness:
        raise BadInput(
            f"lm-eval {installed} is installed, suite.harness expects {suite.harness} ({suite.name}): scores of "
            f"different versions do not compare; pip install lm-eval=={suite.harness}"
        )
    known = known_tasks()
    for name, task in suite.tasks.items():
        key = f"suite.tasks.{name}" + ("" if task.subtasks is None else ".subtasks")
        for member in [name] if task.subtasks is None else task.subtasks:
            if member not in known:
                alike = [other for other in known if other.split("_")[0] == name.split("_")[0]]
                raise BadInput(
                    f"lm-eval {installed} has no task '{member}'{nearest(member, sorted(alike or known))}; check {key}"
                )


@functools.cache
def _compile_templates_once() -> None:
    """Let lm-eval keep a task's compiled templates; it compiles them again for every document (3 ms each)."""
    from lm_eval import utils

    utils.env.from_string = functools.lru_cache(maxsize=1024)(utils.env.from_string)


@functools.cache
def _manager(folders: tuple[str, ...]) -> Any:
    """lm-eval's index of the tasks in these folders."""
    from lm_eval.tasks import TaskManager

    return TaskManager(include_defaults=False, include_path=list(folders))


def load_task(name: str, suite: SuiteConfig, offline: bool = False) -> dict[str, Any]:
    """lm-eval's ``{"tasks", "groups", ...}`` of one task of a suite (see ``check``), set up and checked.

    Overrides go through the member list of a registered group: the only place where lm-eval merges them with tasks
    and groups alike, and where a number of shots also replaces a 0 of the task itself. The data is loaded from its
    folder, also the hub's: asked for by name, `datasets` would answer an unreachable hub with whatever revision it
    prepared last.
    """
    from lm_eval.tasks._index import TaskIndex

    _compile_templates_once()
    cfg, known = suite.tasks[name], known_tasks()
    members = [name] if cfg.subtasks is None else list(cfg.subtasks)
    manager = _manager(tuple(sorted(set().union(*(known[member] for member in members)))))
    override: dict[str, Any] = {"num_fewshot": cfg.num_fewshot}
    override["dataset_path"] = str(items.locate(cfg.repo, cfg.revision, suite.root, offline))
    digest = suite.digests()[cfg.repo] if suite.root else sha256_text(f"{cfg.repo}@{cfg.revision}")
    override["dataset_kwargs"] = {"cache_dir": str(_cache(digest))}
    kind = {member: "group" if member in manager.all_groups else "task" for member in members}
    group = {"group": f"adg_{name}", "task": [{kind[member]: member, **override} for member in members]}
    try:
        manager.task_index[group["group"]] = TaskIndex.entry_from_config(group)
        loaded = manager.load(group["group"])
    except (FileNotFoundError, ConnectionError, ValueError) as error:
        where = f"{suite.root}/{cfg.repo}" if suite.root else f"{cfg.repo} at {cfg.revision}"
        raise BadInput(
            f"the data of {name} could not be loaded from {where} ({type(error).__name__}: {error}); with "
            f"access to the hub: hf download {cfg.repo} --repo-type dataset --revision "
            f"{cfg.revision or 'main'} --local-dir <folder>/{cfg.repo}, then "
            f"suite.data_root=<folder>"
        ) from error
    for task in loaded["tasks"].values():
        _set_up(task, name, cfg, suite)
    count = sum(len(task.eval_docs) for task in loaded["tasks"].values())
    if cfg.items is not None and cfg.subtasks is None and count != cfg.items:
        raise BadInput(
            f"the data of {name} holds {count} items, expected {cfg.items} "
            f"(suite.tasks.{name}.items); it is not the data set {cfg.repo} at {cfg.revision}"
        )
    return loaded


def requests(name: str, loaded: dict[str, Any], suite: SuiteConfig, lm: Any) -> list[Any]:
    """What ``evaluate`` will ask ``lm`` in one task of a suite, loaded, whose examples are drawn the same way after."""
    made = []
    for task in loaded["tasks"].values():
        task.build_all_requests(
            limit=suite.limit_of(name),
            apply_chat_template=suite.chat_template,
            fewshot_as_multiturn=suite.chat_template,
            chat_template=lm.apply_chat_template if suite.chat_template else None,
            tokenizer_name=lm.tokenizer_name if suite.chat_template else "",
        )
        made += task.instances
        task.set_fewshot_seed(suite.seed)
    return made


def _cache(digest: str) -> Path:
    """Where `datasets` keeps its copy of local data with this digest.

    In its own cache a local data set goes by the folder's last name and the configs of its README alone: edited
    files, or another folder of the same name, would be answered with the rows of the first one ever loaded.
    """
    import datasets

    return Path(datasets.config.HF_DATASETS_CACHE) / "local" / digest[:32]


def _set_up(task: Any, name: str, cfg: TaskConfig, suite: SuiteConfig) -> None:
    """Seed, cap and prompt of one lm-eval task; refuse one that is not what the suite means."""
    for what, actual, expected in (
        ("version", task.VERSION, cfg.version),
        ("number of shots", task.get_config("num_fewshot"), cfg.num_fewshot),
        ("mark for running model-written code", bool(getattr(task, "UNSAFE_CODE", False)), cfg.runs_code),
    ):
        if actual != expected:
            raise BadInput(
                f"{task.task_name}: its {what} is {actual!r} in lm-eval {suite.harness}, "
                f"suite.tasks.{name} expects {expected!r}"
            )
    _refuse_other_figure(task, name, cfg)
    examples = len(task.sampler.df) if cfg.num_fewshot else 0
    if examples < cfg.num_fewshot:
        raise BadInput(
            f"{task.task_name} has {examples} examples to show, {cfg.num_fewshot} shots are expected "
            f"(suite.tasks.{name}.num_fewshot)"
        )
    task.set_fewshot_seed(suite.seed)
    if suite.max_gen_toks is not None and task.OUTPUT_TYPE == "generate_until":
        own = task.get_config("generation_kwargs").get("max_gen_toks", 256)  # lm-eval's default where none is given
        task.set_config("generation_kwargs", {"max_gen_toks": min(own, suite.max_gen_toks)}, update=True)
    if suite.prompt == "alpaca":
        task.fewshot_context = _wrapped(task.fewshot_context)
    if cfg.runs_code:
        task.apply_filters = _prefetching(task)


def _refuse_other_figure(task: Any, name: str, cfg: TaskConfig) -> None:
    """Refuse a metric or a filter that the task does not have. A metric that is a function names its figures itself,
    so those are only known from the table of benchmarks, or once an item is scored."""
    metrics = [entry["metric"] for entry in task.config.metric_list or ()]
    filters = [entry["name"] for entry in task.config.filter_list or ()] or ["none"]
    for key, value, known in (
        ("metric", cfg.metric, metrics),
        *(("filter", filter_, filters) for filter_ in (cfg.filter, *cfg.beside)),
    ):
        if value not in known and all(isinstance(one, str) for one in known):
            raise BadInput(
                f"{task.task_name} has no {key} '{value}'{nearest(value, known)}; it has {', '.join(known)} "
                f"(suite.tasks.{name}.{key})"
            )


def _wrapped(fewshot_context: Callable[..., str]) -> Callable[..., str]:
    """The task's whole prompt, examples and all, as the instruction of the template of training."""
    return lambda *args, **kwargs: prompts.render(fewshot_context(*args, **kwargs))


def _prefetching(task: Any) -> Callable[[], None]:
    """After filtering, run all programs of the task side by side; scoring then asks for one at a time."""
    apply_filters = task.apply_filters

    def apply() -> None:
        apply_filters()
        code_eval.METRIC.prefetch(
            (program, task.doc_to_target(instance.doc))
            for instance in task.instances
            for answer in instance.filtered_resps.values()
            for program in ([answer] if isinstance(answer, str) else answer)
        )

    return apply
