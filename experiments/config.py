"""What may be set: the dataclass of one cell, made of those of the stages.

The metadata of a field says whether it counts in a result's identity (``adg.options``).
"""

from __future__ import annotations

import dataclasses
import functools
import types as types_
from dataclasses import dataclass, field
from typing import Any, Union, get_args, get_origin, get_type_hints

from adg.answers.config import EngineConfig, SamplingConfig
from adg.backbones.config import BackboneConfig
from adg.embedding.config import EmbeddingConfig
from adg.embedding.windows import parse_window
from adg.errors import BadInput, nearest
from adg.evaluation.benchmarks import BENCHMARKS
from adg.evaluation.config import SuiteConfig
from adg.evaluation.overlap import ContaminationConfig
from adg.execution import ExecConfig
from adg.options import aside, location
from adg.pools.config import PoolConfig
from adg.tasktypes.config import TaskTypesConfig
from experiments import repeats
from experiments.slurm.config import SlurmConfig
from experiments.tracking import TrackerConfig
from finetune.config import FinetuneConfig

# what a report may hold beside its table
SECTIONS = (
    "averages",
    "selections",
    "overlaps",
    "remade",
    "settings",
    "quadrants",
    "diagnostics",
    "controls",
    "task_types",
)
FIGURES = ("bars", "curves")
HELD_OUT_LOSS = "heldout_loss"  # a measure beside the benchmarks and their average


@dataclass(frozen=True)
class Gpu:
    """``peak`` operations a second in bfloat16, not sparse, and ``bandwidth`` bytes a second, as the maker says."""

    title: str
    peak: float
    bandwidth: float


GPUS = {
    "a100": Gpu("A100 80 GB", 312e12, 2.04e12),
    "h100": Gpu("H100 80 GB", 989e12, 3.35e12),
    "h200": Gpu("H200 141 GB", 989e12, 4.8e12),
}


@dataclass(frozen=True)
class ProfileConfig:
    """A size of the whole study. The lists are comma-separated, as a multirun takes them."""

    name: str = aside("???")
    statement: str = aside("???")  # printed above every table
    backbones: str = aside("???")
    pools: str = aside("???")
    selectors: str = aside("???")
    budgets: str = aside("1000,3000,10000")  # of the budget experiment
    repeated: str = aside("adg,random")  # the selectors whose cells `seeds` runs at several root seeds
    windows: str = "rel:0.0-0.25,rel:0.25-0.5,rel:0.5-0.75,rel:0.75-1.0"  # kept for the analyses beside the preset's
    chinese: str = aside("chinese")  # pool of the Chinese experiment
    chinese_suite: str = aside("chinese")  # and its suite
    controls: str = aside("avg")  # the measure that the controls are judged by, see experiment.estimand
    control_rows: int = 0  # held out for the loss in the controls, in place of pool.heldout
    rows: int | None = None  # rows of an embedded pool that are used; null: all
    heldout: int = 0  # further rows of it that no selector sees
    # measured minutes a stage takes, for the plan
    minutes: dict[str, float] = field(default_factory=dict, metadata={"identity": False})
    measured_on: str = aside("")
    gpu: str = aside("h100")  # that the plan's estimate of GPU-hours is for: a100 | h100 | h200

    def __post_init__(self) -> None:
        repeats.selectors(self.repeated)
        if self.gpu not in GPUS:
            raise BadInput(f"profile.gpu is {self.gpu!r}{nearest(self.gpu, list(GPUS))}; expected {', '.join(GPUS)}")


@dataclass(frozen=True)
class PresetConfig:
    """What "paper" and "released" mean beyond the sampling and embedding groups."""

    name: str = aside("paper")
    quota: str = "largest_remainder"
    window: str = "last4"  # the layer window it scores with, first of those that the analyses keep

    def __post_init__(self) -> None:
        parse_window(self.window, "preset.window")


