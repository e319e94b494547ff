"""Python's collector of cycles, as this project's processes need it. Nothing here bears identity.

It walks over every object there is, and the libraries leave millions: half a second each time, a dozen times while they
are imported, and again wherever a model is let go of.
"""

from __future__ import annotations

import atexit
import gc
import sys

SELDOM = (50_000, 20, 100)  # new objects, and younger collections, before the next one; Python's own: (700, 10, 10)
MANY = 50  # modules imported since the last time, from which on what they left is set aside again

_modules = 0  # that were there when objects were last set aside


def collect_seldom() -> None:
    """Look for cycles unasked only after far more new objects than by default. For the start of a process that calls
    ``collect`` wherever large things are let go of."""
    gc.set_threshold(*SELDOM)


def collect() -> None:
    """Collect now, and leave what imports left, which stays to the end, out of every later collection.

    For places where nothing large is held.
    """
    global _modules
    gc.collect()
    if len(sys.modules) >= _modules + MANY:
        gc.freeze()
        atexit.register(gc.unfreeze)  # libraries report what is left at the end
        _modules = len(sys.modules)
