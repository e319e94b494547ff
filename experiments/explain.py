"""Hydra's errors in words that help: what was found, what is near, what to type.

Nothing here bears identity.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path

from adg.errors import BadInput, HarnessError, nearest
from experiments import search_path
from experiments.schema import known_keys

# What Hydra's grammar refuses: a pattern of its message, and what to say of it.
GRAMMAR = (
    (
        r"Ambiguous value for argument '([^=]+)=(.*)'",
        "{0}={1} names several values, which is a sweep: add -m. For one text with commas type '{0}=\"{1}\"', for a "
        "list '{0}=[{1}]', quotes and all",
    ),
    (r"Sweep parameters '(.*)' requires --multirun", "{0} names several values, which is a sweep: add -m"),
    (r"Multiple values for ([\w/@]+)\.", "{0} is chosen already, so it is not added; type {0}=... without the +"),
    (
        r"Error parsing override '([^'=]+)'",
        "{0} is no override; expected key=value, as in budget=1000 (adg run --help)",
    ),
    (
        r"Error parsing override '([^=]+)=(.*)'",
        "{0}={1} cannot be read; a value with such characters stands in quotes, and the whole in quotes of the shell: "
        "'{0}=\"...\"'",
    ),
)


EXPECTED = {"Integer": "a whole number", "Float": "a number", "Boolean": "true or false"}


def wrong_value(told: str, key: str = "", value: str = "") -> str:
    """What OmegaConf says of a value of the wrong type, with its key first. ``told`` is its message."""
    line = told.splitlines()[0]
    full = re.search(r"full_key: (\S+)", told)
    source = re.match(r"While dereferencing interpolation '\$\{([^}]+)\}': (.*)", line)
    key = key or (source[1] if source else full[1] if full else "config")
    line = source[2] if source else line
    if kind := re.search(r"Value '(.*)' of type '\w+' could not be converted to (\w+)", line):
        return f"{key} is {kind[1]!r}; expected {EXPECTED.get(kind[2], kind[2])}"
    return f"{key} is {value!r}: {line}" if value else f"{key}: {line}"


def decided_option(overrides: Sequence[str]) -> BadInput | None:
    """What to say of ``selector.<option>`` where the experiment writes each of its selectors down itself."""
    plain = [override.lstrip("+~").partition("=") for override in overrides]
    option = next((key.removeprefix("selector.") for key, _, _ in plain if key.startswith("selector.")), None)
    experiment = next((value for key, _, value in reversed(plain) if key == "experiment"), "")
    file = search_path.file_of(f"experiment/{experiment}") if option and experiment else None
    text = "" if file is None else file.read_text(encoding="utf-8")
    own = re.search(r"^selector: \$\{(experiment\.choices\.\$\{experiment\.choice\}[\w.]*)\}$", text, re.MULTILINE)
    if own is None:
        return None
    key = own[1].replace("${experiment.choice}", "<choice>")
    return BadInput(
        f"selector.{option} has no effect: experiment={experiment} writes down the options of each selector that it "
        f"compares; set it for one of them, +{key}.{option}=..., or in {_short(file)}"
    )


def _file_of(selector: str) -> str:
    return _short(search_path.file_of(f"selector/{selector}"))


def _short(file: Path | None) -> str:
    """A file of configuration as a person knows it."""
    if file is None:
        return "no file"
    home = search_path.CONF.parent
    return str(file.relative_to(home) if file.is_relative_to(home) else file)


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
        return BadInput(f"'selector.{option}' is not set by {_file_of(name)}; write +selector.{option}=...")
    text = (
        f"selector '{name}' has no option '{option}'{nearest(option, options[name])}; "
        f"it has {', '.join(options[name]) or 'none'}"
    )
    others = [kind for kind in types if option in options[kind]]
    if others:
        text += (
            f". {', '.join(others)} {'have' if len(others) > 1 else 'has'} it: on a command line an option "
            f"reaches every selector of a sweep, so name one (selector={others[0]}), or write the option into "
            f"{_file_of(others[0])} for all sweeps"
        )
    return BadInput(text)


def explain(error: Exception, overrides: Sequence[str] = ()) -> BadInput:
    """Hydra's composition errors in one line, with the nearest known key or option."""
    text = str(error)
    missing = re.search(r"Could not override '([^']+)'", text) or re.search(r"Key '([^']+)' (?:is )?not in", text)
    if missing:
        key = missing.group(1)
        if key.startswith("selector.") and (told := decided_option(overrides)):
            return told
        if key.startswith("selector.") and (told := _unknown_option(key.removeprefix("selector."), overrides)):
            return told
        full = re.search(r"full_key: (\S+)", text)
        known = known_keys()
        if key in known:
            return BadInput(f"'{key}' is not set by the files chosen here; to add it write +{key}=...")
        return BadInput(
            f"unknown config key '{key}'{nearest(full.group(1) if full else key, known)}; "
            f"adg run --cfg job prints all keys"
        )
    for pattern, words in GRAMMAR:
        if match := re.search(pattern, text):
            return BadInput(words.format(*match.groups()))
    option = re.search(r"Could not find '([^/']+)/([^']+)'", text)
    if option:
        group, name = option.groups()
        known = search_path.names(group)
        if not known:
            groups = search_path.groups()
            return BadInput(f"unknown config group '{group}'{nearest(group, groups)}; known: {', '.join(groups)}")
        return BadInput(f"{group}={name} is not known{nearest(name, known)}; known: {', '.join(known)}")
    if merged := re.match(r"Error merging override ([^=]+)=(.*)", text):
        return BadInput(wrong_value(str(error.__cause__), *merged.groups()))
    reasons = []
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, HarnessError):
            return BadInput(str(cause))
        reasons.append(str(cause).strip().splitlines()[0] if str(cause).strip() else type(cause).__name__)
        cause = cause.__cause__
    return BadInput("config: " + " <- ".join(reasons))
