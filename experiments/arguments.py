"""Command lines that are not Hydra's: what is wrong with one is said in one line, before any work."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from typing import Any, NoReturn

from adg.errors import BadInput, nearest


class Parser(argparse.ArgumentParser):
    """Options by their whole names. Raises ``BadInput`` where argparse would print its usage and leave."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter, **settings)

    def error(self, message: str) -> NoReturn:
        known = list(dict.fromkeys(re.findall(r"--[a-z][\w-]*", self.format_usage())))
        for word in re.findall(r"(?:^| )(-[^\s=]+)", message.partition("unrecognized arguments:")[2]):
            raise BadInput(f"there is no option {word}{nearest(word, known)}; the options are {', '.join(known)}")
        raise BadInput(f"{message} (--help prints what is expected)")


def at_least(lowest: int) -> Callable[[str], int]:
    """The type of an option that takes a whole number from ``lowest`` on."""

    def number(text: str) -> int:
        if not re.fullmatch(r"[+-]?\d+", text.strip()) or int(text) < lowest:
            raise argparse.ArgumentTypeError(f"{text!r} is no whole number from {lowest} on")
        return int(text)

    return number
