"""Python's collector of cycles: cheap once the libraries are loaded, and still the end of what is let go of."""

from __future__ import annotations

import os
from pathlib import Path

from tests import processes

SCRIPT = """
import gc, sys, types, weakref
from adg import collector

class Loop:
    def __init__(self):
        self.me = self

collector.collect_seldom()
assert gc.get_threshold() == collector.SELDOM
collector.collect()
assert gc.get_freeze_count() > 10_000, "what imports left is set aside"
frozen, loop = gc.get_freeze_count(), Loop()
gone = weakref.ref(loop)
del loop
assert gone() is not None
collector.collect()
assert gone() is None and gc.get_freeze_count() <= frozen, "nothing was imported since"
for n in range(collector.MANY):
    sys.modules[f"some{n}"] = types.ModuleType(f"some{n}")
lost = Loop()
lost_too = weakref.ref(lost)
del lost
collector.collect()
assert lost_too() is None and gc.get_freeze_count() > frozen, "collected before the rest is set aside"
print("all true")
"""


def test_cycles_end_and_imports_are_walked_over_once(root: Path) -> None:
    done = processes.run(["-c", SCRIPT], cwd=root, env={**os.environ, "PYTHONPATH": str(root)})
    assert done.stdout == "all true\n", done.stderr
