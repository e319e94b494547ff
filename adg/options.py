"""What the configs say of an option beside its type and default, in the metadata of its field.

- ``identity`` False: left out of what is hashed (``artifact.plain``). Without ``counts`` it decides nothing of a
  result, and is no part of a cell's name either.
- ``counts``: how an option with ``identity`` False identifies a result all the same: by the content of a file, or in
  another artifact.
- ``vllm``: counts only where vLLM is the engine.
- ``fields``: the dataclass of an option that holds a mapping.
- ``path``: names a file or a folder; a leading ``~`` is the home folder.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from dataclasses import Field, field
from typing import Any

from adg.errors import BadInput


def aside(default: Any) -> Any:
    """A field that decides nothing of a result: where things are, how they are run, what they are called."""
    return field(default=default, metadata={"identity": False})


def elsewhere(default: Any, counts: str, fields: type | None = None) -> Any:
    """A field that another artifact than its own config's is identified by; ``counts`` says which."""
    return field(default=default, metadata={"identity": False, "counts": counts, "fields": fields})


def location(default: Any = None, counts: str = "") -> Any:
    """A field with a path; ``counts`` where what lies there identifies a result and no option has its digest."""
    return field(default=default, metadata={"identity": False, "path": True, **({"counts": counts} if counts else {})})


def counts(option: Field[Any]) -> bool:
    """Whether two values of the option make two results."""
    return bool(option.metadata.get("identity", True) or option.metadata.get("counts"))


KINDS: dict[str, tuple[Any, str]] = {
    "int": (int, "a whole number"),
    "float": ((int, float), "a number"),
    "bool": (bool, "true or false"),
    "str": (str, "a text"),
}


def check_types(where: str, kind: type, values: Any) -> None:
    """Raise ``BadInput`` where a value of ``where`` is not what the dataclass ``kind`` says; unknown keys pass.

    For configs that Hydra does not check itself. Only numbers, texts and truth values, each or none, are looked at.
    """
    if not isinstance(values, Mapping):
        raise BadInput(f"{where} is {values!r}; expected options by name")
    for option in dataclasses.fields(kind):
        said, _, none = str(option.type).partition(" | ")
        value = values.get(option.name)
        if said not in KINDS or (value is None and (none == "None" or option.name not in values)):
            continue
        kinds, expected = KINDS[said]
        if not isinstance(value, kinds) or (isinstance(value, bool) and said != "bool"):
            more = ", or null" if none == "None" else ""
            raise BadInput(f"{where}.{option.name} is {value!r}; expected {expected}{more}")


def at_home(kind: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """``values`` of the dataclass ``kind``, with the home folder for a ``~`` that begins a path; nested ones too."""
    paths = {option.name for option in dataclasses.fields(kind) if option.metadata.get("path")}

    def expanded(name: str, value: Any) -> Any:
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            own = {option.name: getattr(value, option.name) for option in dataclasses.fields(value)}
            changed = {key: new for key, new in at_home(type(value), own).items() if new is not own[key]}
            return dataclasses.replace(value, **changed) if changed else value
        return os.path.expanduser(value) if name in paths and isinstance(value, str) and value[:1] == "~" else value

    return {name: expanded(name, value) for name, value in values.items()}
