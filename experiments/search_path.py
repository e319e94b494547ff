"""Where files of configuration are found: in ``conf/``, in installed packages, in folders that a command line names.

Nothing here bears identity: what is composed from the files does, wherever they lie.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from adg import plugins
from adg.errors import BadInput

CONF = Path(__file__).resolve().parent.parent / "conf"
SWITCHES = ("--config-dir", "-cd")
KEY = "hydra.searchpath"
_named: tuple[Path, ...] = ()  # folders that the command line of this process names


def take(arguments: Sequence[str]) -> list[str]:
    """``arguments`` without those that name folders of configuration, which every command finds from now on.

    These are ``--config-dir FOLDER`` (as often as wanted) and ``hydra.searchpath=[FOLDER,pkg://package.folder]``; a
    folder is laid out as ``conf/`` is and may hold any of its groups. Raises ``BadInput`` for one that is not, and for
    a file that has the name of another one.
    """
    global _named
    _checked.cache_clear()
    rest: list[str] = []
    named: list[Path] = []
    words = iter(arguments)
    for word in words:
        switch, equals, value = word.partition("=")
        if switch in SWITCHES:
            folder = value if equals else next(words, "")
            if not folder:
                raise BadInput(f"{switch} is followed by nothing; expected a folder that is laid out as conf/ is")
            named.append(_folder(folder, switch))
        elif switch == KEY:
            named += [_folder(folder, KEY) for folder in _listed(word)]
        else:
            rest.append(word)
    _named = tuple(dict.fromkeys(named))
    folders()  # refuses what cannot be meant
    return rest


def _listed(override: str) -> list[str]:
    """The folders of an override of ``hydra.searchpath``."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        value = OverridesParser.create().parse_override(override).value()
    except HydraException:
        value = None
    if not isinstance(value, list) or not all(isinstance(folder, str) for folder in value):
        raise BadInput(f"{override} names no list of folders; expected '{KEY}=[my_conf]', or --config-dir my_conf")
    return [str(folder) for folder in value]


def _folder(written: str, option: str) -> Path:
    """The folder that is meant. Raises ``BadInput`` where there is none, or it holds none of the groups."""
    scheme, _, place = written.rpartition("://")
    if scheme == "pkg":
        folder = of_package(place)
    elif scheme in ("", "file"):
        folder = Path(os.path.abspath(os.path.expanduser(place)))
    else:
        raise BadInput(f"{option} names {written}; expected a folder, or pkg://package.folder")
    if folder is None or not folder.is_dir():
        raise BadInput(f"{option} names {written}, and there is no folder {folder or place}")
    if not any((folder / group).is_dir() for group in _groups((CONF,))):
        inside = f"; {folder.parent} may be meant" if folder.name in _groups((CONF,)) else ""
        raise BadInput(
            f"{option} names {folder}, which holds none of the groups {', '.join(_groups((CONF,)))}; expected a folder "
            f"laid out as conf/ is, with pool/my_pool.yaml for pool=my_pool{inside}"
        )
    return folder


def of_package(name: str) -> Path | None:
    """The folder of an installed package, or of a folder in one ("package.conf"); None where there is none."""
    first, *inner = name.split(".")
    try:
        spec = importlib.util.find_spec(first)
    except (ImportError, ValueError):
        return None
    places = [] if spec is None else list(spec.submodule_search_locations or ())
    return next((folder for place in places if (folder := Path(place, *inner)).is_dir()), None)


def in_package(place: str) -> str:
    """The path of what "package/folder/file" names in an installed package; what ``${package:...}`` stands for."""
    name, _, inner = place.partition("/")
    folder = of_package(name)
    if folder is None or not (folder / inner).exists():
        found = "there is no such package" if folder is None else f"{folder} holds no {inner}"
        raise BadInput(f"${{package:{place}}}: {found}; expected <package>/<file in it>, of an installed package")
    return str(folder / inner)


def folders() -> tuple[Path, ...]:
    """``conf/``, the folders of installed packages, those of the command line. Raises ``BadInput`` as ``take`` does."""
    return _checked(CONF, _named)


@functools.cache
def _checked(conf: Path, named: tuple[Path, ...]) -> tuple[Path, ...]:
    every = tuple(dict.fromkeys((conf, *_of_packages(), *named)))
    first: dict[str, Path] = {}
    for folder in every:
        for path in _files(folder):
            other = first.setdefault(path, folder)
            if other != folder and (other / path).read_bytes() != (folder / path).read_bytes():
                raise BadInput(
                    f"{folder / path} and {other / path} have one name; give yours another, so that "
                    f"{'config.yaml is the one of conf/' if path == 'config.yaml' else 'a command says which is meant'}"
                )
    return every


@functools.cache
def _of_packages() -> tuple[Path, ...]:
    found = []
    for point in plugins.found(plugins.CONFIGS).values():
        folder = of_package(point.value)
        if folder is None:
            raise plugins.refused(point, "is no folder of that package")
        found.append(folder)
    return tuple(dict.fromkeys(found))


def _files(folder: Path) -> Iterator[str]:
    """The files that Hydra finds in a folder, as "group/name.yaml"."""
    for pattern in ("*.yaml", "*/*.yaml"):
        for path in sorted(folder.glob(pattern)):
            yield path.relative_to(folder).as_posix()


def groups() -> list[str]:
    """The groups of all folders."""
    return _groups(folders())


def _groups(places: Sequence[Path]) -> list[str]:
    inside = (path for place in places for path in place.iterdir() if path.is_dir())
    return sorted({path.name for path in inside if re.fullmatch(r"[a-z]\w*", path.name)})


def names(group: str) -> list[str]:
    """The files of a group, without their endings."""
    return sorted({path.stem for folder in folders() for path in (folder / group).glob("*.yaml")})


def file_of(path: str) -> Path | None:
    """The file "group/name"; None where no folder has it."""
    files = (folder / f"{path}.yaml" for folder in folders())
    return next((file for file in files if file.is_file()), None)


def text_of(path: str) -> str:
    """The text of the file "group/name"; "" where no folder has it."""
    file = file_of(path)
    return "" if file is None else file.read_text(encoding="utf-8")
