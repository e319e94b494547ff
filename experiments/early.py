"""What is refused before the first stage of the first cell: settings that a model of these cells cannot serve, trackers
that are not installed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from adg.backbones import early, model_config
from adg.embedding.windows import resolve_windows
from adg.errors import BadInput
from experiments import tracking
from experiments.cells import Cell
from finetune import checks


def check(cells: Iterable[Cell], training: bool = True) -> None:
    """Raise ``BadInput`` for the first cell whose layer windows, lengths or recipe do not fit its model.

    Reads configs of models that lie on this machine, no weights; of other models nothing is known yet. ``training``
    False: the cells are made as far as their subset, and no tracker is told.
    """
    cells, seen = list(cells), set()
    if training:
        check_trackers(cells)
    for cell in cells:
        config, roles = cell.config, cell.nodes
        selecting = config.selecting or config.backbone
        exec_, parts = config.exec, (config.sampling, config.embedding, config.finetune)
        question = (selecting, config.backbone, exec_, *parts, "grams" in roles, "answers" in roles, "adapter" in roles)
        if repr(question) in seen:
            continue
        seen.add(repr(question))
        if "grams" in roles or "answers" in roles:
            _check_selecting(cell, early.config_of(selecting), selecting.name)
        if training and "adapter" in roles:
            model = early.config_of(config.backbone)
            checks.check(config.finetune, model, exec_.train_processes, exec_.train_micro_batch)


def check_trackers(cells: Iterable[Cell]) -> None:
    """Raise ``BadInput`` where a tracker is not installed, or one cell stands there once for each of several."""
    seen: dict[str, Cell] = {}
    for cell in cells:
        first = seen.setdefault(cell.fingerprint, cell)
        here, there = cell.config.tracker, first.config.tracker
        if here.chosen != there.chosen:
            both = ",".join((*there.chosen, *here.chosen))
            raise BadInput(f"{cell.name} would be run once for each tracker; several at once are tracker=[{both}]")
    for cell in seen.values():
        tracking.check(cell.config.tracker)


def _check_selecting(cell: Cell, model: Mapping[str, Any] | None, name: str) -> None:
    """Windows and sampled lengths against the model that answers and embeds."""
    if model is None:
        return
    blocks, positions = model_config.blocks(model), model_config.positions(model)
    if "grams" in cell.nodes and blocks is not None:
        try:
            resolve_windows(cell.config.embedding.declared, blocks)
        except BadInput as error:
            raise BadInput(f"backbone {name}: {error}") from error
    sampling = cell.config.sampling
    needed = sampling.max_new_tokens + (sampling.prompt_tokens or 1)
    if "answers" in cell.nodes and positions is not None and needed > positions:
        options = "sampling.max_new_tokens" + (" and sampling.prompt_tokens" if sampling.prompt_tokens else "")
        raise BadInput(
            f"backbone {name} has {positions} positions, {options} ask for {needed}; lower sampling.max_new_tokens"
        )
