"""The evaluation stage: a model, with or without an adapter, on all tasks of a suite through lm-eval's Python API.

One model load for all tasks; each finished task is kept at once, so a killed evaluation repeats none. What lm-eval
returns is held against what the suite expects, and a score that is missing or not finite is an error, never a 0.
"""

from __future__ import annotations

import contextlib
import functools
import io
import json
import logging
import math
import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from adg import generation, models, prompts
from adg.errors import BadInput, BadMeasurement, nearest
from adg.evaluation import aggregate, code_eval, items, sandbox
from adg.evaluation.suite import SuiteConfig, TaskConfig
from adg.execution import ExecConfig
from adg.progress import progress
from adg.store import Artifact, Job, Node, Stage, canonical, sha256_text, write_atomic, write_json

STAGE = Stage("eval", 1, "adg.evaluation.harness:build", gpu=True)
SCHEMA = "adg-results/1"
DONE, NOT_RUN = "done", "not-run"
ITEM = ("subtask", "doc_id", "doc_hash", "prompt_hash", "target")  # what two results must share to be compared
PLAIN_SENTENCE = "Question: what is two plus two?\nAnswer:"
NOT_FINITE = (
    "the model's logits are not finite on a plain sentence; look at the training curve and at the dtype. "
    "No task was evaluated"
)
LORA_RANKS = (8, 16, 32, 64, 128, 256, 512)  # that vLLM reserves room for
VLLM_REQUESTS = 1024  # handed to vLLM at once, between two steps of the progress display
CPU_CACHE = 4 << 30  # bytes for vLLM's keys and values where there is no GPU
NO_CONSENT = "running model-written code needs consent (exec.run_model_code=true)"


@dataclass(frozen=True)
class Evaluation:
    """What makes two evaluations of one model the same."""

    suite: SuiteConfig
    data: dict[str, str] = field(default_factory=dict)  # digests of local data sets
    template: str = ""  # hash of the prompt template where the suite wraps prompts


def node(adapter: Node | None, backbone: Node, suite: SuiteConfig) -> Node:
    """The artifact of evaluating ``backbone`` with ``adapter`` (None: as it is). Raises ``BadInput`` when the adapter
    was made for another backbone or local data is missing."""
    inputs = {"backbone": backbone}
    if adapter is not None:
        made_for = adapter.inputs.get("backbone")
        trained = made_for.fingerprint if made_for else None
        _same_backbone(trained, backbone.fingerprint, adapter.folder, backbone.folder)
        inputs["adapter"] = adapter
    template = prompts.HASH if suite.prompt == "alpaca" else ""
    label = f"{(adapter or backbone).label}+{suite.name}"
    return Node(STAGE, label, Evaluation(suite, suite.digests(), template), inputs)


def build(job: Job) -> dict[str, Any]:
    """Evaluate what is not there yet; payload ``results.json``, ``raw.json``, ``samples/<task>.parquet``.

    Tasks that may not or cannot run here are "not-run" with the reason. Builds on finished tasks of an earlier
    result in the same folder, so that a result with tasks left out can be completed later.
    """
    suite: SuiteConfig = job.config.suite
    backbone, adapter = job.inputs["backbone"], job.inputs.get("adapter")
    if adapter is not None:
        made_for = adapter.manifest["inputs"].get("backbone", {}).get("fingerprint")
        _same_backbone(made_for, backbone.fingerprint, str(adapter.path), str(backbone.path))
    _check_harness(suite)
    _keep_earlier(job)
    box, refusal = _code_permission(job.exec)
    reasons = {name: refusal for name, task in suite.tasks.items() if task.runs_code and refusal}
    waiting = [name for name in suite.tasks if name not in reasons and _finished(job, name) is None]
    if waiting:
        with contextlib.ExitStack() as stack:
            if not isinstance(box, str):
                stack.enter_context(code_eval.METRIC.confined(box, job.exec.workers))
            stack.enter_context(_calm(suite.backend))
            stack.enter_context(code_eval.installed())
            lm = stack.enter_context(_model(job))
            for name in waiting:
                _run(job, name, lm)
    return _assemble(job, reasons)


def can_complete(results: Mapping[str, Any], exec_: ExecConfig) -> bool:
    """Whether ``build`` would now run a task that ``results`` (of results.json) lists as not run."""
    return any(task["status"] == NOT_RUN for task in results["tasks"].values()) and not _code_permission(exec_)[1]


