"""What the machine does while a cell is at work: processor, memory, GPUs, a line of JSON every ten seconds."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from pathlib import Path
from types import TracebackType

from adg import live

EVERY = 10.0  # seconds
log = logging.getLogger(__name__)


def figures() -> dict[str, float]:
    """Of the machine: ``cpu_percent`` since the last call, ``memory_percent``; of this process and what it started:
    ``memory_bytes``, resident; of each GPU that the driver shows ``gpu<i>_memory_bytes`` and ``gpu<i>_percent``."""
    import psutil

    own = psutil.Process()
    resident = 0
    for process in (own, *own.children(recursive=True)):
        with contextlib.suppress(psutil.Error):  # it has ended
            resident += process.memory_info().rss
    found = {
        "cpu_percent": psutil.cpu_percent(),
        "memory_percent": psutil.virtual_memory().percent,
        "memory_bytes": float(resident),
    }
    try:
        import pynvml
    except ImportError:
        return found
    with contextlib.suppress(pynvml.NVMLError):  # no driver, or a GPU that does not say
        pynvml.nvmlInit()
        for number in range(pynvml.nvmlDeviceGetCount()):
            gpu = pynvml.nvmlDeviceGetHandleByIndex(number)
            found[f"gpu{number}_memory_bytes"] = float(pynvml.nvmlDeviceGetMemoryInfo(gpu).used)
            found[f"gpu{number}_percent"] = float(pynvml.nvmlDeviceGetUtilizationRates(gpu).gpu)
    return found


class SystemFigures:
    """A context in which ``figures`` are written into a file, with the whole ``seconds`` since its first line.

    A cell that is taken up again adds to its file, so that its seconds only grow.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="system figures", daemon=True)

    def _run(self) -> None:
        figures()  # the share of the processor is that since the call before
        while not self._stop.wait(0.5):
            self._write()
            if self._stop.wait(EVERY - 0.5):
                break
        self._write()

    def _write(self) -> None:
        try:
            now = time.time()
            before, _ = live.read(self.path)
            began = before[0]["time"] if before else now
            live.tell(self.path, {"time": now, "seconds": int(now - began), **figures()})
        except Exception as error:  # a figure that cannot be had costs nothing else
            log.debug("no figures of the system: %s", error)

    def __enter__(self) -> SystemFigures:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join(timeout=2)
