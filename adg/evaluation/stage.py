"""The evaluation stage: a model, with or without an adapter, on all tasks of a suite through lm-eval's Python API.

One model load for all tasks; each finished task is kept at once, so a killed evaluation repeats none. What lm-eval
returns is held against what the suite expects, and a score that is missing or not finite is an error, never a 0.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from adg import live, prompts
from adg.artifacts.artifact import Job, Node, Stage
from adg.artifacts.sealed import Damaged
from adg.artifacts.shards import Shard, Shards
from adg.backbones import adapters, loading
from adg.evaluation import code_eval, lm_eval_tasks
from adg.evaluation.config import SuiteConfig
from adg.evaluation.lm_eval_model import make_model, quiet_lm_eval
from adg.evaluation.results import (
    DONE,
    NOT_RUN,
    item_rows,
    parquet_bytes,
    prompts_cut,
    sample_file,
    summarise,
    write_results,
)
from adg.execution import ExecConfig
from adg.progress import notice
from adg.sandbox import host as sandbox
from adg.sandbox.host import Sandbox

STAGE = Stage("eval", 1, "adg.evaluation.stage:build", place=100, gpus="tensor_parallel", work="items to evaluate")
TOGETHER = 256  # answers at most that several tasks ask for at once: they are kept nowhere until their task is done
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
        adapters.refuse_other_backbone(trained, backbone.fingerprint, adapter.folder, backbone.folder)
        inputs["adapter"] = adapter
    template = prompts.HASH if suite.prompt == "alpaca" else ""
    label = f"{(adapter or backbone).label}+{suite.name}"
    return Node(STAGE, label, Evaluation(suite, suite.digests() | lm_eval_tasks.digests(suite), template), inputs)


def build(job: Job) -> dict[str, Any]:
    """Evaluate what is not there yet; payload ``results.json``, ``raw.json``, ``samples/<task>.parquet``.

    Tasks that may not or cannot run here are "not-run" with the reason. Finished tasks of an earlier result that is
    continued (``Store.reopen``) are kept, so that a result with tasks left out can be completed later.
    """
    suite: SuiteConfig = job.config.suite
    backbone, adapter = job.inputs["backbone"], job.inputs.get("adapter")
    if adapter is not None:
        made_for = adapter.manifest["inputs"].get("backbone", {}).get("fingerprint")
        adapters.refuse_other_backbone(made_for, backbone.fingerprint, str(adapter.path), str(backbone.path))
    lm_eval_tasks.check(suite)
    box, refusal = _code_permission(job.exec)
    reasons = {name: refusal for name, task in suite.tasks.items() if task.runs_code and refusal}
    shards = Shards(job.work, "task")
    _keep_earlier(job, shards)
    found = {name: shards.find(name) for name in suite.tasks if name not in reasons}
    waiting = [name for name, shard in found.items() if shard is None]
    for name, shard in found.items():
        _tell(job, name, shard)
    if waiting:
        with contextlib.ExitStack() as stack:
            if not isinstance(box, str):
                stack.enter_context(code_eval.METRIC.confined(box, job.exec.workers))
            stack.enter_context(quiet_lm_eval(suite.backend))
            stack.enter_context(code_eval.installed())
            # every task is held against the suite before the model costs anything
            loaded = {name: lm_eval_tasks.load_task(name, suite, job.exec.offline) for name in waiting}
            lm = stack.enter_context(make_model(job))
            _answer_together(job, loaded, lm)
            for name in waiting:
                shard = _run(job, name, loaded.pop(name), lm)
                shards.save(name, shard)
                _tell(job, name, shard)
    dtype = loading.dtype_of(backbone) if suite.dtype == "auto" else suite.dtype
    return write_results(job.folder, suite, dtype, shards, reasons)


def can_complete(results: Mapping[str, Any], exec_: ExecConfig) -> bool:
    """Whether ``build`` would now run a task that ``results`` (of results.json) lists as not run."""
    return any(task["status"] == NOT_RUN for task in results["tasks"].values()) and not _code_permission(exec_)[1]


def _code_permission(exec_: ExecConfig) -> tuple[Sandbox | str, str]:
    """(a sandbox or a reason, the reason why programs are not run or "")."""
    if not exec_.run_model_code:
        return NO_CONSENT, NO_CONSENT
    box = sandbox.available()
    return box, box if isinstance(box, str) else ""


def _answer_together(job: Job, loaded: dict[str, Any], lm: Any) -> None:
    """Let a model that runs short batches badly write the answers of all tasks at once, where those are few.

    ``evaluate`` then finds them with the model; what is asked otherwise than foreseen is answered when it is asked.
    """
    suite: SuiteConfig = job.config.suite
    writing = {
        name: sum(min(len(leaf.eval_docs), suite.limit_of(name) or TOGETHER + 1) for leaf in task["tasks"].values())
        for name, task in loaded.items()
        if all(leaf.OUTPUT_TYPE == "generate_until" for leaf in task["tasks"].values())
    }
    if hasattr(lm, "known") and len(writing) > 1 and sum(writing.values()) <= TOGETHER:
        lm.generate_until([one for name in writing for one in lm_eval_tasks.requests(name, loaded[name], suite, lm)])


def _run(job: Job, name: str, loaded: dict[str, Any], lm: Any) -> Shard:
    """Evaluate one task, loaded: its entry in the results, what lm-eval returned, and its samples as parquet."""
    from lm_eval.evaluator import evaluate

    suite: SuiteConfig = job.config.suite
    cfg, started = suite.tasks[name], time.time()
    returned = evaluate(
        lm=lm,
        task_dict=loaded,
        limit=suite.limit_of(name),
        log_samples=True,
        apply_chat_template=suite.chat_template,
        fewshot_as_multiturn=suite.chat_template,
        confirm_run_unsafe_code=cfg.runs_code,
    )
    rows = [row for leaf in loaded["tasks"] for row in item_rows(leaf, returned["samples"][leaf], cfg, lm)]
    summary = summarise(name, cfg, suite, returned, rows, loaded)
    summary["prompts_cut"] = prompts_cut(loaded, rows, lm)
    summary["bos_tokens"] = int(loading.adds_bos(lm.tokenizer))  # of every prompt, as item_rows has made sure
    raw = {key: value for key, value in returned.items() if key != "samples"}
    facts = {
        "summary": summary,
        "raw": json.loads(json.dumps(raw, default=sample_file)),
        "seconds": round(time.time() - started, 3),
    }
    return _shard(facts, parquet_bytes(rows))


def _tell(job: Job, name: str, shard: Shard | None) -> None:
    """Say what a task gave, where it is done, to whoever looks on."""
    if shard is not None:
        live.tell(job.work / live.FILE, {"task": name, "summary": shard.facts["summary"]})


def _shard(facts: dict[str, Any], samples: bytes) -> Shard:
    return Shard(facts, {"samples": np.frombuffer(samples, dtype=np.uint8)})


def _keep_earlier(job: Job, shards: Shards) -> None:
    """Turn the tasks of an earlier result into finished shards; all are done again where it is damaged."""
    try:
        earlier = job.earlier()
    except Damaged as error:
        notice(f"the earlier result is not used, all tasks are evaluated again: {error.what}")
        return
    if earlier is None:
        return
    tasks = json.loads(earlier.file("results.json").read_text(encoding="utf-8"))["tasks"]
    raw = json.loads(earlier.file("raw.json").read_text(encoding="utf-8"))
    for name, summary in tasks.items():
        if summary["status"] == DONE and shards.find(name) is None:
            samples = earlier.file(f"samples/{name}.parquet").read_bytes()
            shards.save(name, _shard({"summary": summary, "raw": raw[name], "seconds": 0.0}, samples))
