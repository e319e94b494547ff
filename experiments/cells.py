"""A cell of the table as a graph of artifacts, from the pool to the evaluation (or the subset)."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from adg.answers import stage as answers_stage
from adg.artifacts.artifact import Node, canonical, file_name
from adg.artifacts.files import sha256_text
from adg.artifacts.store import Store
from adg.backbones import stage as backbone_stage
from adg.embedding import stage as embedding_stage
from adg.errors import BadInput
from adg.evaluation import stage as evaluation_stage
from adg.pools import stage as pool_stage
from adg.selection import bins as bins_stage
from adg.selection import contract
from adg.selection import stage as selection_stage
from adg.selection.contract import Selector
from baselines import selector_types
from experiments import config as config_
from experiments.config import Config
from finetune import stage as finetune_stage

GROUPS = ("backbone", "pool", "selector")
# overrides that say nothing about a result: where things are and how they are run
ASIDE = (
    "exec.",
    "contamination.",
    "hydra",
    "tracker",
    "out=",
    "suite.data_root=",
    "pool.hub=",
    "pool.file=",
    "backbone.hub=",
    "selector.checkpoint",
    "selector.scorer_path=",
    "selector.encoder",
    "selector.annotations=",
    "selector.prompts=",
    "selector.label_embeddings=",
    "selector.valid_tags=",
    "selector.complexity_scorer",
    "selector.quality_scorer",
    "engine.distributed=",
    "engine.cpu_cache_gb=",
)
ASIDE_ENDS = ("sha256", "revision")
PATHS = ("pool.path", "backbone.path")  # told apart by the last part of the path


@dataclass(frozen=True)
class Cell:
    """One combination of backbone, pool and selector (and whatever else is swept)."""

    config: Config
    overrides: tuple[str, ...] = ()

    @cached_property
    def selector(self) -> Selector:
        return contract.make(selector_types(), self.config.selector)

    @cached_property
    def nodes(self) -> dict[str, Node]:
        """Every artifact this cell needs, by role, in the order they are built.

        "backbone" is what is trained, "selecting" what chooses the subset where that is another one.
        """
        c = self.config
        if c.experiment.untrained:
            alone = backbone_stage.node(c.backbone)
            return {"backbone": alone, "eval": evaluation_stage.node(None, alone, c.suite)}
        pool, backbone = pool_stage.node(c.pool), backbone_stage.node(c.backbone)
        selecting = backbone if c.selecting is None else backbone_stage.node(c.selecting)
        answers = answers_stage.node(pool, selecting, c.sampling, c.engine)
        grams = embedding_stage.node(answers, pool, selecting, c.embedding)
        bins = bins_stage.node(grams, c.embedding.bins)
        if "grams" in self.selector.needs():
            self.selector.check_answers(c.sampling.n, c.embedding.declared)
        extra = self.selector.extra(pool, selecting)
        features = {"backbone": selecting, "answers": answers, "grams": grams, "bins": bins, **extra}
        scores = selection_stage.scores_node(self.selector, features, pool)
        subset = selection_stage.subset_node(self.selector, scores, features, pool, c.budget)
        adapter = finetune_stage.node(subset, backbone, c.finetune)
        evaluated = evaluation_stage.node(adapter, backbone, c.suite)
        every = {
            **features,
            "pool": pool,
            "backbone": backbone,
            "selecting": selecting,
            "scores": scores,
            "subset": subset,
            "adapter": adapter,
            "eval": evaluated,
        }
        last = every[c.experiment.last]
        needed = {node.fingerprint for node in last.walk()}
        other = ("selecting",) if selecting.fingerprint != backbone.fingerprint else ()
        early = [role for role, node in extra.items() if set(node.inputs) <= {"pool"} and not node.stage.gpu]  # cheap
        late = [role for role in extra if role not in early]
        order = (
            "pool",
            *early,
            "backbone",
            *other,
            "answers",
            "grams",
            "bins",
            *late,
            "scores",
            "subset",
            "adapter",
            "eval",
        )
        return {role: every[role] for role in order if every[role].fingerprint in needed}

    @property
    def last(self) -> Node:
        """The artifact that the cell is made for: its evaluation, or the subset where only selections are compared."""
        return self.nodes[self.config.experiment.last]

    @property
    def variant(self) -> str:
        """What is swept besides backbone, pool and selector, in the experiment's own words."""
        labels = self.config.experiment.labels
        plain = {
            "backbone@selecting": "chosen by {}",
            "selector.window": "layers {}",
            "sampling.seed": "sampling {}",
            "embedding.bins.seed": "clustering {}",
        }
        words = []
        for key, value in self.varied.items():
            override = f"{key}={value}"
            short = Path(value).name if key in PATHS else plain[key].format(value) if key in plain else override
            words.append(labels.get(override) or short)
        return ", ".join(words)

    @property
    def varied(self) -> dict[str, str]:
        """The overrides by key that make a variant of the cell: not its names, nor where and how it is run."""
        usual = {"preset": "paper", "suite": None, "profile": None, "experiment": None, **dict.fromkeys(GROUPS)}
        labels = self.config.experiment.labels

        def says(key: str, value: str) -> bool:
            if f"{key}={value}" in labels:
                return True
            return usual.get(key, "") not in (None, value) and not _aside(key, value)

        return {key: value for key, value in self.swept.items() if says(key, value)}

    @property
    def swept(self) -> dict[str, str]:
        """The overrides of this cell by key."""
        return _by_key(self.overrides)

    @property
    def name(self) -> str:
        parts = [self.config.backbone.name]
        if not self.config.experiment.untrained:
            parts += [self.config.pool.name, str(self.config.selector.get("name"))]
        return "/".join(parts + ([self.variant] if self.variant else []))

    @cached_property
    def fingerprint(self) -> str:
        """Identity of the cell: of what it is made for, and of the name it is reported under."""
        return sha256_text(canonical({self.config.experiment.last: self.last.fingerprint, "name": self.name}))