def _same_backbone(made_for: str | None, given: str, adapter: str, backbone: str) -> None:
    if made_for != given:
        raise BadInput(
            f"the adapter {adapter} was trained on the backbone {(made_for or 'unknown')[:12]}, not on "
            f"{given[:12]} ({backbone}); evaluate it with its own backbone, or train one for this one"
        )


def _check_harness(suite: SuiteConfig) -> None:
    found = version("lm-eval")
    if found != suite.harness:
        raise BadInput(
            f"lm-eval {found} is installed, the suite {suite.name} expects {suite.harness}: scores of "
            f"different versions do not compare; pip install lm-eval=={suite.harness}"
        )


def _code_permission(exec_: ExecConfig) -> tuple[sandbox.Sandbox | str, str]:
    """(a sandbox or a reason, the reason why programs are not run or "")."""
    if not exec_.run_model_code:
        return NO_CONSENT, NO_CONSENT
    box = sandbox.available()
    return box, box if isinstance(box, str) else ""


# -- tasks --------------------------------------------------------------------------------------------


@functools.cache
def _known_tasks() -> dict[str, set[str]]:
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

    cfg, known = suite.tasks[name], _known_tasks()
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


# -- the model ----------------------------------------------------------------------------------------


@contextlib.contextmanager
def _model(job: Job) -> Iterator[Any]:
    """lm-eval's wrapper around the backbone with its adapter, beside the weights unless the suite merges it, or
    around a fully trained model."""
    backbone, dtype = job.inputs["backbone"], job.config.suite.dtype
    dtype = models.dtype_of(backbone) if dtype == "auto" else dtype
    tokenizer = models.load_tokenizer(backbone)
    if job.config.suite.chat_template and not tokenizer.chat_template:
        raise BadInput(
            f"suite.chat_template is true but the tokenizer of {backbone.path.name} has no chat template; "
            f"set suite.chat_template=false (base models have none)"
        )
    with BACKENDS[job.config.suite.backend](job, tokenizer, dtype) as lm:
        ours, theirs = tokenizer(PLAIN_SENTENCE)["input_ids"], lm.tok_encode(PLAIN_SENTENCE)
        if ours != theirs:
            raise BadMeasurement(
                f"the backend {job.config.suite.backend} reads a plain sentence as {theirs[:6]}, the tokenizer of "
                f"{backbone.path.name} as {ours[:6]}: scores of different backends would not compare"
            )
        yield lm


@contextlib.contextmanager
def _hf(job: Job, tokenizer: Any, dtype: str) -> Iterator[Any]:
    """The model in transformers."""
    import gc

    import torch
    from lm_eval.models.huggingface import HFLM
    from transformers import GenerationConfig

    backbone, adapter, device = job.inputs["backbone"], job.inputs.get("adapter"), models.device(job.exec)
    if adapter is not None and (adapter.path / "model").is_dir():
        model = models.load_folder(adapter.path / "model", device, dtype, gpus=job.exec.tensor_parallel)
    else:
        model = models.load_model(backbone, device, dtype, gpus=job.exec.tensor_parallel)
        if adapter is not None:
            from peft import PeftModel

            model = PeftModel.from_pretrained(model, str(adapter.path / "adapter"), is_trainable=False).eval()
            if job.config.suite.merge_adapter:
                model = model.merge_and_unload()
    # a sequence stops by id, and nothing else of the checkpoint's sampling defaults applies
    model.generation_config = GenerationConfig(
        eos_token_id=models.stop_ids(backbone, tokenizer),
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
    )
    _check_finite(model, tokenizer)
    lm = HFLM(
        pretrained=model,
        tokenizer=tokenizer,
        batch_size=job.exec.eval_batch_size,
        add_bos_token=models.adds_bos(tokenizer),
    )
    try:
        yield lm
    finally:
        del lm, model
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


