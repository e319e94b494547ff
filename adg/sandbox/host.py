"""Run model-written programs confined: no network, a read-only tree, limits, and a verdict they cannot print.

The host's side: it finds out by trying which kind of confinement works here (bubblewrap, or namespaces entered
directly), starts one world for each program and reads the verdict. What runs inside is ``inside.py``.

What a verdict rests on. The program and its test share one interpreter, as the benchmarks' tests demand (they pass
live objects around). Passing takes a pass word that a supervisor, another process which the program can neither
signal nor look into, puts into a pipe after the program's memory has been set up, and that is sent back only when
the test has run to its end. So early exits, printing, patched builtins, killed parents and a trace set on the test
(``sys.settrace``) fail.

Not seen, because program and test are one process: a returned object that claims to equal everything; a patched
standard module that the test itself uses; a function that reads the expected values out of the test, whose source and
frames are in its reach (``sys._getframe``), and returns them; a trace set past Python (``ctypes``); and a program
written against this very protocol. None of them harms the machine; each takes a program that means to cheat.
"""

from __future__ import annotations

import functools
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from adg.errors import BadMeasurement

INSIDE = Path(__file__).with_name("inside.py")
PACKAGES = ("numpy",)  # what programs find besides the standard library
SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/etc/ld.so.cache", "/etc/alternatives")
DEVICES = ("null", "zero", "full", "random", "urandom")
FIRST_UID, UIDS = 61184, 2000  # ids that distributions leave unused; one a sandbox, when started by root
NOBODY = 65534
INSTALL = "install bubblewrap, or allow unprivileged user namespaces (sysctl kernel.unprivileged_userns_clone=1)"
SLACK_SECONDS = 20.0  # for a loaded machine to start and end a sandbox, beyond the program's own limit


@dataclass(frozen=True)
class Limits:
    """What one program may use. The benchmarks' own limit is 3 s on the clock; counted here as processor time, which
    other work on the machine does not change, with a wider limit on the clock for programs that sleep."""

    cpu_seconds: int = 3
    wall_seconds: float = 10.0
    memory_bytes: int = 2 << 30  # address space of a process, and resident memory of all together
    processes: int = 32
    file_bytes: int = 16 << 20
    scratch_bytes: int = 64 << 20
    inodes: int = 4096  # files, folders and links in the scratch folder: each takes memory of the kernel's
    output_bytes: int = 1 << 20


@dataclass(frozen=True)
class Outcome:
    """``error`` is "" when the test ran to its end, else why it did not. ``seconds`` without the sandbox's start."""

    error: str
    seconds: float

    @property
    def passed(self) -> bool:
        return not self.error


@dataclass(frozen=True)
class Sandbox:
    """A kind of confinement that was seen to work on this machine."""

    kind: str  # bubblewrap | namespaces | user-namespaces

    def run(self, program: str, test: str, limits: Limits = Limits()) -> Outcome:
        """Run ``program`` and then ``test`` in a world of their own; never raises for what they do.

        Raises ``BadMeasurement`` when the sandbox itself did not start, twice.
        """
        for _ in range(2):
            started, outcome = self._once(program, test, limits)
            if started:
                return outcome
        raise BadMeasurement(
            f"the sandbox ({self.kind}) that worked before did not start: {outcome.error}; "
            f"run the same command again when the machine has processes and memory to spare"
        )

    def map(
        self,
        pairs: Sequence[tuple[str, str]],
        workers: int = 0,
        limits: Limits = Limits(),
        done: Callable[[], object] = lambda: None,
    ) -> list[Outcome]:
        """Outcomes of (program, test) pairs in their order, ``workers`` at a time (0 = one a core)."""

        def one(pair: tuple[str, str]) -> Outcome:
            outcome = self.run(*pair, limits)
            done()
            return outcome

        with ThreadPoolExecutor(workers or len(os.sched_getaffinity(0))) as pool:
            return list(pool.map(one, pairs))

    def _once(self, program: str, test: str, limits: Limits) -> tuple[bool, Outcome]:
        """Whether the supervisor started, and what it said."""
        settings = asdict(limits) | {"process_limit": _process_limit(limits.processes)}
        # JSON spells lone surrogates out, so any text that a model wrote survives the way in
        request = json.dumps({"program": program, "test": test, "limits": settings}).encode()
        with _uid() as uid:
            process = subprocess.Popen(
                _command(self.kind, limits, uid),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env={},
                cwd="/",
                start_new_session=True,
            )
            try:
                said, complaint = process.communicate(request, timeout=limits.wall_seconds + SLACK_SECONDS)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                said, complaint = process.communicate()
        first, _, verdict = said.partition(b"\n")
        if first != b"started":
            return False, Outcome(complaint.decode(errors="replace").strip()[-500:] or "it said nothing", 0.0)
        if not verdict.endswith(b"\n"):
            return True, Outcome("ended together with its supervisor (out of memory, or the time ran out)", 0.0)
        return True, Outcome(**json.loads(verdict))


