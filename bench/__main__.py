"""``adg bench`` (``make bench``): every measurement in turn, each a ratio against the plain way in one run.

``adg bench scoring`` runs those whose name contains a word; ``python -m bench.scoring --help`` shows the options
of one.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
NAMES = sorted(path.stem for path in HERE.glob("*.py") if path.stem not in ("__init__", "__main__", "shared"))
OWN_TARGET = "gpu"  # run by name only: make bench-gpu


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="adg bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "words", nargs="*", help=f"parts of names; all but {OWN_TARGET} without one. There are: {', '.join(NAMES)}"
    )
    words = parser.parse_args().words
    chosen = [name for name in NAMES if (any(word in name for word in words) if words else name != OWN_TARGET)]
    if not chosen:
        parser.error(f"nothing is named like {' '.join(words)}; there are: {', '.join(NAMES)}")
    failed = []
    for name in chosen:
        print(f"\n== {name}", flush=True)
        if subprocess.run([sys.executable, "-m", f"bench.{name}"], check=False).returncode:
            failed.append(name)
    if failed:
        print(f"failed: {', '.join(failed)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
