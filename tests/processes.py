"""Processes of Python that begin with the large libraries loaded.

Each worker of the tests has a server for each environment that libraries read while they are imported; it loads them
once and is forked for every process. What comes of it is a process like any other, with a number, a session, signals
and an exit status of its own, and nothing of this project loaded. Tests of what is imported, or of how Python itself
starts, use ``subprocess``, and so do those with an environment of their own: another server takes longer than that.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import traceback
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

LIBRARIES = (
    *("numpy", "pyarrow.parquet", "scipy.stats", "sklearn.cluster", "sklearn.metrics", "matplotlib.figure"),
    *("hydra", "rich.console", "torch", "torch._dynamo", "torch.distributed.tensor", "datasets"),
    *("transformers.models.auto.modeling_auto", "transformers.models.auto.tokenization_auto"),
    *("transformers.models.llama.modeling_llama", "transformers.models.gpt2.modeling_gpt2"),
    *("peft", "trl.trainer.sft_trainer", "lm_eval.models.huggingface", "lm_eval.evaluator"),
)
READ = ("HF_", "TRANSFORMERS_", "TORCHDYNAMO_", "OMP_NUM_THREADS", "MKL_", "LC_", "LANG", "HOME", "XDG_", "PYTHONUTF8")
_servers: dict[str, socket.socket] = {}


class Process:
    """What a test holds of one, as ``subprocess.Popen`` with pipes of text."""

    def __init__(self, pid: int, status: socket.socket, stdout: TextIO | None, stderr: TextIO | None) -> None:
        self.pid, self.stdout, self.stderr = pid, stdout, stderr
        self.returncode: int | None = None
        self._status = status

    def wait(self, timeout: float | None = None) -> int:
        """The exit status, negative for a signal."""
        if self.returncode is None:
            self._status.settimeout(timeout)
            try:
                self.returncode = int(self._status.recv(32))
            except (TimeoutError, BlockingIOError):
                raise subprocess.TimeoutExpired(f"process {self.pid}", timeout or 0) from None
            self._status.close()
        return self.returncode

    def poll(self) -> int | None:
        """The exit status; None while it runs."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """What it prints from here on, to stdout and to stderr; waits for its end."""
        said = ["", ""]

        def read(place: int, pipe: TextIO) -> None:
            with pipe:
                said[place] = pipe.read()

        pipes = [(place, pipe) for place, pipe in enumerate((self.stdout, self.stderr)) if pipe is not None]
        readers = [threading.Thread(target=read, args=one, daemon=True) for one in pipes]
        for reader in readers:
            reader.start()
        self.wait(timeout)
        for reader in readers:  # what it has started may print on
            reader.join(timeout)
        return said[0], said[1]


def start(
    words: Sequence[str | Path],
    *,
    cwd: Path | str | None = None,
    env: Mapping[str, str] | None = None,
    quiet: bool = False,
    together: bool = False,
) -> Process:
    """Start Python with these words: ``-m`` and a module, ``-c`` and code, or a file, and arguments; in a new session.

    ``quiet``: what it prints goes nowhere. ``together``: stderr goes where stdout goes.
    """
    env = dict(os.environ if env is None else env)
    asked = {"words": [str(word) for word in words], "cwd": str(cwd or Path.cwd()), "env": env}
    server = _server(env)
    pipes = [] if quiet else [os.pipe() for _ in range(1 if together else 2)]
    nothing = os.open(os.devnull, os.O_RDWR)
    ends = [end for _, end in pipes] or [nothing]
    mine, theirs = socket.socketpair(type=socket.SOCK_SEQPACKET)
    socket.send_fds(server, [json.dumps(asked).encode()], [nothing, ends[0], ends[-1], theirs.fileno()])
    theirs.close()
    for end in {nothing, *ends}:
        os.close(end)
    stdout, stderr = [*(open(end, encoding="utf-8") for end, _ in pipes), None, None][:2]
    return Process(int(mine.recv(32)), mine, stdout, stderr)


def run(words: Sequence[str | Path], *, timeout: float | None = None, **how: Any) -> subprocess.CompletedProcess[str]:
    """Start one (``how`` is for ``start``), wait for its end, and say what it printed."""
    process = start(words, **how)
    try:
        out, err = process.communicate(timeout)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    return subprocess.CompletedProcess(list(map(str, words)), process.wait(), out, err)


def _server(env: Mapping[str, str]) -> socket.socket:
    """The one for this environment, started where there is none."""
    read = {name: value for name, value in env.items() if name.startswith(READ)}
    key = json.dumps(read, sort_keys=True)
    if key not in _servers:
        mine, theirs = socket.socketpair(type=socket.SOCK_SEQPACKET)
        subprocess.Popen(
            [sys.executable, "-P", __file__, str(theirs.fileno())],
            env={**read, "PATH": os.environ["PATH"], "OPENBLAS_NUM_THREADS": "1"},
            cwd="/",
            stdin=subprocess.DEVNULL,
            pass_fds=[theirs.fileno()],
            start_new_session=True,
        )
        theirs.close()
        _servers[key] = mine
    return _servers[key]


def _serve(asked: socket.socket) -> None:
    """In a server: load the libraries, and fork for each question until nobody is left who asks."""
    for name in LIBRARIES:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    threads = [Path(f"/proc/self/task/{thread}/comm").read_text() for thread in os.listdir("/proc/self/task")]
    threads = [name for name in threads if not name.startswith("jemalloc")]  # which sees to its locks itself
    assert len(threads) == 1, f"a fork has the locks of these threads and not them: {threads}"
    gc.collect()
    gc.freeze()  # the collector of a fork would write on pages that all share
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while True:
        text, fds, _, _ = socket.recv_fds(asked, 1 << 20, 4)
        if not text:
            os._exit(0)
        if not os.fork():
            asked.close()
            _mind(json.loads(text), fds)
        for fd in fds:
            os.close(fd)


def _mind(question: Mapping[str, Any], fds: Sequence[int]) -> None:
    """Fork the process that was asked for, tell its number and, when it has ended, its exit status."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    status = socket.socket(fileno=fds[3])
    pid = os.fork()
    if not pid:
        status.close()
        _become(question, fds[:3])
    for fd in fds[:3]:
        os.close(fd)
    with contextlib.suppress(OSError):  # nobody may be left who waits for it
        status.sendall(str(pid).encode())
        status.sendall(str(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])).encode())
    os._exit(0)


