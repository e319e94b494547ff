"""What every command does around its work: errors in one line, warnings on the screen, UTF-8, a quick end when stopped.

Nothing here bears identity.
"""

from __future__ import annotations

import contextlib
import locale
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from adg import collector, extras
from adg.errors import HarnessError
from adg.printable import printable

OURS = ("adg", "baselines", "finetune", "experiments")  # loggers whose warnings are for the user
GRACE = 1.0  # seconds that a stopped command may clean up
CHILDREN = 0.3  # of them, those that its processes have after a SIGTERM
SAID = {
    signal.SIGINT: "stopped; the same command continues",
    signal.SIGTERM: "interrupted; the same command continues",
    signal.SIGUSR2: "interrupted; the same command continues",  # what Slurm sends some time before a job's end
}


class Terminated(BaseException):
    """A SIGTERM or a SIGUSR2 arrived. No ``Exception``, so that nothing takes it for a failure of a stage."""

    def __init__(self, number: signal.Signals) -> None:
        super().__init__(number)
        self.number = number


# -- the screen ------------------------------------------------------------------------------------------
class _Screen(logging.Handler):
    """One line a warning on stderr, whatever stderr is by then."""

    def emit(self, record: logging.LogRecord) -> None:
        sys.stderr.write(printable(f"{record.levelname.lower()}: {record.getMessage()}") + "\n")  # in one write
        sys.stderr.flush()


def show_warnings() -> None:
    """Print the warnings of this project's own loggers, which Hydra and libraries switch off."""
    for name in OURS:
        logger = logging.getLogger(name)
        logger.setLevel(logging.WARNING)
        if not any(isinstance(handler, _Screen) for handler in logger.handlers):
            logger.addHandler(_Screen())
    for name, known in logging.root.manager.loggerDict.items():
        if name.partition(".")[0] in OURS and isinstance(known, logging.Logger):
            known.disabled = False


def in_utf8() -> None:
    """Start this command again in Python's UTF-8 mode where the locale has another encoding.

    Names of files and what is printed would otherwise end in a UnicodeError; the terminals that have such a locale
    (LC_ALL=C in containers and batch systems) show UTF-8.
    """
    if sys.flags.utf8_mode or locale.getpreferredencoding(False).lower() in ("utf-8", "utf8"):
        return
    os.environ["PYTHONUTF8"] = "1"  # for the processes that this one starts, too
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


# -- being stopped ---------------------------------------------------------------------------------------
_stopping = threading.Event()
_at_stop: list[Callable[[], None]] = []
_acting = threading.Lock()  # two threads come here: the one that the signal ends, and the one that watches for it
_leaving = threading.Lock()


def stopping() -> bool:
    """Whether this process is being stopped: what fails from now on is no failure of a stage."""
    return _stopping.is_set()


@contextmanager
def at_stop(act: Callable[[], None]) -> Iterator[None]:
    """Call ``act``, once or twice, when the process is stopped inside the block."""
    _at_stop.append(act)
    try:
        yield
    except (KeyboardInterrupt, Terminated):
        with _acting:
            act()
        raise
    finally:
        _at_stop.remove(act)


@contextmanager
def stoppable(quiet: bool = False) -> Iterator[None]:
    """End within two seconds of a Ctrl-C, a SIGTERM or a SIGUSR2, with exit status 130, 143 or 140 and no traceback.

    The block is left by an exception that is no ``Exception``; what does not return to Python in time (a long
    computation, a library that waits for its own processes) is ended with the process. All that this process started
    ends with it. ``quiet``: a process of a sweep, whose parent says what happened.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    read, write = os.pipe()
    os.set_blocking(write, False)
    before = signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    # a launcher of jobs may have handlers of its own
    caught = [number for number in (signal.SIGTERM, signal.SIGUSR2) if signal.getsignal(number) is signal.SIG_DFL]
    for number in caught:
        signal.signal(number, _terminated)
    threading.Thread(target=_watch, args=(read, quiet), daemon=True).start()
    try:
        yield
    except KeyboardInterrupt:
        _leave(signal.SIGINT, quiet)
    except Terminated as error:
        _leave(error.number, quiet)
    finally:
        signal.set_wakeup_fd(before)
        for number in caught:
            signal.signal(number, signal.SIG_DFL)
        os.close(write)  # ends the thread


def _terminated(number: int, frame: object) -> None:
    raise Terminated(signal.Signals(number))


def _watch(read: int, quiet: bool) -> None:
    """Wait for a signal, which the system writes into the pipe at once, and see that the process ends."""
    while byte := os.read(read, 1):
        if byte[0] in SAID:
            _stopping.set()
            for act in reversed(_at_stop):
                with _acting:
                    act()
            time.sleep(CHILDREN / 2 if quiet else GRACE)
            _leave(signal.Signals(byte[0]), quiet)
    os.close(read)


def _leave(number: signal.Signals, quiet: bool) -> None:
    """End the process and all that it started."""
    if not _leaving.acquire(blocking=False):
        time.sleep(60)  # another thread ends the process
    _stopping.set()
    if not quiet:
        print(f"\n{SAID[number]}", file=sys.stderr, flush=True)
    _end_children()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):  # a closed pipe
            stream.flush()
    os._exit(128 + number)


def _end_children() -> None:
    import psutil

    started = psutil.Process().children(recursive=True)
    for process in started:
        with contextlib.suppress(psutil.Error):  # it has ended
            process.terminate()
    _, alive = psutil.wait_procs(started, CHILDREN)
    for process in alive:
        with contextlib.suppress(psutil.Error):
            process.kill()


def end_with(parent: int) -> None:
    """End this process, quietly, soon after the process ``parent`` has ended, however that happened."""

    name = f"end with {parent}"

    def wait() -> None:
        while os.getppid() == parent:
            time.sleep(0.2)
        os._exit(128 + signal.SIGTERM)

    if all(thread.name != name for thread in threading.enumerate()):
        threading.Thread(target=wait, name=name, daemon=True).start()


@contextmanager
def holding_signals() -> Iterator[None]:
    """Start worker processes inside the block: what reaches them before they ``ignore_signals`` waits until they do,
    where it would end them with a traceback. Here it waits until the block is left."""
    from multiprocessing import resource_tracker

    resource_tracker.ensure_running()  # who starts it lets signals through again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SAID)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def ignore_signals() -> None:
    """In a worker process: leave Ctrl-C and a cluster's signals to the process that started it, which ends it."""
    own = os.getpid()

    def ignored(number: int, frame: object) -> None:
        if os.getpid() != own:  # a fork of the worker
            os._exit(128 + number)

    for number in SAID:
        signal.signal(number, ignored)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SAID)  # ``holding_signals``


# -- all of it -------------------------------------------------------------------------------------------
@contextmanager
def command(help_: str | None = None) -> Iterator[None]:
    """Around a command: help where it was asked for, and one line for what a user can act on, with exit status 1."""
    in_utf8()
    os.environ.setdefault("TQDM_DISABLE", "1")  # the bars of libraries, here and in the processes that this one starts
    show_warnings()
    collector.collect_seldom()
    with stoppable():
        try:
            if help_ is not None and {"--help", "-h"} & set(sys.argv[1:]):
                print(help_.strip())
                sys.exit(0)
            yield
            sys.stdout.flush()
        except HarnessError as error:
            sys.exit(printable(f"error: {error}"))
        except ModuleNotFoundError as error:
            if told := extras.missing(error):
                sys.exit(f"error: {told}")
            raise
        except BrokenPipeError:  # who read what is printed has enough, as `head` has
            with contextlib.suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(128 + signal.SIGPIPE)