@functools.cache
def available() -> Sandbox | str:
    """The first kind that really confines a program here, or the reason why there is none."""
    reasons = []
    for kind in _kinds():
        reason = _check(Sandbox(kind))
        if not reason:
            return Sandbox(kind)
        reasons.append(f"{kind}: {reason}")
    return f"no sandbox ({INSTALL})" + "".join(f"; {reason}" for reason in reasons)


def _kinds() -> Iterator[str]:
    """Kinds worth trying, best first. Root's own id is never held to a number of processes, so the kinds for root are
    those that become an unused one."""
    if sys.platform != "linux":
        return
    root, enter = os.geteuid() == 0, platform.machine() in ("x86_64", "aarch64")
    if enter and root:
        yield "namespaces"
    if not root and shutil.which("bwrap"):
        yield "bubblewrap"
    if enter:
        yield "user-namespaces"


PROBE = """
import os, time
assert not os.path.exists({file!r}), "sees the host's files"
assert not set(os.environ) - {known!r}, "sees the host's variables"
assert {{p for p in os.listdir("/proc") if p.isdigit()}} == {{"1", str(os.getpid())}}, "sees the host's processes"
assert [line.split(":")[0].strip() for line in list(open("/proc/net/dev"))[2:]] == ["lo"], "sees a network"
for place in ("/", "/usr", "/dev", "/proc"):
    try:
        open(place + "/written", "w")
    except OSError:
        continue
    raise AssertionError("writes to " + place)
open("/tmp/written", "w").write("x")
children = []
try:
    for _ in range({forks}):
        children.append(os.fork())
        if not children[-1]:
            time.sleep(60)
            os._exit(0)
except BlockingIOError:
    pass
assert len(children) < max({forks}, 1), "starts any number of processes"
for child in children:
    os.kill(child, 9)
    os.waitpid(child, 0)
assert f(1) == 2
"""


def _check(sandbox: Sandbox) -> str:
    """Run programs whose verdict is known; "" when all are as they must be and nothing outside is in reach."""
    with tempfile.NamedTemporaryFile() as file:
        os.chmod(file.name, 0o644)
        forks = Limits().processes if _counts_this_world() else 0
        probe = PROBE.format(file=file.name, known={*_environment(), "LC_CTYPE", "PWD"}, forks=forks)
        try:
            _, passing = sandbox._once("def f(x): return x + 1", probe, Limits())
            if not passing.passed:
                return passing.error
            _, failing = sandbox._once("def f(x): return x", "assert f(1) == 2", Limits())
            _, leaving = sandbox._once("import os; os._exit(0)", "assert f(1) == 2", Limits())
        except OSError as error:
            return str(error)
    return "a failing program passed" if failing.passed or leaving.passed else ""


# -- commands -----------------------------------------------------------------------------------------
def _environment() -> dict[str, str]:
    return {
        "PATH": "/usr/bin:/bin",
        "HOME": "/tmp",
        "LANG": "C.UTF-8",
        "PYTHONDONTWRITEBYTECODE": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "OMP_NUM_THREADS": "1",
    }


@functools.cache
def _python() -> str:
    """The interpreter itself, not the environment's link to it."""
    return os.path.realpath(sys.executable)


