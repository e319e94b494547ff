"""lm-eval's tasks loaded, pinned and checked against the suite: data, revision, shots, metric, prompt.

Nothing here bears identity: what is expected stands in ``SuiteConfig``, and what differs from it is refused.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from adg import prompts
from adg.artifacts.files import sha256_text
from adg.errors import BadInput, nearest
from adg.evaluation import code_eval, items
from adg.evaluation.config import SuiteConfig, TaskConfig


@functools.cache
def known_tasks() -> dict[str, set[str]]:
    """Task or group name -> folders of lm-eval's tasks that define it, found by reading one line of each file.

    lm-eval's own index parses 14,000 files, which takes longer than evaluating a small model.
    """
    import lm_eval.tasks

    root, known = Path(lm_eval.tasks.__file__).parent, dict[str, set[str]]()
    pattern = re.compile(rb"""^["']?(?:task|group)["']?:[ ]*["']?([^\s"'\[{]+)["']?[ ]*\r?$""", re.MULTILINE)
    for path in root.rglob("*.yaml"):
        for name in pattern.findall(path.read_bytes()):
            known.setdefault(name.decode(), set()).add(str(root / path.relative_to(root).parts[0]))
    return known


@functools.cache
def _manager(folders: tuple[str, ...]) -> Any:
    """lm-eval's index of the tasks in these folders."""
    from lm_eval.tasks import TaskManager

    return TaskManager(include_defaults=False, include_path=list(folders))


def load_task(name: str, suite: SuiteConfig, offline: bool = False) -> dict[str, Any]:
    """lm-eval's ``{"tasks", "groups", ...}`` of one task of the suite, set up and checked.

    Overrides go through the member list of a registered group: the only place where lm-eval merges them with tasks
    and groups alike, and where a number of shots also replaces a 0 of the task itself. The data is loaded from its
    folder, also the hub's: asked for by name, `datasets` would answer an unreachable hub with whatever revision it
    prepared last.
    """
    from lm_eval.tasks._index import TaskIndex

    cfg, known = suite.tasks[name], known_tasks()
    members = [name] if cfg.subtasks is None else list(cfg.subtasks)
    for member in members:
        if member not in known:
            raise BadInput(
                f"lm-eval {suite.harness} has no task '{member}'{nearest(member, sorted(known))}; "
                f"check suite.tasks.{name}"
            )
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
    return loaded


def _cache(digest: str) -> Path:
    """Where `datasets` keeps its copy of local data with this digest.

    In its own cache a local data set goes by the folder's last name and the configs of its README alone: edited
    files, or another folder of the same name, would be answered with the rows of the first one ever loaded.
    """
    import datasets

    return Path(datasets.config.HF_DATASETS_CACHE) / "local" / digest[:32]


def _set_up(task: Any, name: str, cfg: TaskConfig, suite: SuiteConfig) -> None:
    """Seed, cap and prompt of one lm-eval task; refuse one that is not what the suite means."""
    for what, found, expected in (
        ("version", task.VERSION, cfg.version),
        ("number of shots", task.get_config("num_fewshot"), cfg.num_fewshot),
        ("mark for running model-written code", bool(getattr(task, "UNSAFE_CODE", False)), cfg.runs_code),
    ):
        if found != expected:
            raise BadInput(
                f"{task.task_name}: its {what} is {found!r} in lm-eval {suite.harness}, "
                f"suite.tasks.{name} expects {expected!r}"
            )
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
