"""Run several commands of ``adg`` one after the other in one process, so that the libraries are loaded once.

Its argument is a JSON list of {"words": [...], "cwd": folder}; it prints a JSON list of {"code", "printed"} in that
order, ``printed`` being stdout and stderr as they came.
"""

from __future__ import annotations

import io
import json
import os
import sys
from contextlib import redirect_stderr, redirect_stdout
from typing import Any

from experiments import commands


def run(words: list[str], cwd: str) -> dict[str, Any]:
    """One command: its exit code, and what it printed."""
    os.chdir(cwd)
    sys.argv, before = ["adg", *words], dict(os.environ)
    said, code = io.StringIO(), 0
    with redirect_stdout(said), redirect_stderr(said):
        try:
            commands.main()
        except SystemExit as left:
            code = left.code if isinstance(left.code, int) else int(left.code is not None)
            if isinstance(left.code, str):
                print(left.code)
    os.environ.clear()  # a command tells its processes how many cells there are
    os.environ.update(before)
    return {"code": code, "printed": said.getvalue()}


if __name__ == "__main__":
    results = [run(**line) for line in json.loads(sys.argv[1])]
    print(json.dumps(results), file=sys.__stdout__, flush=True)
