"""What a system says of a full disk or a folder that may not be written, in one line that a person can act on."""

from __future__ import annotations

import errno
import os
import pwd
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from adg.errors import HarnessError

NEARLY_FULL = 1 << 20  # bytes left on a disk that explain why a library failed to write without giving a reason
# how libraries that are not written in Python give an error number of the system: "... (os error 28)", "[Errno 28] ..."
NUMBER = re.compile(r"\(os error (\d+)\)|\[Errno (\d+)\]|\berrno[: =](\d+)", re.IGNORECASE)


class DiskError(HarnessError):
    """A file could not be written or read for a reason that lies outside of the project. What is finished is kept."""


def explained(error: BaseException, folder: Path) -> DiskError | None:
    """What a person is told where ``error``, or what caused it, is the disk's; None for any other error.

    ``folder`` is where the work was written; the error may name another place, such as a cache of the hub.
    """
    if isinstance(error, HarnessError):
        return error if isinstance(error, DiskError) else None
    for each in _causes(error):
        number = each.errno if isinstance(each, OSError) else None
        if number is None and (match := NUMBER.search(str(each))):
            number = int(next(filter(None, match.groups())))
        text = _words(number, _place(each, folder))
        if text:
            return DiskError(f"{text} (what is finished is kept)")
    if isinstance(error, Exception) and _free(folder) < NEARLY_FULL:
        return DiskError(f"{_words(errno.ENOSPC, folder)} (what is finished is kept; {type(error).__name__}: {error})")
    return None


@contextmanager
def in_words(folder: Path) -> Iterator[None]:
    """Raise ``DiskError`` in place of an error that ``explained`` has words for."""
    try:
        yield
    except Exception as error:
        told = explained(error, folder)
        if told is None or told is error:
            raise
        raise told from error


def _causes(error: BaseException) -> Iterator[BaseException]:
    """``error``, what it was raised from, and what was being handled where it was raised."""
    at: BaseException | None = error
    while at is not None:
        yield at
        at = at.__cause__ or (None if at.__suppress_context__ else at.__context__)


def _place(error: BaseException, folder: Path) -> Path:
    name = getattr(error, "filename2", None) or getattr(error, "filename", None)
    return Path(os.fsdecode(name)).absolute() if isinstance(name, (str, bytes)) and name else folder


def _words(number: int | None, place: Path) -> str:
    if number in (errno.ENOSPC, errno.EDQUOT):
        what = "the disk is full" if number == errno.ENOSPC else "the quota is used up"
        return f"{what}: {place}, {_free(place) / 2**20:,.0f} MiB left; make room and run the same command again"
    if number == errno.EFBIG:
        return f"{place} would be larger than this system allows (ulimit -f); raise the limit and run the same command"
    if number == errno.EROFS:
        return f"{place} lies on a read-only file system; {_instead(place)}"
    if number in (errno.EACCES, errno.EPERM):
        return f"{place} may not be read or written by the user {_user(os.geteuid())}{_owner(place)}; {_instead(place)}"
    if number in (errno.EMFILE, errno.ENFILE):
        return "too many files are open at once; raise the limit (ulimit -n) and run the same command again"
    if number in (errno.EIO, errno.ESTALE):
        return f"the disk of {place} does not answer as it should ({os.strerror(number)}); look after it first"
    return ""


def _instead(place: Path) -> str:
    """What to set so that another place is used."""
    home = Path(os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface").absolute()
    if place.is_relative_to(home) or "huggingface" in place.parts:
        return "make it writable, or set HF_HOME=<a folder that is> (the cache of models and data sets)"
    return "make it accessible, or use another place (exec.runs=<folder> for what is built)"


def _existing(place: Path) -> Path:
    while not os.path.lexists(place) and place != place.parent:
        place = place.parent
    return place


def _free(place: Path) -> int:
    try:
        return shutil.disk_usage(_existing(place)).free
    except OSError:
        return NEARLY_FULL


def _owner(place: Path) -> str:
    there = _existing(place)
    try:
        owner = there.stat().st_uid
    except OSError:
        return ""
    return "" if owner == os.geteuid() else f" ({there} belongs to {_user(owner)})"


def _user(number: int) -> str:
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return str(number)
