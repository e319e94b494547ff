"""ADG as a library: light to import, the same results as the stages, and an example that runs."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import adg
from adg import geometry, seeds
from adg.answers import stage as answers_stage
from adg.answers.config import EngineConfig
from adg.artifacts.store import Store
from adg.backbones import stage as backbone_stage
from adg.backbones.config import BackboneConfig
from adg.embedding.config import BinsConfig
from adg.errors import BadInput, BadMeasurement
from adg.execution import ExecConfig
from adg.pools import stage as pool_stage
from adg.pools.config import FieldMap, PoolConfig
from adg.pools.given import as_answers, as_records
from tests import processes

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


@dataclasses.dataclass
class Ticket:
    """What a caller may have."""

    id: str
    instruction: str
    mood: str = "calm"


def test_records_come_in_every_form() -> None:
    given = [
        {"instruction": "Say red."},
        adg.Record("b", "Say two."),
        Ticket("c", "Say sea."),
        {"id": np.int64(7), "messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]},
    ]
    assert as_records(given) == [
        adg.Record(0, "Say red."),
        adg.Record("b", "Say two."),
        adg.Record("c", "Say sea."),
        adg.Record(7, "Hi", output="Hello"),
    ]
    for wrong, message in (
        ("Say red.", r"records\[1\] is str; expected an adg.Record, or a dict"),
        ({"question": "Say red."}, r"records\[1\] \(id 1\): no instruction; its fields are question"),
        ({"instruction": 3}, r"records\[1\] \(id 1\): 'instruction' is 3 \(int\), expected text"),
        ({"instruction": "a", "id": 1.5}, r"records\[1\] has the id 1.5 \(float\)"),
        ({"instruction": "a", "id": 0}, r"record id 0 is given twice \(records\[0\] and \[1\]\)"),
    ):
        with pytest.raises(BadInput, match=message):
            as_records([given[0], wrong])


def test_answers_that_are_missing_are_said_by_name() -> None:
    by_id = {record.id: given for record, given in zip(RECORDS, ANSWERS, strict=True)}
    assert as_answers(RECORDS, by_id) == ANSWERS
    for answers, message in (
        ({id_: by_id[id_] for id_ in range(6)}, "answers has none for 2 of 8 records: 6, 7"),
        (by_id | {"x": []}, "answers has ids that no record has: 'x'"),
        (ANSWERS[:5], r"8 records and 5 lists of answers; .* \(none for 5, 6, 7\)"),
        ([*ANSWERS[:7], "one text"], "the answers of record 7 are str 'one text'; expected a list"),
        ([*ANSWERS[:7], ["a", None, "b"]], "answer 2 of record 7 is NoneType"),
    ):
        with pytest.raises(BadInput, match=message):
            as_answers(RECORDS, answers)
    assert as_answers(RECORDS, [*ANSWERS[:7], None])[7] == []


def test_a_notebook_does_the_whole_method(backbone: tuple, tmp_path: Path) -> None:
    """The sampled answers are those of the stage, for the same records in another order too."""
    cfg = adg.SamplingConfig(n=3, max_new_tokens=5)
    rows = [{"id": record.id, "instruction": record.instruction} for record in RECORDS]
    answers = adg.sample(rows, *backbone, cfg)
    pool = tmp_path / "pool.jsonl"
    pool.write_text("".join(json.dumps(row) + "\n" for row in rows))
    store = Store(tmp_path / "runs", ExecConfig(device="cpu"))
    pool_node = pool_stage.node(PoolConfig(name="p", path=str(pool), fields=FieldMap(output=None)))
    tiny = backbone_stage.node(BackboneConfig(name="tiny_random", builder="tiny_random", dtype="float32"))
    built = store.ensure(answers_stage.node(pool_node, tiny, cfg, EngineConfig()))
    assert answers == list(answers_stage.load(built).values())
    assert adg.sample(rows[::-1], *backbone, cfg) == answers[::-1]
    low = adg.EmbeddingConfig(windows=("rel:0.0-0.5",))
    adg.embed(rows, answers, *backbone, low)
    assert adg.sample(rows, *backbone, cfg) == answers, "the model is as it was"
    chosen = adg.select_from_answers(rows, answers, *backbone, budget=3, clusters=BinsConfig(clusters=2))
    assert len(chosen.records) == 3
    with pytest.raises(BadInput, match=r"records cannot be sampled: record 9: a prompt of \d+ tokens"):
        adg.sample([{"id": 9, "instruction": "word " * 5000}], *backbone, cfg)
    with pytest.raises(BadInput, match="has no head to write with"):
        adg.sample(rows, backbone[0].base_model, backbone[1], cfg)


def test_load_backbone_speaks_of_its_own_arguments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model").mkdir()
    for arguments, message in (
        (("tiny_rando",), r"source is 'tiny_rando' \(did you mean 'tiny_random'\?\): no embedded backbone"),
        (("some/model",), r"revision is None; some/model comes from the hub .* load_backbone\('some/model', revision="),
        (("some/model", "main"), "revision is 'main'"),
        (("tiny_random", "0" * 40), "tiny_random is no model of the hub; leave it out"),
        (("model",), "lacks config.json.*; source takes a folder written by save_pretrained"),
        (("tiny_random", None, "tpu"), "device is 'tpu'; expected auto, cpu or cuda"),
    ):
        with pytest.raises(BadInput, match=message) as caught:
            adg.load_backbone(*arguments)
        assert "backbone." not in str(caught.value) and "exec." not in str(caught.value)
    monkeypatch.setenv("ADG_CACHE", str(tmp_path / "cache"))
    adg.load_backbone("tiny_random", device="cpu")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache", "model"], "nothing in the current folder"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("select_from_your_answers", "Spell the word cat.                    D 0.000"),
        ("read_a_finished_study", "random       average "),
    ],
)
def test_the_notebooks_run(
    name: str,
    expected: str,
    root: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Their cells, one after the other in one namespace, as a notebook runs them."""
    notebook = json.loads((root / "docs" / "notebooks" / f"{name}.ipynb").read_text())
    assert notebook["nbformat"] == 4 and not any(cell.get("outputs") for cell in notebook["cells"])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(root))  # of the commands that cells run
    monkeypatch.setattr(subprocess, "run", lambda line, **how: processes.run(line[1:]))
    namespace: dict[str, Any] = {"__name__": "__main__"}
    for number, cell in enumerate(notebook["cells"]):
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), f"{name}, cell {number}", "exec"), namespace)
    printed = capsys.readouterr().out
    assert expected in printed and len(printed.splitlines()) >= 10
