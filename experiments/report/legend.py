"""The words around a table: what its columns and marks mean, how benchmarks were run, what is known of subsets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from adg.evaluation.benchmarks import title
from experiments.report.heldout import LossValue
from experiments.report.layout import PAPER, Gap, TableLayout
from experiments.report.table import WORDS, Row, Table

BENCHMARK_HEAD = ("benchmark", "shots", "metric", "filter", "version", "items")
LEDGER_HEAD = ("question", "paper", "released code", "here", "config")


def signed(value: float | None, digits: int = 2) -> str:
    if value is None:
        return "–"
    rounded = round(value, digits) + 0.0  # no "-0.00"
    return f"{rounded:+.{digits}f}" if rounded else f"{0:.{digits}f}"


def opening(table: Table) -> str:
    """The line below the title: profile and, where cells were evaluated, how many."""
    return (
        f"Profile {table.profile}, {counts(table.cells or table.rows)}."
        if table.has_scores
        else f"Profile {table.profile}."
    )


def counts(rows: Sequence[Row]) -> str:
    states = ["done" if row.state == "done" else WORDS[row.state] for row in rows]
    counted = ", ".join(f"{states.count(s)} {s}" for s in dict.fromkeys(["done", *states]) if s in states)
    return f"{len(rows)} cell{'s' * (len(rows) != 1)}: {counted}" if rows else "no cells"


def _suite(results: Mapping[str, Any]) -> str:
    dtype = results.get("dtype")  # results of earlier versions do not say it
    return f"suite {results['suite']}, backend {results['backend']}" + (f", weights in {dtype}" if dtype else "")


def legend(computed: TableLayout, brief: bool = False) -> list[str]:
    """How to read the numbers; only what applies to this table. ``brief`` leaves out what a terminal does not show."""
    suites = dict.fromkeys(_suite(row.results) for row in computed.table.rows if row.results)
    lines = ["; ".join(["percent", *suites]) + "."] if suites else []
    shown = [value for line in computed.lines for value in line.values.values()]
    near = [to for to in computed.compared if to != PAPER]
    if not brief and any(value.interval for value in shown):
        lines.append(
            "[low, high]: 95 % interval over items: Wilson's where an item scores 0 or 1, Student's elsewhere (none "
            "where all items are alike), of the average by bootstrap; of one seed, where a row does not say how many, "
            "so that it leaves training variance out."
        )
    if any(value.overlap for value in shown):
        lines.append(
            "overlap: items of the benchmark, those that are scored (test) and those for training or examples "
            "(train), whose text stands in the cell's subset; nothing was removed."
        )
    if any(line.row.repeats for line in computed.lines):
        lines.append(
            "a row of several seeds holds means over those that are done; intervals are then over seeds and items."
        )
    lines += [f"vs {to}: points of the average above the {to} row of the same backbone and pool." for to in near]
    if any(line.gaps[to].interval for line in computed.lines for to in near if to in line.gaps):
        lines.append(
            "differences: on the same items, with the 95 % bootstrap interval over items (and seeds, where a row has "
            "several) and p after Holm's correction over the rows of a backbone and pool that are held against the "
            "same row. Where one of two trained rows has one seed it is taken to vary between seeds as the other "
            "does; where both have one, training variance is left out."
        )
    losses = [line.heldout for line in computed.lines if line.heldout is not None and line.heldout.by_row is not None]
    if losses:
        cut = sum(loss.truncated for loss in losses)
        lines.append(
            "held-out loss: negative log-likelihood of answers that no selector saw, nats per token (lower is better), "
            f"mean over {_span([loss.rows for loss in losses])} rows with the same weight each"
            + ("" if brief else ", with its 95 % bootstrap interval; differences are paired by row")
            + (f"; {cut:,} answers were cut at finetune.max_length" if cut else "")
            + "."
        )
    if computed.has_paper:
        source = f" ({computed.table.source})" if computed.table.source else ""
        lines.append(
            f"paper: the published figure of the same cell{source}; vs paper only where nothing is partial. No spread "
            "was published, so the interval of that difference is that of our average alone and it has no p."
        )
    if computed.partial:
        lines.append("* partial, not the whole benchmark: " + "; ".join(computed.partial) + ".")
    if not brief and any(v.best for line in computed.lines for v in line.values.values()):
        lines.append("bold: highest of its backbone and pool.")
    return lines


def gap(found: Gap | None) -> str:
    """ "+0.42 [-0.10, +0.94] p 0.214", as much of it as there is; p after Holm."""
    if found is None:
        return "–"
    ends = f" [{signed(found.interval[0])}, {signed(found.interval[1])}]" if found.interval else ""
    return signed(found.value) + ends + ("" if found.holm is None else f" p {found.holm:.3f}")


def _span(counts: Sequence[int]) -> str:
    low, high = min(counts), max(counts)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def held_out_differences(loss: LossValue) -> list[str]:
    """ "vs random -0.0123 [-0.0200, -0.0050] p 0.012" for each row that it was compared with; p after Holm."""
    said = []
    for to, entry, holm in loss.differences:
        if entry is not None:
            ends = "" if entry.interval is None else f" [{entry.interval.low:+.4f}, {entry.interval.high:+.4f}]"
            said.append(f"vs {to} {signed(entry.difference, 4)}{ends}" + ("" if holm is None else f" p {holm:.3f}"))
    return said


def benchmark_rows(computed: TableLayout) -> list[list[str]]:
    """Task, shots, metric, filter, version and items, once for each way in which a task was run."""
    seen: dict[tuple[str, ...], None] = {}
    for line in computed.lines:
        for task, entry in line.row.entries.items():
            if entry.get("value") is not None:
                seen[
                    (
                        title(task),
                        str(entry["num_fewshot"]),
                        str(entry["metric"]),
                        str(entry["filter"]),
                        str(entry["version"]),
                        str(entry["n"]),
                    )
                ] = None
    order = {column.label: i for i, column in enumerate(computed.columns)}
    return [list(entry) for entry in sorted(seen, key=lambda entry: order[entry[0]])]


def facts(computed: TableLayout) -> tuple[list[str], list[list[str]]]:
    """Seeds, what is known of each subset and the figures beside the table's; empty when nothing is known."""
    keys = list(dict.fromkeys(key for line in computed.lines for key in line.row.facts))
    beside = list(
        dict.fromkeys(
            (c.key, name) for line in computed.lines for c in computed.columns for name, _ in line.values[c.key].beside
        )
    )
    if not keys and not beside:
        return [], []
    head = [
        "backbone",
        "pool",
        "selector",
        "seeds",
        *(key.replace("_", " ") for key in keys),
        *(f"{title(task)} {name}" for task, name in beside),
    ]
    body = []
    for line in computed.lines:
        row = line.row
        others = [dict(line.values[task].beside).get(name) for task, name in beside]
        body.append(
            [
                row.backbone,
                row.pool,
                row.name,
                plain_text(row.seeds),
                *(plain_text(row.facts.get(key)) for key in keys),
                *("missing" if other is None else f"{other:.2f}" for other in others),
            ]
        )
    return head, body


def plain_text(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{k} {v}" for k, v in value.items()) or "–"
    if isinstance(value, float):
        return f"{value:g}"
    return "–" if value is None else str(value)