@contextlib.contextmanager
def _vllm(job: Job, tokenizer: Any, dtype: str) -> Iterator[Any]:
    """The model in vLLM, which runs a LoRA adapter beside the weights by its own means."""
    backbone, adapter = job.inputs["backbone"], job.inputs.get("adapter")
    weights, chosen = models.model_path(backbone), dict[str, Any]()
    if adapter is not None and (adapter.path / "model").is_dir():
        weights = adapter.path / "model"
    elif adapter is not None:
        chosen = _vllm_lora(adapter)
    on_gpu = models.device(job.exec) == "cuda"
    memory = {"gpu_memory_utilization": job.exec.gpu_memory} if on_gpu else {"kv_cache_memory_bytes": CPU_CACHE}
    restore = generation.prepare_vllm()
    try:
        lm = _vllm_wrapper().VLLM(
            pretrained=str(weights),
            tokenizer=str(models.model_path(backbone)),
            dtype=dtype,
            add_bos_token=models.adds_bos(tokenizer),
            tensor_parallel_size=job.exec.tensor_parallel,
            seed=0,
            batch_size=VLLM_REQUESTS,
            generation_config="vllm",
            enable_prefix_caching=True,
            async_scheduling=False,
            disable_log_stats=True,
            enforce_eager=not on_gpu,
            **chosen,
            **memory,
        )
        try:
            _check_finite_vllm(lm, tokenizer)
            yield lm
        finally:
            generation.shut_down(lm.model)
            del lm
    finally:
        restore()


def _vllm_lora(adapter: Artifact) -> dict[str, Any]:
    """Settings for the adapter. The head is left out of what vLLM prepares: its log-probabilities of a prompt mix up
    the rows of an adapted head, silently so on a GPU."""
    lora = json.loads(adapter.file("adapter/adapter_config.json").read_text())
    targets, room = lora["target_modules"], next((r for r in LORA_RANKS if r >= lora["r"]), None)
    if room is None:
        raise BadInput(
            f"{adapter.path} has rank {lora['r']}, vLLM takes at most {LORA_RANKS[-1]}; set suite.backend=hf"
        )
    if isinstance(targets, str) or "lm_head" in targets or lora.get("modules_to_save"):
        raise BadInput(
            f"{adapter.path} adapts {targets} and saves {lora.get('modules_to_save')}: vLLM scores prompts wrongly "
            f"with an adapted head, and only lists of modules are checked; set suite.backend=hf"
        )
    path = str(adapter.path / "adapter")
    return {"lora_local_path": path, "max_lora_rank": room, "lora_target_modules": sorted(targets)}


@functools.cache
def _vllm_wrapper() -> Any:
    """lm-eval's module for vLLM, which asks for the version of the package `vllm`: the CPU build has another name."""
    import importlib.metadata

    import vllm
    import vllm.platforms

    known = importlib.metadata.version

    def answered(distribution_name: str) -> str:
        return vllm.__version__ if distribution_name == "vllm" else known(distribution_name)

    assert vllm.platforms.current_platform  # vLLM tells its platform by that version, so before it is answered
    importlib.metadata.version = answered
    try:
        import lm_eval.models.vllm_causallms as module
    finally:
        importlib.metadata.version = known
    return module


BACKENDS: dict[str, Any] = {"hf": _hf, "vllm": _vllm}


def _check_finite(model: Any, tokenizer: Any) -> None:
    """Refuse a model whose logits are not finite: greedy decoding would still write text, and it would be scored."""
    import torch

    ids = torch.tensor([tokenizer(PLAIN_SENTENCE)["input_ids"]], device=model.device)
    with torch.no_grad():
        finite = bool(torch.isfinite(model(ids).logits).all())
    if not finite:
        raise BadMeasurement(NOT_FINITE)


def _check_finite_vllm(lm: Any, tokenizer: Any) -> None:
    """The same for a model in vLLM, by the log-probabilities of the sentence's own tokens."""
    (output,) = lm._model_generate([tokenizer(PLAIN_SENTENCE)["input_ids"]])
    known = [one.logprob for token in output.prompt_logprobs if token for one in token.values()]
    if not known or not all(map(math.isfinite, known)):
        raise BadMeasurement(NOT_FINITE)


@contextlib.contextmanager
def _calm(backend: str) -> Iterator[None]:
    """One progress display of ours in place of lm-eval's bars and log lines."""
    import datasets
    import lm_eval.api.model
    import lm_eval.api.task
    import lm_eval.models.huggingface as huggingface

    logger, modules = logging.getLogger("lm_eval"), [lm_eval.api.model, lm_eval.api.task, huggingface]
    if backend == "vllm":
        modules.append(_vllm_wrapper())
    level, own, shown = logger.level, huggingface.tqdm, not datasets.are_progress_bars_disabled()

    def bar(rows: Any = None, *, total: int = 0, desc: str = "", **_: Any) -> Any:
        return progress(total, desc.lower(), "requests") if rows is None else rows

    logger.setLevel(logging.ERROR)
    datasets.disable_progress_bars()
    for module in modules:
        module.tqdm = bar
    try:
        yield
    finally:
        for module in modules:
            module.tqdm = own
        if shown:
            datasets.enable_progress_bars()
        logger.setLevel(level)