@functools.cache
def _tree() -> tuple[list[list[str]], list[list[str]]]:
    """(binds [[source, target]], links [[target, name]]): system folders, the interpreter, and ``PACKAGES``."""
    binds, links = [], []
    for name in SYSTEM:
        if os.path.islink(name):
            links.append([os.readlink(name), name])
        elif os.path.exists(name):
            binds.append([name, name])
    for folder in sorted({sys.base_prefix, sys.base_exec_prefix, str(Path(_python()).parent)}):
        real = os.path.realpath(folder)
        if not any(Path(real).is_relative_to(source) for source, _ in binds):
            binds.append([real, real])
        if real != folder and not os.path.exists(folder):
            links.append([real, folder])
    libraries = Path(sysconfig.get_path("platlib"))
    for package in PACKAGES:
        for name in (package, f"{package}.libs"):
            if (libraries / name).is_dir():
                binds.append([str((libraries / name).resolve()), f"/packages/{name}"])
    return binds, links


def _parents(binds: list[list[str]]) -> list[str]:
    """Folders that exist in the sandbox only as the way to something bound (/home of an interpreter in there)."""
    folders = {str(above) for _, target in binds for above in Path(target).parents}
    return sorted(folders - {"/", "/packages"} - {target for _, target in binds})


@functools.cache
def _source() -> str:
    return INSIDE.read_text(encoding="utf-8")


@functools.cache
def _bubblewrap() -> tuple[str, bool]:
    """Path, and whether this version can limit the size of a tmpfs."""
    path = shutil.which("bwrap") or "bwrap"
    told = subprocess.run([path, "--help"], capture_output=True, text=True, timeout=20, encoding="utf-8")
    return path, "--size" in told.stdout + told.stderr


def _command(kind: str, limits: Limits, uid: int) -> list[str]:
    """The command that starts ``inside.py``'s supervisor inside a new world of this kind."""
    binds, links = _tree()
    python = [_python(), "-I", "-S", "-c", _source()]
    if kind != "bubblewrap":
        setup = {
            "user_namespace": kind == "user-namespaces",
            "uid": uid,
            "binds": binds,
            "links": links,
            "parents": _parents(binds),
            "scratch_bytes": limits.scratch_bytes,
            "inodes": limits.inodes,
            "environment": _environment(),
        }
        return [*python, "isolate", json.dumps(setup)]
    path, sized = _bubblewrap()
    command = [path, "--unshare-all", "--die-with-parent", "--as-pid-1", "--clearenv", "--cap-drop", "ALL"]
    for name, value in _environment().items():
        command += ["--setenv", name, value]
    for name in _parents(binds):
        command += ["--perms", "0111", "--dir", name]
    for source, target in binds:
        command += ["--ro-bind", source, target]
    for target, name in links:
        command += ["--symlink", target, name]
    for device in DEVICES:
        command += ["--dev-bind", f"/dev/{device}", f"/dev/{device}"]
    size = ["--size", str(limits.scratch_bytes)] if sized else []
    command += ["--proc", "/proc", *size, "--tmpfs", "/tmp", "--remount-ro", "/", "--chdir", "/tmp"]
    return [*command, "--", *python, "supervise"]


_uid_lock, _uids_taken = threading.Lock(), set[int]()


@contextmanager
def _uid() -> Iterator[int]:
    """A user id that no other sandbox of this process has now, so that each has its own count of processes."""
    if os.geteuid() != 0:
        yield NOBODY
        return
    with _uid_lock:
        start = FIRST_UID + os.getpid() * 37 % UIDS
        uid = next(u for u in range(start, start + UIDS) if u not in _uids_taken)
        _uids_taken.add(uid)
    try:
        yield uid
    finally:
        with _uid_lock:
            _uids_taken.discard(uid)


@functools.cache
def _counts_this_world() -> bool:
    """Whether the limit on processes counts those of one sandbox: where each has a user id of its own, and since Linux
    5.14 in each user namespace. Else it counts all of the user's."""
    major, minor = platform.release().split(".")[:2]
    return os.geteuid() == 0 or (int(major), int("".join(c for c in minor if c.isdigit()))) >= (5, 14)


def _process_limit(processes: int) -> int:
    """RLIMIT_NPROC for ``processes`` in the sandbox; the supervisor also counts, so an excess is never allowed."""
    if _counts_this_world():
        return processes
    mine = 0
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if entry.stat().st_uid == os.geteuid():
                    mine += len(list((entry / "task").iterdir()))
            except OSError:  # it has just ended
                continue
    return mine + processes