@dataclass(frozen=True)
class ExperimentConfig:
    """A sweep with a name; ``labels`` says in words what a swept override means.

    ``untrained``: the backbones are evaluated as they are, nothing is selected and nothing trained.
    ``last`` is the stage a cell ends with: "eval", or "subset" where only selections are compared.
    ``task_types``: the pool's records are sorted into types of task as well, for the section of that name.
    ``choices`` are named groups of values and ``choice`` the one in force, for a sweep over settings that change
    together (``selector: {bins: ${experiment.choices.${experiment.choice}.bins}}``).

    What its report shows: ``sections`` beside the table, in order; the averages' ``figure``, bars or curves by budget;
    ``remarks`` with it; and whose ``published`` figures stand beside: "main" for the main table's, or an analysis of
    ``report/published.yaml``.
    """

    name: str = aside("main")
    title: str = aside("")
    labels: dict[str, str] = field(default_factory=dict, metadata={"identity": False})
    untrained: bool = False
    last: str = "eval"  # eval | subset
    task_types: bool = aside(False)
    choice: str = ""
    choices: dict[str, Any] = field(default_factory=dict)
    sections: tuple[str, ...] = aside(("averages", "overlaps", "quadrants", "diagnostics"))
    figure: str = aside("bars")  # bars | curves
    remarks: tuple[str, ...] = aside(())
    published: str = aside("")  # "": none
    # of the controls, what decides: avg, heldout_loss, or benchmarks ("mmlu", "gsm8k+mbpp" for the mean of both)
    estimand: str = aside("avg")

    def __post_init__(self) -> None:
        for name, allowed in (("last", ("eval", "subset")), ("figure", FIGURES)):
            value = getattr(self, name)
            if value not in allowed:
                raise BadInput(f"experiment.{name} is {value!r}; expected one of {', '.join(allowed)}")
        for name in ("sections", "remarks"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        for section in self.sections:
            if section not in SECTIONS:
                raise BadInput(
                    f"experiment.sections names {section!r}{nearest(section, SECTIONS)}; known: {', '.join(SECTIONS)}"
                )
        known = ("avg", HELD_OUT_LOSS, *BENCHMARKS)
        for name in (self.estimand,) if self.estimand in known else self.estimand.split("+"):
            if name not in known or (name != self.estimand and name in known[:2]):
                raise BadInput(
                    f"experiment.estimand names {name!r}{nearest(name, known)}; expected avg, {HELD_OUT_LOSS}, or "
                    f"benchmarks joined by +: {', '.join(BENCHMARKS)}"
                )
        if self.untrained and self.last == "subset":
            raise BadInput(
                "experiment.last is subset, but with experiment.untrained=true nothing is selected; expected eval"
            )

    @property
    def shown(self) -> tuple[str, ...]:
        """``sections``; where cells end with their subsets, how far these are in the place of the averages."""
        if self.last == "eval":
            return self.sections
        return ("selections", *(name for name in self.sections if name not in ("averages", "selections")))


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
    experiment: ExperimentConfig
    tracker: TrackerConfig = field(metadata={"identity": False})
    exec: ExecConfig = field(metadata={"identity": False})
    slurm: SlurmConfig = field(metadata={"identity": False})
    contamination: ContaminationConfig = field(metadata={"identity": False})
    task_types: TaskTypesConfig = field(metadata={"identity": False, "counts": "in the task types"})
    selector: dict[str, Any]  # a name and the options of that selector, checked by its own dataclass
    selecting: BackboneConfig | None = None  # the backbone that chooses the subset; None: the one that is trained
    budget: int = 10000
    seed: int = 42
    seeds: Any = aside(1)  # of a sweep: how many root seeds from `seed` on, or a list of them, for profile.repeated
    out: str = location("subset.jsonl")  # where experiments.select writes: .jsonl, .json, .parquet, .csv or a folder/
    push: str | None = aside(None)  # a data set of the hub, owner/name, that the folder is added to
    public: bool = aside(False)  # whether that data set is public where it is made
    overwrite: bool = aside(False)  # whether it may replace files that exist

    def __post_init__(self) -> None:
        for name in ("budget", "seed"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool):
                raise BadInput(f"{name} is {value!r}; expected a whole number")
        repeats.root_seeds(self.seed, self.seeds)
        object.__setattr__(self, "seeds", tuple(self.seeds) if isinstance(self.seeds, list) else self.seeds)
        if self.experiment.estimand == HELD_OUT_LOSS and not self.pool.heldout:
            raise BadInput(f"experiment.estimand is {HELD_OUT_LOSS}, but no row is held out; set pool.heldout")


@functools.cache
def types(kind: type) -> dict[str, Any]:
    """The type of each field of a config's dataclass, without "or None"."""

    def plain(hint: Any) -> Any:
        if get_origin(hint) in (Union, types_.UnionType):
            (hint,) = (part for part in get_args(hint) if part is not type(None))
        return hint

    hints = get_type_hints(kind)
    return {field.name: plain(hints[field.name]) for field in dataclasses.fields(kind)}
