"""A cell of the table as a graph of artifacts, from the pool to the evaluation (or the subset)."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from adg.answers import stage as answers_stage
from adg.artifacts.artifact import Node, canonical
from adg.artifacts.files import sha256_text
from adg.artifacts.store import Store
from adg.backbones import stage as backbone_stage
from adg.embedding import one_pass
from adg.embedding import stage as embedding_stage
from adg.errors import BadInput
from adg.evaluation import heldout as heldout_stage
from adg.evaluation import stage as evaluation_stage
from adg.pools import stage as pool_stage
from adg.selection import bins as bins_stage
from adg.selection import contract
from adg.selection import stage as selection_stage
from adg.selection.contract import Selector
from adg.tasktypes import stage as tasktypes_stage
from baselines import selector_types
from experiments import app, compose, names, parts
from experiments.config import Config
from experiments.quoting import quoted
from finetune import stage as finetune_stage


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

        "backbone" is what is trained, "selecting" what chooses the subset where that is another one. What only another
        artifact reads is called after it: "losses.model" is the model behind the losses.
        """
        c = self.config
        if c.experiment.untrained or not self.selector.trains:
            if c.experiment.last != "eval":
                raise BadInput(
                    f"selector={self.selector.name} selects nothing, and experiment {c.experiment.name} compares "
                    f"selections; leave it out"
                )
            alone = backbone_stage.node(c.backbone)
            evaluated = evaluation_stage.node(None, alone, c.suite)
            named = {"backbone": alone, "eval": evaluated}
            if c.pool.heldout and not c.experiment.untrained:
                pool = pool_stage.node(c.pool)
                named |= {"pool": pool, "heldout": heldout_stage.node(pool, alone, None, c.finetune.max_length)}
            return by_role(named, evaluated, named.get("heldout"))
        pool, backbone = pool_stage.node(c.pool), backbone_stage.node(c.backbone)
        selecting = backbone if c.selecting is None else backbone_stage.node(c.selecting)
        sampling = dataclasses.replace(c.sampling, logprobs=c.sampling.logprobs or self.selector.reads_logprobs)
        if c.embedding.source == "sampling":
            answers = one_pass.node(pool, selecting, sampling, c.engine, c.embedding)
        else:
            answers = answers_stage.node(pool, selecting, sampling, c.engine)
        grams = embedding_stage.node(answers, pool, selecting, c.embedding)
        bins = bins_stage.node(grams, c.embedding.bins)
        reads = self.selector.inputs(
            {"pool": pool, "backbone": selecting, "answers": answers, "grams": grams, "bins": bins}
        )
        scores = selection_stage.scores_node(self.selector, reads, pool)
        subset = selection_stage.subset_node(self.selector, scores, reads, pool, c.budget)
        adapter = finetune_stage.node(subset, backbone, c.finetune)
        evaluated = evaluation_stage.node(adapter, backbone, c.suite)
        named = {
            **reads,
            "pool": pool,
            "backbone": backbone,
            "selecting": selecting,
            "answers": answers,
            "grams": grams,
            "bins": bins,
            "scores": scores,
            "subset": subset,
            "adapter": adapter,
            "eval": evaluated,
        }
        if c.pool.heldout and c.experiment.last == "eval":
            named["heldout"] = heldout_stage.node(pool, backbone, adapter, c.finetune.max_length)
        if c.experiment.task_types:
            named["task-types"] = tasktypes_stage.node(pool, selecting, c.task_types)
        return by_role(named, named[c.experiment.last], named.get("heldout"), named.get("task-types"))

    @property
    def last(self) -> Node:
        """The artifact that the cell is made for: its evaluation, or the subset where only selections are compared."""
        return self.nodes[self.config.experiment.last]

    @cached_property
    def variant(self) -> str:
        """What is set besides backbone, pool and selector, in the experiment's own words."""
        return names.variant(self.config, self.overrides)

    @cached_property
    def varied(self) -> dict[str, str]:
        """The overrides by key that make a variant of the cell."""
        return names.varied(self.config, self.overrides)

    @cached_property
    def swept(self) -> dict[str, str]:
        """The overrides of this cell by key."""
        return names.by_key(self.overrides)

    @property
    def asked(self) -> list[str]:
        """Its overrides without Hydra's own, which say how it is launched."""
        return [override for override in self.overrides if not parts.HYDRAS.match(override)]

    @cached_property
    def name(self) -> str:
        """What the cell is called in tables; its fingerprint holds it."""
        return names.cell(self.config, self.overrides)

    @cached_property
    def family(self) -> str:
        """The name without the root seed: what cells of several seeds have in common."""
        return names.cell(self.config, [said for said in self.overrides if "seed" not in names.by_key([said])])

    @cached_property
    def fingerprint(self) -> str:
        """Identity of the cell: of what it is made for, and the name it is reported under."""
        ends = {
            role: self.nodes[role].fingerprint
            for role in (self.config.experiment.last, "heldout", "task-types")
            if role in self.nodes
        }
        return sha256_text(canonical({**ends, "name": self.name}))


def by_role(named: Mapping[str, Node], *ends: Node | None) -> dict[str, Node]:
    """``ends`` after everything they need: always that whose stage has the lowest place of those that could be built.

    ``named`` gives some of them their roles, the first name where there are two; others are called
    ``<role of what reads it>.<role there>``.
    """
    roles: dict[str, str] = {}
    for role, node in named.items():
        roles.setdefault(node.fingerprint, role)
    waiting = {node.fingerprint: node for end in ends if end is not None for node in end.walk()}
    for fingerprint, node in reversed(waiting.items()):  # what reads an artifact comes before it
        for role, parent in node.inputs.items():
            roles.setdefault(parent.fingerprint, f"{roles[fingerprint]}.{role}")
    ordered: dict[str, Node] = {}
    while waiting:
        ready = (n for n in waiting.values() if not any(p.fingerprint in waiting for p in n.inputs.values()))
        first = min(ready, key=lambda node: node.stage.place)
        ordered[roles[first.fingerprint]] = waiting.pop(first.fingerprint)
    return ordered


def cells(overrides: Sequence[str]) -> list[Cell]:
    """The cells that ``experiments.run -m`` would run for these overrides."""
    with parts.shared():
        lines = compose.grid(quoted(overrides))
        configs = compose.compose_many(lines)
    return [Cell(c, tuple(line)) for c, line in zip(configs, lines, strict=True)]


def report_folder(chosen: Sequence[Cell], store: Store) -> tuple[Path, str]:
    """Where the tables of these cells are, and the overrides that set them apart from the whole study ("" for that).

    A part of a study, or a study at other settings, has a folder of its own.
    """
    said = names.apart([cell.config for cell in chosen], [cell.overrides for cell in chosen])
    return store.root / "report" / names.report_folder(chosen[0].config, said), said


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


def asked_for(switches: Iterable[str] = ()) -> tuple[list[Cell], Store]:
    """The cells of the command line's overrides, and the store of their artifacts; ``switches`` may stand there too."""
    chosen = cells(app.overrides(switches))
    return chosen, Store(Path(chosen[0].config.exec.runs))


def distinct(chosen: Sequence[Cell]) -> list[Node]:
    """Every artifact of these cells once, parents first."""
    seen: dict[str, Node] = {}
    for cell in chosen:
        for node in cell.nodes.values():
            seen.setdefault(node.fingerprint, node)
    return list(seen.values())


def owners(chosen: Sequence[Cell]) -> dict[str, Cell]:
    """The first cell that needs an artifact, by fingerprint."""
    return {node.fingerprint: cell for cell in reversed(chosen) for node in cell.nodes.values()}
