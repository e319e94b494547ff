"""A cell of the table as a graph of artifacts, from the pool to the evaluation."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from adg import binning, embedding, generation, models, records, selection
from adg.evaluation import harness
from adg.selection import Selector
from adg.store import Node, Store, canonical, sha256_text
from baselines import selector_types
from experiments import config as config_
from experiments.config import Config
from finetune import sft

GROUPS = ("backbone", "pool", "selector")


@dataclass(frozen=True)
class Cell:
    """One combination of backbone, pool and selector (and whatever else is swept)."""

    config: Config
    overrides: tuple[str, ...] = ()

    @cached_property
    def selector(self) -> Selector:
        return selection.make(selector_types(), self.config.selector)

    @cached_property
    def nodes(self) -> dict[str, Node]:
        """Every artifact this cell needs, by role, in the order they are built."""
        c = self.config
        if c.experiment.untrained:
            alone = models.node(c.backbone)
            return {"backbone": alone, "eval": harness.node(None, alone, c.suite)}
        pool, backbone = records.node(c.pool), models.node(c.backbone)
        answers = generation.node(pool, backbone, c.sampling, c.engine)
        grams = embedding.node(answers, pool, backbone, c.embedding)
        bins = binning.node(grams, c.embedding.bins)
        extra = self.selector.extra(pool, backbone)
        features = {"backbone": backbone, "answers": answers, "grams": grams, "bins": bins, **extra}
        scores = selection.scores_node(self.selector, features, pool)
        subset = selection.subset_node(self.selector, scores, features, pool, c.budget)
        adapter = sft.node(subset, backbone, c.finetune)
        evaluated = harness.node(adapter, backbone, c.suite)
        every = {"pool": pool, "backbone": backbone, "scores": scores, "subset": subset, "adapter": adapter,
                 "eval": evaluated, **features}  # fmt: skip
        needed = {node.fingerprint for node in evaluated.walk()}
        order = ("pool", "backbone", "answers", "grams", "bins", *extra, "scores", "subset", "adapter", "eval")
        return {role: every[role] for role in order if every[role].fingerprint in needed}

    @property
    def variant(self) -> str:
        """What is swept besides backbone, pool and selector, in the experiment's own words."""
        swept = [o for o in self.overrides if o.split("=")[0] not in (*GROUPS, "profile", "experiment", "preset")
                 and not o.startswith(("exec.", "contamination.", "hydra", "tracker", "out="))]  # fmt: skip
        labels = self.config.experiment.labels
        return ", ".join(labels.get(o, o) for o in swept)

    @property
    def name(self) -> str:
        parts = [self.config.backbone.name]
        if not self.config.experiment.untrained:
            parts += [self.config.pool.name, str(self.config.selector.get("name"))]
        return "/".join(parts + ([self.variant] if self.variant else []))

    @cached_property
    def fingerprint(self) -> str:
        """Identity of the cell: of its evaluation, and of the name it is reported under."""
        return sha256_text(canonical({"eval": self.nodes["eval"].fingerprint, "name": self.name}))


def cells(asked: Sequence[str]) -> list[Cell]:
    """The cells that ``experiments.run -m`` would run for these overrides."""
    lines = config_.grid(asked)
    configs = config_.compose_many(lines)
    return [Cell(c, tuple(line)) for c, line in zip(configs, lines, strict=True)]


def overrides() -> list[str]:
    """The command line without its switches."""
    return [argument for argument in sys.argv[1:] if not argument.startswith("-")]


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
