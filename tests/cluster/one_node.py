"""A real Slurm of one node on this machine: munge, the controller and the node's daemon, all of it in one folder.

    python tests/cluster/one_node.py        until Ctrl-C; says what to export so that sbatch and squeue find it

Nothing of the system is configured or touched: no systemd, no cgroups, ports that are free now, and every process that
is started is ended by its number. The node has one GPU that is none (/dev/null), so that who holds it can be seen; jobs
may share cores. A requeued job starts after seconds, where a real cluster lets two minutes pass.
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scontrol", "scancel", "sinfo")
PATH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])  # where Debian has the daemons
START = 60.0  # seconds that the node may take to be there
CONF = """\
ClusterName=one
SlurmctldHost=localhost
SlurmctldPort={controller}
SlurmdPort={node}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
SwitchType=switch/none
SchedulerParameters=sched_min_interval=0,bf_interval=1
KillWait=5
MinJobAge=600
ReturnToService=2
GresTypes=gpu
NodeName=localhost NodeHostname={host} CPUs={cpus} RealMemory=1000 Gres=gpu:1 State=UNKNOWN
PartitionName=gpu Nodes=localhost Default=YES MaxTime=INFINITE State=UP OverSubscribe=FORCE:8
PartitionName=cpu Nodes=localhost MaxTime=INFINITE State=UP OverSubscribe=FORCE:8
"""


def missing() -> list[str]:
    """The programs of Slurm and munge that this machine lacks."""
    return [name for name in PROGRAMS if shutil.which(name, path=PATH) is None]


@contextmanager
def slurm() -> Iterator[Mapping[str, str]]:
    """The environment in which Slurm's commands find a node that takes jobs, while the block lasts.

    Raises ``RuntimeError`` with the daemons' own words where they do not start.
    """
    if missing():
        raise RuntimeError(f"no {', '.join(missing())} here; Debian: apt-get install slurm-wlm munge")
    folder = Path(tempfile.mkdtemp(prefix="adg-slurm-"))  # short: it holds a socket
    folder.chmod(0o711)
    conf = _configure(folder)
    env = {**os.environ, "PATH": PATH, "SLURM_CONF": str(conf)}
    started: list[subprocess.Popen[bytes]] = []
    try:
        munge = [f"--{name}={folder}/munge.{name.split('-')[0]}" for name in ("key-file", "socket", "seed-file")]
        more = [f"--pid-file={folder}/munged.pid", f"--log-file={folder}/munged.log"]
        for name, line in (
            ("munged", ["--foreground", "--force", *munge, *more]),
            ("slurmctld", ["-D", "-f", str(conf)]),
            ("slurmd", ["-D", "-f", str(conf), "-N", "localhost"]),
        ):
            with (folder / f"{name}.out").open("wb") as out:
                program = shutil.which(name, path=PATH)
                assert program is not None
                started.append(
                    subprocess.Popen([program, *line], env=env, stdout=out, stderr=out, start_new_session=True)
                )
            _until(lambda: (folder / "munge.socket").exists(), folder, started)
        _until(lambda: "idle" in _said(env, "sinfo", "--noheader", "--format=%T"), folder, started)
        yield env
    finally:
        _end(env, started)
        shutil.rmtree(folder, ignore_errors=True)


def _configure(folder: Path) -> Path:
    for name in ("state", "spool"):
        (folder / name).mkdir()
    key = folder / "munge.key"
    key.write_bytes(os.urandom(1024))
    key.chmod(0o400)
    with socket.socket() as one, socket.socket() as other:
        for place in (one, other):
            place.bind(("127.0.0.1", 0))
        ports = {"controller": one.getsockname()[1], "node": other.getsockname()[1]}
    user, host = pwd.getpwuid(os.getuid()).pw_name, socket.gethostname().partition(".")[0]
    conf = folder / "slurm.conf"
    conf.write_text(CONF.format(folder=folder, user=user, host=host, cpus=os.cpu_count(), **ports))
    (folder / "gres.conf").write_text("NodeName=localhost Name=gpu File=/dev/null\n")
    return conf


def _until(holds: Callable[[], bool], folder: Path, started: list[subprocess.Popen[bytes]]) -> None:
    until = time.monotonic() + START
    while not holds():
        ended = [process for process in started if process.poll() is not None]
        if ended or time.monotonic() > until:
            said = "\n".join(path.read_text(errors="replace")[-2000:] for path in sorted(folder.glob("*.out")))
            raise RuntimeError(f"{'a daemon ended' if ended else f'no node after {START:g} s'}:\n{said}")
        time.sleep(0.1)


def _said(env: Mapping[str, str], *line: str) -> str:
    return subprocess.run(line, env=env, capture_output=True, text=True, check=False).stdout


def _end(env: Mapping[str, str], started: list[subprocess.Popen[bytes]]) -> None:
    """Cancel what still runs, then end the daemons, the node's first."""
    if len(started) > 1:
        _said(env, "scancel", "--user", pwd.getpwuid(os.getuid()).pw_name)
        until = time.monotonic() + 15
        while _said(env, "squeue", "--noheader").strip() and time.monotonic() < until:
            time.sleep(0.2)
    for process in reversed(started):
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _stop(number: int, frame: object) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    for ending in (signal.SIGINT, signal.SIGTERM):
        signal.signal(ending, _stop)
    try:
        with slurm() as environment:
            print(f"export SLURM_CONF={environment['SLURM_CONF']}\nCtrl-C ends it", flush=True)
            while True:
                time.sleep(3600)
    except RuntimeError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
