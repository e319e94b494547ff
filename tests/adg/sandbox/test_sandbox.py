"""Hostile programs are contained by every kind of confinement that works here; honest ones pass."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from adg.errors import BadMeasurement
from adg.sandbox import host as sandbox
from adg.sandbox.host import Limits, Sandbox

KINDS = [kind for kind in sandbox._kinds() if not sandbox._check(Sandbox(kind))]
pytestmark = pytest.mark.skipif(not KINDS, reason=f"{sandbox.available()}")

TEST = "assert add(2, 3) == 5\n"
GOOD = "def add(a, b):\n    return a + b\n"
QUICK = Limits(cpu_seconds=1, wall_seconds=2.0, memory_bytes=512 << 20)


@pytest.fixture(params=KINDS)
def box(request: pytest.FixtureRequest) -> Sandbox:
    return Sandbox(request.param)


# what a program does before it defines a correct function -> part of the reason it must fail with
HOSTILE = {
    "endless loop": ("while True: pass", "timed out"),
    "sleeps for ever": ("import time\ntime.sleep(1000)", "timed out"),
    "ignores the limit on processor time": (
        "import signal\nsignal.signal(signal.SIGXCPU, signal.SIG_IGN)\nwhile True: pass",
        "",
    ),
    "exits early with status 0": ("import os\nos._exit(0)", "before its tests ended"),
    "sys.exit(0)": ("import sys\nsys.exit(0)", "SystemExit"),
    "memory bomb": ("held = bytearray(10 << 30)", "MemoryError"),
    "memory bomb in children": (
        "import os, time\nfor _ in range(8):\n    if os.fork() == 0:\n"
        "        held = b'x' * (100 << 20)\n        time.sleep(100)\ntime.sleep(100)",
        "memory",
    ),
    "fork bomb": ("import os\nwhile True:\n    try: os.fork()\n    except OSError: pass", ""),
    "fork bomb without a handler": ("import os\nwhile True: os.fork()", ""),
    "thread bomb": (
        "import threading, time\nfor _ in range(500): threading.Thread(target=time.sleep, args=(60,)).start()",
        "thread",
    ),
    "opens a socket": ("import socket\nsocket.create_connection(('127.0.0.1', 22), 1)", "Error"),
    "makes a socket": ("import socket\nsocket.socket()", "PermissionError"),
    "looks up a name": ("import socket\nsocket.gethostbyname('example.com')", "rror"),
    "reads the home folder": ("import os\nos.listdir({home!r})", "Error"),
    "reads /etc/passwd": ("open('/etc/passwd').read()", "FileNotFoundError"),
    "reads this file": ("open({here!r}).read()", "FileNotFoundError"),
    "reads a secret of the environment": ("import os\nos.environ['SECRET_OF_THE_HOST']", "KeyError"),
    "reads its parent's environment": ("open('/proc/1/environ').read()", "PermissionError"),
    "reads its parent's memory": ("open('/proc/1/mem', 'rb')", "PermissionError"),
    "opens its parent's files": ("open('/proc/1/fd/1', 'w').write('passed')", "PermissionError"),
    "writes outside": ("open({outside!r}, 'w').write('x')", "FileNotFoundError"),
    "writes into /usr": ("open('/usr/written', 'w')", "Read-only"),
    "removes the interpreter": ("import os, sys\nos.remove(sys.executable)", "rror"),
    "mounts": (
        "import ctypes, os\nc = ctypes.CDLL(None, use_errno=True)\n"
        "if c.mount(b'none', b'/tmp', b'tmpfs', 0, None): raise OSError(ctypes.get_errno(), 'mount')",
        "mount",
    ),
    "makes a user namespace": (
        "import ctypes\nc = ctypes.CDLL(None, use_errno=True)\n"
        "if c.unshare(0x10000000): raise OSError(ctypes.get_errno(), 'unshare')",
        "unshare",
    ),
    "fills the disk": ("for i in range(20):\n    open(f'/tmp/{{i}}', 'wb').write(bytes(15 << 20))", "space"),
    "fills the disk with empty files": ("for i in range(10**6):\n    open(f'/tmp/{{i}}', 'w').close()", ""),
    "fills the disk with links": (
        "import os\nopen('/tmp/a', 'w').close()\nfor i in range(10**6):\n    os.link('/tmp/a', f'/tmp/{{i}}')",
        "",
    ),
    "keeps memory that no process holds": (
        "import ctypes\nc = ctypes.CDLL(None, use_errno=True)\n"
        "if c.shmget(0, 1 << 20, 0o1600) < 0: raise OSError(ctypes.get_errno(), 'shmget')",
        "shmget",
    ),
    "keeps messages in the kernel": (
        "import ctypes\nc = ctypes.CDLL(None, use_errno=True)\n"
        "if c.msgget(0, 0o1600) < 0: raise OSError(ctypes.get_errno(), 'msgget')",
        "msgget",
    ),
    "writes a large file": ("open('/tmp/large', 'wb').write(bytes(100 << 20))", ""),
    "prints 1 GiB": ("import sys\nfor _ in range(1024): sys.stdout.write('x' * (1 << 20))", "printed more"),
    "prints 1 GiB on stderr": ("import os\nfor _ in range(1024): os.write(2, b'x' * (1 << 20))", "printed more"),
    "leaves a child behind": (
        "import os, time\nif os.fork() == 0:\n    os.setsid()\n    time.sleep(60)",
        "left a process behind",
    ),
    "leaves a grandchild behind": (
        "import os, time\nif os.fork() == 0:\n    if os.fork() == 0: time.sleep(60)\n    os._exit(0)\nos.wait()",
        "left a process behind",
    ),
    "kills its parent": ("import os\nos.kill(os.getppid(), 9)", "PermissionError"),
    "interrupts its parent": ("import os, signal\nos.kill(1, signal.SIGINT)", "PermissionError"),
    "kills everybody": ("import os\nos.kill(-1, 9)", "PermissionError"),
    "kills its group": ("import os\nos.kill(0, 9)", "killed by signal 9"),
    "reads its input": ("input()", "EOFError"),
    "crashes the interpreter": ("import ctypes\nctypes.string_at(0)", "killed by signal 11"),
    "recursion": ("def f(): return f()\nf()", "RecursionError"),
    "is not a program": ("def add(a, b:", "SyntaxError"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_program_fails_and_reaches_nothing(box: Sandbox, name: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("SECRET_OF_THE_HOST", "s3cret")
    outside = tmp_path / "written"
    program, reason = HOSTILE[name]
    if name != "is not a program":
        program = program.format(home=str(Path.home()), here=__file__, outside=str(outside)) + "\n" + GOOD
    begun = time.monotonic()
    outcome = box.run(program, TEST, QUICK)
    assert not outcome.passed
    assert reason in outcome.error, outcome.error
    assert time.monotonic() - begun < 60
    assert not outside.exists()
    assert not Path("/tmp/large").exists() and not Path("/usr/written").exists()


WRONG = "def add(a, b):\n    return 0\n"
FAKES = {
    "prints what a pass looks like": "print('passed'); print('started'); print('{\"error\": \"\", \"seconds\": 0}')\n",
    "writes into every open file": (
        "import os\nfor fd in range(3, 64):\n    try: os.write(fd, b'passed ')\n    except OSError: pass\n"
    ),
    "replaces exec, compile and exit": (
        "import builtins, os, sys\nbuiltins.exec = builtins.compile = lambda *a, **k: None\n"
        "os._exit = sys.exit = lambda code=0: None\n"
    ),
    "replaces AssertionError": "import builtins\nbuiltins.AssertionError = type('Quiet', (), {})\n",
    "replaces BaseException": "import builtins\nbuiltins.BaseException = type('No', (Exception,), {})\n",
    "replaces abs for the test": "import builtins\nbuiltins.abs = lambda x: 0\n",
    "jumps over the test with a trace function": (
        "import sys\ndef jump(frame, event, arg):\n    if frame.f_code.co_filename == '<test>' and event == 'line':\n"
        "        frame.f_lineno = 3\n    return jump\nsys.settrace(jump)\n"
    ),
    "leaves when the test starts": "import atexit, os, threading\nthreading.Timer(0.05, lambda: os._exit(0)).start()\n",
    "an exception handler that leaves quietly": "import sys, os\nsys.excepthook = lambda *a: os._exit(0)\n",
    "swallows the test in a string": "x = '''\n",
}


@pytest.mark.parametrize("name", FAKES)
def test_wrong_answer_cannot_fake_a_pass(box: Sandbox, name: str) -> None:
    test = "import time\ntime.sleep(0.1)\nassert abs(add(2, 3) - 5) < 1e-6\n'''\n'''\nx = 1\n"
    program = WRONG + FAKES[name] if "string" in name else FAKES[name] + WRONG
    outcome = box.run(program, test, QUICK)
    assert not outcome.passed and outcome.error


CHEAT = """import sys
def add(a, b):
    def skip(frame, event, arg):
        if event == "line" and frame.f_lineno == 2:
            frame.f_lineno = 3
        return skip
    sys._getframe(1).f_trace = skip
    sys.{call}(skip)
    return 0
