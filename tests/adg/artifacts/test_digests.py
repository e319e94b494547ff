"""Digests of large files: of the whole content, once for each state of a file, whatever happens to the memory."""

from __future__ import annotations

import hashlib
import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from adg.artifacts import digests
from adg.errors import BadInput

SIZE = digests.LARGE + 4096


@pytest.fixture
def memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A memory of its own, for files that need not settle first."""
    monkeypatch.setenv("ADG_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(digests, "SETTLED", -1.0)
    return tmp_path / "cache" / "digests.json"


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that were read."""
    names: list[str] = []
    sha256_file = digests.sha256_file

    def counting(path: Path) -> str:
        names.append(path.name)
        return sha256_file(path)

    monkeypatch.setattr(digests, "sha256_file", counting)
    return names


def large(path: Path, fill: bytes = b"a") -> Path:
    path.write_bytes(fill * SIZE)
    return path


def test_the_whole_content_counts_and_is_read_once(tmp_path: Path, memory: Path, read: list[str]) -> None:
    files = [large(tmp_path / "one"), large(tmp_path / "two", b"b"), tmp_path / "small"]
    files[2].write_bytes(b"c")
    expected = {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
    for _ in range(3):
        assert digests.of_files(files) == expected
    assert sorted(read) == ["one", "small", "small", "small", "two"]


def test_a_byte_in_the_middle_is_noticed_though_size_and_time_are_put_back(tmp_path: Path, memory: Path) -> None:
    path = large(tmp_path / "weights")
    stat, before = path.stat(), digests.of_files([path])[path]
    time.sleep(0.05)  # a file system's clock ticks in steps of some milliseconds
    with open(path, "r+b") as file:
        file.seek(SIZE // 2)
        file.write(b"b")
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (stat.st_size, stat.st_mtime_ns)
    assert digests.of_files([path])[path] == hashlib.sha256(path.read_bytes()).hexdigest() != before


def test_another_file_moved_to_the_same_place_is_noticed(tmp_path: Path, memory: Path) -> None:
    path, other = large(tmp_path / "weights"), large(tmp_path / "other", b"b")
    os.utime(other, ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns))
    before = digests.of_files([path])[path]
    other.replace(path)
    assert digests.of_files([path])[path] != before


def test_a_file_that_was_written_just_now_is_not_remembered(tmp_path: Path, memory: Path, monkeypatch: Any) -> None:
    """Within one tick of the clock a second change would leave no trace in its times."""
    monkeypatch.setattr(digests, "SETTLED", 2.0)
    digests.of_files([large(tmp_path / "new")])
    assert not memory.exists()


@pytest.mark.parametrize("damage", ["cut", "text", "list", "digest", "gone"])
def test_a_damaged_memory_is_ignored(tmp_path: Path, memory: Path, read: list[str], damage: str) -> None:
    path = large(tmp_path / "weights")
    expected = digests.of_files([path])
    content = memory.read_text()
    entry = json.loads(content)["files"][str(path)]["sha256"]
    damaged = {
        "cut": content[:-30],
        "text": "not json",
        "list": "[]",
        "digest": content.replace(entry, "0" * 64),  # valid JSON, and a wrong figure if it were believed
    }
    memory.unlink()
    if damage in damaged:
        memory.write_text(damaged[damage])
    assert digests.of_files([path]) == expected
    assert read == ["weights", "weights"]


def test_a_memory_that_cannot_be_written_costs_time_only(tmp_path: Path, memory: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("ADG_CACHE", "/proc/nowhere")
    path = large(tmp_path / "weights")
    assert digests.of_files([path])[path] == hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_file_that_changes_while_it_is_read_is_refused(tmp_path: Path, memory: Path, monkeypatch: Any) -> None:
    path = large(tmp_path / "weights")

    def writing(file: Path) -> str:
        time.sleep(0.05)
        file.write_bytes(b"b" * SIZE)
        return "0" * 64

    monkeypatch.setattr(digests, "sha256_file", writing)
    with pytest.raises(BadInput, match="weights changed while it was read"):
        digests.of_files([path])
    assert not memory.exists()
