"""Evaluate a model, with or without an adapter, on a suite, outside of the pipeline:

    python evaluate/run.py --model smollm2_135m --suite mini --run-model-code
    python evaluate/run.py --model <folder or hub id> [--revision <commit>] [--adapter <folder>] --suite paper

A script folder, not a package: `evaluate` is also the name of a library that lm-eval imports, so there must be no
`__init__.py` here; importable evaluation code lives in `adg/evaluation`. Results are artifacts in --runs like any
other: a second call finds them, a killed one carries on with the next task.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:] = [p for p in sys.path if Path(p or ".").resolve() != ROOT / "evaluate"]
sys.path.insert(0, str(ROOT))

from adg import command  # noqa: E402
from adg.artifacts.store import Store  # noqa: E402
from adg.backbones import embedded  # noqa: E402
from adg.backbones import stage as backbone_stage  # noqa: E402
from adg.backbones.config import BackboneConfig  # noqa: E402
from adg.errors import BadInput, nearest  # noqa: E402
from adg.evaluation import external_adapter  # noqa: E402
from adg.evaluation import stage as evaluation_stage  # noqa: E402
from adg.evaluation.config import SuiteConfig  # noqa: E402
from adg.evaluation.results import DONE  # noqa: E402
from adg.execution import ExecConfig  # noqa: E402


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--model", required=True, help="model folder, hub id, or embedded backbone")
    parser.add_argument("--revision", help="commit of a hub model")
    parser.add_argument("--dtype", help="weights in memory (default: bfloat16; float32 for embedded backbones)")
    parser.add_argument(
        "--adapter", type=lambda text: Path(text).expanduser(), help="folder of a PEFT adapter trained on that model"
    )
    parser.add_argument("--suite", default="mini", help="a file of conf/suite (default: mini)")
    parser.add_argument("--data-root", help="local data in place of the suite's own")
    parser.add_argument("--backend", choices=("hf", "vllm"), help="of lm-eval (default: the suite's)")
    parser.add_argument("--limit", type=int, help="items per subtask; marks the results as partial")
    parser.add_argument("--max-gen-toks", type=int, help="cap on generated tokens; marks the results as partial")
    parser.add_argument("--tasks", help="only these tasks of the suite, comma-separated")
    parser.add_argument("--runs", default="runs", help="folder of artifacts (default: runs)")
    parser.add_argument("--device", default="auto", help="auto | cpu | cuda")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument(
        "--run-model-code",
        action="store_true",
        help="consent to running model-written programs, confined (HumanEval, MBPP)",
    )
    return parser.parse_args()


def suite(args: argparse.Namespace) -> SuiteConfig:
    """The suite of conf/suite with what the command line changes."""
    from omegaconf import OmegaConf

    files = {path.stem: path for path in sorted((ROOT / "conf" / "suite").glob("*.yaml"))}
    if args.suite not in files:
        raise BadInput(
            f"--suite {args.suite} is not known{nearest(args.suite, list(files))}; known: {', '.join(files)}"
        )
    chosen = OmegaConf.to_container(OmegaConf.load(files[args.suite]))
    for name in ("data_root", "limit", "max_gen_toks"):
        if getattr(args, name) is not None:
            chosen[name] = getattr(args, name)
    if args.backend:
        chosen |= {"backend": args.backend, "merge_adapter": chosen["merge_adapter"] and args.backend == "hf"}
    if args.tasks:
        names = args.tasks.split(",")
        unknown = [name for name in names if name not in chosen["tasks"]]
        if unknown:
            raise BadInput(
                f"--tasks names {', '.join(unknown)}; the suite {args.suite} has {', '.join(chosen['tasks'])}"
            )
        chosen["tasks"] = {name: chosen["tasks"][name] for name in names}
    return SuiteConfig.of(chosen)


def backbone(args: argparse.Namespace) -> BackboneConfig:
    """Where the model comes from, judged by its name."""
    if args.model in embedded.BUILDERS:
        return BackboneConfig(name=args.model, builder=args.model, dtype=args.dtype or "float32")
    dtype, name = args.dtype or "bfloat16", Path(args.model).name
    if Path(args.model).is_dir():
        return BackboneConfig(name=name, path=args.model, dtype=dtype)
    return BackboneConfig(name=name, hub=args.model, revision=args.revision, dtype=dtype)


def main() -> None:
    args = arguments()
    for name in ("model", "data_root", "runs"):
        if getattr(args, name) is not None:
            setattr(args, name, os.path.expanduser(getattr(args, name)))
    base = backbone_stage.node(backbone(args))
    adapter = external_adapter.node(args.adapter, base, args.model) if args.adapter else None
    node = evaluation_stage.node(adapter, base, suite(args))
    exec_ = ExecConfig(
        runs=args.runs, device=args.device, eval_batch_size=args.batch_size, run_model_code=args.run_model_code
    )
    artifact = Store(args.runs, exec_).ensure(node)
    results = json.loads(artifact.file("results.json").read_text(encoding="utf-8"))
    print(f"\n{node.label}{' (partial)' if results['partial'] else ''}")
    for name, task in results["tasks"].items():
        if task["status"] == DONE:
            cut = f", {task['prompts_cut']} prompts cut" if task["prompts_cut"] else ""
            error = "" if task["stderr"] is None else f" ± {100 * task['stderr']:.2f}"
            print(
                f"  {name:<16} {100 * task['value']:6.2f}{error:<9} {task['n']:>6} items, {task['num_fewshot']}-shot "
                f"{task['metric']},{task['filter']}{cut}"
            )
        else:
            print(f"  {name:<16} not run: {task['reason']}")
    for name, value in results["categories"].items():
        print(f"  {name:<16} {'missing' if value is None else f'{100 * value:6.2f}'}")
    print(f"{artifact.path}/results.json")


if __name__ == "__main__":
    with command.command():
        main()
