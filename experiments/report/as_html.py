"""The results table as one self-contained page: no script, nothing fetched, readable in light and dark and in print.

The numbers and words come from ``layout`` and ``legend``; here is the markup.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape as escape_markup

from adg.printable import printable
from experiments.report import legend
from experiments.report.heldout import LossValue
from experiments.report.layout import Column, Gap, Line, TableLayout, Value, layout
from experiments.report.sections import Section
from experiments.report.table import BASELINE, Table
from experiments.report.text import REPORT

STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --soft: #57606a; --line: #d5dae0; --ground: #ffffff;
  --panel: #f5f7f9; --bar: #3b6fb6; --quiet: #9aa7b5; --warn: #8a4b00; --warn-ground: #fff3dc; --mark: #c2410c; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e8ec; --soft: #9aa5b1; --line: #353c45; --ground: #14181d;
  --panel: #1d2229; --bar: #6f9fe0; --quiet: #5d6875; --warn: #ffcf87; --warn-ground: #33270f; --mark: #ff9a5c; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2rem 1.5rem 4rem; max-width: 86rem; background: var(--ground); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
h1 { font-size: 1.7rem; margin: 0 0 .5rem; } h2 { font-size: 1.2rem; margin: 2.5rem 0 .75rem; }
.statement { background: var(--warn-ground); color: var(--warn); border-left: 4px solid currentColor;
  padding: .6rem 1rem; font-weight: 600; margin: .75rem 0; }
.soft, .legend, .foot { color: var(--soft); } .legend, .foot, .notes { padding-left: 1.2rem; margin: .5rem 0; }
.legend, .foot { font-size: .88rem; }
.charts { display: grid; grid-template-columns: repeat(auto-fill, minmax(22rem, 1fr)); gap: 1rem; }
.chart { background: var(--panel); border-radius: 6px; padding: .8rem 1rem; }
.chart h3 { font-size: .95rem; margin: 0 0 .5rem; }
.bar { display: grid; grid-template-columns: 7.5rem 1fr 4.2rem; gap: .6rem; align-items: center; font-size: .88rem; }
.bar span:first-child { overflow-wrap: anywhere; line-height: 1.25; }
.track { position: relative; height: .95rem; border-radius: 2px; background: var(--ground); }
.fill { position: absolute; inset: 0 auto 0 0; background: var(--bar); border-radius: 2px; }
.random .fill { background: var(--quiet); }
.tick { position: absolute; top: -2px; bottom: -2px; width: 3px; background: var(--mark); }
.figure { text-align: right; font-variant-numeric: tabular-nums; }
.wide { overflow-x: auto; }
img.plot { max-width: 100%; background: #ffffff; border-radius: 6px; padding: .5rem; display: block; }
table { border-collapse: collapse; width: 100%; font-size: .88rem; font-variant-numeric: tabular-nums; }
th, td { padding: .35rem .6rem; text-align: right; vertical-align: top; border-bottom: 1px solid var(--line); }
th { font-weight: 600; white-space: nowrap; vertical-align: bottom; }
th:first-child, td:first-child, .text th, .text td { text-align: left; }
.text { font-size: .85rem; } .text th { white-space: normal; }
.block td { background: var(--panel); font-weight: 600; text-align: left; }
.category { background: color-mix(in srgb, var(--panel) 60%, transparent); }
td.score { white-space: nowrap; }
small { display: block; color: var(--soft); font-size: .78rem; font-weight: 400; white-space: nowrap; }
.word { color: var(--warn); font-style: italic; } td.reason { text-align: left; }
code { font-size: .92em; white-space: nowrap; } td:has(code) { min-width: 15rem; }
sup { line-height: 0; }
@media print { body { max-width: none; padding: 0; } .wide { overflow: visible; } .chart { break-inside: avoid; } }
"""


