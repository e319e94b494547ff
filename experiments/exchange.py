"""A composed tree as another command line makes it, without composing again what that line leaves as it is.

Nothing here bears identity.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Sequence
from functools import cached_property
from typing import Any

from experiments import search_path

DEFAULTS = re.compile(r"^defaults:.*\n((?:[ \t#-].*\n|\n)*)", re.MULTILINE)


class Exchange:
    """What Hydra composed for ``line``, from which the trees of other lines are made. Within one ``session``.

    Hydra merges the files of its list of defaults in their order, key by key, and then sets what the command line says.
    So the section of a group is what each of these files says of it, with another file in the place of the group's own,
    and the values of the command line are set again. What cannot be made like this is left to Hydra.
    """

    def __init__(self, line: Sequence[str], tree: Any) -> None:
        self.line, self.tree = tuple(line), tree
        self._contents: dict[str, Any] = {}

    def tree_of(self, line: Sequence[str]) -> Any:
        """The tree of ``line``; None where only Hydra can tell. Nothing in it is resolved."""
        from hydra.core.override_parser.overrides_parser import OverridesParser
        from hydra.errors import HydraException
        from omegaconf import OmegaConf
        from omegaconf.errors import OmegaConfBaseException

        asked, mine = _by_key(line), _by_key(self.line)
        if asked is None or mine is None or mine.keys() - asked.keys():
            return None
        groups = {key: value for key, value in asked.items() if key.partition("@")[0] in search_path.groups()}
        try:
            sections = {}
            for key, name in groups.items():
                if mine.get(key) != name:
                    group, _, package = key.partition("@")
                    sections[package or group] = self._section(group, package or group, name)
            if None in sections.values():
                return None
            tree = copy.deepcopy(self.tree)
            for package, section in sections.items():
                tree[package] = section
            values = [f"{key}={value}" for key, value in asked.items() if key not in groups]
            for override in OverridesParser.create().parse_overrides(values):
                if override.is_sweep_override():
                    return None
                OmegaConf.update(tree, override.key_or_group, override.value(), merge=True)
        except (HydraException, OmegaConfBaseException):  # Hydra says what is wrong with the line
            return None
        return tree

    def _section(self, group: str, package: str, name: str) -> Any:
        """The section ``package`` as ``group=name`` makes it, without the values of the command line."""
        from omegaconf import OmegaConf

        own = [path for path, of in self._files if of.split(".")[0] == package]
        if len(own) != 1 or not own[0].startswith(f"{group}/") or not all(map(_plain, (*own, f"{group}/{name}"))):
            return None
        merged = OmegaConf.create()
        for path, of in self._files:
            if of == package:
                merged.merge_with({package: self._read(f"{group}/{name}")})
            elif not of and package in self._read(path):
                merged.merge_with(OmegaConf.masked_copy(self._read(path), [package]))
        return merged[package]

    @cached_property
    def _files(self) -> list[tuple[str, str]]:
        """(path, package) of the files that made the tree, in the order they were merged; none where one of them
        chooses others by what it reads."""
        from hydra.core.global_hydra import GlobalHydra
        from hydra.types import RunMode

        listed = GlobalHydra.instance().config_loader().compute_defaults_list("config", list(self.line), RunMode.RUN)
        files = [(str(default.config_path), default.package or "") for default in listed.defaults]
        chooses = any("${" in part for path, _ in files for part in DEFAULTS.findall(search_path.text_of(path)))
        return [] if chooses else files

    def _read(self, path: str) -> Any:
        """A file as Hydra reads it, the schema too."""
        from hydra.core.global_hydra import GlobalHydra

        if path not in self._contents:
            self._contents[path] = GlobalHydra.instance().config_loader().repository.load_config(path).config
        return self._contents[path]


def _by_key(line: Sequence[str]) -> dict[str, str] | None:
    """The overrides of a line by key; None where one adds, deletes, is no text of a key, or stands there twice."""
    found = dict(override.partition("=")[::2] for override in line)
    plain = all(re.match(r"(?!hydra\b)[\w/@.]+=", override) for override in line)
    return found if plain and len(found) == len(line) else None


def _plain(path: str) -> bool:
    """Whether there is such a file, and it writes the section of its group alone: it names no package and no others."""
    text = search_path.text_of(path)
    return bool(text) and not re.search(r"^(defaults:|#\s*@package)", text, re.MULTILINE)
