"""Progress with an ETA for long work: a bar on a terminal, a line now and then in a log."""

from __future__ import annotations

import sys
from typing import Any


def notice(text: str) -> None:
    """A line on the screen that a person should see, whatever is done with logs; a bar stays below it."""
    from tqdm import tqdm

    tqdm.write(f"    note: {text}", file=sys.stderr)
    sys.stderr.flush()


def progress(total: int, description: str, unit: str = "rows") -> Any:
    """A tqdm bar (context manager with ``update(n)``); in a log it refreshes every 20 seconds only."""
    from tqdm import tqdm

    interactive = sys.stderr.isatty()
    return tqdm(
        total=total,
        desc=f"  {description}",
        unit=f" {unit}",
        leave=False,
        dynamic_ncols=interactive,
        mininterval=0.5 if interactive else 20,
        maxinterval=1 if interactive else 60,
        delay=1 if interactive else 20,
    )
