"""What a cell answered, item by item:

    adg samples profile=mini pool=mini_cot backbone=smollm2_135m selector=adg --task gsm8k --wrong
    adg samples profile=mini pool=mini_cot backbone=smollm2_135m selector=random,adg --diff

The overrides name one cell, or two for --diff, which shows the items whose score differs between the first and the
second; of one cell evaluated by two backends (suite.backend=hf,vllm) those on which the backends disagree. Rows are
printed as text, or as JSON Lines with every column (--json).
"""

from __future__ import annotations

import argparse
import json
import sys
import textwrap
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from adg.artifacts.artifact import Artifact, Node
from adg.artifacts.store import Store
from adg.errors import BadInput, nearest
from adg.evaluation import samples
from adg.printable import printable
from experiments.app import plain_errors
from experiments.arguments import Parser, at_least
from experiments.cells import Cell, cells
from experiments.report.text import json_line
from experiments.status import cell_status

WIDTH = 110


def arguments(words: list[str] | None = None) -> argparse.Namespace:
    """The options of a command line. Raises ``BadInput``."""
    parser = Parser(prog="adg samples", description=__doc__)
    parser.add_argument("overrides", nargs="*", help="as for adg run: they choose the cell")
    parser.add_argument("--task", help="one task; all of the suite's when it is left out")
    parser.add_argument("--subtask", help="only subtasks whose name holds this text")
    parser.add_argument("--filter", help="another filter than that of the table's figure (flexible-extract)")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--right", action="store_true", help="only items with a score of 1")
    which.add_argument("--wrong", action="store_true", help="only items with a score below 1")
    parser.add_argument("--search", help="only items with this text in prompt, target, answer or response (any case)")
    parser.add_argument("--diff", action="store_true", help="two cells: the items whose score differs")
    parser.add_argument("--limit", type=at_least(0), default=20, help="rows printed at most; 0 prints all (20)")
    parser.add_argument("--json", action="store_true", help="JSON Lines with every column")
    args = parser.parse_intermixed_args(words)
    if args.diff and args.filter:
        parser.error("--diff compares the table's figure; leave --filter out")
    return args


def evaluation(cell: Cell) -> Node:
    """The evaluation of a cell. Raises ``BadInput`` where the experiment ends with the subset."""
    if "eval" not in cell.nodes:
        name = cell.config.experiment.name
        raise BadInput(
            f"experiment={name} only selects: its cells end with the {cell.config.experiment.last}, nothing "
            f"is evaluated; expected an experiment with an evaluation. adg report "
            f"profile={cell.config.profile.name} experiment={name} compares the subsets"
        )
    return cell.nodes["eval"]


def evaluated(cell: Cell, store: Store) -> Artifact:
    """The finished evaluation of a cell. Raises ``BadInput`` when there is none."""
    artifact = store.find(evaluation(cell))
    if artifact is None:
        role, status = cell_status(cell, store)
        raise BadInput(
            f"{cell.name} has no evaluation ({status.state} at {role}); run it first, adg run with the same overrides"
        )
    return artifact


def wanted(row: Mapping[str, Any], args: argparse.Namespace) -> bool:
    """Whether the options ask for this row."""
    if (args.right and row["score"] < 1) or (args.wrong and row["score"] >= 1):
        return False
    if args.subtask and args.subtask not in row["subtask"]:
        return False
    text = "\n".join(str(row[name]) for name in ("prompt", "target", "answer", "response"))
    return not args.search or args.search.casefold() in text.casefold()


def tasks(artifact: Artifact, args: argparse.Namespace) -> list[str]:
    """The tasks to show: the one that was named, or all that have items."""
    entries = samples.results(artifact)["tasks"]
    if args.task and args.task not in entries:
        raise BadInput(
            f"--task {args.task} is not known{nearest(args.task, list(entries))}; the suite has {', '.join(entries)}"
        )
    return [args.task] if args.task else [name for name, entry in entries.items() if entry["status"] == "done"]


def show(row: Mapping[str, Any], task: str) -> str:
    """One item as text: the end of its prompt, what was expected and what came."""
    error = f", {one_line(row['error'])}" if row["error"] else ""
    lines = [f"{task} / {row['subtask']} item {row['doc_id']}: score {row['score']:g}{error}"]
    for name, text in (("prompt", str(row["prompt"])[-600:]), ("target", row["target"]), ("answer", row["answer"])):
        lines += _wrapped(f"  {name:<8}", text) or [f"  {name:<8}"]
    return "\n".join(lines)


