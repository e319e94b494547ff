"""A full disk, a folder that may not be written, a limit: one line each, on real file systems, and nothing is lost."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from adg.artifacts import disk

STAGE = """
import sys
from pathlib import Path
from adg.artifacts.artifact import Node, Stage
from adg.artifacts.files import new_npy
from adg.artifacts.shards import Shard, Shards
from adg.artifacts.store import Store
from adg.errors import HarnessError
import numpy as np

def build(job):
    shards = Shards(job.work, "part")
    for i in range(job.config["parts"]):
        if job.config.get("mapped"):
            new_npy(job.folder / "mapped.npy", (2**16 * 6,), np.float64)[:] = 1
        if shards.find(i) is None:
            print("part", i, flush=True)
            shards.save(i, Shard(arrays={"x": np.arange(2**16, dtype=np.float64)}))  # half a MiB
    shards.assemble(job.folder / "x.npy", range(job.config["parts"]), "x", (job.config["parts"] * 2**16,), np.float64)
    return {}

if __name__ == "__main__":
    import toy_disk_stage
    node = Node(Stage("toy", 1, "toy_disk_stage:build"), "one", {"parts": 6, "mapped": sys.argv[2:] == ["mapped"]})
    try:
        Store(sys.argv[1]).ensure(node)
    except HarnessError as error:
        print(f"error: {error}")
        sys.exit(1)
"""


@pytest.fixture
def command(tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "toy_disk_stage.py").write_text(textwrap.dedent(STAGE))
    monkeypatch.setenv("PYTHONPATH", f"{root}{os.pathsep}{tmp_path / 'code'}")
    return [sys.executable, str(tmp_path / "code" / "toy_disk_stage.py")]


def run(command: list[str], **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, **options)  # type: ignore[call-overload]


def in_namespace(script: str) -> list[str]:
    """A shell that may mount file systems which nobody else sees; the test is skipped where that is not allowed."""
    if shutil.which("unshare") is None or run(["unshare", "-Urm", "true"]).returncode:
        pytest.skip("this system lets no user mount a file system")
    return ["unshare", "-Urm", "sh", "-c", script, "sh"]


def test_a_full_disk_is_one_line_and_what_was_done_is_kept(tmp_path: Path, command: list[str]) -> None:
    place = tmp_path / "small"
    place.mkdir()
    script = (
        'place=$1; shift; mount -t tmpfs -o size=2m none "$place" && '
        '{ "$@" "$place/runs"; echo "code $?"; mount -o remount,size=16m "$place"; "$@" "$place/runs"; echo "code $?"; '
        'find "$place" -name "*.tmp"; }'
    )
    done = run([*in_namespace(script), str(place), *command])
    first, second = done.stdout.split("code 1\n")
    assert first.splitlines()[:-1] == [f"part {i}" for i in range(4)], done
    assert "the disk is full" in first and str(place) in first and "run the same command again" in first
    assert second.splitlines()[0] in ("part 3", "part 4") and second.endswith("code 0\n"), done
    assert "Traceback" not in done.stdout + done.stderr


def test_a_disk_too_small_for_a_mapped_file_is_one_line_and_no_signal(tmp_path: Path, command: list[str]) -> None:
    place = tmp_path / "small"
    place.mkdir()
    script = 'place=$1; shift; mount -t tmpfs -o size=2m none "$place" && "$@" "$place/runs" mapped'
    done = run([*in_namespace(script), str(place), *command])
    assert done.returncode == 1 and "the disk is full" in done.stdout and "Traceback" not in done.stdout + done.stderr


def test_a_read_only_file_system_is_one_line(tmp_path: Path, command: list[str]) -> None:
    place = tmp_path / "frozen"
    place.mkdir()
    script = 'place=$1; shift; mount -t tmpfs none "$place" && mount -o remount,ro "$place" && "$@" "$place/runs"'
    done = run([*in_namespace(script), str(place), *command])
    assert done.returncode == 1, done
    assert "read-only file system" in done.stdout and f"{place}/runs" in done.stdout and "exec.runs=" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr


def test_a_folder_of_somebody_else_is_one_line(tmp_path: Path, command: list[str]) -> None:
    place = tmp_path / "theirs"
    place.mkdir(mode=0o755)
    plainly = []
    if os.geteuid() == 0:  # for whom permissions count only without these capabilities
        plainly = ["setpriv", "--bounding-set=-dac_override,-dac_read_search", "--inh-caps=-all"]
        if shutil.which("setpriv") is None or run([*plainly, "true"]).returncode:
            pytest.skip("permissions do not count for this user")
        os.chown(place, 65534, 65534)
    else:
        place.chmod(0o555)
    done = run([*plainly, *command, str(place / "runs")])
    assert done.returncode == 1, done
    assert "may not be read or written by the user" in done.stdout and str(place) in done.stdout
    assert "Traceback" not in done.stdout + done.stderr


def test_a_limit_of_the_system_is_one_line(tmp_path: Path, command: list[str]) -> None:
    done = run(["sh", "-c", 'ulimit -f 600; exec "$@"', "sh", *command, str(tmp_path / "runs")])  # blocks of 512 bytes
    assert done.returncode == 1, done
    assert "larger than this system allows (ulimit -f)" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr


def test_the_cache_of_the_hub_is_named_with_what_to_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    try:
        raise ValueError("cannot load") from OSError(30, "Read-only file system", str(tmp_path / "hf" / "hub" / "x"))
    except ValueError as error:
        told = disk.explained(error, tmp_path / "runs")
    assert "hf/hub/x lies on a read-only file system" in str(told) and "HF_HOME=" in str(told)


def test_other_errors_are_not_the_disks(tmp_path: Path) -> None:
    assert disk.explained(ValueError("of 28 rows"), tmp_path) is None
    assert disk.explained(FileNotFoundError(2, "No such file", "x"), tmp_path) is None
    assert "the disk is full" in str(disk.explained(RuntimeError("I/O error: No space left (os error 28)"), tmp_path))
