"""The selectors ADG is compared with, one module each; a new module here is registered by being here."""

from __future__ import annotations

import functools
import importlib
import inspect
import pkgutil

from adg.selection.contract import Selector


def selector_types() -> dict[str, type[Selector]]:
    """Every selector class by its name: ADG first, then each module of this package in alphabetical order."""
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
    return types