def one_line(text: Any) -> str:
    """What a model or a data set says, in one line and without anything that a terminal would obey."""
    return printable(" ".join(str(text).split()))


def _wrapped(name: str, text: Any) -> list[str]:
    return textwrap.wrap(one_line(text), WIDTH, initial_indent=name, subsequent_indent=" " * 10)


def show_change(one: Mapping[str, Any], other: Mapping[str, Any], task: str, names: tuple[str, str]) -> str:
    """One item whose score differs between two cells."""
    lines = [show(one, task).split(": score")[0] + f": {one['score']:g} -> {other['score']:g}"]
    for name, text in (
        ("prompt", str(one["prompt"])[-600:]),
        ("target", one["target"]),
        (f"in {names[0]}", one["answer"]),
        (f"in {names[1]}", other["answer"]),
    ):
        lines += _wrapped(f"  {name}: ", text)
    return "\n".join(lines)


def listed(cell: Cell, store: Store, args: argparse.Namespace) -> tuple[list[str], str]:
    """The rows of one cell as text or JSON, and how many there are of each kind."""
    artifact = evaluated(cell, store)
    out, counts = [], []
    for task in tasks(artifact, args):
        rows = [row for row in samples.rows(artifact, task, args.filter) if wanted(row, args)]
        out += [as_json({"task": task, **row}) if args.json else show(row, task) for row in rows]
        counts.append(f"{task} {sum(row['score'] >= 1 for row in rows)} right of {len(rows)}")
    return out, f"{cell.name}: " + ", ".join(counts)


def changed(one: Cell, other: Cell, store: Store, args: argparse.Namespace) -> tuple[list[str], str]:
    """The items that differ between two cells, and how many went which way, or how many two backends agree on."""
    a, b = evaluated(one, store), evaluated(other, store)
    backends = (one.config.suite.backend, other.config.suite.backend)
    across = backends[0] != backends[1]
    names = backends if across else (one.name, other.name)
    both = {task for task, entry in samples.results(b)["tasks"].items() if entry["status"] == "done"}
    out, counts = [], []
    for task in tasks(a, args):
        if task not in both and not args.task:
            continue
        pairs, of = samples.apart(a, b, task) if across else (samples.diff(a, b, task), 0)
        chosen = [pair for pair in pairs if wanted(pair[0], args)]
        for x, y in chosen:
            changes = {"task": task, names[0]: x, names[1]: y}
            out.append(as_json(changes) if args.json else show_change(x, y, task, names))
        better = sum(y["score"] > x["score"] for x, y in chosen)
        counts.append(
            f"{task} {of - len(pairs)} of {of} alike"
            if across
            else f"{task} {better} better, {len(chosen) - better} worse"
        )
    return out, f"{names[0]} -> {names[1]}: " + ", ".join(counts)


def as_json(row: Mapping[str, Any]) -> str:
    """A row as a line of JSON that a terminal does not obey; it reads back to the same row."""
    return json_line(json.dumps(row, ensure_ascii=False))


def printed(out: Iterable[str], limit: int) -> list[str]:
    rows = list(out)
    more = len(rows) - limit
    return rows if limit == 0 or more <= 0 else [*rows[:limit], f"and {more} more (--limit 0 prints all)"]


def main() -> None:
    with plain_errors():
        args = arguments()
        chosen = cells(args.overrides)
        count = 2 if args.diff else 1
        if len(chosen) != count:
            some = ", ".join(cell.name for cell in chosen[:6]) + (" ..." if len(chosen) > 6 else "")
            raise BadInput(
                f"the overrides name {len(chosen)} cells ({some}), expected exactly {count}"
                f"{' for --diff' if args.diff else ''}: add backbone=, pool= and selector="
            )
        store = Store(Path(chosen[0].config.exec.runs))
        out, summary = changed(chosen[0], chosen[1], store, args) if args.diff else listed(chosen[0], store, args)
        rows = printed(out, args.limit)
        if args.json and len(rows) > args.limit > 0:
            print(rows.pop(), file=sys.stderr)
        print("\n".join(rows) if args.json else "\n\n".join(rows))
        print(summary, file=sys.stderr if args.json else sys.stdout)


if __name__ == "__main__":
    main()
