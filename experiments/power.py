"""What a study can see before it is run, and what it could have seen after:  adg power profile=paper

The smallest difference of the average that its items and seeds show, and the seeds that a difference of one point
needs: from the spread between finished seeds and the paired differences of finished cells where there are any, else
from assumptions that are named. Nothing is built.
"""

from __future__ import annotations

import math
import statistics as spreads
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from adg import seeds
from adg.artifacts.artifact import Artifact
from adg.artifacts.store import Store
from adg.errors import BadInput
from adg.evaluation import aggregate, power, samples, statistics
from adg.evaluation.power import Noise
from experiments.app import JSON, as_json, asked, plain_errors
from experiments.cells import Cell, asked_for

CORRELATIONS = (0.5, 0.7)  # of two fine-tuned models' scores on the same item, assumed; the first where one is taken
ACCURACY = 0.5  # assumed where nothing was measured: the widest that a proportion can vary
SPREADS = (0.5, 0.8, 1.2)  # points between seeds, assumed where fewer than two are finished
SPREAD = SPREADS[1]  # of these, where one is taken
EFFECT = 1.0  # point
MOST_PAIRS = 8  # of finished cells whose items are compared
RESAMPLES = 2_000


@dataclass(frozen=True)
class Study:
    """What is known of a sweep: the standard errors (points) that its items cause, by how they are known, and the
    spread between seeds (points). No ``errors`` where the benchmarks' sizes are not known yet."""

    items: int
    errors: dict[str, float]
    spread: float
    spread_known: str
    seeds: int  # of the cell with the most

    def smallest(self, error: float) -> float:
        """The smallest difference that its items, with this error, and its seeds show together."""
        return power.smallest_difference(Noise(error, self.spread * math.sqrt(2 / self.seeds), self.seeds))

    @property
    def by_seeds(self) -> str:
        """How many seeds, and what that leaves out."""
        if self.seeds == 1:
            return "one seed, so that training variance is left out"
        return f"{self.seeds} seeds, {self.spread:.2f} points between them, {self.spread_known}"


def study(chosen: Sequence[Cell], store: Store) -> Study:
    """What is known of these cells."""
    families: dict[str, list[Cell]] = {}
    for cell in chosen:
        families.setdefault(cell.family, []).append(cell)
    several = [values for values in _averages(families, store).values() if len(values) > 1]
    spread, known = SPREAD, "assumed"
    if several:
        freedom = sum(len(values) - 1 for values in several)
        spread = math.sqrt(sum((len(values) - 1) * spreads.variance(values) for values in several) / freedom)
        known = "measured"
    items, errors = _items(chosen, store)
    return Study(items, errors, spread, known, max(len({c.config.seed for c in of}) for of in families.values()))


def lines(chosen: Sequence[Cell], store: Store) -> list[str]:
    """What this sweep can see, in sentences."""
    known = study(chosen, store)
    said = [_by_items(known), *_by_seeds(chosen, store)]
    if known.errors:
        how, error = next(iter(known.errors.items()))
        said.append(
            f"together: its items ({how}) and its seeds ({known.by_seeds}) show differences of "
            f"{known.smallest(error):.2f} points or more"
        )
    return said


def line(chosen: Sequence[Cell], store: Store) -> str:
    """The same for a plan, in one sentence."""
    known = study(chosen, store)
    sees = "what its items can show is known once a cell is evaluated"
    if known.errors:
        how, error = next(iter(known.errors.items()))
        sees = (
            f"sees differences of {known.smallest(error):.2f} points of the average or more ({known.items:,} items, "
            f"{how}; {known.by_seeds})"
        )
    return f"{sees}; {known.spread:.2f} points between seeds, {known.spread_known}{_needs(known.spread)}"


def _items(chosen: Sequence[Cell], store: Store) -> tuple[int, dict[str, float]]:
    """Items of all benchmarks, and the standard errors of a difference that they cause, by how that is known."""
    paired = _paired(chosen, store)
    if paired is not None:
        return paired
    suite = chosen[0].config.suite
    items = {name: task.items for name, task in suite.tasks.items() if task.items and suite.limit_of(name) is None}
    accuracy, how = {name: ACCURACY for name in items}, f"accuracies assumed {ACCURACY:g}"
    done = next((artifact for artifact in _evaluations(chosen, store)), None)
    if done is not None:
        entries = {n: e for n, e in samples.results(done)["tasks"].items() if e.get("value") is not None}
        items, accuracy = {n: int(e["n"]) for n, e in entries.items()}, {n: e["value"] for n, e in entries.items()}
        how = "measured accuracies"
    weights = aggregate.weights(list(items))
    if weights is None:
        return 0, {}
    return sum(items[task] for task in weights), {
        f"{how}, correlation of items assumed {r:g}": power.item_error(items, accuracy, weights, r)
        for r in CORRELATIONS
    }


