"""ADG as a library: light to import, the same results as the stages, and an example that runs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import adg
from adg import geometry, seeds
from adg.embedding.config import BinsConfig
from adg.errors import BadInput, BadMeasurement

HEAVY = {"torch", "transformers", "numpy", "pyarrow", "sklearn", "scipy", "matplotlib", "vllm", "ray", "hydra"}


def test_importing_adg_loads_nothing_heavy(root: Path) -> None:
    code = f"import sys, adg; dir(adg); sys.exit(', '.join(sorted(set(sys.modules) & {HEAVY!r})) or 0)"
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_scoring_and_choosing_need_no_torch(root: Path) -> None:
    code = (
        "import sys, numpy as np\nfrom adg import choose, gram, score\n"
        "grams = gram(np.random.default_rng(0).normal(size=(20, 5, 4)))\n"
        "assert len(choose(score(grams).score, 7)) == 7\n"
        "sys.exit(', '.join(sorted({'torch', 'transformers', 'hydra'} & set(sys.modules))) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_every_name_is_there_and_documented() -> None:
    for name in adg.__all__:
        assert getattr(adg, name).__doc__, name
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = adg.nothing  # type: ignore[attr-defined]


def test_scores_are_the_methods() -> None:
    grams = geometry.gram(seeds.generator(0, "test", "library").normal(size=(30, 10, 6)))
    found = adg.score(grams, lam=0.25)
    assert found.score == pytest.approx(geometry.divergence(grams, 0.25))
    assert adg.score(grams, answers=3).score == pytest.approx(geometry.divergence(grams[:, :3, :3]))
    for wrong in (1, 11):
        with pytest.raises(BadInput, match="these matrices hold 10"):
            adg.score(grams, answers=wrong)
    with pytest.raises(BadInput, match=r"lam is 1\.5"):
        adg.score(grams, lam=1.5)


@pytest.mark.parametrize(("lam", "fewest"), [(0.4, 2), (1.0, 3)])
def test_too_few_answers_are_refused(lam: float, fewest: int) -> None:
    grams = geometry.gram(seeds.generator(0, "test", "few").normal(size=(30, 5, 6)))
    few = fewest - 1
    message = f"{few} of the {fewest} answers that lam {lam:g} needs.*sample {fewest} or more"
    with pytest.raises(BadInput, match=message):
        adg.score(grams[:, :few, :few], lam)
    with pytest.raises(BadInput, match=f"answers is {few}; these matrices hold 5, expected {fewest} to that many"):
        adg.score(grams, lam, answers=few)
    with pytest.raises(BadInput, match=message):  # before anything is embedded
        adg.select_from_answers(RECORDS, [given[:few] for given in ANSWERS], None, None, budget=3, lam=lam)
    assert (adg.score(grams, lam, answers=fewest).score > 0).all()


def test_choosing_keeps_the_budget() -> None:
    scores = seeds.generator(0, "test", "choose").random(40)
    assert adg.choose(scores, 5).tolist() == np.argsort(-scores)[:5].tolist()
    bins = np.arange(40) % 4
    assert np.bincount(bins[adg.choose(scores, 8, bins)]).tolist() == [2, 2, 2, 2]
    for budget in (0, 41):
        with pytest.raises(BadInput, match="expected 1 to 40"):
            adg.choose(scores, budget)
    with pytest.raises(BadMeasurement, match="row 3"):
        adg.choose(np.where(np.arange(40) == 3, np.nan, scores), 5)


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> tuple:
    return adg.load_backbone("tiny_random", device="cpu", runs=tmp_path_factory.mktemp("backbone"))


RECORDS = [adg.Record(i, f"Say {word}.") for i, word in enumerate("red two sea four moon six salt eight".split())]
ANSWERS = [[f"{record.instruction} {k * record.id}" for k in range(3)] for record in RECORDS]


def test_a_selection_does_not_depend_on_the_order_of_the_lists(backbone: tuple) -> None:
    bins = BinsConfig(clusters=2)
    one = adg.select_from_answers(RECORDS, ANSWERS, *backbone, budget=3, clusters=bins)
    order = [5, 2, 7, 0, 1, 6, 4, 3]
    other = adg.select_from_answers(
        [RECORDS[i] for i in order], [ANSWERS[i] for i in order], *backbone, budget=3, clusters=bins
    )
    assert {r.id for r in one.records} == {r.id for r in other.records} and len(one.records) == 3
    assert [order[row] for row in other.rows] == [r.id for r in other.records]
    by_id = {RECORDS[row].id: s for row, s in zip(one.scored, one.scores.score, strict=True)}
    for row, s in zip(other.scored, other.scores.score, strict=True):
        assert s == pytest.approx(by_id[order[row]], abs=1e-6)


def test_a_record_that_cannot_be_embedded_is_named(backbone: tuple) -> None:
    answers = [*ANSWERS[:-1], ["one"]]
    with pytest.raises(BadMeasurement, match="record 7: has 1 of 3 answers"):
        adg.select_from_answers(RECORDS, answers, *backbone, budget=3)
    found = adg.select_from_answers(RECORDS, answers, *backbone, budget=3, max_failed=1)
    assert list(found.failed) == [7] and len(found.scored) == 7


def test_lists_that_do_not_fit_are_refused(backbone: tuple) -> None:
    with pytest.raises(BadInput, match="8 records and 7 lists"):
        adg.embed(RECORDS, ANSWERS[:-1], *backbone)
    with pytest.raises(BadInput, match="record id 0 is given twice"):
        adg.embed([RECORDS[0], RECORDS[0]], ANSWERS[:2], *backbone)


def test_the_example_runs(root: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(root / "docs" / "select_from_answers.py")], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "Spell the word cat.                    D 0.000" in done.stdout
    assert len(done.stdout.splitlines()) >= 20
    assert not list(tmp_path.iterdir()), "the example leaves nothing behind"
