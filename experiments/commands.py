"""The command ``adg`` and its sub-commands; imports nothing but what its help needs.

Each is a module with a ``main``, so that ``python -m experiments.plan`` is ``adg plan``.
"""

from __future__ import annotations

import runpy
import sys
from dataclasses import dataclass
from importlib import import_module, metadata

from adg import places


@dataclass(frozen=True)
class SubCommand:
    """``says`` is its line in the help; ``function`` ("module:name", name ``main`` where it is not said) or the file
    ``script`` is called with ``first`` before what is typed."""

    says: str
    function: str = ""
    script: str = ""
    first: tuple[str, ...] = ()


COMMANDS = {
    "select": SubCommand(
        "the best rows of a file or data set of yours: no training, no benchmark", "experiments.select:entry"
    ),
    "plan": SubCommand("what a study would do: cells, what is there already, a rough cost", "experiments.plan"),
    "run": SubCommand("one cell: select, fine-tune, evaluate", "experiments.run:entry"),
    "sweep": SubCommand(
        "every cell of a study, then its table; continues where it stopped", "experiments.run:entry", first=("-m",)
    ),
    "submit": SubCommand("the same as jobs of a Slurm cluster, shared stages first", "experiments.submit"),
    "status": SubCommand("how far it is, and what failed", "experiments.status"),
    "sync": SubCommand("bring a tracker up to what is on disk, without repeating anything", "experiments.sync"),
    "report": SubCommand("its table as text, Markdown, CSV and a page", "experiments.report.__main__"),
    "claims": SubCommand("every published claim with a verdict from the finished cells", "experiments.claims.__main__"),
    "compare": SubCommand("ADG against the other selectors on the same items, with intervals", "experiments.compare"),
    "samples": SubCommand("what a cell answered item by item, or what differs between two", "experiments.samples"),
    "power": SubCommand("which difference it can see, how many seeds a point needs", "experiments.power"),
    "contamination": SubCommand("benchmark text in a pool and in each subset", "experiments.contamination"),
    "contract": SubCommand("whether a selector of yours does what all of them must", "experiments.contract"),
    "fetch": SubCommand("fill or verify a mirror for machines without a network", "experiments.fetch"),
    "evaluate": SubCommand("a model, or an adapter of yours, on a suite", script="evaluate/run.py"),
    "bench": SubCommand("speed and memory against the plain way", "bench.__main__"),
    "gpu-check": SubCommand("whether all of it works on this machine's GPU", "bench.gpu_check.__main__"),
}
EXAMPLES = """\
What is run is said by overrides, key=value; a key that does not exist is refused with the nearest one:
  adg select pool=local pool.path=my.jsonl budget=1000 out=best.jsonl
  adg sweep profile=mini selector=adg,random
adg COMMAND --help: its options and examples, and which profiles, pools and selectors there are."""


def overview() -> str:
    """The help of the command itself: a line for each sub-command, on one screen."""
    return "\n".join(
        [
            "adg chooses instruction data by the divergence of sampled answers, and measures what it helps.",
            "usage: adg COMMAND [key=value ...] [options], COMMAND is one of",
            *(f"  {name:<14} {entry.says}" for name, entry in COMMANDS.items()),
            EXAMPLES,
        ]
    )


def main() -> None:
    """Run what ``sys.argv`` names."""
    words = sys.argv[1:]
    if not words or words[0] in ("--help", "-h", "help"):
        print(overview())
        return
    name, *rest = words
    if name == "--version":
        print(f"adg-harness {metadata.version('adg-harness')}")
        return
    if name not in COMMANDS:
        from adg.errors import nearest

        sys.exit(f"error: adg has no command {name!r}{nearest(name, list(COMMANDS))}; there are {', '.join(COMMANDS)}")
    chosen = COMMANDS[name]
    sys.argv = [f"adg {name}", *chosen.first, *rest]
    if chosen.script:
        runpy.run_path(str(places.ROOT / chosen.script), run_name="__main__")
    else:
        module, _, function = chosen.function.partition(":")
        sys.exit(getattr(import_module(module), function or "main")())
