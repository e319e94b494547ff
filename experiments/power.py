"""What a study can see before it is run, and what it could have seen after:  python -m experiments.power profile=paper

The smallest difference of the average that its items and seeds show, and the seeds that a difference of one point
needs: from the spread between finished seeds and the paired differences of items where there are any, else from
assumptions that are named. Nothing is built.
"""

from __future__ import annotations

import statistics as spreads
from collections.abc import Sequence

from adg.artifacts.store import Store
from adg.errors import BadInput
from adg.evaluation import aggregate, power, samples
from experiments.app import plain_errors
from experiments.cells import Cell, asked_for

CORRELATIONS = (0.5, 0.7)  # of two fine-tuned models' scores on the same item, assumed
ACCURACY = 0.5  # assumed where nothing was measured: the widest that a proportion can vary
SPREADS = (0.5, 0.8, 1.2)  # points between seeds, assumed where fewer than two are finished
EFFECT = 1.0  # point


def lines(chosen: Sequence[Cell], store: Store) -> list[str]:
    """What this sweep can see, in sentences."""
    return [*_by_items(chosen, store), *_by_seeds(chosen, store)]


def _by_items(chosen: Sequence[Cell], store: Store) -> list[str]:
    suite = chosen[0].config.suite
    items = {name: task.items for name, task in suite.tasks.items() if task.items and suite.limit_of(name) is None}
    measured = _results(chosen, store)
    accuracy = {name: ACCURACY for name in items}
    if measured:
        done = {name: e for name, e in measured[0]["tasks"].items() if e.get("value") is not None}
        items, accuracy = {n: int(e["n"]) for n, e in done.items()}, {n: float(e["value"]) for n, e in done.items()}
    weights = aggregate.weights(list(items))
    if weights is None:
        return ["items: the size of every benchmark is known only once a cell of this sweep is evaluated"]
    words = []
    for correlation in CORRELATIONS:
        error = power.item_error(items, accuracy, weights, correlation)
        words.append(f"{power.smallest_effect(error):.2f} points (standard error {error:.2f}) at {correlation:g}")
    how = "measured accuracies" if measured else f"accuracies assumed {ACCURACY:g}"
    return [
        f"items: two models on the same {sum(items.values()):,} items differ visibly from {' or '.join(words)} "
        f"correlation of items ({how}; {100 * power.POWER:.0f} % power, {100 * power.LEVEL:.0f} % level)"
    ]


def _by_seeds(chosen: Sequence[Cell], store: Store) -> list[str]:
    by_name: dict[str, list[float]] = {}
    for cell in chosen:
        for results in _results([cell], store):
            if results["categories"]["avg"] is not None:
                name = cell.name.replace(f"seed={cell.config.seed}", "").rstrip("/, ")
                by_name.setdefault(name, []).append(100 * results["categories"]["avg"])
    several = {name: values for name, values in by_name.items() if len(values) > 1}
    said = []
    for name, values in several.items():
        spread = spreads.stdev(values)
        said.append(f"seeds: {name} varies by {spread:.2f} points over {len(values)} seeds{_needs(spread)}")
    if not several:
        said.append("seeds: no spread measured (fewer than two seeds of any cell are finished)")
        said += [f"seeds: were it {spread:g} points{_needs(spread)}" for spread in SPREADS]
    return said


def _needs(spread: float) -> str:
    if spread == 0:
        return ": nothing can be said of a spread of 0"
    return f": a difference of {EFFECT:g} point needs {power.seeds_needed(EFFECT, spread):,} seeds an arm"


def _results(chosen: Sequence[Cell], store: Store) -> list[dict]:
    """``results.json`` of the finished evaluations."""
    results = []
    for cell in chosen:
        artifact = store.find(cell.nodes["eval"]) if "eval" in cell.nodes else None
        if artifact is not None:
            results.append(samples.results(artifact))
    return results


def main() -> None:
    with plain_errors(__doc__):
        chosen, store = asked_for()
        if chosen[0].config.experiment.last != "eval":
            raise BadInput(f"experiment {chosen[0].config.experiment.name} evaluates nothing; choose one that does")
        print("\n".join([chosen[0].config.profile.statement, "", *lines(chosen, store)]))


if __name__ == "__main__":
    main()
