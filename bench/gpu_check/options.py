"""The command line of the check, the same for the command and for the processes of its steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from adg.errors import BadInput
from bench.gpu_check.graph import refuse
from experiments.arguments import Parser, at_least

MINUTES = 8  # that all steps may take together on a GPU
TINY_MINUTES = 40  # and on a CPU, which may be busy with other things


@dataclass(frozen=True)
class Options:
    """``only``: names of steps, () for all. ``minutes``: for all steps together."""

    tiny: bool
    only: tuple[str, ...]
    minutes: int
    out: Path
    overrides: tuple[str, ...]

    @property
    def words(self) -> list[str]:
        """The same as a command line, but for the steps and the time."""
        where = [] if self.out == folder(None, self.tiny) else ["--out", str(self.out)]
        return [*(["--tiny"] if self.tiny else []), *where, *self.overrides]


def options(words: Sequence[str]) -> Options:
    """The options of a command line. Raises ``BadInput``."""
    parser = Parser(prog="make gpu-check ARGS=...", description=__doc__)
    parser.add_argument("overrides", nargs="*", help="key=value, as every command takes them: backbone=llama3_8b")
    parser.add_argument("--tiny", action="store_true", help="all of it with a tiny random model, on a CPU too")
    parser.add_argument("--only", default="", help="names of steps, comma-separated; what they need is there already")
    parser.add_argument("--minutes", type=at_least(1), help=f"for all steps ({MINUTES}; with --tiny {TINY_MINUTES})")
    parser.add_argument("--out", help="folder of reports and artifacts (runs/gpu-check, or runs/gpu-check-tiny)")
    args = parser.parse_intermixed_args(list(words))
    refuse(args.overrides)
    out = folder(args.out, args.tiny)
    if out.exists() and not out.is_dir():
        raise BadInput(f"--out {out} is no folder")
    only = tuple(filter(None, args.only.split(",")))
    minutes = args.minutes or (TINY_MINUTES if args.tiny else MINUTES)
    return Options(args.tiny, only, minutes, out, tuple(args.overrides))


def folder(named: str | None, tiny: bool) -> Path:
    """Where reports and artifacts are kept."""
    return Path(named or ("runs/gpu-check-tiny" if tiny else "runs/gpu-check")).expanduser().absolute()
