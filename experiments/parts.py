"""The sections of composed trees, each made once for all command lines that say the same of it.

Hydra merges the files of its list of defaults in their order, key by key, and then sets what the command line says. So
a section is what each of these files says of it and the values set in it: its ``Recipe``. Where two lines have the same
recipe for a section, and for what it refers to, they have the same section. What cannot be made so is left to Hydra.

Nothing here bears identity.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from experiments import search_path
from experiments.config import Config
from experiments.resolve import section
from experiments.schema import session

DEFAULTS = re.compile(r"^defaults:.*\n((?:[ \t#-].*\n|\n)*)", re.MULTILINE)
OVERRIDE = re.compile(r"^[ \t]*- override /(\w+): (\w+)[ \t]*(?:#.*)?\n", re.MULTILINE)
HYDRAS = re.compile(r"hydra[./][\w/@.]+=")
EVERYWHERE = re.compile(r"^#\s*@package _global_\s*$", re.MULTILINE)
Files = tuple[tuple[str, str], ...]  # (path, package), in the order they are merged
Recipe = tuple[str, Files, tuple[str, ...]]  # the section, the files that say something of it, the values set in it
SWEPT = "hydra"  # the section of which ``hydra.sweeper.params`` alone is made

_shared: list[Parts] = []


@contextmanager
def shared() -> Iterator[Parts]:
    """Within it whatever is composed has its sections in common."""
    if _shared:
        yield _shared[-1]
        return
    with session():
        _shared.append(Parts())
        try:
            yield _shared[-1]
        finally:
            _shared.pop()


class Parts:
    """The sections that were made so far, within one ``session``; each file is read once."""

    def __init__(self) -> None:
        from hydra._internal.config_repository import CachingConfigRepository
        from hydra.core.global_hydra import GlobalHydra

        self._repository = CachingConfigRepository(GlobalHydra.instance().config_loader().repository)
        self._groups = frozenset(search_path.groups())
        self._contents: dict[str, tuple[Any, frozenset[str]]] = {}
        self._texts: dict[str, str] = {}
        self._bases: list[tuple[Mapping[str, str], Files]] = []  # what Hydra listed, by what was chosen
        self._listed: dict[tuple[tuple[str, str], ...], Files] = {}
        self._of_files: dict[Files, dict[str, Files]] = {}
        self._trees: dict[Recipe, Any] = {}  # one section under its name, nothing in it resolved
        self._read_by: dict[Recipe, frozenset[str]] = {}
        self._values: dict[tuple[Recipe, ...], Any] = {}

    def config(self, line: Sequence[str]) -> Config | None:
        """The config of a cell with these overrides; None where only Hydra can tell. Raises ``BadInput``.

        What is Hydra's own (its launcher) says nothing of a config, and whether it is known Hydra says when it starts.
        """
        with _left_to_hydra():
            recipes = self._recipes([override for override in line if not HYDRAS.match(override)])
            return Config(**{name: self._value(name, recipes) for name in recipes if name != SWEPT})
        return None

    def tree(self, line: Sequence[str], names: Iterable[str]) -> Any:
        """These sections as a tree, with ``hydra.sweeper.params`` and ``hydra.runtime.choices.selector`` beside them;
        None where only Hydra can tell. It is to be read before anything else is made."""
        with _left_to_hydra():
            recipes = self._recipes(line)
            tree = self._tree([SWEPT, *names], recipes)
            chosen = [path for path, package in recipes["selector"][1] if package == "selector"]
            tree.hydra.runtime = {"choices": {"selector": chosen[0].partition("/")[2]}}
            return tree
        return None

    # -- what a line says of each section --------------------------------------------------------------

    def _recipes(self, line: Sequence[str]) -> dict[str, Recipe]:
        said = _by_key(line)
        groups = {key: value for key, value in said.items() if key.partition("@")[0] in self._groups}
        files = self._files(groups)
        values: dict[str, list[str]] = {}
        for key, value in said.items():
            if key not in groups:
                values.setdefault(key.partition(".")[0], []).append(f"{key}={value}")
        if files not in self._of_files:
            self._of_files[files] = self._by_section(files)
        sections = self._of_files[files]
        if values.keys() - sections.keys():
            raise LookupError
        return {name: (name, of, tuple(values.get(name, ()))) for name, of in sections.items()}

    def _by_section(self, files: Files) -> dict[str, Files]:
        """Which of ``files`` say something of each section."""
        names = {*self._keys(files[0][0]), SWEPT}  # of the schema, and Hydra's
        said = {package for _, package in files if package}
        said |= {key for path, package in files if not package for key in self._keys(path)}
        if said - {*names, "defaults"}:
            raise LookupError
        return {
            name: tuple(f for f in files if f[1] == name or (not f[1] and name in self._keys(f[0]))) for name in names
        }

    def _files(self, groups: Mapping[str, str]) -> Files:
        """The files of a line that chooses these, without those of Hydra itself."""
        key = tuple(sorted(groups.items()))
        if key not in self._listed:
            made = (self._exchanged(known, files, groups) for known, files in self._bases)
            files = next(filter(None, made), ())
            self._listed[key] = files or self._list(groups)
        return self._listed[key]

    def _exchanged(self, known: Mapping[str, str], files: Files, groups: Mapping[str, str]) -> Files | None:
        """The files of a line that chooses ``groups``, from those of one that chooses ``known``; None where Hydra has
        to list them, since one of those exchanged does more than write its group's section or choose such files."""
        if known.keys() - groups.keys():
            return None
        result = list(files)
        chosen = {key: name for key, name in groups.items() if known.get(key) != name}
        while chosen:
            key, name = chosen.popitem()
            group, _, package = key.partition("@")
            package = package or group
            places = [place for place, (path, of) in enumerate(result) if package == (of or path).partition("/")[0]]
            if len(places) != 1 or not result[places[0]][0].startswith(f"{group}/"):
                return None
            path, of = result[places[0]]
            before, after = self._chooses(path), self._chooses(f"{group}/{name}")
            if before is None or after is None or (of == "") != self._everywhere(f"{group}/{name}"):
                return None
            others = "".join(self._text(other) for place, (other, _) in enumerate(result) if place != places[0])
            if before.keys() - (after.keys() | groups.keys()) or after.keys() & dict(OVERRIDE.findall(others)).keys():
                return None
            chosen |= {other: choice for other, choice in after.items() if other not in groups}
            result[places[0]] = (f"{group}/{name}", of)
        return tuple(result)

    def _list(self, groups: Mapping[str, str]) -> Files:
        from hydra._internal.defaults_list import create_defaults_list
        from hydra.core.override_parser.overrides_parser import OverridesParser

        parsed = OverridesParser.create().parse_overrides([f"{key}={value}" for key, value in groups.items()])
        if any(override.is_sweep_override() for override in parsed):
            raise LookupError
        listed = create_defaults_list(self._repository, "config", parsed, prepend_hydra=True, skip_missing=False)
        files = ((str(default.config_path), default.package or "") for default in listed.defaults)
        ours = tuple(file for file in files if file[1].partition(".")[0] != SWEPT)
        if not any("${" in part for path, _ in ours for part in DEFAULTS.findall(self._text(path))):
            self._bases.append((groups, ours))  # no file is chosen by what another is called
        return ours

    # -- from that to sections -------------------------------------------------------------------------

    def _value(self, name: str, recipes: Mapping[str, Recipe]) -> Any:
        """A section as ``Config`` holds it."""
        key = tuple(recipes[other] for other in (name, *sorted(self._needed([name], recipes) - {name})))
        if key not in self._values:
            self._values[key] = section(name, self._tree([name], recipes))
        return self._values[key]

    def _tree(self, names: Iterable[str], recipes: Mapping[str, Recipe]) -> Any:
        """A tree of these sections and of what they refer to. They are lent to it, until the next one is made."""
        return _lent({name: self._raw(recipes[name])._get_node(name) for name in self._needed(names, recipes)})

    def _needed(self, names: Iterable[str], recipes: Mapping[str, Recipe]) -> set[str]:
        """These sections and all that they refer to, directly or not."""
        needed, waiting = set[str](), list(names)
        while waiting:
            name = waiting.pop()
            if name not in needed:
                needed.add(name)
                waiting += self._references(recipes[name]) & recipes.keys()
        return needed

    def _references(self, recipe: Recipe) -> frozenset[str]:
        """The first words of all that a section refers to, and perhaps others."""
        from omegaconf import OmegaConf

        if recipe not in self._read_by:
            raw = OmegaConf.to_container(self._raw(recipe), resolve=False)
            texts = [text for text in _texts(raw) if "${" in text]
            if any(re.search(r"\$\{\s*\$\{", text) for text in texts):  # it refers to what another value names
                raise LookupError
            self._read_by[recipe] = frozenset(word for text in texts for word in re.findall(r"[A-Za-z_]\w*", text))
        return self._read_by[recipe]

    def _raw(self, recipe: Recipe) -> Any:
        """A tree of one section as Hydra composes it, nothing in it resolved."""
        from hydra.core.override_parser.overrides_parser import OverridesParser
        from omegaconf import OmegaConf

        if recipe not in self._trees:
            name, files, values = recipe
            merged = OmegaConf.create({SWEPT: {"sweeper": {"params": {}}}} if name == SWEPT else {})
            for path, package in files:
                content = self._read(path)
                if package:
                    own = {key: content._get_node(key) for key in content if key != "defaults"}
                    merged.merge_with(_lent({name: _lent(own)}))
                elif name != SWEPT:
                    merged.merge_with(_lent({name: content._get_node(name)}))
                elif (params := OmegaConf.select(content, "hydra.sweeper.params")) is not None:
                    merged.hydra.sweeper.params.merge_with(params)
            OmegaConf.set_struct(merged, True)
            for override in OverridesParser.create().parse_overrides(list(values)):
                if override.is_sweep_override():
                    raise LookupError
                OmegaConf.update(merged, override.key_or_group, override.value(), merge=True)
            if name == SWEPT:
                OmegaConf.set_struct(merged, False)
            self._trees[recipe] = merged
        return self._trees[recipe]

    # -- files -----------------------------------------------------------------------------------------

    def _read(self, path: str) -> Any:
        """A file as Hydra reads it, the schema too."""
        return self._content(path)[0]

    def _keys(self, path: str) -> frozenset[str]:
        return self._content(path)[1]

    def _content(self, path: str) -> tuple[Any, frozenset[str]]:
        if path not in self._contents:
            loaded = self._repository.load_config(path)
            if loaded is None:
                raise LookupError
            self._contents[path] = (loaded.config, frozenset(map(str, loaded.config)))
        return self._contents[path]

    def _text(self, path: str) -> str:
        """The text of a file of configuration; "" for what Hydra itself has."""
        if path not in self._texts:
            self._texts[path] = search_path.text_of(path)
        return self._texts[path]

    def _everywhere(self, path: str) -> bool:
        """Whether a file writes sections of any name, in place of its group's."""
        return bool(EVERYWHERE.search(self._text(path)))

    def _chooses(self, path: str) -> dict[str, str] | None:
        """Which files of other groups this one chooses in place of theirs; None where it does anything else than that
        and write its section, or those that it names."""
        text = self._text(path)
        listed = "".join(DEFAULTS.findall(text))
        chosen = dict(OVERRIDE.findall(listed))
        rest = OVERRIDE.sub("", listed).strip()
        packages = [line for line in re.findall(r"^#\s*@package.*$", text, re.MULTILINE) if not EVERYWHERE.match(line)]
        return chosen if text and not rest and not packages else None


def _lent(nodes: Mapping[str, Any]) -> Any:
    """A tree of these nodes, of which no copies are made."""
    from omegaconf import OmegaConf
    from omegaconf.omegaconf import flag_override

    tree = OmegaConf.create()
    with flag_override(tree, "no_deepcopy_set_nodes", True):
        for key, node in nodes.items():
            tree[key] = node
    return tree


@contextmanager
def _left_to_hydra() -> Iterator[None]:
    """Go on behind the block where only Hydra can tell what is meant, or what is wrong."""
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    try:
        yield
    except (HydraException, OmegaConfBaseException, LookupError):
        return


def _by_key(line: Sequence[str]) -> dict[str, str]:
    """The overrides of a line by key. Raises ``LookupError`` where one adds, deletes, is no text of a key, is Hydra's
    own, or stands there twice."""
    found = dict(override.partition("=")[::2] for override in line)
    plain = all(re.match(r"(?!hydra\b)[\w/@.]+=", override) for override in line)
    if not plain or len(found) < len(line):
        raise LookupError
    return found


def _texts(value: Any) -> Iterator[str]:
    """All texts in a container, keys too."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield str(key)
            yield from _texts(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _texts(inner)
    elif isinstance(value, str):
        yield value