"""


@pytest.mark.parametrize("call", ["settrace", "setprofile"])
def test_a_function_cannot_trace_the_test_that_calls_it(box: Sandbox, call: str) -> None:
    outcome = box.run(CHEAT.format(call=call), "result = add(2, 3)\nassert result == 5\ndone = 1\n")
    assert outcome.error == "PermissionError: a program may not trace its test"


def test_files_are_limited_in_number(box: Sandbox) -> None:
    """What the kernel keeps of an empty file is in no process's memory."""
    made = "i = 0\ntry:\n    while True:\n        open(f'/tmp/{i}', 'w').close(); i += 1\nexcept OSError: pass\n"
    outcome = box.run(made + GOOD, "assert i < 500, i\n" + TEST, Limits(inodes=500))
    assert outcome.error == "" or "made more than 500 files" in outcome.error


def test_the_supervisor_counts_files_where_the_file_system_does_not(monkeypatch, box: Sandbox) -> None:
    """As in bubblewrap, whose tmpfs takes no number of files."""
    source = sandbox.INSIDE.read_text()
    assert ",nr_inodes=" in source
    monkeypatch.setattr(sandbox, "_source", lambda: source.replace(",nr_inodes={setup['inodes']}", ""))
    made = "import time\nfor i in range(5000):\n    open(f'/tmp/{i}', 'w').close()\ntime.sleep(5)\n"
    assert box.run(made + GOOD, TEST).error == "made more than 4096 files"


