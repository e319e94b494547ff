"""Hydra's errors in words that help: what was found, what is near, what to type.

Nothing here bears identity.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence

from adg.errors import BadInput, HarnessError, nearest
from experiments.schema import CONF, known_keys


def _unknown_option(option: str, overrides: Sequence[str]) -> BadInput | None:
    """What to say of ``selector.<option>``, which the selector that ``overrides`` choose does not have."""
    from baselines import selector_types

    types = selector_types()
    chosen = [override.removeprefix("selector=") for override in overrides if override.startswith("selector=")]
    name = chosen[-1] if chosen else "adg"
    if name not in types:
        return None
    options = {kind: [field.name for field in dataclasses.fields(types[kind].Config)] for kind in types}
    if option in options[name]:
        return BadInput(f"'selector.{option}' is not set by conf/selector/{name}.yaml; write +selector.{option}=...")
    text = (
        f"selector '{name}' has no option '{option}'{nearest(option, options[name])}; "
        f"it has {', '.join(options[name]) or 'none'}"
    )
    others = [kind for kind in types if option in options[kind]]
    if others:
        text += (
            f". {', '.join(others)} {'have' if len(others) > 1 else 'has'} it: on a command line an option "
            f"reaches every selector of a sweep, so name one (selector={others[0]}), or write the option into "
            f"conf/selector/{others[0]}.yaml for all sweeps"
        )
    return BadInput(text)


def explain(error: Exception, overrides: Sequence[str] = ()) -> BadInput:
    """Hydra's composition errors in one line, with the nearest known key or option."""
    text = str(error)
    missing = re.search(r"Could not override '([^']+)'", text) or re.search(r"Key '([^']+)' (?:is )?not in", text)
    if missing:
        key = missing.group(1)
        if key.startswith("selector.") and (told := _unknown_option(key.removeprefix("selector."), overrides)):
            return told
        full = re.search(r"full_key: (\S+)", text)
        known = known_keys()
        if key in known:
            return BadInput(f"'{key}' is not set by the files chosen here; to add it write +{key}=...")
        return BadInput(
            f"unknown config key '{key}'{nearest(full.group(1) if full else key, known)}; "
            f"python -m experiments.run --cfg job prints all keys"
        )
    option = re.search(r"Could not find '([^/']+)/([^']+)'", text)
    if option:
        group, name = option.groups()
        known = sorted(p.stem for p in (CONF / group).glob("*.yaml"))
        if not known:
            groups = sorted(p.name for p in CONF.iterdir() if p.is_dir())
            return BadInput(f"unknown config group '{group}'{nearest(group, groups)}; known: {', '.join(groups)}")
        return BadInput(f"{group}={name} is not known{nearest(name, known)}; known: {', '.join(known)}")
    reasons = []
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, HarnessError):
            return BadInput(str(cause))
        reasons.append(str(cause).strip().splitlines()[0] if str(cause).strip() else type(cause).__name__)
        cause = cause.__cause__
    return BadInput("config: " + " <- ".join(reasons))
