"""Progress with an ETA for long work: in a line at the bottom of a terminal, a line now and then in a log."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from types import TracebackType

from adg import screen

QUICK = 1.0  # seconds of work before anything is said of it on a terminal
APART = 30.0  # seconds between two lines in a log, which also are a tenth of the work apart
LONGEST = 600.0  # seconds after which a log has a line in any case


def notice(text: str) -> None:
    """A line on the screen that a person should see, whatever is done with logs."""
    screen.write_line(f"    note: {text}")


class Pace:
    """How long the rest of some work takes, from how it went lately, once that is steady.

    Of the time since the first step was done, the middle and the last third are compared: where the steps of one took
    less than ``ALIKE`` times as long as those of the other, the rest will take as long as these two did. What went
    before (a model that is compiled, what was found finished) counts for nothing.
    """

    ALIKE = 1.5
    STEPS = 6  # that were seen, at the least
    SECONDS = 5.0  # since the first, at the least

    def __init__(self, total: int) -> None:
        self.total, self.done = total, 0
        self._seen: list[tuple[float, int]] = []

    def step(self, count: int, now: float) -> None:
        """``count`` more are done at the time ``now``, in seconds of any clock."""
        self.done += count
        self._seen.append((now, self.done))
        if len(self._seen) > 600:  # in the long run every other tells as much
            del self._seen[1:-1:2]

    def left(self, now: float) -> float | None:
        """Seconds until all is done; None where that cannot be told yet."""
        if len(self._seen) <= self.STEPS or now - self._seen[0][0] < self.SECONDS:
            return None
        first = self._seen[0][0]
        third = (now - first) / 3
        start, middle = self._at(first + third), self._at(first + 2 * third)
        before, lately = (middle - start) / third, (self.done - middle) / third
        if not min(before, lately) * self.ALIKE >= max(before, lately) > 0:
            return None
        return max(0.0, (self.total - self.done) / ((before + lately) / 2))

    def _at(self, moment: float) -> float:
        """How many were done at a moment, evenly between two steps."""
        before = self._seen[0]
        for step in self._seen:
            if step[0] >= moment:
                share = (moment - before[0]) / (step[0] - before[0]) if step[0] > before[0] else 1.0
                return before[1] + share * (step[1] - before[1])
            before = step
        return self.done


class Progress:
    """A context manager with ``update(n)`` that says how far some work is."""

    def __init__(self, total: int, description: str, unit: str, clock: Callable[[], float] = time.monotonic) -> None:
        self.total, self.description, self.unit = total, description, unit
        self._clock, self._pace = clock, Pace(total)
        self._began = self._told = clock()
        self._tenth = 0
        self._painting = contextlib.ExitStack()
        self._painting.enter_context(screen.painting())

    def update(self, count: int = 1) -> None:
        """``count`` more of ``unit`` are done."""
        now = self._clock()
        self._pace.step(count, now)
        if screen.owned():
            if now - self._began >= QUICK and now - self._told >= 1 / screen.REFRESH:
                self._told = now
                screen.tell(self._words(now))
            return
        tenth = 10 * self._pace.done // max(1, self.total)
        apart = now - self._told
        if self._pace.done < self.total and ((tenth > self._tenth and apart >= APART) or apart >= LONGEST):
            self._told, self._tenth = now, tenth
            screen.write_line(self._words(now))

    def _words(self, now: float) -> str:
        done, left = self._pace.done, self._pace.left(now)
        share = f" ({100 * done // self.total} %)" if self.total else ""
        rest = "" if left is None else f", about {screen.duration(left)} left"
        return f"{screen.stage_words()}{self.description}: {done:,} of {self.total:,} {self.unit}{share}{rest}"

    def close(self) -> None:
        """The work is at its end, or given up."""
        if self._told > self._began:
            screen.tell(screen.stage_words().rstrip(), time.time())
        self._painting.close()

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def progress(total: int, description: str, unit: str = "rows") -> Progress:
    """Says how much of ``total`` is done, and how long the rest takes once that is steady (``Pace``)."""
    return Progress(total, description, unit)
