"""Faults on purpose: a small real study is killed, starved of disk and damaged; every fault must be found or mended.

    python tests/chaos.py --damages 300 --kills 100        (make chaos)

Finished artifacts: a file is damaged, then the study runs again. Half-built ones: a stage is killed, or its disk is
full, at some file operation; what it left is damaged as well in every second trial, then the same stage runs again.
A trial is good when the artifacts are those of an unbroken run, or when the damaged artifact is refused by name and
deleting it as the message says makes it come back. Anything else, and any bare traceback, is a fault: the exit code is
1. Trials are forks of one process that has imported the libraries and computed nothing.
"""

from __future__ import annotations

import argparse
import errno
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.update(
    {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
)
ROOT = Path(__file__).resolve().parent.parent
STUDY = ("profile=smoke", "exec.device=cpu", "exec.threads=1", "finetune.epochs=2", "finetune.save_steps=1")
STUDY += ("engine.batch_size=6",)
SELECTORS = ("adg", "ifd", "selectit", "tshirt", "kcenter selector.vectors=backbone")  # the first to its evaluation
SHARD = 6  # records in a shard of embedding: several in this small pool
PATIENCE = 240  # seconds for one trial
WRITES = {"os.rename", "os.remove", "os.mkdir", "os.link", "os.rmdir"}
DAMAGES = ("flip", "shorten", "empty", "delete", "lengthen", "zero", "exchange", "list")


class Study:
    """The cells, their artifacts in the order they are built, and where they lie."""

    def __init__(self, runs: Path, selectors: tuple[str, ...]) -> None:
        from experiments.cells import cells

        self.runs = runs
        overrides = [[*STUDY, f"exec.runs={runs}", *f"selector={name}".split()] for name in selectors]
        self.cells = [cell for some in overrides for cell in cells(some)]
        chosen = [node for cell in self.cells[1:] for node in cell.nodes["scores"].walk()]
        every = {node.fingerprint: node for node in [*self.cells[0].last.walk(), *chosen]}
        self.nodes = list(every.values())

    def ensure(self, nodes: list[Any] | None = None) -> Any:
        """Build what is missing in this process; prints the error as the commands do."""
        from adg.artifacts.store import Store
        from adg.errors import HarnessError

        store = Store(self.runs, self.cells[0].config.exec)
        for node in nodes or self.nodes:
            try:
                store.ensure(node)
            except HarnessError as error:
                print(f"error: {error}", flush=True)
        return store

    def show(self, store: Any) -> None:
        """The study's states and its table, which must never end in a traceback."""
        from adg.errors import HarnessError
        from experiments import status
        from experiments.report import sweep

        print(status.render(self.cells[:1], store))
        try:
            print(sweep.write(self.cells[:1], store))
        except HarnessError as error:
            print(f"error: no table: {error}")


def forked(work: Callable[[], Any], log: Path, seconds: float = PATIENCE) -> tuple[int, str]:
    """Run ``work`` in a fork; its exit code (negative: signal) and all that it printed."""
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        code = 70
        try:
            os.setsid()
            with open(log, "wb") as file:
                os.dup2(file.fileno(), 1)
                os.dup2(file.fileno(), 2)
            work()
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    until = time.monotonic() + seconds
    while True:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status), log.read_text(errors="replace")
        if time.monotonic() > until:
            os.killpg(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            return -99, log.read_text(errors="replace")
        time.sleep(0.005)


def at_write(runs: Path, act: Callable[[int], None]) -> None:
    """Call ``act`` with the number of each operation of this process that changes a file below ``runs``, before it."""
    count = 0
    below = os.fspath(runs)

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal count
        if event == "open":
            writes = isinstance(arguments[1], str) and set(arguments[1]) & set("wax+")
            writes = writes or (arguments[1] is None and isinstance(arguments[2], int) and arguments[2] & os.O_CREAT)
            if not writes:
                return
        elif event not in WRITES:
            return
        if isinstance(arguments[0], (str, os.PathLike)) and os.fspath(arguments[0]).startswith(below):
            if os.fspath(arguments[0]).endswith(".lock"):
                return
            count += 1
            act(count)

    sys.addaudithook(hook)


def digests(study: Study) -> dict[str, Any]:
    """Folder of each artifact -> name and digest of its files, read from the files, where a manifest is."""
    from adg.artifacts.sealed import file_digests

    return {
        node.folder: file_digests(study.runs / node.folder, leave_out=("manifest.json", "work"))
        for node in study.nodes
        if (study.runs / node.folder / "manifest.json").is_file()
    }


def damage(path: Path, kind: str, draw: random.Random, others: list[Path]) -> None:
    """Spoil one file."""
    data = bytearray(path.read_bytes())
    if kind == "flip" and data:
        for _ in range(draw.choice((1, 1, 1, 5))):
            data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    elif kind == "shorten":
        data = data[: draw.randrange(len(data) + 1)]
    elif kind == "empty":
        data = bytearray()
    elif kind == "lengthen":
        data += bytes(draw.randrange(256) for _ in range(draw.randrange(1, 100)))
    elif kind == "zero" and data:
        start = draw.randrange(len(data))
        data[start : start + 512] = bytes(len(data[start : start + 512]))
    elif kind == "exchange":
        same = [other for other in others if other.suffix == path.suffix and other != path]
        data = bytearray(draw.choice(same or [path]).read_bytes())
    elif kind == "list":
        data = bytearray(b'[1, "a"]\n')
    path.unlink() if kind == "delete" else path.write_bytes(data)


def files_below(folder: Path) -> list[Path]:
    return sorted(p for p in folder.rglob("*") if p.is_file() and p.suffix != ".lock")


class Chaos:
    """Trials on one study, and what came of them."""

    def __init__(self, folder: Path, selectors: tuple[str, ...], seed: int, follow: int) -> None:
        self.folder, self.seed, self.follow = folder, seed, follow
        self.study, self.whole = Study(folder / "runs", selectors), folder / "whole"
        self.counts: Counter[tuple[str, str, str]] = Counter()
        self.faults: list[str] = []
        self.log = folder / "log"
        self.writes: dict[str, int] = {}

    def build(self) -> None:
        """The unbroken study, and the number of file operations of each stage."""
        import adg.embedding.stage

        adg.embedding.stage.SHARD = SHARD

        def work() -> None:
            self.study.show(self.study.ensure())

        code, told = forked(work, self.log, 1200)
        if code or "error:" in told:
            sys.exit(f"the unbroken study failed ({code}):\n{told[-5000:]}")
        shutil.copytree(self.study.runs, self.whole)
        self.digests = digests(self.study)
        assert len(self.digests) == len(self.study.nodes)

    def restore(self) -> None:
        shutil.rmtree(self.study.runs, ignore_errors=True)
        shutil.copytree(self.whole, self.study.runs)

    def note(self, what: str, kind: str, verdict: str, trial: str, told: str = "") -> None:
        self.counts[what, kind, verdict] += 1
        if verdict.startswith("FAULT"):
            self.faults.append(f"{trial}: {verdict}")
            print(f"{trial}: {verdict}\n{told[-3000:]}", flush=True)

    def verdict(self, code: int, told: str) -> str:
        if code == -99:
            return "FAULT hung"
        if code:
            return f"FAULT ended with {code}"
        if "Traceback (most recent call last)" in told:
            return "FAULT traceback"
        return "as unbroken" if digests(self.study) == self.digests else ""

    def damaged(self, number: int) -> None:
        """One damaged file of the finished study."""
        draw = random.Random(f"{self.seed} damage {number}")
        self.restore()
        files = files_below(self.study.runs)
        groups: dict[tuple[str, str], list[Path]] = {}
        for path in files:
            groups.setdefault((path.relative_to(self.study.runs).parts[0], path.suffix), []).append(path)
        path, kind = draw.choice(draw.choice(list(groups.values()))), draw.choice(DAMAGES)
        before = path.read_bytes()
        damage(path, kind, draw, files)
        trial = f"damage {number} ({kind} {path.relative_to(self.study.runs)})"
        if path.exists() and path.read_bytes() == before:
            return self.note("finished", kind, "no change", trial)

        def work() -> None:
            self.study.show(self.study.ensure())

        code, told = forked(work, self.log)
        verdict = self.verdict(code, told)
        if not verdict:
            folder = re.search(r"Delete the folder (\S+) and run the same command again", told)
            if folder is None or not path.is_relative_to(folder[1]) or str(path) not in told:
                verdict = "FAULT accepted"
            elif self.follow and number % self.follow == 0:
                shutil.rmtree(folder[1])
                code, again = forked(work, self.log)
                verdict = "refused by name" if self.verdict(code, again) == "as unbroken" else "FAULT its remedy fails"
                told += again
            else:
                verdict = "refused by name"
        self.note("finished", kind, verdict, trial, told)

    def count_writes(self, node: Any) -> int:
        """File operations of a stage that is built without any fault."""
        if node.fingerprint not in self.writes:
            self.restore()
            shutil.rmtree(self.study.runs / node.folder)

            def work() -> None:
                last = 0

                def act(count: int) -> None:
                    nonlocal last
                    last = count

                at_write(self.study.runs, act)
                self.study.ensure([node])
                print(f"writes {last}")

            _, told = forked(work, self.log)
            self.writes[node.fingerprint] = int(told.rpartition("writes ")[2])
        return self.writes[node.fingerprint]

    def broken_off(self, number: int) -> None:
        """One stage that is ended at some file operation, perhaps damaged, and taken up again."""
        draw = random.Random(f"{self.seed} kill {number}")
        node = self.study.nodes[number % len(self.study.nodes)]
        at, how = draw.randint(1, self.count_writes(node)), draw.choice(("killed", "killed", "disk full"))
        self.restore()
        shutil.rmtree(self.study.runs / node.folder)

        def act(count: int) -> None:
            if count >= at and how == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            if count >= at:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        def first() -> None:
            at_write(self.study.runs, act)
            self.study.ensure([node])

        code, told = forked(first, self.log)
        trial = f"kill {number} ({how} at file operation {at} of {node.folder}"
        if how == "disk full" and ("Traceback" in told or code or "the disk is full" not in told):
            return self.note("half-built", how, "FAULT disk full not told", trial + ")", told)
        left = [p for p in files_below(self.study.runs) if f"{node.folder}.partial" in str(p)]
        kind = draw.choice(DAMAGES) if left and number % 2 else ""
        if kind:
            path = draw.choice(left)
            damage(path, kind, draw, left)
            trial += f", then {kind} {path.relative_to(self.study.runs)}"

        def second() -> None:
            self.study.show(self.study.ensure([node]))

        code, told = forked(second, self.log)
        self.note(
            "half-built",
            f"{how}{', ' if kind else ''}{kind}",
            self.verdict(code, told) or "FAULT accepted",
            trial + ")",
            told,
        )

    def table(self) -> str:
        verdicts = sorted({verdict for *_, verdict in self.counts}, key=lambda v: (v.startswith("FAULT"), v))
        lines = [f"{'':<36}" + "".join(f"{verdict:>26}" for verdict in verdicts)]
        for what, kind in sorted({(what, kind) for what, kind, _ in self.counts}):
            cells = "".join(f"{self.counts[what, kind, verdict] or '-':>26}" for verdict in verdicts)
            lines.append(f"{what + ' ' + kind:<36}{cells}")
        return "\n".join([*lines, f"{sum(self.counts.values())} trials, {len(self.faults)} faults", *self.faults])


def import_all() -> None:
    """Import what the stages need, once for all forks; nothing is computed."""
    import datasets  # noqa: F401
    import lm_eval.evaluator  # noqa: F401
    import peft  # noqa: F401
    import pyarrow.parquet  # noqa: F401
    import sklearn.cluster  # noqa: F401
    import torch
    import transformers  # noqa: F401
    import trl  # noqa: F401

    import baselines
    import experiments.report.sweep  # noqa: F401
    import finetune.train  # noqa: F401

    baselines.selector_types()
    torch.set_num_threads(1)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--damages", type=int, default=300, help="files of a finished study that are damaged, in turn")
    parser.add_argument("--kills", type=int, default=100, help="stages that are broken off and taken up again")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--selectors", type=int, default=len(SELECTORS), help="the first of " + ", ".join(SELECTORS))
    parser.add_argument("--follow", type=int, default=4, help="follow the advice of every n-th refusal; 0: of none")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="begin no trial after this time")
    chosen = parser.parse_args(arguments)
    sys.path.insert(0, str(ROOT))
    from adg.progress import progress

    started = time.monotonic()
    import_all()
    folder = Path(tempfile.mkdtemp(prefix="adg-chaos-"))
    try:
        chaos = Chaos(folder, SELECTORS[: chosen.selectors], chosen.seed, chosen.follow)
        chaos.build()
        print(f"{len(chaos.study.nodes)} artifacts built in {time.monotonic() - started:.0f} s", flush=True)
        trials = [(chaos.damaged, i) for i in range(chosen.damages)] + [
            (chaos.broken_off, i) for i in range(chosen.kills)
        ]
        random.Random(chosen.seed).shuffle(trials)
        with progress(len(trials), "faults", unit="trials") as bar:
            for trial, number in trials:
                if time.monotonic() - started > chosen.seconds:
                    break
                trial(number)
                bar.update(1)
        print(f"{chaos.table()}\n{time.monotonic() - started:.0f} s", flush=True)
        return 1 if chaos.faults else 0
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
