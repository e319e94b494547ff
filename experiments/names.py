"""How a cell, its variant and a report's folder are named, from what was set on the command line.

A cell's fingerprint holds its name, so that what stands here bears identity. Which options name a variant follows from
the metadata of the configs (``adg.options``): those that identify a result, and no others.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from adg.artifacts.artifact import file_name
from adg.artifacts.files import sha256_text
from adg.options import counts
from baselines import selector_types
from experiments import repeats
from experiments.compose import grid
from experiments.config import Config, types

DIGEST = re.compile(r"[0-9a-f]{40,}")  # of a commit or a file; its first digits name it
# Groups that a name does not repeat: it begins with the first three, a report's folder with the next two, and results
# of two suites never stand in one table.
SAID = ("backbone", "pool", "selector", "profile", "experiment", "suite")
USUAL = {"preset": "paper"}  # what names no variant
WORDS = {
    "pool.path": "{}",
    "backbone.path": "{}",
    "backbone@selecting": "chosen by {}",
    "selector.window": "layers {}",
    "sampling.seed": "sampling {}",
    "embedding.bins.seed": "clustering {}",
}


def by_key(overrides: Iterable[str]) -> dict[str, str]:
    """Overrides of one cell as values by key, without the marks of Hydra's grammar."""
    pairs = (override.partition("=") for override in overrides)
    return {key.lstrip("+~"): _unquoted(value) for key, _, value in pairs}


def _unquoted(value: str) -> str:
    mark = value[:1]
    if len(value) > 1 and mark in ("'", '"') and value.endswith(mark):
        return value[1:-1].replace(f"\\{mark}", mark)
    return value.replace("\\", "")


def option(key: str, config: Config) -> dataclasses.Field[Any] | None:
    """The field behind a dotted key of ``config``; None where it is inside a mapping or not ours (``hydra.*``).

    Of nested fields the first that does not count, or else the last.
    """
    kind: Any = Config  # of the object that the next part of the key is looked up in
    field = None
    for part in key.rpartition("@")[2].split("."):
        fields = getattr(kind, "__dataclass_fields__", None)
        if fields is None:  # inside a mapping
            return field
        if part not in fields:
            return None
        field = fields[part]
        if not counts(field) or (field.metadata.get("vllm") and config.engine.name != "vllm"):
            return field
        if part == "selector":
            kind = selector_types()[str(config.selector["name"])].Config
        else:
            kind = field.metadata.get("fields") or types(kind)[part]
    return field


def tells(key: str, config: Config) -> bool:
    """Whether setting ``key`` makes another result, so that a name has to say it."""
    if key in SAID:
        return True
    field = option(key, config)
    if field is None:
        return False
    return counts(field) and not (field.metadata.get("vllm") and config.engine.name != "vllm")


def is_path(key: str, config: Config) -> bool:
    """Whether the option holds a path."""
    field = option(key, config)
    return field is not None and bool(field.metadata.get("path"))


def varied(config: Config, overrides: Sequence[str]) -> dict[str, str]:
    """The overrides by key that make a variant of a cell: not what its name says anyway, nor how it is run."""
    labels = config.experiment.labels

    def says(key: str, value: str) -> bool:
        if f"{key}={value}" in labels:
            return True
        return key not in SAID and USUAL.get(key) != value and tells(key, config)

    return {key: value for key, value in by_key(overrides).items() if says(key, value)}


def variant(config: Config, overrides: Sequence[str]) -> str:
    """What is set besides backbone, pool and selector, in the experiment's own words."""
    labels = config.experiment.labels
    words = []
    for key, value in varied(config, overrides).items():
        text = Path(value).name if is_path(key, config) else value[:8] if DIGEST.fullmatch(value) else value
        plain = WORDS[key].format(text) if key in WORDS else f"{key}={text}"
        words.append(labels.get(f"{key}={value}") or plain)
    return ", ".join(words)


def without_seed(variant: str) -> str:
    """A variant without the root seed that it names."""
    return ", ".join(word for word in variant.split(", ") if not word.startswith("seed="))


def cell(config: Config, overrides: Sequence[str]) -> str:
    """``backbone/pool/selector[/variant]``; of a backbone that is evaluated as it is ``backbone[/variant]``."""
    parts = [config.backbone.name]
    if not config.experiment.untrained:
        parts += [config.pool.name, str(config.selector.get("name"))]
    said = variant(config, overrides)
    return "/".join(parts + ([said] if said else []))


def _values(lines: Iterable[Mapping[str, str]]) -> dict[str, list[str]]:
    """Each key's distinct values over some cells, in order of appearance."""
    every: dict[str, dict[str, None]] = {}
    for line in lines:
        for key, value in line.items():
            every.setdefault(key, {})[value] = None
    return {key: list(values) for key, values in every.items()}


def apart(configs: Sequence[Config], lines: Sequence[Sequence[str]]) -> str:
    """The overrides that set these cells apart from the whole study of their profile and experiment; "" for that.

    Cells that ``seeds`` repeats are said by it.
    """
    first = configs[0]
    study = [f"profile={first.profile.name}", f"experiment={first.experiment.name}"]
    usual = _values(by_key(line) for line in grid(study))
    usual |= {key: [value] for key, value in USUAL.items() if key not in usual}
    swept = [by_key(line) for line in lines]
    one_with = {key: config for config, line in zip(configs, swept, strict=True) for key in line}
    other_seeds = set(_values(swept).get("seed", ())) != set(usual.get("seed", ()))
    if len(repeats.root_seeds(first.seed, first.seeds)) > 1:
        swept = [of for of, config in zip(swept, configs, strict=True) if config.seed == first.seed]
    return " ".join(
        f"{key}={','.join(values)}"
        for key, values in _values(swept).items()
        if (other_seeds if key == "seeds" else set(values) != set(usual.get(key, ())) and tells(key, one_with[key]))
    )


def report_folder(config: Config, said: str) -> str:
    """The name of the folder of a report whose cells ``said`` (see ``apart``) sets apart: another for another text."""
    name = f"{config.profile.name}-{config.experiment.name}"
    if not said:
        return name
    # "=", "," and a blank become "-": whatever else is replaced or cut off, a digest tells apart
    exact = len(said.encode()) <= 80 and re.fullmatch(r"[\w.+=, ]*", said)
    return f"{name}+{file_name(said)}" + ("" if exact else f"-{sha256_text(said)[:8]}")
