"""``seeds=3``: which cells are run at several root seeds, what they are called, what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from adg.artifacts.files import read_json
from adg.artifacts.store import Store
from adg.errors import BadInput
from experiments import plan, repeats, status
from experiments.cells import cells, report_folder
from tests import processes

pytestmark = pytest.mark.usefixtures("sections_in_common")

SMOKE = ["profile=smoke", "selector=random,longest,adg"]
PREFIX = "tiny_random/mini_general/"


def names(*asked: str) -> list[str]:
    return [cell.name.removeprefix(PREFIX) for cell in cells([*SMOKE, *asked])]


def test_named_selectors_run_at_further_seeds_and_the_others_at_one() -> None:
    assert names("seeds=3") == [
        *("random", "longest", "adg"),
        *("random/seed=43", "adg/seed=43", "random/seed=44", "adg/seed=44"),
    ]
    assert names("seeds=[42,50]") == ["random", "longest", "adg", "random/seed=50", "adg/seed=50"]
    assert names("seeds=2", "profile.repeated=longest") == ["random", "longest", "adg", "longest/seed=43"]
    assert names("seeds=[5,9]")[2:] == ["adg/seed=5", "random/seed=9", "adg/seed=9"], "others at the first"
    assert names("seed=7", "seeds=2")[2:] == ["adg/seed=7", "random/seed=8", "adg/seed=8"]
    assert names() == names("seeds=1") == ["random", "longest", "adg"]


def test_sampling_clustering_draw_and_training_take_the_seed_and_the_evaluation_does_not() -> None:
    by_name = {cell.name.removeprefix(PREFIX): cell for cell in cells([*SMOKE, "seeds=2"])}
    first, second = by_name["adg"], by_name["adg/seed=43"]
    apart = {role for role, node in first.nodes.items() if node.fingerprint != second.nodes[role].fingerprint}
    assert apart == {"answers", "grams", "bins", "scores", "subset", "adapter", "eval", "heldout"}
    assert first.config.suite == second.config.suite and first.config.pool == second.config.pool
    draws = [by_name[name].nodes["subset"].fingerprint for name in ("random", "random/seed=43")]
    assert draws[0] != draws[1]


def test_a_cell_at_the_first_seed_is_the_cell_of_a_study_without_repeats() -> None:
    plain = {cell.name: cell.fingerprint for cell in cells(SMOKE)}
    again = {cell.name: cell.fingerprint for cell in cells([*SMOKE, "seeds=3"])}
    assert plain.items() < again.items()


def test_every_experiment_repeats_its_cells_but_those_that_name_their_seeds() -> None:
    terms = cells(["profile=smoke", "experiment=terms", "seeds=2"])
    assert [cell.config.seed for cell in terms] == [42] * 3 + [43] * 3
    assert len(cells(["profile=smoke", "experiment=stability"])) == 2 * 3 * 3
    assert len(cells(["profile=smoke", "experiment=stability", "seeds=[1,2]"])) == 2 * 2 * 2
    assert len(cells(["profile=smoke", "experiment=stability", "preset=paper", "sampling.seed=42"])) == 3
    assert len(cells(["profile=paper", "experiment=released_checkpoints", "seeds=3"])) == 3


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (["seeds=0"], "seeds is 0; expected how many"),
        (["seeds=-1"], "seeds is -1"),
        (["seeds=x"], "seeds is 'x'"),
        (["seeds=1.5"], r"seeds is 1\.5"),
        (["seeds=true"], "seeds is True"),
        (["seeds=[]"], r"seeds is \[\]"),
        (["seeds=[42,42]"], r"seeds is \[42, 42\]"),
        (["seeds=42,43"], r"seeds is one value and no sweep; write seeds=\[42,43\]"),
        (["seeds=2", "seed=1,2"], "seed is swept, and seeds=2 repeats"),
        (["seed=7", "seeds=[8,9]"], r"seed=7 is not the first of seeds=\[8, 9\]"),
        (["profile.repeated=adgg"], r"'adgg' \(did you mean 'adg'\?\)"),
        (["profile.repeated='adg,adg'"], "names adg twice"),
        (["profile.repeated=untrained"], "untrained, which draws and trains nothing"),
        (["profile.repeated=adg,random"], r"profile.repeated is one value and no sweep"),
    ],
)
def test_what_cannot_be_repeated_is_refused_before_any_work(asked: list[str], said: str) -> None:
    with pytest.raises(BadInput, match=said):
        cells(["profile=smoke", *asked])


def test_root_seeds() -> None:
    assert repeats.root_seeds(42, 3) == [42, 43, 44] and repeats.root_seeds(0, [5, 3]) == [5, 3]


def test_a_repeated_study_has_a_report_of_its_own_that_names_it_once(tmp_path: Path) -> None:
    def folder(*asked: str) -> str:
        return report_folder(cells(["profile=smoke", *asked]), Store(tmp_path))[0].name

    assert folder("seeds=3") == "smoke-main+seeds-3"
    assert folder("seeds=1") == "smoke-main"
    assert folder("seed=7", "seeds=3") == "smoke-main+seed-7-seeds-3"
    assert folder("seeds=[42,43]").startswith("smoke-main+seeds--42-43-")


def test_plan_and_status_see_the_cells_that_the_sweep_runs(root: Path, tmp_path: Path) -> None:
    """A budget above the pool fails each cell at once: what is held here is which cells Hydra's launcher was given."""
    asked = ["profile=smoke", "seeds=3", "selector=random,longest", "budget=1000", f"exec.runs={tmp_path}"]
    more = ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]
    done = processes.run(["-m", "experiments.run", "-m", *asked, *more], cwd=root)
    assert done.returncode == 1 and "[4/4]" in done.stdout, done.stderr
    chosen = cells(asked)
    written = [read_json(path) for path in (tmp_path / "cells").glob("*.json")]
    assert sorted(str(record and record["cell"]) for record in written) == sorted(cell.name for cell in chosen)
    assert len(chosen) == 4 and "4 cells" in plan.render(chosen, Store(tmp_path))
    assert "4 failed" in status.render(chosen, Store(tmp_path))
    one = processes.run(["-m", "experiments.run", *asked[:2], "selector=random", f"exec.runs={tmp_path}"], cwd=root)
    assert one.returncode == 1 and "add -m" in one.stderr
