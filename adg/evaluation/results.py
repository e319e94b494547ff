"""From lm-eval's items to ``results.json`` and the tables of samples: every figure is computed again and compared.

Nothing here bears identity; ``SCHEMA`` names the layout of the file.
"""

from __future__ import annotations

import functools
import io
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from adg.artifacts.artifact import canonical
from adg.artifacts.files import sha256_text, write_atomic, write_json
from adg.artifacts.shards import Shards
from adg.backbones import loading
from adg.errors import BadMeasurement
from adg.evaluation import aggregate, code_eval
from adg.evaluation.config import SuiteConfig, TaskConfig

SCHEMA = "adg-results/1"
DONE, NOT_RUN = "done", "not-run"
ITEM = ("subtask", "doc_id", "doc_hash", "prompt_hash", "target")  # what two results must share to be compared


def item_rows(leaf: str, samples: list[dict[str, Any]], cfg: TaskConfig, lm: Any) -> list[dict[str, Any]]:
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
    loading.check_bos(lm.tok_encode(rows[0]["prompt"]), lm.tokenizer)
    bad = [(row["subtask"], row["doc_id"]) for row in rows if not math.isfinite(row["score"])]
    if bad:
        raise BadMeasurement(
            f"{len(bad)} items of {leaf} have a score that is not a number, first {bad[:3]}; look at "
            f"the model's weights and its dtype"
        )
    return rows


def summarise(
    name: str,
    cfg: TaskConfig,
    suite: SuiteConfig,
    returned: Mapping[str, Any],
    rows: list[dict[str, Any]],
    loaded: Mapping[str, Any],
) -> dict[str, Any]:
    """The task's entry of results.json, every figure computed from items and equal to what lm-eval returned."""
    leaves = list(loaded["tasks"])
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


def write_results(
    folder: Path, suite: SuiteConfig, dtype: str, shards: Shards, reasons: Mapping[str, str]
) -> dict[str, Any]:
    """Write the payload (results.json, raw.json, samples) from the finished tasks; returns the manifest's info.

    ``dtype`` is that of the weights in memory.
    ``shards`` holds ``summary``, ``raw``, ``seconds`` and ``samples`` of every task for which ``reasons`` has none.
    """
    tasks, raw, seconds = {}, {}, {}
    for name, cfg in suite.tasks.items():
        if name in reasons:
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
            shard = shards.read(name)
            tasks[name], raw[name], seconds[name] = (shard.facts[part] for part in ("summary", "raw", "seconds"))
            write_atomic(folder / "samples" / f"{name}.parquet", shard.arrays["samples"].tobytes())
    partial = sorted({f"{name}: {reason}" for name, task in tasks.items() for reason in task["partial_reasons"]})
    write_json(folder / "raw.json", raw)
    write_json(
        folder / "results.json",
        {
            "schema": SCHEMA,
            "backend": suite.backend,
            "suite": suite.name,
            "dtype": dtype,
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


def prompts_cut(loaded: Mapping[str, Any], rows: list[dict[str, Any]], lm: Any) -> int:
    """Items whose prompt did not fit into the model and lost its beginning (lm-eval only logs a warning)."""
    cut = set()
    for leaf, task in loaded["tasks"].items():
        room = lm.max_length
        if task.OUTPUT_TYPE == "generate_until":
            room -= task.get_config("generation_kwargs").get("max_gen_toks", lm.max_gen_toks)
        cut |= {(leaf, row["doc_id"]) for row in rows if row["subtask"] == leaf and row["prompt_tokens"] > room}
    return len(cut)


def sample_file(value: Any) -> Any:
    """Functions and numpy numbers in lm-eval's results, in a form that is the same in every process."""
    if hasattr(value, "item"):
        return value.item()
    if isinstance(value, functools.partial):
        return sample_file(value.func)
    return f"{getattr(value, '__module__', '')}.{getattr(value, '__qualname__', type(value).__qualname__)}"


def parquet_bytes(rows: list[dict[str, Any]]) -> bytes:
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