def page(table: Table) -> str:
    """The whole page."""
    computed = layout(table)
    parts = [
        f"<h1>{escape(table.title)}</h1>",
        f'<p class="statement">{escape(table.statement)}</p>',
        f'<p class="soft">{escape(legend.opening(table))}</p>',
        REPORT.sub(r'<a href="\g<0>">\g<0></a>', _list(table.notes, "notes")),
    ]
    if table.has_scores:
        parts += [
            *_charts(computed),
            "<h2>Scores</h2>",
            _scores(computed),
            _list(legend.legend(computed), "legend"),
            _list([f"[{i}] {note}" for i, note in enumerate(computed.notes, 1)], "foot"),
        ]
    parts += [_section(section) for section in table.sections]
    benchmarks = legend.benchmark_rows(computed)
    if benchmarks:
        parts += ["<h2>Benchmarks</h2>", _table(legend.BENCHMARK_HEAD, benchmarks)]
    head, facts = legend.facts(computed)
    if facts:
        parts += ["<h2>Cells in detail</h2>", _table(head, facts)]
    if table.ledger:
        parts += ["<h2>Where paper, released code and this project differ</h2>", _ledger(table)]
    body = "\n".join(part for part in parts if part)
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(table.title)} ({escape(table.profile)})</title>\n<style>{STYLE}</style>\n</head>\n"
        f"<body>\n{body}\n</body>\n</html>\n"
    )


def _section(section: Section) -> str:
    """An analysis: its words, its figure (inside the page, as an image) and its table."""
    parts = [f"<h2>{escape(section.title)}</h2>", *(f"<p>{escape(text)}</p>" for text in section.text)]
    if section.svg:
        data = base64.b64encode(section.svg.encode()).decode()
        parts.append(f'<img class="plot" alt="{escape(section.title)}" src="data:image/svg+xml;base64,{data}">')
    if section.body:
        parts.append(_table(section.head, section.body))
    return "\n".join(parts)


def _charts(computed: TableLayout) -> list[str]:
    """Averages as bars from 0, one panel a backbone and pool, all on one scale; [] when no cell has an average."""
    averages = [line.values["avg"] for line in computed.lines]
    if all(value.percent is None for value in averages):
        return []
    highest = max(number for value in averages for number in (value.percent, value.paper) if number is not None)
    top = next((scale for scale in (5, 10, 20, 30, 40, 50, 60, 80) if scale >= highest), 100)
    panels = []
    for backbone, pool, lines in computed.blocks():
        bars = "\n".join(_bar(line, top) for line in lines)
        panels.append(f'<div class="chart"><h3>{escape(backbone)} / {escape(pool)}</h3>\n{bars}\n</div>')
    tick = "; the upright mark is the published figure" if computed.has_paper else ""
    note = f'<p class="soft">Mean of the three categories in percent, bars from 0 to {top}{tick}.</p>'
    return ["<h2>Average</h2>", note, '<div class="charts">\n' + "\n".join(panels) + "\n</div>"]


def _bar(line: Line, top: float) -> str:
    value = line.values["avg"]
    fill = "" if value.percent is None else f'<span class="fill" style="width:{100 * value.percent / top:.2f}%"></span>'
    if value.paper is not None:
        place = f"left:{100 * value.paper / top:.2f}%"
        fill += f'<span class="tick" style="{place}" title="paper {value.paper:.2f}"></span>'
    text = f'<span class="figure{"" if value.percent is not None else " word"}">{escape(value.text())}</span>'
    kind = "bar random" if line.row.selector == BASELINE else "bar"
    return f'<div class="{kind}"><span>{escape(line.row.name)}</span><span class="track">{fill}</span>{text}</div>'


def _scores(computed: TableLayout) -> str:
    heads = "".join(
        f"<th{_class(c)}>{escape(c.label)}{f'<small>n={c.n}</small>' if c.n else ''}</th>" for c in computed.columns
    )
    heads += "".join(f"<th>vs {to}</th>" for to in computed.compared)
    heads += "<th>held-out loss<small>nats per token</small></th>" * computed.has_heldout
    span = 1 + len(computed.columns) + len(computed.compared) + computed.has_heldout
    rows = []
    for backbone, pool, lines in computed.blocks():
        rows.append(f'<tr class="block"><td colspan="{span}">{escape(backbone)} / {escape(pool)}</td></tr>')
        rows += [f"<tr><td>{escape(line.row.name)}</td>{_cells(computed, line, span - 1)}</tr>" for line in lines]
    return _markup(f"<th>selector</th>{heads}", rows, "scores")


