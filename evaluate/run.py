"""Evaluate a model, with or without an adapter, on a suite, outside of the pipeline:

    python evaluate/run.py --model smollm2_135m --suite mini --run-model-code
    python evaluate/run.py --model <folder or hub id> [--revision <commit>] [--adapter <folder>] --suite paper

--model and --adapter take what other parts of the project made as well: the folder of a backbone's artifact, and what
`finetune/run.py` wrote (an adapter, or a whole model).

A script folder, not a package: `evaluate` is also the name of a library that lm-eval imports, so there must be no
`__init__.py` here; importable evaluation code lives in `adg/evaluation`. Results are artifacts in --runs like any
other: a second call finds them, a killed one carries on with the next task.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:] = [p for p in sys.path if Path(p or ".").resolve() != ROOT / "evaluate"]
sys.path.insert(0, str(ROOT))

from adg import command, hub  # noqa: E402
from adg.artifacts.artifact import read_artifact  # noqa: E402
from adg.artifacts.store import Store  # noqa: E402
from adg.backbones import embedded, loading  # noqa: E402
from adg.backbones import stage as backbone_stage  # noqa: E402
from adg.backbones.config import BackboneConfig  # noqa: E402
from adg.errors import BadInput, nearest  # noqa: E402
from adg.evaluation import benchmarks, external_adapter, lm_eval_tasks, statistics  # noqa: E402
from adg.evaluation import stage as evaluation_stage  # noqa: E402
from adg.evaluation.config import SuiteConfig  # noqa: E402
from adg.evaluation.results import DONE  # noqa: E402
from adg.execution import DTYPES, ENGINES, ExecConfig  # noqa: E402
from experiments import schema, search_path  # noqa: E402
from experiments.arguments import Parser, at_least  # noqa: E402


def arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    """The options of a command line. Raises ``BadInput``."""
    parser = Parser(prog="adg evaluate", description=__doc__)
    parser.add_argument("--model", required=True, help="model folder, hub id, or embedded backbone")
    parser.add_argument("--revision", help="commit of a hub model")
    parser.add_argument("--dtype", choices=DTYPES, help="weights in memory (bfloat16; float32 for embedded backbones)")
    parser.add_argument(
        "--adapter", type=lambda text: Path(text).expanduser(), help="folder of a PEFT adapter trained on that model"
    )
    parser.add_argument("--suite", default="mini", help="a file of conf/suite (default: mini)")
    parser.add_argument("--data-root", help="local data in place of the suite's own")
    parser.add_argument("--backend", choices=ENGINES, help="of lm-eval (default: the suite's)")
    parser.add_argument("--limit", type=at_least(1), help="items per subtask; marks the results as partial")
    parser.add_argument(
        "--max-gen-toks", type=at_least(1), help="cap on generated tokens; marks the results as partial"
    )
    parser.add_argument("--tasks", help="only these tasks of the suite, comma-separated")
    parser.add_argument("--runs", default="runs", help="folder of artifacts (default: runs)")
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    parser.add_argument("--batch-size", type=at_least(1), default=8)
    parser.add_argument(
        "--run-model-code",
        action="store_true",
        help="consent to running model-written programs, confined (HumanEval, MBPP)",
    )
    return parser.parse_args(search_path.take(sys.argv[1:] if words is None else words))


def suite(args: argparse.Namespace) -> SuiteConfig:
    """The suite of that name, of conf/, a package or ``--config-dir``, with what the command line changes."""
    from omegaconf import OmegaConf

    known, file = search_path.names("suite"), search_path.file_of(f"suite/{args.suite}")
    if file is None:
        raise BadInput(f"--suite {args.suite} is not known{nearest(args.suite, known)}; known: {', '.join(known)}")
    schema.register()
    chosen: Any = OmegaConf.to_container(OmegaConf.load(file), resolve=True)
    for name in ("data_root", "limit", "max_gen_toks"):
        if getattr(args, name) is not None:
            chosen[name] = getattr(args, name)
    if args.backend:
        chosen |= {
            "backend": args.backend,
            "merge_adapter": chosen.get("merge_adapter", False) and args.backend == "hf",
        }
    if args.tasks is not None:
        names, known = args.tasks.split(","), list(chosen["tasks"])
        for name in names:
            if name not in known:
                raise BadInput(
                    f"--tasks names {name!r}{nearest(name, known)}; the suite {args.suite} has {', '.join(known)}"
                )
        chosen["tasks"] = {name: chosen["tasks"][name] for name in names}
    return SuiteConfig.of(chosen)


def backbone(args: argparse.Namespace) -> BackboneConfig:
    """Where the model comes from, judged by its name. Raises ``BadInput``."""
    folder, near = Path(args.model).expanduser(), nearest(args.model, list(embedded.BUILDERS))
    if args.model not in embedded.BUILDERS and not folder.is_dir():
        if folder.exists() or args.model.count("/") > 1 or args.model.startswith((".", "/", "~")):
            raise BadInput(
                f"--model {args.model} is no folder{near}; expected a model folder, a hub id (owner/name), or an "
                f"embedded backbone ({', '.join(embedded.BUILDERS)})"
            )
        if not hub.is_commit(args.revision):
            raise BadInput(
                f"--model {args.model} is no folder and no embedded backbone{near}; from the hub it needs --revision "
                f"with a 40-digit commit hash, which its page there names (here {args.revision})"
            )
        return BackboneConfig(name=folder.name, hub=args.model, revision=args.revision, dtype=args.dtype or "bfloat16")
    if args.revision is not None:
        raise BadInput(f"--revision is of models from the hub; --model {args.model} is not one")
    if args.model in embedded.BUILDERS:
        return BackboneConfig(name=args.model, builder=args.model, dtype=args.dtype or "float32")
    return _of_folder(folder, args.dtype)


def _of_folder(folder: Path, dtype: str | None) -> BackboneConfig:
    """The model in a folder: of ``save_pretrained``, of a backbone's artifact, or that ``finetune/run.py`` trained."""
    artifact = read_artifact(folder)
    if artifact is not None and artifact.manifest["stage"] == "backbone":
        source = json.loads(artifact.file("source.json").read_text(encoding="utf-8"))
        origin = {key: source[key] for key in ("builder", "hub", "revision", "path") if key in source}
        return BackboneConfig(name=artifact.manifest["label"], dtype=dtype or loading.dtype_of(artifact), **origin)
    if not (folder / "config.json").is_file():
        if (folder / "model" / "config.json").is_file():
            return BackboneConfig(name=folder.name, path=str(folder / "model"), dtype=dtype or "bfloat16")
        for place in (folder, folder / "adapter"):
            if (place / external_adapter.CONFIG).is_file():
                raise BadInput(f"--model {folder} is an adapter; give it as --adapter, and its base model as --model")
    return BackboneConfig(name=folder.name, path=str(folder), dtype=dtype or "bfloat16")


