"""Write the hashes of the locks anew, after a version in one of them was changed:  python requirements/lock.py

Needs uv (``pip install uv``). Each lock keeps its first comment and its versions; each version gets the sha256 of every
file that the package index lists for it. ``torch-cpu.lock`` names one file of PyTorch's own index and is kept by hand.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
LOCKS = ("cpu", "cuda", "torch-cuda", "source")
UV = "uv pip compile --quiet --no-deps --generate-hashes --no-annotate --no-header --python-version 3.11 -"


def pins(text: str) -> list[str]:
    """The ``name==version`` of every package in a lock."""
    return re.findall(r"^[A-Za-z0-9][\w.-]*==[^\s\\]+", text, re.MULTILINE)


def main() -> None:
    for name in LOCKS:
        path = HERE / f"{name}.lock"
        text = path.read_text(encoding="utf-8")
        comment = "".join(re.findall(r"^#.*\n", text, re.MULTILINE))
        done = subprocess.run(
            UV.split(), input="\n".join(pins(text)), stdout=subprocess.PIPE, text=True, encoding="utf-8"
        )
        if done.returncode:
            sys.exit(f"{path}: uv could not find all of its versions (see above); nothing was written")
        path.write_text(comment + done.stdout, encoding="utf-8")


if __name__ == "__main__":
    main()
