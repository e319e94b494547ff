"""From ``conf/`` to frozen dataclasses: the one place that knows Hydra. Below it no ``DictConfig`` is seen.

The dataclasses of the stages are the schema, so an unknown key or a wrongly typed value is refused while
composing, with the nearest known key named.
"""

from __future__ import annotations

import dataclasses
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_type_hints

from adg.answers.config import EngineConfig, SamplingConfig
from adg.backbones.config import BackboneConfig
from adg.embedding.config import EmbeddingConfig
from adg.errors import BadInput, HarnessError, nearest
from adg.evaluation.config import SuiteConfig
from adg.evaluation.overlap import ContaminationConfig
from adg.execution import ExecConfig
from adg.pools.config import PoolConfig
from experiments.tracking import TrackerConfig
from finetune.config import FinetuneConfig

ROOT = Path(__file__).resolve().parent.parent
CONF = ROOT / "conf"


@dataclass(frozen=True)
class ProfileConfig:
    """A size of the whole study. The lists are comma-separated, as a multirun takes them."""

    name: str = "???"
    statement: str = "???"  # printed above every table
    backbones: str = "???"
    pools: str = "???"
    selectors: str = "???"
    budgets: str = "1000,3000,10000"  # of the budget experiment
    seeds: str = "42,43,44"  # of the stability experiment: sampling and clustering
    windows: str = "rel:0.0-0.25,rel:0.25-0.5,rel:0.5-0.75,rel:0.75-1.0"  # kept for the analyses beside the preset's
    chinese: str = "chinese"  # pool of the Chinese experiment
    chinese_suite: str = "chinese"  # and its suite
    rows: int | None = None  # rows of an embedded pool that are used; null: all
    minutes: dict[str, float] = field(default_factory=dict)  # measured minutes a stage takes, for the plan
    measured_on: str = ""


@dataclass(frozen=True)
class PresetConfig:
    """What "paper" and "released" mean beyond the sampling and embedding groups."""

    name: str = "paper"
    quota: str = "largest_remainder"
    window: str = "last4"  # the layer window it scores with, first of those that the analyses keep


@dataclass(frozen=True)
class ExperimentConfig:
    """A sweep with a name; ``labels`` says in words what a swept override means.

    ``untrained``: the backbones are evaluated as they are, nothing is selected and nothing trained.
    ``last`` is the stage a cell ends with: "eval", or "subset" where only selections are compared.
    ``choices`` are named groups of values and ``choice`` the one in force, for a sweep over settings that change
    together (``selector: {bins: ${experiment.choices.${experiment.choice}.bins}}``).
    """

    name: str = "main"
    title: str = ""
    labels: dict[str, str] = field(default_factory=dict)
    untrained: bool = False
    last: str = "eval"  # eval | subset
    choice: str = ""
    choices: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.last not in ("eval", "subset"):
            raise BadInput(f"experiment.last is {self.last!r}; expected eval or subset")


