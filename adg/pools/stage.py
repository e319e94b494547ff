"""Pools of instruction records: read from a file or a hub, validated completely, normalised, kept in one order.

Whatever is wrong with a pool is reported at once and before any model is loaded; what is left out is counted and
listed. Everything later in the pipeline is joined by a record's key, never by its position.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from adg import seeds
from adg.artifacts.artifact import Job, Node, Stage
from adg.artifacts.files import sha256_file, write_lines
from adg.errors import BadInput
from adg.pools.config import PoolConfig
from adg.pools.readers import check_digest, file_format, local_file, read_source
from adg.pools.records import key, save_rows
from adg.pools.validation import validate

STAGE = Stage("pool", 1, "adg.pools.stage:build")


def node(cfg: PoolConfig) -> Node:
    """The pool's artifact. A local file is identified by its content, so it is read here; a hub pool needs no network.

    Raises ``BadInput`` when the source is not said, the file is missing or its digest is not ``cfg.sha256``.
    """
    if cfg.path in (None, "???") and cfg.hub is None:
        raise BadInput(f"pool '{cfg.name}' needs a file: add pool.path=<file.json, .jsonl or .parquet>")
    if (cfg.path is None) == (cfg.hub is None):
        raise BadInput(f"pool '{cfg.name}' has path {cfg.path!r} and hub {cfg.hub!r}; expected exactly one of them")
    if cfg.hub is not None and cfg.file is None and cfg.sha256 is not None:
        raise BadInput(f"pool '{cfg.name}' has a sha256 but no file in {cfg.hub}; set pool.file or pool.sha256=null")
    changes: dict[str, Any] = {}
    if cfg.path is not None:
        path = local_file(cfg)
        changes = {"path": str(path), "sha256": check_digest(sha256_file(path), path, cfg)}
        changes["format"] = file_format(cfg.format, path)
        changes |= {"revision": None, "file": None, "split": "train"}
    elif cfg.file is not None:
        changes = {"split": "train"}
    if cfg.rows is None:
        changes["seed"] = 0
    if cfg.max_chars is None:
        changes["over_long"] = "keep"
    label = cfg.name if cfg.rows is None else f"{cfg.name}-{cfg.rows}"
    return Node(STAGE, label, dataclasses.replace(cfg, **changes))


def build(job: Job) -> dict[str, Any]:
    """Read, validate, drop, sample, write.

    Payload, all in canonical order: ``records.parquet`` (key, instruction, input, output), ``original.jsonl``
    (``{"id": key, "row": the row as it came}``) and ``dropped.jsonl`` (``{"id": key, "reason": ...}``).
    """
    cfg: PoolConfig = job.config
    source, raw, problems, digest = read_source(cfg, job.exec.offline)
    entries, dropped, counts = validate(source, raw, problems, cfg)
    kept = len(entries)
    if cfg.rows is not None:
        if cfg.rows > kept:
            raise BadInput(
                f"pool '{cfg.name}' has {kept} usable rows but pool.rows={cfg.rows} were asked for; "
                f"set pool.rows={kept} or less"
            )
        drawn = seeds.generator(cfg.seed, "pool", "rows").permutation(kept)[: cfg.rows]
        entries = [entries[i] for i in sorted(drawn.tolist())]
    records = [record for record, _ in entries]
    save_rows(job.folder / "records.parquet", records)
    write_lines(job.folder / "original.jsonl", ({"id": r.key, "row": row} for r, row in entries))
    write_lines(job.folder / "dropped.jsonl", ({"id": key(id), "reason": reason} for id, reason in dropped))
    return {
        "rows_in": len(raw),
        "rows_out": len(records),
        "failed": [],
        "dropped": len(dropped),
        "sampled_from": kept,
        **counts,
        "source": source,
        "sha256": digest,
    }