# -- one task -----------------------------------------------------------------------------------------


def _run(job: Job, name: str, lm: Any) -> None:
    """Evaluate one task and keep its samples and what lm-eval returned; the latter's file marks it as finished."""
    from lm_eval.evaluator import evaluate

    suite: SuiteConfig = job.config.suite
    cfg, started = suite.tasks[name], time.time()
    loaded = load_task(name, suite, job.exec.offline)
    returned = evaluate(
        lm=lm,
        task_dict=loaded,
        limit=suite.limit_of(name),
        log_samples=True,
        apply_chat_template=suite.chat_template,
        fewshot_as_multiturn=suite.chat_template,
        confirm_run_unsafe_code=cfg.runs_code,
    )
    rows = [row for leaf in loaded["tasks"] for row in _rows(leaf, returned["samples"][leaf], cfg, lm)]
    summary = _summarise(name, cfg, suite, returned, rows, loaded)
    summary["prompts_cut"] = _prompts_cut(loaded, rows, lm)
    summary["bos_tokens"] = int(models.adds_bos(lm.tokenizer))  # of every prompt, as _rows has made sure
    raw = {key: value for key, value in returned.items() if key != "samples"}
    write_atomic(job.folder / "samples" / f"{name}.parquet", _parquet(rows))
    shard = {
        "summary": summary,
        "raw": json.loads(json.dumps(raw, default=_name)),
        "seconds": round(time.time() - started, 3),
    }
    write_json(_shard(job, name), shard)


def _rows(leaf: str, samples: list[dict[str, Any]], cfg: TaskConfig, lm: Any) -> list[dict[str, Any]]:
    """One row for each item and filter."""
    rows = []
    for sample in samples:
        first = sample["arguments"][0]
        row = {
            "subtask": leaf,
            "doc_id": sample["doc_id"],
            "filter": sample["filter"],
            "doc_hash": sample["doc_hash"],
            "prompt_hash": sample["prompt_hash"],
            "prompt": first[0],
            "prompt_tokens": 0,
            "target": str(sample["target"]),
            "error": "",
        }
        if isinstance(first[1], str):  # choices, each with its log-likelihood in nats
            scored = [
                [arguments[1], *answer]
                for arguments, answer in zip(sample["arguments"], sample["filtered_resps"], strict=True)
            ]
            row["response"] = json.dumps(scored, ensure_ascii=False)
            row["answer"] = max(scored, key=lambda choice: choice[1])[0]
            if not all(math.isfinite(choice[1]) for choice in scored):
                raise BadMeasurement(
                    f"item {sample['doc_id']} of {leaf} has log-likelihoods that are not finite: "
                    f"{scored}; look at the model's weights and its dtype"
                )
        else:
            answer = sample["filtered_resps"][0]
            row["response"] = sample["resps"][0][0]
            row["answer"] = answer if isinstance(answer, str) else answer[0]
            if cfg.runs_code:
                row["error"] = code_eval.METRIC.outcome(row["answer"], row["target"]).error
        score = sample.get(cfg.metric)
        if not isinstance(score, (int, float)) and not hasattr(score, "item"):
            raise BadMeasurement(
                f"item {sample['doc_id']} of {leaf} has no score '{cfg.metric}' (found "
                f"{score!r}, metrics {sample['metrics']}); the task is not what the suite expects"
            )
        row["score"] = float(score)  # type: ignore[arg-type]
        rows.append(row)
    lengths = {prompt: len(lm.tok_encode(prompt)) for prompt in {row["prompt"] for row in rows}}
    for row in rows:
        row["prompt_tokens"] = lengths[row["prompt"]]
    models.check_bos(lm.tok_encode(rows[0]["prompt"]), lm.tokenizer)
    bad = [(row["subtask"], row["doc_id"]) for row in rows if not math.isfinite(row["score"])]
    if bad:
        raise BadMeasurement(
            f"{len(bad)} items of {leaf} have a score that is not a number, first {bad[:3]}; look at "
            f"the model's weights and its dtype"
        )
    return rows


