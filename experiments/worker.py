"""Where a stage runs: with a GPU, in a worker process that ends when another kind of stage starts.

Frameworks do not give all GPU memory back while their process lives, so each kind of GPU stage gets a process of
its own, reused while the kind stays the same. Without a GPU stages run in this process and heavy imports are
paid once.
"""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import threading
import traceback
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context, parent_process
from pathlib import Path
from typing import Any

from adg.errors import HarnessError
from adg.execution import ExecConfig
from adg.store import Artifact, Node, run_builder


@functools.cache
def gpu_present() -> bool:
    """Whether an NVIDIA GPU can be used, found without importing torch."""
    if os.environ.get("CUDA_VISIBLE_DEVICES") == "" or shutil.which("nvidia-smi") is None:
        return False
    done = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False)
    return done.returncode == 0 and "GPU" in done.stdout


class RemoteFailure(Exception):
    """An exception of a worker process, as text: its type, message and traceback."""


def _remote(node: Node, folder: Path, inputs: Mapping[str, Artifact], exec_: ExecConfig) -> dict[str, Any]:
    try:
        return run_builder(node, folder, inputs, exec_)
    except HarnessError:
        raise
    except Exception as error:
        raise RemoteFailure(f"{type(error).__name__}: {error}\n{traceback.format_exc()}") from None


def _end_with_parent() -> None:
    """In a worker: end when the process that started it ends, however that happens. It held the locks."""

    def wait() -> None:
        parent = parent_process()
        if parent is not None:
            parent.join()
        os._exit(70)

    threading.Thread(target=wait, daemon=True).start()


class Runner:
    """Calls builders, each in the process where it belongs. Use as a context manager."""

    def __init__(self) -> None:
        # Read when torch is first imported: OpenMP threads that wait for work sleep instead of spinning, which on a
        # machine that is busy with anything else multiplies the time of every stage.
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
        self._kind = ""
        self._pool: ProcessPoolExecutor | None = None

    def __call__(self, node: Node, folder: Path, inputs: Mapping[str, Artifact], exec_: ExecConfig) -> dict[str, Any]:
        isolated = exec_.isolation == "process" or (
            exec_.isolation == "auto" and exec_.device != "cpu" and gpu_present()
        )
        if not (node.stage.gpu and isolated):
            return run_builder(node, folder, inputs, exec_)
        if self._pool is None or self._kind != node.stage.name:
            self.close()
            self._kind = node.stage.name
            self._pool = ProcessPoolExecutor(1, mp_context=get_context("spawn"), initializer=_end_with_parent)
        try:
            return self._pool.submit(_remote, node, folder, dict(inputs), exec_).result()
        except BaseException as error:
            if not isinstance(error, HarnessError):
                self.close()  # the process may be gone or its memory in an unknown state
            raise

    def close(self) -> None:
        """End the worker process, which gives its memory back."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
            self._pool = None

    def __enter__(self) -> Runner:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()