def main(words: Sequence[str] | None = None) -> None:
    """Evaluate what a command line names and print the scores. Raises ``HarnessError``."""
    args = arguments(words)
    for name in ("model", "data_root", "runs"):
        if getattr(args, name) is not None:
            setattr(args, name, os.path.expanduser(getattr(args, name)))
    chosen = suite(args)
    lm_eval_tasks.check(chosen)
    base = backbone_stage.node(backbone(args))
    adapter = external_adapter.node(args.adapter, base, args.model) if args.adapter else None
    node = evaluation_stage.node(adapter, base, chosen)
    exec_ = ExecConfig(
        runs=args.runs, device=args.device, eval_batch_size=args.batch_size, run_model_code=args.run_model_code
    )
    artifact = Store(args.runs, exec_).ensure(node)
    results = json.loads(artifact.file("results.json").read_text(encoding="utf-8"))
    print(f"\n{node.label}{' (partial)' if results['partial'] else ''}")
    for name, task in results["tasks"].items():
        print(f"  {name:<16} {score(name, task) if task['status'] == DONE else 'not run: ' + task['reason']}")
    for name, value in results["categories"].items():
        print(f"  {name:<16} {'missing' if value is None else f'{100 * value:6.2f}'}")
    print(f"{artifact.path}/results.json")


def score(name: str, task: dict[str, Any]) -> str:
    """A task's score in percent with its 95 % interval over items, and how it was measured."""
    ends = statistics.score_interval(task["value"], task["stderr"], task["n"], benchmarks.binary(name))
    spread = "" if ends is None else f"[{100 * ends.low:.2f}, {100 * ends.high:.2f}]"
    cut = f", {task['prompts_cut']} prompts cut" if task["prompts_cut"] else ""
    return (
        f"{100 * task['value']:6.2f} {spread:<16} {task['n']:>6} items, {task['num_fewshot']}-shot "
        f"{task['metric']},{task['filter']}{cut}"
    )


if __name__ == "__main__":
    with command.command():
        main()