def _summarise(
    name: str,
    cfg: TaskConfig,
    suite: SuiteConfig,
    returned: Mapping[str, Any],
    rows: list[dict[str, Any]],
    loaded: Mapping[str, Any],
) -> dict[str, Any]:
    """The task's entry of results.json, every figure computed from items and equal to what lm-eval returned."""
    leaves = list(loaded["tasks"])
    count = sum(returned["n-samples"][leaf]["original"] for leaf in leaves)
    if cfg.items is not None and cfg.subtasks is None and count != cfg.items:
        raise BadMeasurement(
            f"the data of {name} holds {count} items, expected {cfg.items} "
            f"(suite.tasks.{name}.items); it is not the data set {cfg.repo} at {cfg.revision}"
        )
    for leaf in leaves:
        for what, key, expected in (("shots", "n-shot", cfg.num_fewshot), ("version", "versions", cfg.version)):
            if returned[key][leaf] != expected:
                raise BadMeasurement(f"{leaf} came back with {what} {returned[key][leaf]!r}, expected {expected!r}")
    figures = {}
    for filter_ in (cfg.filter, *cfg.beside):
        parts = {leaf: _figure(leaf, filter_, cfg.metric, returned, rows) for leaf in leaves}
        sizes = [part["n"] for part in parts.values()]
        value = aggregate.pooled([part["value"] for part in parts.values()], sizes)
        figures[filter_] = {
            "value": value,
            "stderr": aggregate.pooled_standard_error([part["stderr"] for part in parts.values()], sizes),
            "n": sum(sizes),
            "subtasks": parts if len(parts) > 1 else {},
        }
        group = returned.get("groups", {}).get(name, {}).get(f"{cfg.metric},{filter_}")
        if group is not None and not math.isclose(group, value, abs_tol=1e-9):
            raise BadMeasurement(f"lm-eval's mean of {name} is {group}, that of its items {value}")
    generates = any(task.OUTPUT_TYPE == "generate_until" for task in loaded["tasks"].values())
    partial = suite.partial_reasons(name, generates)
    return {
        "status": DONE,
        "reason": "",
        "metric": cfg.metric,
        "filter": cfg.filter,
        **figures[cfg.filter],
        "num_fewshot": cfg.num_fewshot,
        "version": cfg.version,
        "partial": bool(partial),
        "partial_reasons": partial,
        "beside": {f: {"value": figures[f]["value"], "stderr": figures[f]["stderr"]} for f in cfg.beside},
        "repo": cfg.repo,
        "revision": None if suite.root else cfg.revision,
        "items_hash": sha256_text(canonical([[row[key] for key in ITEM] for row in rows])),
    }


def _figure(
    leaf: str, filter_: str, metric: str, returned: Mapping[str, Any], rows: list[dict[str, Any]]
) -> dict[str, Any]:
    """Mean over the items of one lm-eval task under one filter; must be lm-eval's own."""
    scores = [row["score"] for row in rows if row["subtask"] == leaf and row["filter"] == filter_]
    value = returned["results"][leaf].get(f"{metric},{filter_}")
    if value is None or not scores:
        known = sorted(key for key in returned["results"][leaf] if "," in key and "_stderr" not in key)
        raise BadMeasurement(f"{leaf} returned no figure '{metric},{filter_}'; it returned {', '.join(known)}")
    ours = aggregate.mean(scores)
    if ours is None or not math.isclose(ours, value, abs_tol=1e-9):
        raise BadMeasurement(f"lm-eval's {metric},{filter_} of {leaf} is {value}, the mean of its items {ours}")
    if len(scores) != returned["n-samples"][leaf]["effective"]:
        raise BadMeasurement(f"{leaf}: {len(scores)} items scored, {returned['n-samples'][leaf]['effective']} counted")
    return {"value": ours, "stderr": aggregate.standard_error(scores), "n": len(scores)}


