"""What ``processes`` starts is what Python would start: words, folder, environment, signals, status."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests import processes

SHOWN = """import os, sys
print(sys.argv, sys.path[:2], os.getcwd(), os.environ.get('SHOWN'), __name__, 'adg' in sys.modules)
"""
STARTS = """import os, subprocess, time
subprocess.Popen(['sleep', '600'])
print(os.getpid(), os.getsid(0), flush=True)
time.sleep(600)
"""


def test_words_folder_and_environment_are_as_asked(tmp_path: Path) -> None:
    (tmp_path / "shown.py").write_text(SHOWN)
    env = {**os.environ, "SHOWN": "yes", "PYTHONPATH": str(tmp_path / "more")}
    for words, argv, first in (
        (["-c", SHOWN, "a b"], ["-c", "a b"], ""),
        (["-m", "shown", "a b"], [str(tmp_path / "shown.py"), "a b"], str(tmp_path)),
        (["shown.py", "a b"], ["shown.py", "a b"], str(tmp_path)),
    ):
        expected = f"{argv} {[first, str(tmp_path / 'more')]} {tmp_path} yes __main__ False\n"
        assert processes.run(words, cwd=tmp_path, env=env).stdout == expected
        line = [sys.executable, *words]
        assert subprocess.run(line, cwd=tmp_path, env=env, capture_output=True, text=True).stdout == expected


@pytest.mark.parametrize(
    ("code", "status", "said"),
    [
        ("pass", 0, ""),
        ("raise SystemExit(3)", 3, ""),
        ("raise SystemExit('no')", 1, "no\n"),
        ("raise ValueError('no')", 1, "ValueError: no"),
        ("import os; os._exit(7)", 7, ""),
        ("import os; os.kill(os.getpid(), 9)", -9, ""),
        ("import os, signal; os.kill(os.getpid(), signal.SIGINT)", -2, "KeyboardInterrupt"),
        ("import atexit, sys; atexit.register(sys.stderr.write, 'last')", 0, "last"),
        ("import threading as t, time, sys; t.Timer(0.05, sys.stderr.write, ['late']).start()", 0, "late"),
        ("import sys; sys.exit(sys.stdin.read() != '')", 0, ""),
    ],
)
def test_the_end_is_pythons(code: str, status: int, said: str) -> None:
    done = processes.run(["-c", code])
    assert done.returncode == status and (said in done.stderr if said else not done.stderr), done.stderr
    known = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # a shell's background ignores it
    )
    assert known.returncode == status and (said in known.stderr if said else not known.stderr)


def test_it_is_a_process_of_its_own_session(tmp_path: Path) -> None:
    process = processes.start(["-c", STARTS], together=True)
    assert process.stdout is not None
    assert process.stdout.readline().split() == [str(process.pid)] * 2
    started = psutil.Process(process.pid).children()
    assert [one.name() for one in started] == ["sleep"] and process.poll() is None
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    assert process.wait() == process.poll() == -signal.SIGKILL
    assert not psutil.wait_procs(started, 5)[1]


def test_what_one_does_is_not_there_for_the_next(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("import numpy\nnumpy.changed = True")
    seen = ["-c", "import numpy; print(hasattr(numpy, 'changed'))"]
    assert processes.run(seen, env={**os.environ, "PYTHONPATH": str(tmp_path)}).stdout == "True\n"
    assert processes.run(seen).stdout == "False\n"
