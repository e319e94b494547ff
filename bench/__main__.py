"""``make bench``: every benchmark in turn, each a ratio against the plain way in one run.

`python -m bench scoring` runs those whose name contains a word; each script also runs on its own with --help.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def main() -> int:
    words = [a for a in sys.argv[1:] if not a.startswith("-")]
    scripts = [
        s
        for s in sorted(Path(__file__).parent.glob("bench_*.py"))
        if (any(w in s.name for w in words) if words else s.stem != "bench_gpu")  # that one has a target of its own
    ]
    failed = []
    for script in scripts:
        print(f"\n== {script.stem}", flush=True)
        if subprocess.run([sys.executable, str(script)], cwd=script.parent.parent, check=False).returncode:
            failed.append(script.stem)
    if failed or not scripts:
        print(f"failed: {', '.join(failed)}" if failed else f"no benchmark is named like {words}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
