"""Which training records hold text of the benchmarks:  adg contamination profile=mini

Compares each pool of the sweep with each benchmark of its suite, test splits and splits for training or few-shot
examples apart, and shows the longest text in common. Subsets that are there are counted too, and `report` then prints
their counts beside the scores. Nothing is taken out of a pool. `contamination.ngram=8` and the like change what counts.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from adg.artifacts.artifact import Artifact, Node
from adg.artifacts.store import Store
from adg.evaluation import contamination
from adg.pools import records
from adg.pools import stage as pool_stage
from adg.printable import printable
from experiments.app import JSON, as_json, asked, plain_errors
from experiments.cells import Cell, asked_for
from experiments.worker import Runner

SHOWN = 3  # examples of each benchmark
WIDTH = 110
HEAD = ("items", "checked", "overlap", "question", "answer", "ngram", "whole", "near", "records")


def node(cell: Cell) -> Node:
    """The comparison of the cell's pool with the benchmarks of its suite."""
    return contamination.node(pool_stage.node(cell.config.pool), cell.config.suite, cell.config.contamination)


def counts(cell: Cell, store: Store) -> dict[str, dict[str, dict[str, int]]] | None:
    """Overlap of the cell's subset with each benchmark (see ``contamination.count``), or None when the comparison or
    the subset is not there."""
    compared = node(cell)
    if "subset" not in cell.nodes or not (store.complete(compared) and store.complete(cell.nodes["subset"])):
        return None
    artifact, subset = store.find(compared), store.find(cell.nodes["subset"])
    assert artifact is not None and subset is not None
    chosen = [record.key for record in records.load_rows(subset.file("records.parquet"))]
    return contamination.count(artifact, contamination.overlaps(artifact), chosen)


def table(counted: Mapping[str, Mapping[str, Mapping[str, int]]]) -> list[str]:
    """The counts of one pool, a line for each benchmark and kind of split."""
    lines = [f"  {'benchmark':<16}{'splits':<7}" + "".join(f"{name:>9}" for name in HEAD)]
    for task, kinds in counted.items():
        for kind, entry in kinds.items():
            lines.append(f"  {task:<16}{kind:<7}" + "".join(f"{entry[name]:>9,}" for name in HEAD))
    return lines


def examples(overlaps: Sequence[Mapping[str, Any]]) -> list[str]:
    """The longest overlaps of each benchmark and kind of split, each item once."""
    lines: list[str] = []
    for task, kind in dict.fromkeys((row["task"], row["kind"]) for row in overlaps):
        rows = [row for row in overlaps if (row["task"], row["kind"]) == (task, kind)]
        best: dict[Any, Mapping[str, Any]] = {}
        for row in sorted(rows, key=lambda row: -row["words"]):
            best.setdefault((row["config"], row["split"], row["item"]), row)
        for row in list(best.values())[:SHOWN]:
            near = "" if row["similarity"] is None else f", {100 * row['similarity']:.0f} % of its own words"
            where = f"{row['config']}/{row['split']} item {row['item']}, {row['field']}"
            lines.append(
                f"  {task} {where}, in the {row['part']} of record {row['id']}: "
                f"{row['match']}{near}, {row['words']} words in a row"
            )
            lines.append("      " + textwrap.shorten(row["span"], WIDTH, placeholder=" …"))
    return lines


def render(cells: Sequence[Cell], store: Store, artifact: Artifact) -> str:
    """What was found in one pool, and in those of its subsets that are there."""
    config = cells[0].config
    overlaps = contamination.overlaps(artifact)
    lines = [
        f"{config.pool.name} ({artifact.info['rows_in']:,} records) and the suite {config.suite.name}; "
        f"runs of {config.contamination.ngram} words",
        *table(contamination.count(artifact, overlaps)),
        *examples(overlaps),
    ]
    unknown = artifact.manifest["payload"]["config"]["unknown"]
    if unknown:
        lines.append(f"  not compared, since their columns are not known: {', '.join(unknown)}")
    for cell in cells:
        counted = counts(cell, store)
        if counted is not None:
            parts = [
                f"{task} {entry['overlap']:,} {kind}"
                for task, kinds in counted.items()
                for kind, entry in kinds.items()
                if entry["overlap"]
            ]
            lines.append(f"  subset of {cell.name}: {', '.join(parts) or 'no overlap'}")
    return printable("\n".join([*lines, f"  {artifact.path}/overlaps.parquet", ""]))


def facts(cells: Sequence[Cell], store: Store, artifact: Artifact) -> dict[str, Any]:
    """The same for other programs: counts by benchmark and kind of split, of the pool and of its subsets."""
    config, found = cells[0].config, {cell.name: counts(cell, store) for cell in cells}
    return {
        "pool": config.pool.name,
        "records": artifact.info["rows_in"],
        "suite": config.suite.name,
        "ngram": config.contamination.ngram,
        "not_compared": artifact.manifest["payload"]["config"]["unknown"],
        "counts": contamination.count(artifact, contamination.overlaps(artifact)),
        "subsets": {name: counted for name, counted in found.items() if counted is not None},
        "overlaps": f"{artifact.path}/overlaps.parquet",
    }


def main() -> None:
    with plain_errors(__doc__, JSON), Runner() as runner:
        chosen, store = asked_for(JSON)
        store.runner, store.exec = runner, chosen[0].config.exec
        groups: dict[str, list[Cell]] = {}
        for cell in chosen:
            groups.setdefault(node(cell).fingerprint, []).append(cell)
        made = ((cells, store, store.ensure(node(cells[0]))) for cells in groups.values())
        if asked("--json"):
            print(as_json([facts(*of) for of in made]))
        else:
            for of in made:
                print(render(*of))


if __name__ == "__main__":
    main()
