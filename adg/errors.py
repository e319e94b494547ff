"""Exceptions that a user can act on; the entry points print them without a traceback."""

from __future__ import annotations

from collections.abc import Sequence


class HarnessError(Exception):
    """Something is wrong and the message says what was found, what was expected and what to do next."""


class BadInput(HarnessError):
    """A file, a config or a record was refused before any expensive work."""


class BadMeasurement(HarnessError):
    """A measurement failed (NaN, a missing score, too many failed rows) and must not become a number."""


class NotRunnable(HarnessError):
    """A part that cannot run here for a known reason (no sandbox, a missing checkpoint).

    The cell shows "not run: <reason>" and does not count as failed.
    """


def nearest(word: str, known: Sequence[str]) -> str:
    """The hint " (did you mean 'x'?)" for an unknown ``word``, or "" when nothing is near."""
    import difflib

    close = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f" (did you mean '{close[0]}'?)" if close else ""
