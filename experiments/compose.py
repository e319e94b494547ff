"""From ``conf/`` and overrides to frozen dataclasses.

Nothing here bears identity: what is composed does, field by field.
"""

from __future__ import annotations

from collections.abc import Sequence

from adg.errors import BadInput, HarnessError
from baselines import selector_types
from experiments import parts, repeats
from experiments.config import Config
from experiments.explain import decided_option, explain
from experiments.resolve import resolve


def compose(overrides: Sequence[str] = ()) -> Config:
    """The config of one cell."""
    return compose_many([list(overrides)])[0]


def compose_many(cells: Sequence[Sequence[str]]) -> list[Config]:
    """The configs of several cells, sections that they have in common made once (``parts``). Raises ``BadInput``."""
    from hydra import compose as hydra_compose

    configs = []
    with parts.shared() as made:
        for line in cells:
            try:
                config = made.config(line)
                configs.append(resolve(hydra_compose("config", list(line))) if config is None else config)
                refuse_ignored(configs[-1], line)
            except HarnessError:
                raise
            except Exception as error:
                raise explain(error, line) from error
    return configs


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


def grid(overrides: Sequence[str]) -> list[list[str]]:
    """The override lists of the cells that ``experiments.run -m`` would run for these overrides."""
    from hydra import compose as hydra_compose
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
    from hydra.core.global_hydra import GlobalHydra
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from omegaconf import OmegaConf

    with parts.shared() as made:
        parser = OverridesParser.create(config_loader=GlobalHydra.instance().config_loader())  # which glob(*) reads
        try:
            single = [str(o.input_line) for o in parser.parse_overrides(list(overrides)) if not o.is_sweep_override()]
            composed = made.tree(single, repeats.READS)
            if composed is None:
                composed = hydra_compose("config", single, return_hydra_config=True)
        except Exception as error:
            raise explain(error, overrides) from error
        params = OmegaConf.to_container(composed.hydra.sweeper.params or OmegaConf.create({}), resolve=True)
        swept = parser.parse_overrides([f"{key}={value}" for key, value in params.items()] + list(overrides))
        return repeats.repeat(BasicSweeper.split_arguments(swept, None)[0], composed)
