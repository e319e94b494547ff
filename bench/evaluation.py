"""The evaluation stage against lm-eval's own command line: same model, tasks, shots, limit and data.

Each runs in a process of its own, first load to last score. Prints whether every item got the same prompt and the same
score, and the time of both. HumanEval and MBPP are left out: lm-eval's command line fetches their metric from the hub.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from adg.places import ROOT
from bench.shared import show

SUBTASKS = {
    "bbh": ["bbh_cot_fewshot_sports_understanding"],
    "mmlu": ["mmlu_astronomy", "mmlu_high_school_geography"],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backbone", default="smollm2_135m", help="an embedded backbone")
    parser.add_argument(
        "--benchmarks", type=Path, help="as suite.data_root, for the paper's tasks; else the small sets"
    )
    parser.add_argument("--limit", type=int, default=4, help="items of each subtask")
    parser.add_argument("--new-tokens", type=int, default=32)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--ours", type=Path, help=argparse.SUPPRESS)  # the folder in which the second process works
    args = parser.parse_args()
    if args.ours:
        _evaluate(args, args.ours)
        return
    with tempfile.TemporaryDirectory() as folder:
        found = compare(args, Path(folder))
    show(found)
    if found["items"] == 0 or found["different_prompts"] or found["different_scores"]:
        raise SystemExit("lm-eval's own command line gives other items or scores")


def compare(args: argparse.Namespace, work: Path) -> dict[str, Any]:
    """Run both and hold their samples against each other."""
    from adg.artifacts import provenance, store
    from adg.backbones import loading
    from adg.evaluation import samples
    from adg.execution import ExecConfig

    backbone = store.Store(work, ExecConfig(device="cpu")).ensure(_backbone(args.backbone))
    suite = _suite(args)
    files = [file for name, task in suite.tasks.items() for file in _task_files(name, suite, task, work)]
    offline = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "PYTHONPATH": str(ROOT)}
    command = [
        sys.executable,
        "-m",
        "lm_eval",
        "run",
        "--model",
        "hf",
        "--device",
        "cpu",
        "--model_args",
        f"pretrained={loading.model_path(backbone)},dtype=float32",
        "--tasks",
        ",".join(files),
        "--limit",
        str(args.limit),
        "--batch_size",
        str(args.batch_size),
        "--log_samples",
        "--gen_kwargs",
        f"max_gen_toks={args.new_tokens}",
        "--output_path",
        str(work / "theirs"),
    ]
    # in its shared cache `datasets` would take an older copy of a folder of the same name for this one
    theirs = _timed(command, {**offline, "HF_DATASETS_CACHE": str(work / "cache")})
    ours = _timed([sys.executable, "-m", "bench.evaluation", *sys.argv[1:], "--ours", str(work)], offline)
    result = json.loads(next((work / "theirs").rglob("results_*.json")).read_text(encoding="utf-8"))
    artifact = store.Store(work, ExecConfig(device="cpu")).find(_node(args))
    assert artifact is not None, "the second process has just built it"
    items, prompts, scores = 0, [], []
    for name, task in suite.tasks.items():
        expected = {}
        for subtask in task.subtasks or [name]:
            (path,) = (work / "theirs").rglob(f"samples_{subtask}_*.jsonl")
            for sample in map(json.loads, path.read_text(encoding="utf-8").splitlines()):
                if sample["filter"] in (task.filter, "none"):
                    expected[subtask, sample["doc_id"]] = (sample["prompt_hash"], float(sample[task.metric]))
        for row in samples.rows(artifact, name):
            prompt, score = expected.pop((row["subtask"], row["doc_id"]), ("", float("nan")))
            items += 1
            which = f"{row['subtask']} {row['doc_id']}"
            if prompt != row["prompt_hash"]:
                prompts.append(which)
            if not abs(score - row["score"]) <= 1e-4:
                scores.append(f"{which}: {score} there, {row['score']} here")
    return {
        "benchmark": "evaluation",
        "tasks": list(suite.tasks),
        "items": items,
        "different_prompts": prompts,
        "different_scores": scores,
        "seconds": {"lm_eval": round(theirs, 1), "ours": round(ours, 1)},
        "lm_eval_says": round(float(result["total_evaluation_time_seconds"]), 1),
        "overhead_percent": round(100 * (ours / theirs - 1), 1),
        "machine": provenance.machine(),
    }


def _timed(command: list[str], environment: dict[str, str]) -> float:
    started = time.perf_counter()
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, encoding="utf-8"
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(command[:4])} ended with {done.returncode}:\n{done.stderr[-3000:]}")
    return time.perf_counter() - started


def _backbone(name: str) -> Any:
    from adg.backbones import stage as backbone_stage
    from adg.backbones.config import BackboneConfig

    return backbone_stage.node(BackboneConfig(name=name, builder=name, dtype="float32"))


def _suite(args: argparse.Namespace) -> Any:
    """The suite without coding tasks, with this many items of a few subtasks."""
    import yaml

    from adg.evaluation.config import SuiteConfig

    name = "paper" if args.benchmarks else "mini"
    values = yaml.safe_load((ROOT / "conf" / "suite" / f"{name}.yaml").read_text(encoding="utf-8"))
    tasks = {}
    for task, entry in values["tasks"].items():
        if not entry.get("runs_code"):
            tasks[task] = {
                **entry,
                "limit": None,
                **({"subtasks": SUBTASKS[task]} if task in SUBTASKS else {}),
            }
    return SuiteConfig.of(
        {
            **values,
            "tasks": tasks,
            "limit": args.limit,
            "max_gen_toks": args.new_tokens,
            "dtype": "float32",
            "data_root": str(args.benchmarks.resolve()) if args.benchmarks else values["data_root"],
        }
    )


def _task_files(name: str, suite: Any, task: Any, work: Path) -> list[str]:
    """lm-eval's own definitions with the number of shots and the local data, as files for its command line."""
    from adg.evaluation.lm_eval_tasks import known_tasks

    files = []
    for subtask in task.subtasks or [name]:
        (folder,) = known_tasks()[subtask]
        line = re.compile(rf"""^["']?task["']?: *["']?{subtask}["']?\s*$""", re.MULTILINE)
        (source,) = [path for path in Path(folder).rglob("*.yaml") if line.search(path.read_text(encoding="utf-8"))]
        target = work / f"{subtask}.yaml"
        target.write_text(
            f"include: {source}\ntask: {subtask}\nnum_fewshot: {task.num_fewshot}\n"
            f"dataset_path: {suite.root / task.repo}\n",
            encoding="utf-8",
        )
        files.append(str(target))
    return files


def _node(args: argparse.Namespace) -> Any:
    from adg.evaluation import stage as evaluation_stage

    return evaluation_stage.node(None, _backbone(args.backbone), _suite(args))


def _evaluate(args: argparse.Namespace, work: Path) -> None:
    from adg.artifacts.store import Store
    from adg.execution import ExecConfig

    Store(work, ExecConfig(device="cpu", eval_batch_size=args.batch_size)).ensure(_node(args))


if __name__ == "__main__":
    main()