def _become(question: Mapping[str, Any], fds: Sequence[int]) -> None:
    """Be the process that was asked for, to its end."""
    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for place, fd in enumerate(fds):
        os.dup2(fd, place)
        os.close(fd)
    os.chdir(question["cwd"])
    os.environ.clear()
    os.environ.update(question["env"])
    tempfile.tempdir = None
    (kind, *more), cwd = question["words"], question["cwd"]
    first = {"-m": cwd, "-c": ""}.get(kind, str(Path(kind).resolve().parent))
    named = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    sys.path[:] = [first, *filter(None, named), *sys.path]
    code = 1
    try:
        code = _ended(kind, more)
        threading._shutdown()  # type: ignore[attr-defined]
    finally:
        atexit._run_exitfuncs()
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        os._exit(code)


def _ended(kind: str, more: list[str]) -> int:
    """Run what the words say; the exit status that Python would give it."""
    try:
        if any((Path(folder) / "sitecustomize.py").is_file() for folder in sys.path[1:]):
            sys.modules.pop("sitecustomize", None)
            importlib.import_module("sitecustomize")
        if kind == "-m":
            sys.argv = ["-m", *more[1:]]
            runpy.run_module(more[0], run_name="__main__", alter_sys=True)
        elif kind == "-c":
            sys.argv = ["-c", *more[1:]]
            main = sys.modules["__main__"] = types.ModuleType("__main__")
            exec(more[0], main.__dict__)
        else:
            sys.argv = [kind, *more]
            runpy.run_path(kind, run_name="__main__")
    except SystemExit as left:
        if left.code is None or isinstance(left.code, int):
            return (left.code or 0) & 0xFF
        print(left.code, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        traceback.print_exc()
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


if __name__ == "__main__":
    _serve(socket.socket(fileno=int(sys.argv[1])))