def _by_key(line: Iterable[str]) -> dict[str, str]:
    return {key: value for key, _, value in (override.replace("\\", "").partition("=") for override in line)}


def cells(asked: Sequence[str]) -> list[Cell]:
    """The cells that ``experiments.run -m`` would run for these overrides."""
    lines = config_.grid(asked)
    configs = config_.compose_many(lines)
    return [Cell(c, tuple(line)) for c, line in zip(configs, lines, strict=True)]


def _aside(key: str, value: str) -> bool:
    return f"{key}={value}".startswith(ASIDE) or key.endswith(ASIDE_ENDS)


def _apart(chosen: Sequence[Cell]) -> str:
    """The overrides that set these cells apart from the whole study of their profile and experiment; "" for that."""
    first = chosen[0].config
    study = [f"profile={first.profile.name}", f"experiment={first.experiment.name}"]

    def values(lines: Iterable[Mapping[str, str]]) -> dict[str, list[str]]:
        found: dict[str, dict[str, None]] = {}
        for line in lines:
            for key, value in line.items():
                found.setdefault(key, {})[value] = None
        return {key: list(seen) for key, seen in found.items()}

    usual = values(_by_key(line) for line in config_.grid(study))
    usual.setdefault("preset", ["paper"])
    return " ".join(
        f"{key}={','.join(seen)}"
        for key, seen in values(cell.swept for cell in chosen).items()
        if set(seen) != set(usual.get(key, ())) and not _aside(key, seen[0])
    )


def report_folder(chosen: Sequence[Cell], store: Store) -> tuple[Path, str]:
    """Where the tables of these cells are, and the overrides that set them apart from the whole study ("" for that).

    A part of a study, or a study at other settings, has a folder of its own.
    """
    first, what = chosen[0].config, _apart(chosen)
    name = f"{first.profile.name}-{first.experiment.name}"
    if what:
        name += f"+{file_name(what)}" + (f"-{sha256_text(what)[:8]}" if len(what) > 80 else "")
    return store.root / "report" / name, what


def overrides() -> list[str]:
    """The command line without its switches."""
    return [argument for argument in sys.argv[1:] if not argument.startswith("-")]


def refuse_same_names(chosen: Sequence[Cell]) -> None:
    """Raise ``BadInput`` where different cells would stand under one name in a table."""
    seen: dict[str, Cell] = {}
    for cell in chosen:
        first = seen.setdefault(cell.name, cell)
        if first.last.fingerprint != cell.last.fingerprint:
            keys = sorted(key for key, value in cell.swept.items() if first.swept.get(key) != value)
            raise BadInput(
                f"two cells would both be called {cell.name}; they differ in {', '.join(keys)}. Run each "
                f"by itself, or give the files different names"
            )


def asked_for() -> tuple[list[Cell], Store]:
    """The cells of the command line's overrides, and the store of their artifacts."""
    chosen = cells(overrides())
    return chosen, Store(Path(chosen[0].config.exec.runs))


def distinct(chosen: Sequence[Cell]) -> list[Node]:
    """Every artifact of these cells once, parents first."""
    seen: dict[str, Node] = {}
    for cell in chosen:
        for node in cell.nodes.values():
            seen.setdefault(node.fingerprint, node)
    return list(seen.values())