HONEST = {
    "plain": GOOD,
    "many scratch files": "for i in range(2000): open(f'/tmp/{i}', 'w').close()\n" + GOOD,
    "doctest": 'import doctest\ndef two():\n    """\n    >>> 1 + 1\n    2\n    """\ndoctest.testmod()\n' + GOOD,
    "prints": "print('working')\n" + GOOD,
    "uses the standard library": "import math, re, collections, functools, heapq, hashlib, datetime\n" + GOOD,
    "uses numpy": "import numpy\ndef add(a, b):\n    return int(numpy.sum([a, b]))\n",
    "scratch files": "open('/tmp/note', 'w').write('x')\n" + GOOD,
    "threads": "import threading\nt = threading.Thread(target=print)\nt.start(); t.join()\n" + GOOD,
    "a process that ends": "import subprocess\nsubprocess.run(['true'], check=True)\n" + GOOD,
    "dataclass": "import dataclasses\n@dataclasses.dataclass\nclass P:\n    a: int\n" + GOOD,
    "main block is not run": GOOD + "if __name__ == '__main__':\n    raise SystemExit(1)\n",
    "lone surrogate": "text = '\ud800'\n".encode("utf-8", "backslashreplace").decode() + GOOD,
    "asyncio": "import asyncio\nasync def f(): return 1\nassert asyncio.run(f()) == 1\n" + GOOD,
}