def _paired(chosen: Sequence[Cell], store: Store) -> tuple[int, dict[str, float]] | None:
    """The same from trained cells of one backbone and seed that are finished: the mean error over pairs of them."""
    blocks: dict[tuple[str, int], dict[str, Artifact]] = {}
    for cell in chosen:
        for artifact in _evaluations([cell], store) if "adapter" in cell.nodes else ():
            blocks.setdefault((cell.config.backbone.name, cell.config.seed), {})[artifact.fingerprint] = artifact
    errors: list[float] = []
    items = 0
    for (_, seed), found in blocks.items():
        first, *others = found.values()
        for other in others:
            changes = samples.differences([(first, other)])
            if len(errors) == MOST_PAIRS or aggregate.weights(list(changes)) is None:
                continue
            drawn = statistics.resample(changes, seeds.generator(seed, "power", other.fingerprint), RESAMPLES)["avg"]
            if drawn.interval is not None:
                errors.append(100 * drawn.noise.items)
                items = sum(part.shape[1] for part in drawn.parts)
    if not errors:
        return None
    return items, {f"paired differences of {len(errors)} finished pairs of cells": math.fsum(errors) / len(errors)}


def _by_items(known: Study) -> str:
    if not known.errors:
        return "items: the size of every benchmark is known only once a cell of this sweep is evaluated"
    words = [
        f"{power.smallest_effect(error):.2f} points (standard error {error:.2f}; {how})"
        for how, error in known.errors.items()
    ]
    return (
        f"items: two models on the same {known.items:,} items differ visibly from {' or '.join(words)}, with "
        f"{100 * power.POWER:.0f} % power at a level of {100 * power.LEVEL:.0f} %"
    )


def _by_seeds(chosen: Sequence[Cell], store: Store) -> list[str]:
    families: dict[str, list[Cell]] = {}
    for cell in chosen:
        families.setdefault(cell.family, []).append(cell)
    several = {name: values for name, values in _averages(families, store).items() if len(values) > 1}
    said = []
    for name, values in several.items():
        spread = spreads.stdev(values)
        said.append(f"seeds: {name} varies by {spread:.2f} points over {len(values)} seeds{_needs(spread)}")
    if not several:
        said.append("seeds: no spread measured (fewer than two seeds of any cell are finished)")
        said += [f"seeds: were it {spread:g} points{_needs(spread)}" for spread in SPREADS]
    return said


def _averages(families: dict[str, list[Cell]], store: Store) -> dict[str, list[float]]:
    """Averages (percent) of the finished cells of each family."""
    averages: dict[str, list[float]] = {}
    for name, cells in families.items():
        values = [samples.results(artifact)["categories"]["avg"] for artifact in _evaluations(cells, store)]
        averages[name] = [100 * value for value in values if value is not None]
    return averages


def _needs(spread: float) -> str:
    if spread == 0:
        return ": nothing can be said of a spread of 0"
    return f": a difference of {EFFECT:g} point needs {power.seeds_needed(EFFECT, spread):,} seeds an arm"


def _evaluations(chosen: Sequence[Cell], store: Store) -> list[Artifact]:
    """The finished evaluations."""
    found = [store.find(cell.nodes["eval"]) for cell in chosen if "eval" in cell.nodes]
    return [artifact for artifact in found if artifact is not None]


def main() -> None:
    with plain_errors(__doc__, JSON):
        chosen, store = asked_for(JSON)
        if chosen[0].config.experiment.last != "eval":
            raise BadInput(f"experiment {chosen[0].config.experiment.name} evaluates nothing; choose one that does")
        if asked("--json"):
            known = study(chosen, store)
            print(as_json(asdict(known) | {"smallest": {how: known.smallest(x) for how, x in known.errors.items()}}))
        else:
            print("\n".join([chosen[0].config.profile.statement, "", *lines(chosen, store)]))


if __name__ == "__main__":
    main()
