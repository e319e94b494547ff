"""From ``conf/`` and overrides to frozen dataclasses. Below this no ``DictConfig`` is seen.

Nothing here bears identity: what is composed does, field by field.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from adg.backbones.config import BackboneConfig
from adg.errors import BadInput, HarnessError
from adg.evaluation.config import SuiteConfig, TaskConfig
from adg.options import at_home, check_types
from baselines import selector_types
from experiments import repeats, search_path
from experiments.config import Config
from experiments.exchange import Exchange
from experiments.explain import decided_option, explain, wrong_value
from experiments.schema import session

GROUPS = ("backbone", "pool", "selector")  # named by every cell; each file writes the section of its group


def resolve(composed: Any) -> Config:
    """The composed tree as a frozen ``Config``; missing values are named with their key."""
    from omegaconf import OmegaConf
    from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

    try:
        # these check their own keys; a selector also says itself what a missing checkpoint means
        own: Any = {
            name: OmegaConf.to_container(composed[name], resolve=True, throw_on_missing=False)
            for name in ("selector", "suite", "selecting")
            if composed[name] is not None
        }
        rest = {key: composed[key] for key in composed if key not in ("hydra", *own)}
        check_types("suite", SuiteConfig, own["suite"])
        for name, task in (own["suite"].get("tasks") or {}).items():
            check_types(f"suite.tasks.{name}", TaskConfig, task)
        values = {
            **{key: OmegaConf.to_object(node) if OmegaConf.is_config(node) else node for key, node in rest.items()},
            "selecting": BackboneConfig(**own["selecting"]) if "selecting" in own else None,
            "suite": SuiteConfig.of(own["suite"]),
        }
        return Config(**at_home(Config, values), selector=_selector(own["selector"]))
    except MissingMandatoryValue as error:
        raise BadInput(
            f"the config needs a value for '{error.full_key or error.key}'; set it on the command line "
            f"as {error.full_key or error.key}=..."
        ) from error
    except OmegaConfBaseException as error:
        cause = error.__cause__
        if isinstance(cause, HarnessError):
            raise cause from error
        raise BadInput(wrong_value(str(error))) from error


def _selector(options: dict[str, Any]) -> dict[str, Any]:
    """A selector's options with the home folder in their paths; whether it knows them it says itself."""
    kind = selector_types().get(str(options.get("name")))
    if kind is None:
        return options
    check_types("selector", kind.Config, options)
    return at_home(kind.Config, options)


def compose(overrides: Sequence[str] = ()) -> Config:
    """The config of one cell."""
    return compose_many([list(overrides)])[0]


def compose_many(cells: Sequence[Sequence[str]], base: Exchange | None = None) -> list[Config]:
    """The configs of several cells.

    Hydra composes ``base`` and what cannot be made from what it has composed already (``exchange``). Cells that differ
    only in which backbone, pool or selector they name share their sections.
    """
    configs = []
    with session():
        composed = Composed(base)
        for overrides in cells:
            try:
                configs.append(composed.of(overrides))
            except HarnessError:
                raise
            except Exception as error:
                raise explain(error, overrides) from error
    return configs


class Composed:
    """The configs of many cells, within one ``session``, each part composed once."""

    def __init__(self, base: Exchange | None = None) -> None:
        self._bases = [] if base is None else [base]
        self._first: dict[tuple[str, ...], tuple[str, ...]] = {}  # what lines have in common -> the first of them
        self._known: dict[tuple[str, ...], Config] = {}

    def of(self, overrides: Sequence[str]) -> Config:
        """The config of one cell. Raises what Hydra raises, and ``BadInput``."""
        line = tuple(overrides)
        common = tuple(f"{group}=" if (group := _names(override)) else override for override in line)
        first = self._first.setdefault(common, line)
        if line == first or len(set(common)) < len(common):
            return self._whole(line)
        sections = {}
        for place, (theirs, ours) in enumerate(zip(first, line, strict=True)):
            if theirs != ours:
                group, other = _names(ours), self._whole((*first[:place], ours, *first[place + 1 :]))
                if dataclasses.replace(other, **{group: getattr(self._whole(first), group)}) != self._whole(first):
                    return self._whole(line)  # this name changes more than its own section
                sections[group] = getattr(other, group)
        return dataclasses.replace(self._whole(first), **sections)

    def _whole(self, line: tuple[str, ...]) -> Config:
        from hydra import compose as hydra_compose

        if line not in self._known:
            made = (base.tree_of(line) for base in self._bases)
            tree = next((tree for tree in made if tree is not None), None)
            if tree is None:
                tree = hydra_compose("config", list(line))
                self._bases.append(Exchange(line, tree))
            self._known[line] = resolve(tree)
            refuse_ignored(self._known[line], line)
        return self._known[line]


def refuse_ignored(config: Config, overrides: Sequence[str]) -> None:
    """Raise ``BadInput`` where an experiment decides the selector itself and another one is asked for."""
    if "name" not in config.selector and (told := decided_option(overrides)):
        raise told
    asked = [override.partition("=")[2] for override in overrides if override.startswith("selector=")]
    if asked and asked[-1] != config.selector["name"] and asked[-1] in selector_types():
        raise BadInput(
            f"selector={asked[-1]} has no effect: experiment={config.experiment.name} decides which selectors it "
            f"compares; leave it out, or choose another experiment"
        )


def _names(override: str) -> str:
    """The group that an override like ``pool=cot`` chooses a file of, where cells of a table differ; "" for others."""
    group, _, name = override.partition("=")
    return group if group in GROUPS and search_path.file_of(f"{group}/{name}") else ""


def grid(overrides: Sequence[str]) -> list[list[str]]:
    """The override lists of the cells that ``experiments.run -m`` would run for these overrides."""
    return sweep(overrides)[0]


def sweep(overrides: Sequence[str]) -> tuple[list[list[str]], Exchange]:
    """The same, and what Hydra composes for the overrides that are not swept."""
    from hydra import compose as hydra_compose
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
    from hydra.core.global_hydra import GlobalHydra
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from omegaconf import OmegaConf, open_dict

    with session():
        parser = OverridesParser.create(config_loader=GlobalHydra.instance().config_loader())  # which glob(*) reads
        try:
            single = [str(o.input_line) for o in parser.parse_overrides(list(overrides)) if not o.is_sweep_override()]
            composed = hydra_compose("config", single, return_hydra_config=True)
        except Exception as error:
            raise explain(error, overrides) from error
        params = OmegaConf.to_container(composed.hydra.sweeper.params or OmegaConf.create({}), resolve=True)
        swept = parser.parse_overrides([f"{key}={value}" for key, value in params.items()] + list(overrides))
        lines = repeats.repeat(BasicSweeper.split_arguments(swept, None)[0], composed)
        with open_dict(composed):
            del composed["hydra"]
        return lines, Exchange(single, composed)
