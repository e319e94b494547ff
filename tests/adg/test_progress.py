"""What is said of slow work: when it is steady, and not too often."""

from __future__ import annotations

import re
from collections.abc import Iterable

import pytest

from adg import screen
from adg.progress import Pace, Progress


def after(steps: Iterable[tuple[float, int]], total: int) -> float | None:
    """Seconds that are left after ``steps`` of (seconds, how many)."""
    pace, now = Pace(total), 0.0
    for seconds, count in steps:
        now += seconds
        pace.step(count, now)
    return pace.left(now)


def test_two_of_ten_thousand_tell_nothing() -> None:
    assert after([(200, 1), (220, 1)], 10_000) is None
    assert after([(0.1, 1)] * 20, 10_000) is None, "two seconds neither"


def test_the_rest_takes_as_long_as_it_took_lately() -> None:
    assert after([(2, 1)] * 100, 1000) == pytest.approx(1800, rel=0.02)
    assert after([(300, 1), *[(2, 1)] * 100], 1101) == pytest.approx(2000, rel=0.02), "a first step that compiles"
    assert after([(1, 500), *[(2, 1)] * 100], 1000) == pytest.approx(800, rel=0.02), "what was found finished"
    assert after([(0.5, 1)] * 5000, 5500) == pytest.approx(250, rel=0.02), "over long work"


def test_what_becomes_faster_or_slower_is_not_extrapolated() -> None:
    assert after([(10 / (step + 1), 1) for step in range(40)], 1000) is None
    assert after([(0.1 * 1.3**step, 1) for step in range(30)], 1000) is None
    assert after([*[(1, 1)] * 30, (20, 1)], 1000) is None, "it stands still"


def test_a_log_has_a_line_at_every_tenth_and_half_a_minute(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv(screen.NOTES, raising=False)
    monkeypatch.setenv(screen.STAGE, "[2/16]     eval      ")

    def lines(seconds: float, total: int) -> list[str]:
        now = [0.0]
        with Progress(total, "answers", "requests", clock=lambda: now[0]) as bar:
            for _ in range(total):
                now[0] += seconds
                bar.update(1)
        return capsys.readouterr().err.splitlines()

    assert lines(0.2, 100) == [], "twenty seconds are not worth a line"
    tenths = lines(1, 1000)
    assert tenths[0] == "[2/16]     eval      answers: 100 of 1,000 requests (10 %), about 15 min left"
    assert [re.findall(r"\((\d+) %\)", line) for line in tenths] == [[f"{share}"] for share in range(10, 100, 10)]
    halves = lines(1, 100)
    assert len(halves) == 3, "thirty seconds apart"
    assert len(lines(100, 50)) == 4 + 5, "and one every ten minutes of slow work"
