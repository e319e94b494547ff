"""The results table as one self-contained page: nothing is fetched, it reads without its script, light, dark, printed.

The numbers and words come from ``layout`` and ``legend``, the markup from ``templates/page.html``. What comes first is
what a reader asks first: claims, controls, the table; then figures, analyses and the ledger.
"""

from __future__ import annotations

from markupsafe import Markup

from experiments.report import legend
from experiments.report.charts import charts
from experiments.report.heldout import LossValue
from experiments.report.inline import inline
from experiments.report.layout import Value, layout
from experiments.report.table import BASELINE, Table
from experiments.report.templates import render

FIRST = ("claims", "controls")  # sections that stand before the table


def page(table: Table) -> str:
    """The whole page."""
    computed = layout(table)
    by_name = {section.name: section for section in table.sections}
    claims, controls = (by_name.get(name) for name in FIRST)
    sections = [section for section in table.sections if section.name not in FIRST]
    drawn = charts(computed) if table.has_scores else []
    benchmarks = legend.benchmark_rows(computed)
    head, facts = legend.facts(computed)
    contents = [(section.name, section.title) for section in (claims,) if section]
    contents += [("controls", "Controls")] if controls or table.controls else []
    contents += [("scores", "Scores")] if table.has_scores else []
    contents += [(chart.name, chart.title) for chart in drawn]
    contents += [(section.name, section.title) for section in (*table.figures, *sections)]
    contents += [("benchmarks", "Benchmarks")] if benchmarks else []
    contents += [("cells", "Cells in detail")] if facts else []
    contents += [("ledger", "Ledger")] if table.ledger else []

    def mark(value: Value | LossValue) -> Markup | str:
        number = computed.mark(value).strip(" []")
        return Markup(f'<sup><a href="#note-{number}">[{number}]</a></sup>') if number else ""

    return render(
        "page.html",
        table=table,
        computed=computed,
        blocks=list(computed.blocks()),
        span=len(computed.columns) + len(computed.compared) + computed.has_heldout,
        contents=contents,
        claims=claims,
        claim_rows=[dict(zip(claims.head, row, strict=True)) for row in claims.body] if claims else [],
        controls=controls,
        charts=drawn,
        sections=sections,
        benchmarks=benchmarks,
        facts_head=head,
        facts=facts,
        baseline=BASELINE,
        mark=mark,
        inline=inline,
    )
