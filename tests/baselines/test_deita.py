"""DEITA: the official filter's output, block by block against one at a time, annotations, and scorers built here."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adg.artifacts.artifact import Artifact, plain
from adg.artifacts.files import sha256_file
from adg.artifacts.store import Store
from adg.backbones import loading
from adg.backbones import stage as backbone_stage
from adg.backbones.config import BackboneConfig
from adg.errors import BadInput, BadMeasurement, NotRunnable
from adg.execution import ExecConfig
from adg.pools import records
from adg.pools import stage as pool_stage
from adg.pools.config import PoolConfig
from adg.pools.records import Record
from adg.selection.contract import SelectorData, select
from baselines import deita
from baselines.deita import Deita, DeitaConfig, Rater, diverse
from baselines.shared import checkpoints

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "deita.json").read_text())


def write(path: Path, rows: list[dict[str, Any]]) -> dict[str, str]:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {"annotations": str(path), "annotations_sha256": sha256_file(path)}


def one_at_a_time(points: np.ndarray, threshold: float, limit: int | None = None, batch: int = 1) -> list[int]:
    """Each row against every row that stays, in plain float64; ``batch``: the released code's comparison."""
    unit = points.astype(np.float64)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    kept = [0]
    for start in range(1, len(unit), batch):
        some = range(start, min(start + batch, len(unit)))
        before = list(kept)
        kept += [i for i in some if all(unit[i] @ unit[j] <= threshold + 1e-12 for j in [*before, *range(start, i)])]
        if limit is not None and len(kept) >= limit:
            break
    return kept[:limit]


# -- the filter ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", GOLDEN["cases"], ids=lambda case: str(case["threshold"]))
def test_selection_of_the_official_code(case: dict, embedded: Callable, tmp_path: Path) -> None:
    assert case["batch_size"] == 1 and case["metric"] == "cosine"
    scores = enumerate(zip(GOLDEN["complexity_scores"], GOLDEN["quality_scores"], strict=True))
    rows = [{"id": i, "complexity": complexity, "quality": quality} for i, (complexity, quality) in scores]
    data = embedded(GOLDEN["embeddings"])
    variant = "released" if case["threshold"] < 0 else "corrected"
    files = write(tmp_path / "a.jsonl", rows)
    selector = Deita(DeitaConfig(threshold=case["threshold"], variant=variant, **files))
    table = selector.scores(data)
    np.testing.assert_allclose(table.parts["deita"], GOLDEN["final_score"], rtol=1e-12)
    assert select(selector, data, table, len(case["selected"])).tolist() == case["selected"]
    assert int(table.valid.sum()) == len(case["selected"]), "the official run had no limit, or found no more"


def test_a_negative_threshold_is_an_ordinary_one_but_for_released(embedded: Callable, tmp_path: Path) -> None:
    files = write(tmp_path / "a.jsonl", [{"id": i, "complexity": 1, "quality": 5 - i} for i in range(3)])
    data = embedded([[1, 0], [-1, 0.1], [0, 1]])
    kept = {
        v: Deita(DeitaConfig(threshold=-0.5, variant=v, **files)).scores(data).valid.tolist() for v in deita.VARIANTS
    }
    assert kept == {"corrected": [True, True, False], "released": [True, False, False]}


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10_000), st.sampled_from([0.0, 0.5, 0.8, 0.95, 1.0]), st.integers(1, 40), st.integers(1, 60))
def test_blocks_equal_one_at_a_time(seed: int, threshold: float, block: int, limit: int) -> None:
    rng = np.random.default_rng(seed)
    points = rng.normal(size=(60, 3)).astype(np.float32)
    points[40:50] = points[:10]
    expected = one_at_a_time(points, threshold, limit)
    assert diverse(points, threshold, limit, block=block).tolist() == expected
    assert diverse(points * np.float32(3.7), threshold, limit, block=block).tolist() == expected


def test_the_threshold_itself_is_not_above_it() -> None:
    points = np.array([[1, 0, 0, 0], [0.5, 0.5, 0.5, 0.5], [0, 0, 0, 1]])
    assert diverse(points, 0.5).tolist() == [0, 1, 2], "rejected only above"
    assert diverse(points, 0.5 - 1e-6).tolist() == [0, 2]
    copies = np.ones((5, 7), dtype=np.float32) / 3
    assert diverse(copies, 1.0).tolist() == [0, 1, 2, 3, 4], "a copy is not more alike than 1"
    assert diverse(copies, 0.999999).tolist() == [0]


@pytest.mark.parametrize("batch", [2, 5, 64])
def test_released_batches_compare_with_what_they_reject(batch: int) -> None:
    points = np.random.default_rng(2).normal(size=(60, 3)).astype(np.float32)
    found = diverse(points, 0.8, batch=batch).tolist()
    assert found == one_at_a_time(points, 0.8, batch=batch)
    assert len(found) <= len(diverse(points, 0.8))
    chain = np.array([[1, 0, 0], [0, 1, 0], [0, 1, 0.5], [0, 1, 1.2]], dtype=np.float32)
    assert diverse(chain, 0.85).tolist() == [0, 1, 3]
    assert diverse(chain, 0.85, batch=64).tolist() == [0, 1], "3 resembles 2, which is not kept"