def _cells(computed: TableLayout, line: Line, span: int) -> str:
    if line.row.results is None:  # one reason for the whole row
        value = line.values["avg"]
        paper = f"<small>paper average {value.paper:.2f}</small>" if value.paper is not None else ""
        return f'<td colspan="{span}" class="word reason">{escape(value.note or value.word)}{paper}</td>'
    text = "".join(_cell(computed, line.values[column.key], column) for column in computed.columns)
    text += "".join(_gap(line.gaps.get(to)) for to in computed.compared)
    return text + (_held_out(computed, line.heldout) if computed.has_heldout else "")


def _gap(gap: Gap | None) -> str:
    value, _, more = legend.gap(gap).partition(" ")
    return f'<td class="score">{value}{f"<small>{escape(more)}</small>" if more else ""}</td>'


def _held_out(computed: TableLayout, loss: LossValue | None) -> str:
    if loss is None or loss.by_row is None:
        word, mark = (loss.word, computed.mark(loss).strip()) if loss else ("", "")
        return f'<td class="score"><span class="word">{escape(word)}</span>' + (
            f"<sup>{mark}</sup></td>" if mark else "</td>"
        )
    below = [f"{loss.interval[0]:.4f} – {loss.interval[1]:.4f}"] if loss.interval else []
    below += [f"per token over all {loss.by_token:.4f}", *legend.held_out_differences(loss)]
    return f'<td class="score">{loss.by_row:.4f}{"".join(f"<small>{escape(b)}</small>" for b in below)}</td>'


def _cell(computed: TableLayout, value: Value, column: Column) -> str:
    below = []
    if value.percent is None:
        mark = computed.mark(value).strip()
        text = f'<span class="word">{escape(value.word)}</span>' + (f"<sup>{mark}</sup>" if mark else "")
    else:
        text = f"<b>{value.text()}</b>" if value.best else value.text()
        below += [f"{value.interval[0]:.2f} – {value.interval[1]:.2f}"] if value.interval else []
        below += [f"n={value.n}"] if value.n is not None and column.n is None else []
        below += [f"{escape(name.split('-')[0])} {other:.2f}" for name, other in value.beside]
        below += [escape(value.overlapping)] if value.overlap else []
    below += [f"paper {value.paper:.2f}"] if value.paper is not None else []
    kind = "score category" if column.is_category else "score"
    return f'<td class="{kind}">{text}{"".join(f"<small>{b}</small>" for b in below)}</td>'


def _class(column: Column) -> str:
    return ' class="category"' if column.is_category else ""


def _ledger(table: Table) -> str:
    head = "".join(f"<th>{name}</th>" for name in legend.LEDGER_HEAD)
    rows = []
    for entry in table.ledger:
        keys = ", ".join(f"<code>{escape(key)}</code>" for key in entry.keys) or "–"
        cells = "".join(f"<td>{escape(t)}</td>" for t in (entry.question, entry.paper, entry.released, entry.ours))
        rows.append(f"<tr>{cells}<td>{keys}</td></tr>")
    return _markup(head, rows, "text")


def _table(head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    heads = "".join(f"<th>{escape(name)}</th>" for name in head)
    rows = ["<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in body]
    return _markup(heads, rows, "text")


def _markup(heads: str, rows: Sequence[str], kind: str) -> str:
    body = "\n".join(rows)
    table = f'<table class="{kind}">\n<thead><tr>{heads}</tr></thead>\n<tbody>\n{body}\n</tbody></table>'
    return f'<div class="wide">{table}</div>'


def _list(lines: Sequence[str], kind: str) -> str:
    return f'<ul class="{kind}">' + "".join(f"<li>{escape(line)}</li>" for line in lines) + "</ul>" if lines else ""


def escape(text: str) -> str:
    """``text`` as text: without markup and without control or direction characters."""
    return escape_markup(printable(text))