def _prompts_cut(loaded: Mapping[str, Any], rows: list[dict[str, Any]], lm: Any) -> int:
    """Items whose prompt did not fit into the model and lost its beginning (lm-eval only logs a warning)."""
    cut = set()
    for leaf, task in loaded["tasks"].items():
        room = lm.max_length
        if task.OUTPUT_TYPE == "generate_until":
            room -= task.get_config("generation_kwargs").get("max_gen_toks", lm.max_gen_toks)
        cut |= {(leaf, row["doc_id"]) for row in rows if row["subtask"] == leaf and row["prompt_tokens"] > room}
    return len(cut)


def _name(value: Any) -> Any:
    """Functions and numpy numbers in lm-eval's results, in a form that is the same in every process."""
    if hasattr(value, "item"):
        return value.item()
    if isinstance(value, functools.partial):
        return _name(value.func)
    return f"{getattr(value, '__module__', '')}.{getattr(value, '__qualname__', type(value).__qualname__)}"


def _parquet(rows: list[dict[str, Any]]) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    order = (
        "subtask",
        "doc_id",
        "filter",
        "score",
        "answer",
        "target",
        "error",
        "response",
        "prompt",
        "prompt_tokens",
        "prompt_hash",
        "doc_hash",
    )
    kinds = {"doc_id": pa.int64(), "score": pa.float64(), "prompt_tokens": pa.int32()}
    schema = pa.schema([(column, kinds.get(column, pa.string())) for column in order])
    text = [column for column in order if column not in kinds]
    for row in rows:  # a generated lone surrogate has no UTF-8 form
        row.update({column: row[column].encode("utf-8", "backslashreplace").decode() for column in text})
    file = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), file, compression="zstd")
    return file.getvalue()


# -- the artifact -------------------------------------------------------------------------------------


def _shard(job: Job, name: str) -> Path:
    return job.work / f"{name}.json"


def _finished(job: Job, name: str) -> dict[str, Any] | None:
    if not _shard(job, name).is_file() or not (job.folder / "samples" / f"{name}.parquet").is_file():
        return None
    return json.loads(_shard(job, name).read_text())


def _keep_earlier(job: Job) -> None:
    """Turn the tasks of an earlier result in this folder into finished shards."""
    results, raw = job.folder / "results.json", job.folder / "raw.json"
    if not (results.is_file() and raw.is_file()):
        return
    tasks, returned = json.loads(results.read_text())["tasks"], json.loads(raw.read_text())
    for name, summary in tasks.items():
        if summary["status"] == DONE and name in returned and _finished(job, name) is None:
            write_json(_shard(job, name), {"summary": summary, "raw": returned[name], "seconds": 0.0})


def _assemble(job: Job, reasons: Mapping[str, str]) -> dict[str, Any]:
    """Write results.json and raw.json from the finished tasks; returns the manifest's info."""
    suite: SuiteConfig = job.config.suite
    tasks, raw, seconds = {}, {}, {}
    for name, cfg in suite.tasks.items():
        shard = None if name in reasons else _finished(job, name)
        if shard is None:
            tasks[name] = {
                "status": NOT_RUN,
                "reason": reasons[name],
                "metric": cfg.metric,
                "filter": cfg.filter,
                "value": None,
                "stderr": None,
                "n": 0,
                "num_fewshot": cfg.num_fewshot,
                "version": cfg.version,
                "partial": False,
                "partial_reasons": [],
                "subtasks": {},
                "beside": {},
                "repo": cfg.repo,
                "revision": None if suite.root else cfg.revision,
            }
        else:
            tasks[name], raw[name], seconds[name] = shard["summary"], shard["raw"], shard["seconds"]
    partial = sorted({f"{name}: {reason}" for name, task in tasks.items() for reason in task["partial_reasons"]})
    write_json(job.folder / "raw.json", raw)
    write_json(
        job.folder / "results.json",
        {
            "schema": SCHEMA,
            "backend": suite.backend,
            "suite": suite.name,
            "lm_eval": suite.harness,
            "prompt": suite.prompt,
            "chat_template": suite.chat_template,
            "partial": bool(partial),
            "partial_reasons": partial,
            "tasks": tasks,
            "categories": aggregate.categories({name: task["value"] for name, task in tasks.items()}),
        },
    )
    counted = sum(task["n"] for task in tasks.values())
    return {
        "rows_in": counted,
        "rows_out": counted,
        "failed": [],
        "seconds": seconds,
        "not_run": dict(reasons),
        "prompts_cut": {name: task.get("prompts_cut", 0) for name, task in tasks.items()},
    }
