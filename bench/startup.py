"""Processor seconds until a command that builds nothing has answered:  python -m bench.startup [--runs runs]

Without ``--runs`` the folder of artifacts is empty. A first run, which is not counted, compiles what is imported.
A sweep of which all is finished builds nothing either:  python -m bench.startup --runs runs --commands "run -m"
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from adg.places import ROOT
from bench.shared import show

COMMANDS = ("plan --help", "plan", "status", "report", "claims")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, help="a folder of artifacts; report and claims write their tables into it")
    parser.add_argument("--commands", nargs="*", default=COMMANDS, help="as in: plan 'plan --help'")
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        runs = args.runs.absolute() if args.runs else Path(folder)
        seconds = {command: measured(command, runs, args.repeats) for command in args.commands}
    show({"processor_seconds": {command: {"least": min(taken), "all": taken} for command, taken in seconds.items()}})


def measured(command: str, runs: Path, repeats: int) -> list[float]:
    """Processor seconds of a command, each time in a process of its own. Raises where it fails."""
    name, *switches = command.split()
    asked = [sys.executable, "-m", f"experiments.{name}", *switches, "profile=mini", f"exec.runs={runs}"]
    environment: dict[str, Any] = {**os.environ, "OMP_NUM_THREADS": "1"}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    taken = []
    for _ in range(repeats + 1):
        before = os.times()
        subprocess.run(asked, cwd=ROOT, env=environment, check=True, stdout=subprocess.DEVNULL)
        after = os.times()
        taken.append(
            round(after.children_user + after.children_system - before.children_user - before.children_system, 2)
        )
    return taken[1:]


if __name__ == "__main__":
    main()
