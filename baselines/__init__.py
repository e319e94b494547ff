"""The selectors ADG is compared with, one module each; a new module here is registered by being here.

Those of other packages are found by their entry points (``adg.plugins.SELECTORS``).
"""

from __future__ import annotations

import functools
import importlib
import inspect
import pkgutil

from adg import plugins
from adg.selection.contract import Selector


def selector_types() -> dict[str, type[Selector]]:
    """Every selector class by its name: ADG first, then each module of this package, then those of other packages.

    Raises ``BadInput`` for an entry point that is no selector, or one with the name of another.
    """
    return dict(_found())


@functools.cache
def _found() -> dict[str, type[Selector]]:
    own = (module.name for module in pkgutil.iter_modules(__path__) if not module.ispkg)
    modules = ["adg.selection.divergence", *(f"{__name__}.{name}" for name in own)]
    types: dict[str, type[Selector]] = {}
    for module in modules:
        for _, cls in inspect.getmembers(importlib.import_module(module), inspect.isclass):
            if issubclass(cls, Selector) and cls.__module__ == module and hasattr(cls, "name"):
                if cls.name in types:
                    raise ValueError(f"two selectors are named '{cls.name}': {types[cls.name]} and {cls}")
                types[cls.name] = cls
    for name, point in plugins.found(plugins.SELECTORS).items():
        added = plugins.load(point)
        if not (inspect.isclass(added) and issubclass(added, Selector) and getattr(added, "name", None) == name):
            raise plugins.refused(point, f"is no selector with the name '{name}'")
        if name in types:
            raise plugins.refused(point, f"has the name of a selector that is there: {types[name].__module__}")
        types[name] = added
    return types
