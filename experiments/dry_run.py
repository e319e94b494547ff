"""What ``adg select --dry-run`` says: rows, what will be dropped, tokens, cost. Nothing is built or written.

Nothing here bears identity.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence

from adg import prompts
from adg.artifacts.store import Store
from adg.backbones import loading
from adg.errors import BadInput
from adg.pools import records
from adg.pools.notices import notices
from adg.pools.records import Record
from adg.pools.sources import read
from adg.pools.validation import Validated, validate
from adg.selection import contract
from experiments import estimate
from experiments.cells import Cell
from experiments.config import GPUS, Config

CHARACTERS = 4  # a token, where no tokenizer is at hand: English text in the vocabularies of the usual models
SHOWN = 3  # ids named with a reason


def lines(cell: Cell, store: Store) -> list[str]:
    """The plan of a selection as text. Raises ``BadInput`` for the problems that the selection would end with."""
    config = cell.config
    raw = read(cell.nodes["pool"].config, config.exec.offline)
    valid = validate(raw, cell.nodes["pool"].config)
    rows = _rows(config, valid)
    if not cell.selector.whole_pool:
        contract.check_budget(config.budget, rows)
    facts = {
        "rows_in": len(raw.rows),
        **valid.counts,
        "without_output": sum(not record.output.strip() for record, _ in valid.kept),
    }
    chosen = rows if cell.selector.whole_pool else config.budget
    said = [f"{len(raw.rows):,} rows in {raw.source}: {rows:,} to choose from, {chosen:,} to be chosen"]
    said += [f"  {line}" for line in [*_dropped(valid), *_aside(config, valid, rows), *notices(facts)]]
    counted, how = _tokens(cell, store, [record for record, _ in valid.kept])
    prompt, response = (total / len(valid.kept) for total in counted)
    said += ["", f"tokens ({how})"]
    said += [f"  {prompt * rows:,.0f} in prompts, {response * rows:,.0f} in the rows' own answers"]
    return [*said, *_work(cell, store, rows, prompt, response)]


def _rows(config: Config, valid: Validated) -> int:
    kept, pool = len(valid.kept), config.pool
    if (pool.rows or 1) + pool.heldout > kept:
        raise BadInput(
            f"pool '{pool.name}' has {kept} usable rows, but pool.rows={pool.rows} and pool.heldout={pool.heldout} "
            f"were asked for"
        )
    return pool.rows or kept - pool.heldout


def _dropped(valid: Validated) -> list[str]:
    """Each reason for which rows are dropped, with their number and the first ids."""
    why = Counter(reason for _, reason in valid.dropped)
    said = []
    for reason, count in why.most_common():
        ids = [records.key(id_) for id_, of in valid.dropped if of == reason]
        more = ", ..." if count > SHOWN else ""
        said.append(f"{count:,} will be dropped: {reason} (id {', '.join(ids[:SHOWN])}{more})")
    return said or ["none will be dropped"]


def _aside(config: Config, valid: Validated, rows: int) -> list[str]:
    held, undrawn = config.pool.heldout, len(valid.kept) - rows - config.pool.heldout
    said = [f"{held:,} are held out (pool.heldout)"] if held else []
    return said + ([f"{undrawn:,} are not drawn (pool.rows)"] if undrawn else [])


def _tokens(cell: Cell, store: Store, kept: Sequence[Record]) -> tuple[tuple[float, float], str]:
    """Tokens of all prompts and of all outputs, and how they were counted."""
    node = cell.nodes.get("selecting", cell.nodes.get("backbone"))
    name = (cell.config.selecting or cell.config.backbone).name
    texts = [prompts.render(record.instruction, record.input) for record in kept]
    outputs = [record.output for record in kept]
    artifact = store.find(node) if node is not None else None
    if artifact is None:
        totals = tuple(sum(map(len, of)) / CHARACTERS for of in (texts, outputs))
        return (totals[0], totals[1]), f"estimated at {CHARACTERS} characters each, until a tokenizer is there"
    tokenizer = loading.load_tokenizer(artifact)
    counts = [sum(len(ids) for ids in tokenizer(list(of))["input_ids"]) for of in (texts, outputs)]
    return (counts[0], counts[1]), f"by the tokenizer of {name}"


def _work(cell: Cell, store: Store, rows: int, prompt: float, response: float) -> list[str]:
    """What models read and write for it, and the hours where they can be told."""
    config = cell.config
    walked = list(cell.nodes["subset"].walk())
    todo = [node for node in walked if not store.complete(node)]
    stages = {node.stage.name for node in todo}
    said = []
    if stages & {"answers", "pooled-answers"}:
        n, longest = config.sampling.n, config.sampling.max_new_tokens
        said.append(f"  to sample: {rows * n:,} answers of at most {longest} tokens, {rows * n * longest:,} at most")
    if "grams" in stages:
        said.append(f"  to read again for the vectors: {rows * config.sampling.n:,} answers with their prompts")
    models = [node for node in todo if node.stage.gpus]
    said += ["", "cost"]
    if not models:
        return [*said, "  no model is run: what it needs is there, or it needs none"]
    said.append(f"  models run in: {', '.join(dict.fromkeys(node.stage.name for node in models))}")
    pool = dataclasses.replace(
        config.pool,
        expected_rows=None,
        rows=rows,
        prompt_tokens=max(1, round(prompt)),
        response_tokens=max(1, round(response)),
    )
    backbone = config.selecting or config.backbone
    sized = Cell(dataclasses.replace(config, pool=pool, backbone=backbone, selecting=None))
    gpu = GPUS[config.profile.gpu]
    same = {node.stage.name: node for node in sized.nodes["subset"].walk() if node.stage.gpus}
    seconds = {node.stage.name: estimate.stage_seconds(same[node.stage.name], sized, gpu) for node in models}
    told = [value for value in seconds.values() if value is not None]
    if told:
        said.append(
            f"  {sum(told) / 3600:.2f} GPU-hours on one {gpu.title}: an estimate from operations and bytes, no "
            f"measurement"
        )
    if untold := [name for name, value in seconds.items() if value is None]:
        why = "" if backbone.parameters else f" (backbone.parameters of {backbone.name} is not set)"
        said.append(f"  no estimate in hours for {', '.join(untold)}{why}")
    return said
