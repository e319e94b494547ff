"""The report of the cells that a command names: rows, notes, sections, deviations, files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from urllib.parse import unquote

from adg.artifacts.store import Store
from adg.artifacts.watched import Watched
from adg.backbones import stage as backbone_stage
from experiments.cells import Cell, report_folder
from experiments.claims import page as claims
from experiments.report import (
    analyses,
    as_terminal,
    cell_pages,
    controls,
    files,
    kept,
    ledger,
    lengths,
    made,
    published,
    repeated,
)
from experiments.report.labels import variants
from experiments.report.rows import row
from experiments.report.table import Row, Table


def write(chosen: list[Cell], store: Store) -> str:
    """Write the files, where they would say something else than before; returns the table for a terminal and where
    they are."""
    folder, part = report_folder(chosen, store)
    of = kept.made_of(chosen, store)
    text = kept.printed(of, store, folder)
    if text is None:
        looking = Watched(store)
        text, names = _make(chosen, looking, folder, part)
        kept.write_down(of, folder, looking.looked, names, text)
    return text


def _make(chosen: list[Cell], store: Store, folder: Path, part: str) -> tuple[str, list[str]]:
    """Write the report of these cells, a ``part`` of their study or ""; returns what is printed, and its files."""
    first = chosen[0].config
    evaluated = first.experiment.last == "eval"
    cells = (
        [_row(cell, words, store) for cell, words in zip(chosen, variants(chosen), strict=True)] if evaluated else []
    )
    rows, each_seed = repeated.table_rows(chosen, cells, store) if evaluated else ([], [])
    notes = [
        f"{b.name}: {b.statement}"
        for b in {c.config.backbone.name: c.config.backbone for c in chosen}.values()
        if b.statement
    ]
    choosing = [(c.selector, backbone_stage.node(c.config.selecting or c.config.backbone)) for c in chosen]
    notes += [note for note in dict.fromkeys(selector.note(backbone) for selector, backbone in choosing) if note]
    notes += _measured(chosen, store) + _corrupted(chosen, store)
    title = first.experiment.title or first.experiment.name
    if part:
        title = f"{title} ({part})"
    found = made.artifacts(chosen, store)
    table = Table(
        title=title,
        profile=first.profile.name,
        statement=first.profile.statement,
        rows=rows,
        cells=cells,
        notes=notes,
        ledger=ledger.load(),
        source=published.source(),
        sections=[*claims.sections(chosen, store), *each_seed, *analyses.sections(chosen, store, cells)],
        controls=controls.note(chosen, store) if first.experiment.name == "main" else "",
        figures=lengths.sections(chosen, store),
        made=made.facts(list(found.values())),
        places=cell_pages.places(chosen),
    )
    names = [path.name for path in files.write(table, folder)]
    cell_pages.write(chosen, cells, store, found, folder, title)
    pages = [unquote(cell_pages.address(cell)) for cell in chosen]
    holds = ", ".join([*names, f"{cell_pages.FOLDER}/ (a page a cell)"])
    return f"{as_terminal.terminal(table)}\n\n{folder}/ holds {holds}", [*names, *pages]


def _row(cell: Cell, variant: str, store: Store) -> Row:
    """The row of a cell under the words that tell it apart, with where its page will be."""
    one, pages = row(cell, store), ((str(cell.config.seed), cell_pages.address(cell)),)
    return replace(one, variant=variant if one.variant == cell.variant else one.variant, pages=pages)


def _measured(chosen: list[Cell], store: Store) -> list[str]:
    """A sentence for each backbone whose precision was measured when it was built."""
    notes = []
    for name, node in {c.config.backbone.name: c.nodes["backbone"] for c in chosen if "backbone" in c.nodes}.items():
        artifact = store.find(node)
        if artifact is not None and artifact.info.get("gflops"):
            rates = artifact.info["gflops"]
            notes.append(
                f"{name}: answers, vectors, losses and training in {artifact.info['dtype']}: where it was built, "
                f"bfloat16 multiplied {rates['bfloat16'] / rates['float32']:.1f} times as fast as float32"
            )
    return notes


def _corrupted(chosen: list[Cell], store: Store) -> list[str]:
    """A sentence for each pool into which a fault was put on purpose."""
    notes: dict[str, None] = {}
    for cell in chosen:
        pool = cell.config.pool
        if pool.corrupt and "pool" in cell.nodes:
            artifact = store.find(cell.nodes["pool"])
            rows = f"{pool.corrupt:.0%} of its rows"
            if artifact is not None:
                rows = f"{artifact.info['corrupted']:,} of its {artifact.info['rows_out']:,} rows"
            notes[f"pool {pool.name}: {rows} have the output of another row (pool.corrupt={pool.corrupt:g})"] = None
    return list(notes)
