"""The files of a report: table, page, and each analysis as CSV and SVG."""

from __future__ import annotations

from pathlib import Path

from adg.artifacts.files import write_atomic
from experiments.report import as_csv, as_html, as_json
from experiments.report.as_markdown import markdown
from experiments.report.table import Table


def write(table: Table, folder: Path) -> list[Path]:
    """Write ``table.md``, ``table.csv`` (where cells were evaluated), ``table.json``, ``index.html`` and each
    section's CSV and SVG.

    The same table gives the same bytes.
    """
    texts = {"table.md": markdown(table)}
    texts |= {"table.csv": as_csv.comma_separated(table)} if table.has_scores else {}
    texts |= {"table.json": as_json.document(table)}
    texts |= {"index.html": as_html.page(table)}
    for section in table.sections:
        texts |= {f"{section.name}.csv": as_csv.section(section)} if section.body else {}
        texts |= {f"{section.name}.svg": section.svg} if section.svg else {}
    for name, text in texts.items():
        write_atomic(folder / name, text.encode())
    return [folder / name for name in texts]
