"""From a composed tree to the frozen ``Config``, section by section. Below this no ``DictConfig`` is seen.

Nothing here bears identity: what is composed does, field by field.
"""

from __future__ import annotations

from typing import Any

from adg.backbones.config import BackboneConfig
from adg.errors import BadInput, HarnessError
from adg.evaluation.config import SuiteConfig, TaskConfig
from adg.options import at_home, check_types
from baselines import selector_types
from experiments.config import Config
from experiments.explain import wrong_value

# these check their own keys; a selector also says itself what a missing checkpoint means
OWN = ("selector", "suite", "selecting")


def resolve(composed: Any) -> Config:
    """The composed tree as a frozen ``Config``; missing values are named with their key."""
    from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

    names = sorted((str(key) for key in composed if key != "hydra"), key=lambda name: name not in OWN)
    try:
        return Config(**{name: section(name, composed) for name in names})
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


def section(name: str, tree: Any) -> Any:
    """The section ``name`` of a tree as ``Config`` holds it, with the home folder in its paths.

    Raises ``BadInput`` and what OmegaConf raises.
    """
    return at_home(Config, {name: _section(name, tree[name])})[name]


def _section(name: str, node: Any) -> Any:
    from omegaconf import OmegaConf

    if node is None or not OmegaConf.is_config(node):
        return node
    if name not in OWN:
        return OmegaConf.to_object(node)
    options: Any = OmegaConf.to_container(node, resolve=True, throw_on_missing=False)
    if name == "selecting":
        return BackboneConfig(**options)
    if name == "selector":
        return _selector(options)
    check_types("suite", SuiteConfig, options)
    for task, values in (options.get("tasks") or {}).items():
        check_types(f"suite.tasks.{task}", TaskConfig, values)
    return SuiteConfig.of(options)


def _selector(options: dict[str, Any]) -> dict[str, Any]:
    """A selector's options with the home folder in their paths; whether it knows them it says itself."""
    kind = selector_types().get(str(options.get("name")))
    if kind is None:
        return options
    check_types("selector", kind.Config, options)
    return at_home(kind.Config, options)