@pytest.mark.parametrize(("batch_size", "kept"), [(1, [0, 1, 3]), (2, [0, 1, 3]), (3, [0, 1]), (64, [0, 1])])
def test_batches_of_the_released_selector(embedded: Callable, tmp_path: Path, batch_size: int, kept: list[int]) -> None:
    """Cosines: 1 and 2 0.89, 2 and 3 0.92, 1 and 3 0.64; the threshold is 0.85, so that 1 rejects 2.

    3 is rejected with it where both are in one batch. Batches begin at the second record: of three they are (1, 2, 3),
    of two (1, 2) and (3).
    """
    files = write(tmp_path / "a.jsonl", [{"id": i, "complexity": 1, "quality": 6 - i} for i in range(4)])
    options = {"variant": "released", "batch_size": batch_size, "threshold": 0.85, **files}
    table = Deita(DeitaConfig(**options)).scores(embedded([[1, 0, 0], [0, 1, 0], [0, 1, 0.5], [0, 1, 1.2]]))
    assert np.flatnonzero(table.valid).tolist() == kept


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 10_000))
def test_permuting_the_pool_permutes_what_is_kept(seed: int) -> None:
    rng = np.random.default_rng(seed)
    points, score, order = rng.normal(size=(70, 3)), rng.permutation(70), rng.permutation(70)
    ranked, ranked_too = np.argsort(-score), np.argsort(-score[order])
    kept = ranked[diverse(points[ranked], 0.7)].tolist()
    assert order[ranked_too[diverse(points[order][ranked_too], 0.7)]].tolist() == kept


def test_nothing_and_one_record() -> None:
    assert diverse(np.empty((0, 4)), 0.9).tolist() == []
    assert diverse(np.ones((1, 4)), 0.9).tolist() == [0]


# -- annotations ---------------------------------------------------------------------------------------------


def test_scores_ties_and_reasons(embedded: Callable, tmp_path: Path) -> None:
    rows = [
        {"id": 0, "complexity": [1, 2], "quality": [3, 1]},  # 5
        {"id": 1, "complexity": 2, "quality": 3},  # 6
        {"id": 2, "complexity": 3, "quality": 2},  # 6, and like 1
        {"id": 3, "complexity": 3},
        {"id": 5, "complexity": 1, "quality": 1},
    ]
    data = embedded([[1, 0, 0], [0, 1, 0], [0, 1, 0.1], [0, 0, 1], [1, 1, 1], [0, 0, 0]])
    selector = Deita(DeitaConfig(**write(tmp_path / "a.jsonl", rows)))
    table = selector.scores(data)
    assert table.parts["deita"][[0, 1, 2, 5]].tolist() == [5, 6, 6, 1]
    assert table.invalid == {
        2: "near-duplicate of a record with a higher score (cosine above 0.9)",
        3: "no quality or complexity score",
        4: "no annotation",
        5: "its text is empty",
    }
    assert select(selector, data, table, 2).tolist() == [1, 0]
    with pytest.raises(BadInput, match=r"only 2 of 6 records have a score .*1 x near-duplicate"):
        select(selector, data, table, 3)


def test_without_scores_or_scorers_it_is_not_run(embedded: Callable) -> None:
    with pytest.raises(NotRunnable, match=r"needs checkpoints hkust-nlp/deita-complexity-scorer and .*set selector\."):
        Deita(DeitaConfig()).scores(embedded(np.eye(3)))


def test_wrong_scores_are_named(embedded: Callable, tmp_path: Path) -> None:
    files = write(tmp_path / "a.jsonl", [{"id": 1, "complexity": [1, 2], "quality": 3}])
    with pytest.raises(BadMeasurement, match="id 1: 1 turns of quality but 2 of complexity"):
        Deita(DeitaConfig(**files)).scores(embedded(np.eye(3)))


@pytest.mark.parametrize(
    "options",
    [
        {"variant": "x"},
        {"threshold": 1.1},
        {"threshold": float("nan")},
        {"batch_size": 2},
        {"batch_size": 0, "variant": "released"},
        {"annotations_sha256": "0"},
        {"quality_scorer_sha256": "0"},
        {"quality_scorer": "/x"},
        {"complexity_scorer": "/x", "quality_scorer": "/y", "annotations": "/z"},
    ],
)
def test_options_are_checked(options: dict) -> None:
    with pytest.raises(BadInput):
        DeitaConfig(**options)


def test_only_what_changes_a_score_is_identity() -> None:
    left_out = {"annotations", "complexity_scorer", "quality_scorer", "encoder"}
    assert not left_out & set(plain(DeitaConfig()))
    assert DeitaConfig().defaults(own=False) == ("conversation", "last")


