"""Pools of instruction records: read from a file or a hub, validated completely, normalised, kept in one order.

Whatever is wrong with a pool is reported at once and before any model is loaded; what is left out is counted and
listed. Everything later in the pipeline is joined by a record's key, never by its position.

Identity: the digest of a local file or the pinned revision of a hub's, the mapping of fields and the rules for doubtful
rows (``PoolConfig``); neither the path nor the pool's name.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from adg import seeds
from adg.artifacts.artifact import Job, Node, Stage
from adg.artifacts.files import write_lines
from adg.errors import BadInput
from adg.pools import corruption, heldout
from adg.pools.config import PoolConfig
from adg.pools.records import CORRUPTED, HELD_OUT, key, save_rows
from adg.pools.sources import EXPECTED, check_digest, digest_of, file_format, files_of, local_path, read
from adg.pools.validation import validate

STAGE = Stage("pool", 1, "adg.pools.stage:build", place=10)


def node(cfg: PoolConfig) -> Node:
    """The pool's artifact. A local file is identified by its content, so it is read here; a hub pool needs no network.

    Raises ``BadInput`` when the source is not said, the file is missing or its digest is not ``cfg.sha256``.
    """
    if cfg.path in (None, "???") and cfg.hub is None:
        raise BadInput(f"pool '{cfg.name}' needs a file: add pool.path={EXPECTED}, or pool.hub and pool.revision")
    if (cfg.path is None) == (cfg.hub is None):
        raise BadInput(f"pool '{cfg.name}' has path {cfg.path!r} and hub {cfg.hub!r}; expected exactly one of them")
    if cfg.hub is not None and cfg.file is None and cfg.sha256 is not None:
        raise BadInput(f"pool '{cfg.name}' has a sha256 but no file in {cfg.hub}; set pool.file or pool.sha256=null")
    changes: dict[str, Any] = {}
    if cfg.path is not None:
        path = local_path(cfg)
        files = files_of(path, cfg)
        changes = {"path": str(path), "sha256": check_digest(digest_of(files), path, cfg)}
        changes["format"] = file_format(cfg.format, files[0])
        changes |= {"revision": None, "file": None}
        if path.is_file():
            changes["split"] = "train"
    elif cfg.file is not None:
        changes = {"split": "train"}
    if cfg.rows is None and not cfg.heldout and not cfg.corrupt:
        changes["seed"] = 0
    if cfg.max_chars is None:
        changes["over_long"] = "keep"
    label = cfg.name if cfg.rows is None else f"{cfg.name}-{cfg.rows}"
    return Node(STAGE, label, dataclasses.replace(cfg, **changes))


def build(job: Job) -> dict[str, Any]:
    """Read, validate, drop, sample, hold out, corrupt, write.

    Payload, all in canonical order: ``records.parquet`` (key, instruction, input, output), ``original.jsonl``
    (``{"id": key, "row": the row as it came}``), ``dropped.jsonl`` (``{"id": key, "reason": ...}``), of a sample
    ``not_drawn.jsonl`` (``{"id": key}``), where rows are held out ``heldout.parquet`` (as ``records.parquet``; no other
    file holds those), and where outputs were exchanged ``corrupted.jsonl`` (``{"id": key, "output_of": key}``).
    ``rows_in`` counts the rows of the source.
    """
    cfg: PoolConfig = job.config
    raw = read(cfg, job.exec.offline)
    valid = validate(raw, cfg)
    entries, kept = valid.kept, len(valid.kept)
    drawn: set[int] | None = None
    if cfg.rows is not None:
        if cfg.rows > kept:
            raise BadInput(
                f"pool '{cfg.name}' has {kept} usable rows but pool.rows={cfg.rows} were asked for; "
                f"set pool.rows={kept} or less"
            )
        drawn = set(seeds.generator(cfg.seed, "pool", "rows").permutation(kept)[: cfg.rows].tolist())
    out = heldout.draw([record for record, _ in valid.kept], drawn, cfg) if cfg.heldout else set[int]()
    if drawn is not None:
        entries = [entry for i, entry in enumerate(valid.kept) if i in drawn]
        others = [record for i, (record, _) in enumerate(valid.kept) if i not in drawn and i not in out]
        write_lines(job.folder / "not_drawn.jsonl", ({"id": record.key} for record in others))
    elif out:
        entries = [entry for i, entry in enumerate(valid.kept) if i not in out]
    if out:
        save_rows(job.folder / HELD_OUT, [valid.kept[i][0] for i in sorted(out)])
    records = [record for record, _ in entries]
    corrupted: dict[int, int] = {}
    if cfg.corrupt:
        records, corrupted = corruption.exchanged(records, cfg.corrupt, cfg.seed)
        exchange = ({"id": records[row].key, "output_of": records[other].key} for row, other in corrupted.items())
        write_lines(job.folder / CORRUPTED, exchange)
    save_rows(job.folder / "records.parquet", records)
    write_lines(job.folder / "original.jsonl", ({"id": r.key, "row": row} for r, row in entries))
    write_lines(job.folder / "dropped.jsonl", ({"id": key(id), "reason": reason} for id, reason in valid.dropped))
    return {
        "rows_in": len(raw.rows),
        "rows_out": len(records),
        "failed": [],
        "dropped": len(valid.dropped),
        "sampled_from": kept,
        **({"held_out": len(out)} if out else {}),
        **({"corrupted": len(corrupted)} if corrupted else {}),
        **valid.counts,
        "without_output": sum(not record.output.strip() for record in records),
        "source": raw.source,
        "sha256": raw.sha256,
    }
