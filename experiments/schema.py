"""The dataclasses as Hydra's schema: an unknown key or a wrongly typed value is refused while composing.

Nothing here bears identity.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, get_type_hints

from adg.seeds import child
from experiments import repeats, search_path
from experiments.config import Config

_open: list[Path] = []  # the folder of the session that this process is in


@functools.cache
def _schema() -> Any:
    """The dataclasses as an OmegaConf tree that may be written to (frozen ones are read-only otherwise)."""
    from omegaconf import OmegaConf

    def thaw(node: Any) -> Any:
        if OmegaConf.is_config(node):
            node._set_flag("readonly", None)
            if OmegaConf.is_dict(node):
                for key in node:
                    if not OmegaConf.is_missing(node, key):
                        thaw(node._get_node(key))
        return node

    tree: dict[str, Any] = {}
    for name, kind in get_type_hints(Config).items():
        default = Config.__dataclass_fields__[name].default
        tree[name] = OmegaConf.structured(kind) if dataclasses.is_dataclass(kind) else default
    tree[
        "suite"
    ].tasks._metadata.element_type = Any  # frozen elements could not be composed; SuiteConfig.of checks them
    return thaw(OmegaConf.create({**tree, "selector": {}}))


def register() -> None:
    """Make the schema known to Hydra under the name that ``conf/config.yaml`` builds on.

    Files may use ``${list:a,b}``, a comma-separated text as a list, ``${root_seeds:${seed},${seeds}}``, the seeds of
    ``experiments/repeats.py`` as such a text, ``${other_seed:${seed}}``, another seed, and ``${package:name/file}``,
    the path of a file in an installed package. Hydra searches the folders of ``experiments/search_path.py``.
    """
    from hydra.core.config_store import ConfigStore
    from omegaconf import OmegaConf

    def split(*parts: str) -> list[str]:
        return [word.strip() for part in parts for word in str(part).split(",")]

    def root_seeds(seed: int, seeds: Any) -> str:
        return ",".join(map(str, repeats.root_seeds(seed, list(seeds) if OmegaConf.is_list(seeds) else seeds)))

    OmegaConf.register_new_resolver("list", split, replace=True)
    OmegaConf.register_new_resolver("root_seeds", root_seeds, replace=True)
    OmegaConf.register_new_resolver("other_seed", lambda seed: child(int(seed), "another draw"), replace=True)
    OmegaConf.register_new_resolver("package", search_path.in_package, replace=True)
    _search()
    ConfigStore.instance().store(name="schema", node=_schema())


@functools.cache
def _search() -> None:
    """Have Hydra look into every folder of configuration, in its application and in ``session`` alike."""
    from hydra.core.plugins import Plugins
    from hydra.plugins.search_path_plugin import SearchPathPlugin

    found = search_path.folders

    class Folders(SearchPathPlugin):
        def manipulate_search_path(self, search_path: Any) -> None:
            for folder in found()[1:]:
                search_path.append("adg", f"file://{folder}")

    Plugins.instance().register(Folders)


@contextmanager
def session() -> Iterator[None]:
    """Hydra with the folders of configuration and the schema, for composing; one within another is the same."""
    from hydra import initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    if _open:
        yield
        return
    register()
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(search_path.CONF), version_base="1.3"):
        _open.append(search_path.CONF)
        try:
            yield
        finally:
            _open.clear()


def known_keys() -> list[str]:
    """Every dotted key of the default config, and every group."""
    from hydra import compose as hydra_compose
    from omegaconf import OmegaConf

    def walk(node: Any, prefix: str) -> Iterator[str]:
        for key in node:
            name = f"{prefix}{key}"
            yield name
            child = None if OmegaConf.is_missing(node, key) or OmegaConf.is_interpolation(node, key) else node[key]
            if OmegaConf.is_dict(child):
                yield from walk(child, name + ".")

    with session():
        return sorted(walk(hydra_compose("config"), ""))
