"""Which GPUs a stage may use: cells that run at once on a machine each take free ones, and give them back.

A GPU is taken by locking a file under its UUID, so it comes back however its holder ends. What ``CUDA_VISIBLE_DEVICES``
leaves visible (a launcher's or Slurm's choice) is shared out; nothing else is touched.
"""

from __future__ import annotations

import functools
import itertools
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

from adg.errors import BadInput

WAIT = 1.0  # seconds between two looks at GPUs that others hold


@functools.cache
def listed() -> tuple[str, ...]:
    """The UUIDs of the machine's NVIDIA GPUs by index, found without importing torch; empty where there are none."""
    if shutil.which("nvidia-smi") is None:
        return ()
    done = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False, encoding="utf-8")
    if done.returncode != 0:
        return ()
    return tuple(re.findall(r"^GPU \d+:.*\(UUID: (\S+)\)", done.stdout, flags=re.MULTILINE))


def visible() -> dict[str, str]:
    """GPUs this process may use: as ``CUDA_VISIBLE_DEVICES`` names them -> the same name for every process."""
    uuids, chosen = listed(), os.environ.get("CUDA_VISIBLE_DEVICES")
    if not uuids:
        return {}
    if chosen is None:
        return {str(i): uuid for i, uuid in enumerate(uuids)}
    names = list(itertools.takewhile(lambda name: name and name != "-1", (part.strip() for part in chosen.split(","))))
    return {name: uuids[int(name)] if name.isdigit() and int(name) < len(uuids) else name for name in names}


def refuse_more_than(seen: int, count: int) -> None:
    """Raise ``BadInput`` where ``count`` GPUs are asked for and fewer are visible."""
    if count > seen:
        raise BadInput(
            f"{count} GPUs are asked for (engine.replicas times exec.tensor_parallel, or exec.train_processes) but "
            f"{seen} are visible; lower it, or widen CUDA_VISIBLE_DEVICES"
        )


class Lease:
    """``count`` of the visible GPUs, held until ``close``; waits for others to give theirs back.

    ``names`` is what the worker's ``CUDA_VISIBLE_DEVICES`` must say. Raises ``BadInput`` when fewer are visible.
    """

    def __init__(self, count: int, gpus: Mapping[str, str] | None = None, folder: Path | None = None) -> None:
        from filelock import FileLock, Timeout

        gpus = visible() if gpus is None else gpus
        refuse_more_than(len(gpus), count)
        folder = folder or Path(tempfile.gettempdir()) / f"adg-gpus-{os.getuid()}"
        folder.mkdir(mode=0o700, exist_ok=True)
        self.names: list[str] = []
        self._held = ExitStack()
        self.waited = 0.0  # seconds
        started = time.monotonic()
        while True:
            with FileLock(folder / "turn.lock"):  # one looks at a time, and takes all that it needs or nothing
                for name, uuid in gpus.items():
                    if len(self.names) == count:
                        break
                    lock = FileLock(folder / f"{re.sub(r'[^A-Za-z0-9-]', '_', uuid)}.lock")
                    try:
                        lock.acquire(timeout=0)
                    except Timeout:
                        continue
                    self._held.callback(lock.release)
                    self.names.append(name)
                if len(self.names) == count:
                    return
                self.close()
            if not self.waited:
                print(f"    waiting for {count} of {len(gpus)} GPUs, which other cells use", flush=True)
            time.sleep(WAIT)
            self.waited = time.monotonic() - started

    def close(self) -> None:
        """Give the GPUs back."""
        self._held.close()
        self.names = []