@dataclass(frozen=True)
class Config:
    """One cell, fully described."""

    profile: ProfileConfig
    preset: PresetConfig
    backbone: BackboneConfig
    pool: PoolConfig
    sampling: SamplingConfig
    engine: EngineConfig
    embedding: EmbeddingConfig
    finetune: FinetuneConfig
    suite: SuiteConfig
    tracker: TrackerConfig
    experiment: ExperimentConfig
    exec: ExecConfig
    contamination: ContaminationConfig
    selector: dict[str, Any]  # a name and the options of that selector, checked by its own dataclass
    selecting: BackboneConfig | None = None  # the backbone that chooses the subset; None: the one that is trained
    budget: int = 10000
    seed: int = 42
    out: str = "subset.jsonl"  # where experiments.select writes: .jsonl, .json, .parquet or .csv
    overwrite: bool = False  # whether it may replace files that exist

    def __post_init__(self) -> None:
        for name in ("budget", "seed"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool):
                raise BadInput(f"{name} is {value!r}; expected a whole number")


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

    Files may use ``${list:a,b}``, a comma-separated text as a list.
    """
    from hydra.core.config_store import ConfigStore
    from omegaconf import OmegaConf

    def split(*parts: str) -> list[str]:
        return [word.strip() for part in parts for word in str(part).split(",")]

    OmegaConf.register_new_resolver("list", split, replace=True)
    ConfigStore.instance().store(name="schema", node=_schema())


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
        tree: Any = OmegaConf.masked_copy(composed, [key for key in composed if key not in ("hydra", *own)])
        selecting = BackboneConfig(**own["selecting"]) if "selecting" in own else None
        return Config(
            **{**OmegaConf.to_object(tree), "selecting": selecting},
            selector=own["selector"],
            suite=SuiteConfig.of(own["suite"]),
        )
    except MissingMandatoryValue as error:
        raise BadInput(
            f"the config needs a value for '{error.full_key or error.key}'; set it on the command line "
            f"as {error.full_key or error.key}=..."
        ) from error
    except OmegaConfBaseException as error:
        cause = error.__cause__
        if isinstance(cause, HarnessError):
            raise cause from error
        raise BadInput(f"config: {error}") from error


@contextmanager
def _hydra() -> Iterator[None]:
    from hydra import initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    register()
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        yield


def compose(overrides: Sequence[str] = ()) -> Config:
    """The config of one cell."""
    return compose_many([list(overrides)])[0]


def compose_many(cells: Sequence[Sequence[str]]) -> list[Config]:
    """The configs of several cells."""
    from hydra import compose as hydra_compose

    configs = []
    with _hydra():
        for overrides in cells:
            try:
                configs.append(resolve(hydra_compose("config", list(overrides))))
            except HarnessError:
                raise
            except Exception as error:
                raise explain(error, overrides) from error
    return configs


def grid(overrides: Sequence[str]) -> list[list[str]]:
    """The override lists of the cells that ``experiments.run -m`` would run for these overrides."""
    from hydra import compose as hydra_compose
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from omegaconf import OmegaConf

    parser = OverridesParser.create()
    with _hydra():
        try:
            single = [o.input_line for o in parser.parse_overrides(list(overrides)) if not o.is_sweep_override()]
            composed = hydra_compose("config", single, return_hydra_config=True)
        except Exception as error:
            raise explain(error, overrides) from error
        params = OmegaConf.to_container(composed.hydra.sweeper.params or OmegaConf.create({}), resolve=True)
        swept = parser.parse_overrides([f"{key}={value}" for key, value in params.items()] + list(overrides))
        return [list(cell) for batch in BasicSweeper.split_arguments(swept, None) for cell in batch]


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

    with _hydra():
        return sorted(walk(hydra_compose("config"), ""))


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


def task_overrides() -> tuple[str, ...]:
    """The overrides of the cell that runs now as a Hydra application."""
    from hydra.core.hydra_config import HydraConfig

    return tuple(HydraConfig.get().overrides.task)


def job() -> tuple[int, int]:
    """The number of the cell that runs now in its sweep, from 0, and how many run at once."""
    from hydra.core.hydra_config import HydraConfig

    hydra = HydraConfig.get()
    return hydra.job.num, max(1, int(hydra.launcher.get("n_jobs") or 1))


def hydra_app(main: Callable[[Config], int | None]) -> Callable[[], None]:
    """Wrap ``main`` as a Hydra application (multirun, launchers, --cfg, --help) with one-line errors."""

    def entry() -> None:
        import hydra

        register()
        os.environ["HYDRA_FULL_ERROR"] = "1"  # errors reach this function instead of being printed by Hydra

        @hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
        def run(composed: Any) -> int:
            return main(resolve(composed)) or 0

        with plain_errors():
            run()

    return entry


@contextmanager
def plain_errors() -> Iterator[None]:
    """Print what a user can act on in one paragraph and exit with 1; anything else keeps its traceback."""
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    try:
        yield
    except HarnessError as error:
        sys.exit(f"error: {error}")
    except (HydraException, OmegaConfBaseException) as error:
        sys.exit(f"error: {explain(error, sys.argv[1:])}")
