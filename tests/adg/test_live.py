"""What stages say as they go: whole lines, once, whatever a kill or a disk did."""

from __future__ import annotations

from pathlib import Path

from adg import live


def test_lines_are_read_as_they_come(tmp_path: Path) -> None:
    path = tmp_path / "work" / live.FILE
    assert live.read(path) == ([], 0)
    live.tell(path, {"step": 1})
    first, after = live.read(path)
    assert first == [{"step": 1}] and live.read(path, after) == ([], after)
    live.tell(path, {"step": 2})
    assert live.read(path, after)[0] == [{"step": 2}]


def test_half_a_line_of_a_kill_costs_that_line_alone(tmp_path: Path) -> None:
    path = tmp_path / live.FILE
    path.write_text('{"step": 1}\n{"ste')
    told, after = live.read(path)
    assert told == [{"step": 1}] and after == len('{"step": 1}\n')
    live.tell(path, {"step": 2})
    assert live.read(path)[0] == [{"step": 1}, {"step": 2}] and live.read(path, after)[0] == [{"step": 2}]


def test_a_file_that_was_begun_anew_is_read_from_its_beginning(tmp_path: Path) -> None:
    path = tmp_path / live.FILE
    live.tell(path, {"step": 1, "loss": 2.0})
    _, after = live.read(path)
    path.unlink()
    live.tell(path, {"step": 1})
    assert live.read(path, after)[0] == [{"step": 1}]


def test_a_disk_that_takes_nothing_costs_nothing(tmp_path: Path) -> None:
    (tmp_path / "work").write_text("in the way")
    live.tell(tmp_path / "work" / live.FILE, {"step": 1})
    assert live.read(tmp_path / "work" / live.FILE) == ([], 0)
