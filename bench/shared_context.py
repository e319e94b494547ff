"""Requests of benchmarks by our model for lm-eval and by lm-eval's own: what sharing contexts saves, item by item.

Both run in one process on one model, on what lm-eval asks for: choices to score (MMLU, TruthfulQA) and texts to go on
with (GSM8K). Prints seconds an item of each and how far apart the results are; ``bench.evaluation`` holds the whole
stage against lm-eval's command line.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from bench.shared import environment, open_backbone, show, timed

TOLERANCE = 1e-3  # of a log-probability, in float32


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backbone", default="smollm2_135m", help="an embedded backbone")
    parser.add_argument("--model", type=Path, help="a model folder instead, as written by save_pretrained")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16", "float16"))
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    parser.add_argument(
        "--benchmarks", type=Path, help="as suite.data_root, with the paper's shots; else the small sets"
    )
    parser.add_argument("--tasks", nargs="+", default=["mmlu", "truthfulqa_mc2", "gsm8k"])
    parser.add_argument("--limit", type=int, default=8, help="items of each subtask")
    parser.add_argument("--new-tokens", type=int, default=32)
    parser.add_argument("--batch-size", type=int, default=8)
    args = parser.parse_args()
    with open_backbone(args) as backbone:
        found = compare(args, backbone)
    show(found)
    if args.dtype == "float32" and any(task["largest_difference"] > TOLERANCE for task in found["tasks"].values()):
        raise SystemExit("lm-eval's own model gives other scores")


def compare(args: argparse.Namespace, backbone: Any) -> dict[str, Any]:
    """Both models on the requests of every task."""
    from lm_eval.models.huggingface import HFLM
    from transformers import GenerationConfig

    from adg.backbones import loading
    from adg.evaluation import lm_eval_tasks, shared_context
    from adg.evaluation.lm_eval_model import PLAIN_SENTENCE, quiet_lm_eval
    from adg.execution import ExecConfig

    device = loading.device(ExecConfig(device=args.device))
    model, tokenizer = loading.load_model(backbone, device, args.dtype), loading.load_tokenizer(backbone)
    stop = loading.stop_ids(backbone, tokenizer)
    model.generation_config = GenerationConfig(eos_token_id=stop, pad_token_id=tokenizer.pad_token_id)
    settings = {"batch_size": args.batch_size, "add_bos_token": loading.adds_bos(tokenizer)}
    probe, suite, tasks = tokenizer(PLAIN_SENTENCE)["input_ids"], _suite(args), {}
    with quiet_lm_eval("hf"):
        theirs = HFLM(pretrained=model, tokenizer=tokenizer, **settings)
        for name in args.tasks:
            requests = lm_eval_tasks.requests(name, lm_eval_tasks.load_task(name, suite), suite, theirs)
            kind = requests[0].request_type
            ours = shared_context.make_lm(model, tokenizer, stop, probe, **settings)
            found, taken = timed(lambda: getattr(ours, kind)(requests))  # noqa: B023 - called at once
            expected, plain = timed(lambda: getattr(theirs, kind)(requests))  # noqa: B023
            items = len({(one.task_name, one.doc_id) for one in requests})
            tasks[name] = {
                "items": items,
                "requests": len(requests),
                "seconds_an_item": {"ours": round(taken[0] / items, 3), "lm_eval": round(plain[0] / items, 3)},
                "processor_seconds_an_item": {
                    "ours": round(taken[1] / items, 3),
                    "lm_eval": round(plain[1] / items, 3),
                },
                "processor_ratio": round(plain[1] / taken[1], 2),
                **_apart(kind, found, expected),
            }
    return {"benchmark": "shared_context", "tasks": tasks, **environment(device)}


def _apart(kind: str, found: list[Any], expected: list[Any]) -> dict[str, Any]:
    """How far results are apart: log-probabilities, or the number of texts that are not the same."""
    if kind == "generate_until":
        return {"different_texts": sum(a != b for a, b in zip(found, expected, strict=True)), "largest_difference": 0.0}
    return {"largest_difference": max(abs(a[0] - b[0]) for a, b in zip(found, expected, strict=True))}


def _suite(args: argparse.Namespace) -> Any:
    """The suite with this many items of at most two subtasks."""
    import yaml

    from adg.evaluation.config import SuiteConfig
    from adg.places import ROOT

    path = ROOT / "conf" / "suite" / f"{'paper' if args.benchmarks else 'mini'}.yaml"
    values = yaml.safe_load(path.read_text(encoding="utf-8"))
    two = {"mmlu": ["mmlu_astronomy", "mmlu_high_school_geography"]}
    tasks = {
        name: {**values["tasks"][name], "limit": None, **({"subtasks": two[name]} if name in two else {})}
        for name in args.tasks
    }
    root = str(args.benchmarks.resolve()) if args.benchmarks else values["data_root"]
    changes = {"tasks": tasks, "limit": args.limit, "max_gen_toks": args.new_tokens, "data_root": root}
    return SuiteConfig.of({**values, **changes})


if __name__ == "__main__":
    main()