@pytest.mark.parametrize("name", HONEST)
def test_honest_program_passes(box: Sandbox, name: str) -> None:
    if name == "uses numpy":
        pytest.importorskip("numpy")
    assert box.run(HONEST[name], TEST).error == ""


def test_wrong_answer_names_the_exception(box: Sandbox) -> None:
    assert "AssertionError" in box.run(WRONG, TEST).error
    assert box.run("def other(): pass", TEST).error.startswith("NameError")


def test_unencodable_text_is_a_failed_program_not_a_failed_measurement(box: Sandbox) -> None:
    assert not box.run("x = '\ud800'\x00", TEST).passed


def test_map_keeps_order_and_runs_side_by_side(box: Sandbox) -> None:
    pairs = [(f"def f(): return {i}", f"assert f() == {i if i % 3 else -1}") for i in range(12)]
    seen = []
    outcomes = box.map(pairs, workers=4, done=lambda: seen.append(1))
    assert [o.passed for o in outcomes] == [bool(i % 3) for i in range(12)]
    assert len(seen) == 12


def test_nothing_survives_the_host_being_killed(box: Sandbox, root: Path) -> None:
    """The world goes when the process that asked for it is killed -9."""
    host = subprocess.Popen(
        [
            sys.executable,
            "-c",
            f"from adg.sandbox.host import Sandbox\nSandbox({box.kind!r}).run('import time\\ntime.sleep(8)', '')",
        ],
        cwd=root,
        start_new_session=True,
    )
    inside = _wait_for(lambda: _children(host.pid))
    assert inside
    host.send_signal(signal.SIGKILL)
    host.wait()
    assert _wait_for(lambda: not [p for p in inside if Path(f"/proc/{p}").exists()], 3.0)


def _children(parent: int) -> list[int]:
    """Process ids of the whole tree below ``parent`` once it is three deep (starter, supervisor, program)."""
    tree: list[int] = [parent]
    for known in tree:
        for entry in Path("/proc").glob("[0-9]*/stat"):
            try:
                fields = entry.read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[1]) == known:
                tree.append(int(entry.parent.name))
    return tree[1:] if len(tree) >= 4 else []


def _wait_for(condition, seconds: float = 10.0):
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        found = condition()
        if found:
            return found
        time.sleep(0.05)
    return condition()


def test_a_sandbox_that_stops_working_is_a_failed_measurement(monkeypatch) -> None:
    monkeypatch.setattr(sandbox, "_command", lambda *a: [sys.executable, "-c", "raise SystemExit('no room')"])
    with pytest.raises(BadMeasurement, match="no room"):
        Sandbox(KINDS[0]).run(GOOD, TEST)


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_that_lets_any_number_of_processes_start_is_refused(monkeypatch, kind: str) -> None:
    monkeypatch.setattr(sandbox, "_process_limit", lambda processes: 10_000)
    assert "processes" in sandbox._check(Sandbox(kind))


def test_unavailable_says_what_to_install(monkeypatch) -> None:
    monkeypatch.setattr(sandbox, "_check", lambda box: "refused here")
    sandbox.available.cache_clear()
    try:
        assert "install bubblewrap" in sandbox.available() and "refused here" in sandbox.available()
    finally:
        sandbox.available.cache_clear()


def test_a_program_that_ends_before_it_is_watched_has_its_reason(box: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a busy machine, where the supervisor comes to hand over the pass word too late."""
    source = sandbox._source()
    late = source.replace("    secret = os.urandom", "    time.sleep(0.5)\n    secret = os.urandom")
    assert late != source
    monkeypatch.setattr(sandbox, "_source", lambda: late)
    assert box.run("def add(:", TEST).error.startswith("SyntaxError")
    assert box.run(GOOD, TEST).passed
