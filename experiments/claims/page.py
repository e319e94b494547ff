"""The claims as a table: what each says, what the published figures say of it, what this study says, and how surely."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from adg.artifacts.store import Store
from experiments import contamination
from experiments.cells import Cell
from experiments.claims import effects, published, rules, shares
from experiments.claims.rules import Claim, Effect, Rule
from experiments.report.legend import signed
from experiments.report.sections import Section

HEAD = (
    "claim",
    "says",
    "published alone",
    "compared",
    "published effect",
    "weakest effect here",
    "95 % interval",
    "seeds",
    "items",
    "smallest visible",
    "fidelity",
    "contamination",
    "verdict",
    "cells",
)
PAPER_BUDGET = 10_000
FEW_CELLS = 6  # fingerprints that are printed


@dataclass(frozen=True)
class Judged:
    """A claim with its effects and the verdict, in the words a report uses."""

    claim: Claim
    effects: tuple[Effect, ...]
    fidelity: Mapping[str, Sequence[str]]
    verdict: str
    contaminated: int | None = None  # test items with text in common with a subset; None: not compared

    @property
    def weakest(self) -> Effect | None:
        """The effect that decides: the smallest of those that have a value."""
        valued = [effect for effect in self.effects if effect.value is not None]
        return min(valued, key=lambda effect: effect.value or 0.0) if valued else None


def judged(claim: Claim, cells: Sequence[Cell], store: Store, rule: Rule) -> Judged:
    """The verdict on one claim from the cells of its experiment; "not run" where there are none."""
    estimate = shares.estimate if claim.shares else effects.estimate
    estimates = tuple(estimate(claim, cells, store, rule))
    measured_on = fidelity(cells) if cells else {}
    verdict = rules.together([rules.judge(effect, rule, claim.kind) for effect in estimates])
    overlap = contaminated(estimates, cells, store)
    return Judged(claim, estimates, measured_on, rules.in_words(verdict, measured_on), overlap)


def contaminated(estimates: Sequence[Effect], cells: Sequence[Cell], store: Store) -> int | None:
    """Test items with text in common with a subset, the most of any cell compared; None where none was looked at."""
    compared = {name for effect in estimates if not effect.missing for name in effect.cells}
    counts = [contamination.counts(cell, store) for cell in cells if cell.fingerprint in compared]
    totals = [sum(kinds["test"]["overlap"] for kinds in tasks.values()) for tasks in counts if tasks is not None]
    return max(totals, default=None)


def fidelity(cells: Sequence[Cell]) -> dict[str, list[str]]:
    """How these cells differ from the paper's study: "scaled down" (another model, pool, size or part of a benchmark)
    and "deviation" (declared in the ledger); {} for the study itself."""
    scaled: dict[str, None] = {}
    deviated: dict[str, None] = {}
    for cell in cells:
        c = cell.config
        if c.backbone.paper is None:
            scaled[f"backbone {c.backbone.name}"] = None
        if c.pool.paper is None or c.pool.rows is not None:
            scaled[f"pool {c.pool.name}" + (f", {c.pool.rows:,} rows" if c.pool.rows else "")] = None
        if c.budget != PAPER_BUDGET and "budget" not in cell.swept:
            scaled[f"budget {c.budget:,}"] = None
        if "task-types" in cell.nodes:
            deviated["types named by the backbone in place of an API model"] = None
        if "eval" not in cell.nodes:
            continue
        if c.suite.name != "paper" and c.suite.name != "chinese":
            scaled[f"suite {c.suite.name}"] = None
        elif c.suite.limit is not None or c.suite.max_gen_toks is not None:
            scaled[f"parts of suite {c.suite.name}"] = None
        if c.finetune.method != "full":
            deviated["LoRA in place of full fine-tuning"] = None
    differences = {"scaled down": list(scaled), "deviation": list(deviated)}
    return {name: reasons for name, reasons in differences.items() if reasons}


def sections(chosen: Sequence[Cell], store: Store) -> list[Section]:
    """The claims that the experiment of these cells speaks to, as the first section of its report; [] for none."""
    rule, claims, digest = rules.load()
    mine = [claim for claim in claims if not claim.measured and claim.experiment == chosen[0].config.experiment.name]
    if not mine:
        return []
    return [table([judged(claim, chosen, store, rule) for claim in mine], rule, digest)]


def table(judgements: Sequence[Judged], rule: Rule, digest: str) -> Section:
    """One line a claim, and how to read it."""
    text = [
        f"Rule {digest[:12]} (experiments/claims/claims.yaml): reproduced where the one-sided "
        f"{100 * rule.one_sided:.0f} % lower bound is above 0 and the effect at least {rule.share:g} of the published "
        f"one; not reproduced where the {100 * rule.level:.0f} % interval ends below {rule.delta:g} points; otherwise "
        "inconclusive. Every difference that a claim names must hold; the weakest one is shown, in points, with its "
        "interval over items and seeds. Smallest visible: the effect that a difference this noisy shows in "
        f"{100 * rule.power:.0f} % of studies.",
    ]
    if contradictions := published.contradictions():
        text.append(f"Published figures that contradict one another: {'; '.join(contradictions)}.")
    scaled = sorted({reason for entry in judgements for reason in entry.fidelity.get("scaled down", ())})
    if scaled:
        text.append(f"Scaled down, so nothing is called reproduced: {'; '.join(scaled)}.")
    if any(of is not None and of.low is None and not of.unseen for of in (entry.weakest for entry in judgements)):
        text.append("No interval (–): a subtask has a single item, or every item changed alike.")
    text += [
        f"{entry.claim.id}: {len(missing)} of {len(entry.effects)} differences are missing, first {missing[0].missing}."
        for entry in judgements
        if (missing := [effect for effect in entry.effects if effect.missing])
    ]
    unseen: dict[str, dict[str, dict[str, None]]] = {}  # reason -> difference -> claims, so that each is said once
    for entry in judgements:
        for effect in entry.effects:
            if effect.unseen:
                unseen.setdefault(effect.unseen, {}).setdefault(effect.label, {})[entry.claim.id] = None
    for reason, differences in unseen.items():
        of = "; ".join(f"{', '.join(ids)}: {label}" for label, ids in differences.items())
        text.append(f"{of} is not judged, since {reason}.")
    by_verdict: dict[str, list[str]] = {}
    for entry in judgements:
        by_verdict.setdefault(entry.verdict, []).append(entry.claim.id)
    brief = "claims: " + "; ".join(f"{verdict}: {', '.join(ids)}" for verdict, ids in by_verdict.items())
    return Section("claims", "Claims", text, HEAD, [_line(entry) for entry in judgements], brief=[brief])


def _seeds(effect: Effect) -> str:
    """Of both sides; one number where they have as many."""
    ours, theirs = effect.seeds
    return str(ours) if ours == theirs else f"{ours} against {theirs}"


def _line(entry: Judged) -> list[str]:
    claim, weakest = entry.claim, entry.weakest
    fidelity_ = "scaled down" if "scaled down" in entry.fidelity else "deviation" if entry.fidelity else "exact"
    cells = list(dict.fromkeys(cell[:8] for effect in entry.effects for cell in effect.cells))
    shown = " ".join(cells[:FEW_CELLS]) + (f" and {len(cells) - FEW_CELLS} more" if len(cells) > FEW_CELLS else "")
    overlap = "not compared" if entry.contaminated is None else f"{entry.contaminated:,} test items"
    first = [claim.id, claim.says, published.verdict(claim.id)]
    if weakest is None:
        compared = f"needs {claim.measured}" if claim.measured else f"{len(entry.effects)}"
        return [
            *first,
            compared or f"{len(entry.effects)}",
            *("–",) * 6,
            fidelity_,
            overlap,
            entry.verdict,
            shown or "–",
        ]
    interval = "–"
    if weakest.low is not None and weakest.high is not None:
        interval = f"[{signed(weakest.low)}, {signed(weakest.high)}]"
    return [
        *first,
        f"{len(entry.effects)}; weakest: {weakest.label}",
        signed(weakest.published),
        signed(weakest.value),
        interval,
        _seeds(weakest),
        f"{weakest.items:,}",
        signed(weakest.smallest).removeprefix("+"),
        fidelity_,
        overlap,
        entry.verdict,
        shown,
    ]
