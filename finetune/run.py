"""Fine-tune one adapter with several processes:

    accelerate launch --config_file finetune/accelerate/ddp.yaml --num_processes 8 finetune/run.py request.json

``request.json`` holds {"subset": folder, "backbone": folder, "config": {...}, "exec": {...}, "folder": output}:
two finished artifacts, the fields of ``FinetuneConfig`` and ``ExecConfig`` that differ from their defaults, and the
folder to write ``adapter/`` (or ``model/``), ``training.jsonl`` and ``info.json`` into. ``experiments.run`` writes
such a file by itself when exec.train_processes is above one ("managed": true).
"""

from __future__ import annotations

import json
import os
import sys
import threading
from pathlib import Path

HERE = Path(__file__).resolve().parent


def _end_with_parent() -> None:
    """End this process when the one that launched it is gone: its end of the pipe closes."""

    def wait() -> None:
        while os.read(0, 1024):
            pass
        os._exit(70)

    threading.Thread(target=wait, daemon=True).start()


def main(argv: list[str]) -> int:
    if {"-h", "--help"} & set(argv):
        print((__doc__ or "").strip())
        return 0
    if len(argv) != 1:
        print(__doc__, file=sys.stderr)
        return 2
    request = Path(argv[0])
    if not request.is_file():
        print(f"error: {request} is not a file; expected a request, see finetune/run.py --help", file=sys.stderr)
        return 2
    if b'"managed": true' in request.read_bytes():
        _end_with_parent()

    from adg import collector, command
    from adg.artifacts.sealed import write_sealed
    from adg.errors import HarnessError
    from finetune.request import read_request, run_request

    first, managed = int(os.environ.get("RANK", "0")) == 0, False
    try:
        command.in_utf8()
        command.show_warnings()
        collector.collect_seldom()
        managed = bool(read_request(request).get("managed", False))
        with command.stoppable(quiet=managed or not first):
            info = run_request(request)
    except HarnessError as error:
        print(f"error (process {os.environ.get('RANK', '0')}): {error}", file=sys.stderr)
        failure = request.with_name("failure.json")
        if managed and not failure.exists():  # the first that fails says why; the others are ended for it
            write_sealed(failure, {"kind": type(error).__name__, "reason": str(error)})
        return 1
    if first and not managed:
        print(json.dumps(info, indent=2))
    return 0


if __name__ == "__main__":
    # A script's own folder is on the path; the project's root must be there instead.
    sys.path[0] = str(HERE.parent)
    sys.exit(main(sys.argv[1:]))