# -- scorers -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, Artifact]:
    """A small random language model in the place of a scorer."""
    store = Store(tmp_path_factory.mktemp("deita"), ExecConfig(device="cpu"))
    node = backbone_stage.node(BackboneConfig(name="tiny_random", builder="tiny_random", dtype="float32"))
    return store, store.ensure(node)


def test_a_rating_is_the_expected_level_after_the_prompt_whatever_the_batch(tiny: tuple) -> None:
    import torch

    tokenizer, model = loading.load_tokenizer(tiny[1]), loading.load_model(tiny[1], "cpu")
    texts = [deita.prompt(Record(0, "Name a town", "in <s> France", "Lyon"), side) for side in deita.SIDES]
    texts += ["x", "a much longer text than the others, so that they are padded " * 4]
    found = Rater(model, tokenizer, tokens_per_batch=4000).rate(texts)
    np.testing.assert_allclose(Rater(model, tokenizer, tokens_per_batch=1).rate(texts), found, atol=1e-5)
    levels = tokenizer.convert_tokens_to_ids(list("123456"))
    for text, value in zip(texts, found, strict=True):
        ids = [tokenizer.bos_token_id, *tokenizer(text, add_special_tokens=False, split_special_tokens=True).input_ids]
        with torch.inference_mode():
            logits = model(torch.tensor([ids])).logits[0, -1, levels].double()
        assert value == pytest.approx(float(torch.softmax(logits, 0) @ torch.arange(1.0, 7.0).double()), abs=1e-5)
    assert (found > 1).all() and (found < 6).all()


def test_prompts_are_the_methods() -> None:
    record = Record(0, "word to describe UI with helpful tooltips", "", "User-friendly or intuitive UI")
    assert deita.prompt(record, "complexity") == (
        "You are a helpful assistant. Please identify the complexity score of the following user query. \n"
        "##Query: word to describe UI with helpful tooltips  \n##Complexity: "
    )
    assert deita.prompt(record, "quality") == (
        "You are a helpful assistant. Please identify the quality score of the Response corresponding to the Question. "
        "\n #Question#:\nword to describe UI with helpful tooltips\n#Response#:\nUser-friendly or intuitive UI \n"
        "##Quality: "
    )
    assert "Name it\nit is red  \n" in deita.prompt(Record(0, "Name it", "it is red", ""), "complexity")


def test_a_text_that_is_too_long_has_no_rating_and_nan_raises(tiny: tuple) -> None:
    import torch

    tokenizer, model = loading.load_tokenizer(tiny[1]), loading.load_model(tiny[1], "cpu")
    rater = Rater(model, tokenizer)
    rater.positions = 20
    found = rater.rate(["short", "long " * 60])
    assert np.isfinite(found[0]) and np.isnan(found[1])
    with torch.no_grad():
        model.base_model.norm.weight.fill_(float("nan"))
    with pytest.raises(BadMeasurement, match="NaN or infinity for the text 'short'"):
        rater.rate(["short"])


def test_a_tokenizer_without_the_levels_is_refused(tiny: tuple) -> None:
    class Words:
        unk_token_id = 3

        def convert_tokens_to_ids(self, token: str) -> int:
            return {"1": 7, "2": 8, "3": 9}.get(token, 3)

    with pytest.raises(BadInput, match="a token for each"):
        Rater(loading.load_model(tiny[1], "cpu"), Words())


def test_records_are_rated_by_the_given_checkpoints(tiny: tuple, tmp_path: Path) -> None:
    store, backbone = tiny
    folder = loading.model_path(backbone)
    rows = [
        {"id": i, "instruction": f"question {i % 4} of 7?", "input": "", "output": f"it is {i % 5}"} for i in range(12)
    ]
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    pool = pool_stage.node(PoolConfig(name="p", path=str(tmp_path / "p.jsonl")))
    digest = checkpoints.folder_digest(folder)
    options: dict[str, Any] = {
        "complexity_scorer": str(folder),
        "quality_scorer": str(folder),
        "threshold": 1.0,
        "complexity_scorer_sha256": digest,
        "quality_scorer_sha256": digest,
    }
    selector = Deita(DeitaConfig(**options))
    model = backbone_stage.node(BackboneConfig(name="tiny_random", builder="tiny_random", dtype="float32"))
    cell = {"pool": pool, "backbone": model}
    features = {name: store.ensure(node) for name, node in selector.inputs(cell).items()}
    assert list(features) == ["vectors", "ratings"]
    data = SelectorData(records.load(store.ensure(pool)), features, store.ensure(pool))
    table = selector.scores(data)
    rater = Rater(loading.load_model(backbone, "cpu"), loading.load_tokenizer(backbone))
    sides = [rater.rate([deita.prompt(record, side) for record in data.records]) for side in deita.SIDES]
    np.testing.assert_allclose(table.parts["deita"], sides[0] * sides[1], atol=1e-4)
    assert len(select(selector, data, table, 12)) == 12

    wrong = Deita(DeitaConfig(**{**options, "quality_scorer_sha256": "0" * 64}))
    with pytest.raises(BadInput, match=f"selector.quality_scorer_sha256={digest}"):
        store.ensure(wrong.inputs(cell)["ratings"])
