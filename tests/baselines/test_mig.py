"""MIG: the official code's output, lazy against exhaustive, and annotations that are missing or wrong."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from adg.artifacts.artifact import plain
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
from baselines import mig
from baselines.mig import Annotation, Mig, MigConfig, greedy, label_matrix, propagation, similarity_graph, slope

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "mig.json").read_text())
OFFICIAL = {
    "tags": "annotation.instag.content",
    "quality": "annotation.deita.quality_scores",
    "complexity": "annotation.deita.complexity_scores",
}


def write(path: Path, rows: list[dict[str, Any]]) -> dict[str, str]:
    """An annotations file and the options that name it."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {"annotations": str(path), "annotations_sha256": sha256_file(path)}


def vectors_file(path: Path, vectors: dict[str, list[float]]) -> dict[str, str]:
    from safetensors.numpy import save_file

    save_file({label: np.array(vector, dtype=np.float32) for label, vector in vectors.items()}, path)
    return {"label_embeddings": str(path), "label_embeddings_sha256": sha256_file(path)}


def data_of(ids: Any) -> SelectorData:
    return SelectorData([Record(i, f"question {i}", "", f"answer {i}") for i in ids])


def chosen(data: SelectorData, budget: int, **options: Any) -> list[Any]:
    selector = Mig(MigConfig(**options))
    return [data.records[row].id for row in select(selector, data, selector.scores(data), budget)]


def row(id_: Any, *tags: str, quality: Any = 1.0, complexity: Any = 1.0) -> dict[str, Any]:
    return {"id": id_, "tags": list(tags), "quality": quality, "complexity": complexity}


# -- against the official code -------------------------------------------------------------------------------


def test_selection_of_the_official_code_from_its_own_files(tmp_path: Path) -> None:
    rows = [{"id": r["_id"], **{k: v for k, v in r.items() if k != "_id"}} for r in GOLDEN["rows"]]
    tags = tmp_path / "tags.txt"
    tags.write_text("\n".join(GOLDEN["valid_tags"]) + "\n")
    files = {
        **write(tmp_path / "annotations.jsonl", rows),
        **vectors_file(tmp_path / "labels.safetensors", GOLDEN["label_embeddings"]),
        "valid_tags": str(tags),
        "valid_tags_sha256": sha256_file(tags),
    }
    data = data_of(r["id"] for r in rows)
    table = Mig(MigConfig(**OFFICIAL, **files)).scores(data)
    assert table.invalid == {120: "no tags", 121: "no quality or complexity score", 122: "no tags", 123: "no tags"}
    for parsed in GOLDEN["parsed"]:
        assert table.score[parsed["_id"]] == pytest.approx(parsed["score"], rel=1e-12)
        assert table.parts["labels"][parsed["_id"]] == len(set(parsed["labels"]))
    for run in GOLDEN["graphs"][0]["runs"]:
        a = run["args"]
        options = {
            "phi": a["phi_type"],
            "alpha": a["phi_alpha"],
            "a": a["phi_a"],
            "b": a["phi_b"],
            "prop_weight": a["prop_weight"],
            "norm": a["norm"],
        }
        assert chosen(data, run["num_sample"], **OFFICIAL, **files, **options) == run["selected"]


def test_graph_of_the_official_code() -> None:
    graph = GOLDEN["graphs"][0]
    vectors = np.array([GOLDEN["label_embeddings"][label] for label in graph["labels"]])
    for found, name in ((similarity_graph(vectors, graph["sim_threshold"]), "wam"), (None, "prop_matrix")):
        found = propagation(similarity_graph(vectors, 0.9), 1.0) if found is None else found
        expected = np.zeros((len(vectors), len(vectors)))
        for i, j, value in graph[name]:
            expected[i, j] = value
        np.testing.assert_allclose(found.toarray(), expected, atol=5e-7)


def test_propagation_divides_columns_by_hand() -> None:
    graph = sp.csr_matrix(np.array([[1, 0.9, 0], [0.9, 1, 0], [0, 0, 1]]))
    expected = np.array([[1, 0.45, 0], [0.45, 1, 0], [0, 0, 1.45]]) / 1.45
    np.testing.assert_allclose(propagation(graph, 0.5).toarray(), expected, rtol=1e-12)


def test_norm_counts_repeated_labels_but_writes_them_once() -> None:
    annotations = [Annotation(("b", "a", "b", "unknown"), 6.0), None, Annotation((), 5.0)]
    assert label_matrix(annotations, ["a", "b"], norm=True).toarray().tolist() == [[2, 2], [0, 0], [0, 0]]
    assert label_matrix(annotations, ["a", "b"], norm=False).toarray().tolist() == [[6, 6], [0, 0], [0, 0]]


# -- the greedy step -----------------------------------------------------------------------------------------


def exhaustive(spread: np.ndarray, budget: int, derivative: Any) -> list[int]:
    """Every gain of every record in every step."""
    held, left, out = [0.0] * spread.shape[1], list(range(len(spread))), []
    for _ in range(budget):
        slopes = [derivative(x) for x in held]
        best = max(left, key=lambda i: (math.fsum(u * s for u, s in zip(spread[i].tolist(), slopes, strict=True)), -i))
        held = [x + u for x, u in zip(held, spread[best].tolist(), strict=True)]
        left.remove(best)
        out.append(best)
    return out


@settings(deadline=None)
@given(st.data())
def test_lazy_equals_exhaustive(data: st.DataObject) -> None:
    n, size = data.draw(st.integers(1, 20)), data.draw(st.integers(1, 6))
    value = st.sampled_from([0.0, 0.0, 0.5, 1.0, 1.5, 7.25])
    spread = np.array(data.draw(st.lists(st.lists(value, min_size=size, max_size=size), min_size=n, max_size=n)))
    config = MigConfig(phi=data.draw(st.sampled_from(["pow", "exp"])), b=data.draw(st.sampled_from([0.3, 0.8, 1.0])))
    budget = data.draw(st.integers(1, n))
    found = greedy(sp.csr_matrix(spread), range(n), budget, slope(config))
    assert found == exhaustive(spread, budget, slope(config))


def test_lazy_equals_exhaustive_on_a_long_run() -> None:
    rng = np.random.default_rng(5)
    spread = rng.random((300, 40)) * (rng.random((300, 40)) < 0.1)
    assert greedy(sp.csr_matrix(spread), range(300), 300, slope(MigConfig())) == exhaustive(
        spread, 300, slope(MigConfig())
    )


@pytest.mark.parametrize("bad", [np.nan, np.inf, -1.0])
def test_numbers_that_break_the_greedy_choice_raise(bad: float) -> None:
    with pytest.raises(BadMeasurement, match="NaN, infinite or negative"):
        greedy(sp.csr_matrix(np.array([[1.0, bad], [1.0, 2.0]])), range(2), 1, slope(MigConfig()))


@pytest.mark.parametrize("bad", [np.nan, 0.0])
def test_a_label_without_a_direction_raises(bad: float) -> None:
    with pytest.raises(BadMeasurement, match="vector 1 of the label embeddings"):
        similarity_graph(np.array([[1.0, 0.0], [bad, bad]]), 0.9)


def test_the_threshold_never_loses_a_label_itself() -> None:
    vectors = np.array([[0.1, 0.3], [0.7, 0.1], [0.7, 0.1]])
    graph = similarity_graph(vectors, 1.0)  # official code: rounding below 1 here gave NaN and the answer 0, 1, 2
    assert (graph.diagonal() == 1).all()


# -- the selector --------------------------------------------------------------------------------------------


def test_whole_pool_and_what_is_chosen_last(tmp_path: Path) -> None:
    rows = [row(0, quality=6.0), row(1, "b"), row(2, "a", quality=3.0), row(3, "a"), row(4, "a", quality=3.0)]
    files = write(tmp_path / "a.jsonl", rows)
    ids = chosen(data_of(range(5)), 5, label_graph="identity", **files)
    assert ids == [2, 1, 4, 3, 0], "2 ties with 4; 0 has the best score but no label"


def test_mean_over_turns(tmp_path: Path) -> None:
    files = write(tmp_path / "a.jsonl", [row("x", "t", quality=[2, 4.0], complexity=[3, 1.0])])
    table = Mig(MigConfig(label_graph="identity", **files)).scores(data_of(["x"]))
    assert table.score.tolist() == [5.0]


def test_neighbours_share_what_is_covered(tmp_path: Path) -> None:
    rows = [row(0, "cat", quality=3.0), row(1, "kitten", quality=2.9), row(2, "law", quality=2.0)]
    files = write(tmp_path / "a.jsonl", rows)
    near = vectors_file(tmp_path / "v.safetensors", {"cat": [1, 0, 0], "kitten": [1, 0.1, 0], "law": [0, 0, 1]})
    assert chosen(data_of(range(3)), 3, label_graph="identity", **files) == [0, 1, 2]
    assert chosen(data_of(range(3)), 3, prop_weight=1.0, **files, **near) == [0, 2, 1]
    assert chosen(data_of(range(3)), 3, prop_weight=0.0, **files, **near) == [0, 1, 2]


def test_label_embeddings_bring_the_label_graph() -> None:
    given = {"label_embeddings": "labels.safetensors", "label_embeddings_sha256": "0" * 64}
    assert MigConfig(**given).label_graph == "embeddings" and MigConfig().label_graph == "identity"
    with pytest.raises(BadInput, match=r"identity, which uses no selector\.label_embeddings"):
        MigConfig(label_graph="identity", **given)


def test_tags_of_the_pool_itself_and_records_without_them(tmp_path: Path) -> None:
    path = tmp_path / "pool.jsonl"
    rows = [
        {"id": i, "instruction": "i", "output": "o", "tags": ["a", "b"][i % 2 :], "quality": 2, "complexity": 3}
        for i in range(4)
    ]
    path.write_text("".join(json.dumps(r) + "\n" for r in [*rows, {"id": 4, "instruction": "i", "output": "o"}]))
    artifact = Store(tmp_path / "runs", ExecConfig()).ensure(pool_stage.node(PoolConfig(name="p", path=str(path))))
    data = SelectorData(records.load(artifact), {}, artifact)
    selector = Mig(MigConfig())
    table = selector.scores(data)
    assert table.score[:4].tolist() == [6.0] * 4 and table.invalid == {4: "no tags"}
    assert plain(selector.config)["label_graph"] == "identity"
    with pytest.raises(BadInput, match=r"only 4 of 5 records have a score \(1 x no tags\)"):
        select(selector, data, table, 5)


def test_no_annotation_at_all_is_not_run_and_says_what_to_set() -> None:
    with pytest.raises(NotRunnable, match=r"needs InsTagger tags and DEITA scores.*set selector.annotations="):
        Mig(MigConfig()).scores(data_of(range(3)))


def test_an_annotations_file_needs_label_vectors(tmp_path: Path) -> None:
    files = write(tmp_path / "a.jsonl", [row(0, "x", "y")])
    with pytest.raises(NotRunnable, match=r"needs vectors of the 2 labels.*e5-mistral.*set selector.label_embeddings="):
        Mig(MigConfig(**files)).scores(data_of([0]))
    some = vectors_file(tmp_path / "v.safetensors", {"x": [1.0, 0.0]})
    with pytest.raises(BadInput, match=r"no vector for 1 of 2 labels .first: 'y'"):
        Mig(MigConfig(**files, **some)).scores(data_of([0]))


def test_the_content_of_a_file_is_identity_and_its_place_is_not(tmp_path: Path) -> None:
    here = write(tmp_path / "a.jsonl", [row(0, "x")])
    there = write(tmp_path / "b.jsonl", [row(0, "x")])
    assert plain(MigConfig(**here)) == plain(MigConfig(**there))
    other = write(tmp_path / "c.jsonl", [row(0, "y")])
    assert plain(MigConfig(**here)) != plain(MigConfig(**other))
    with pytest.raises(BadInput, match=f"selector.annotations_sha256 is not set.*={here['annotations_sha256']}"):
        Mig(MigConfig(annotations=here["annotations"])).scores(data_of([0]))
    with pytest.raises(BadInput, match=f"={other['annotations_sha256']}"):
        Mig(MigConfig(**{**here, "annotations": other["annotations"]})).scores(data_of([0]))
    with pytest.raises(BadInput, match="which is not a file"):
        Mig(MigConfig(annotations=str(tmp_path / "none"), annotations_sha256="0" * 64)).scores(data_of([0]))


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (row(1, "x", quality=float("nan")), "id 1: 'quality' is nan, expected finite"),
        (row(1, "x", complexity=-2), "id 1: 'complexity' is -2, expected finite numbers of 0 or more"),
        (row(1, "x", quality="good"), "id 1: 'quality' is 'good', expected a number"),
        (row(1, "x", quality=[]), "expected a number or a list"),
        (row(1, "x", quality=[1, 2], complexity=[1]), "2 turns of quality but 1 of complexity"),
        ({**row(1), "tags": "x, y"}, "expected a list of texts"),
    ],
)
def test_a_wrong_annotation_is_named_and_never_a_number(tmp_path: Path, bad: dict, message: str) -> None:
    files = write(tmp_path / "a.jsonl", [row(0, "x"), bad])
    with pytest.raises(BadMeasurement, match=message):
        Mig(MigConfig(label_graph="identity", **files)).scores(data_of(range(2)))


@pytest.mark.parametrize(
    ("text", "message"),
    [('{"id": 1}\n{"id": 1}\n', "line 2 repeats id 1"), ("{\n", "line 1 is not JSON"), ("[1]\n", "line 1 has no 'id'")],
)
def test_a_broken_annotations_file_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(text)
    with pytest.raises(BadInput, match=message):
        mig.read_rows(path)


@pytest.mark.parametrize(
    "options",
    [
        {"phi": "log"},
        {"label_graph": "none"},
        {"threshold": 1.5},
        {"threshold": -0.1},
        {"prop_weight": -1.0},
        {"b": 1.2},
        {"b": 0.0},
        {"a": 0.0},
        {"alpha": -1.0},
        {"a": math.nan},
        {"valid_tags_sha256": "0"},
    ],
)
def test_options_are_checked(options: dict[str, Any]) -> None:
    with pytest.raises(BadInput):
        MigConfig(**options)


def test_label_vectors_are_the_last_token_whatever_the_batch(tmp_path: Path) -> None:
    import torch
    from safetensors.numpy import load_file

    node = backbone_stage.node(BackboneConfig(name="tiny_random", builder="tiny_random", dtype="float32"))
    artifact = Store(tmp_path / "runs", ExecConfig(device="cpu")).ensure(node)
    write(tmp_path / "a.jsonl", [row(0, "mathematics", "art"), row(1, "a rather long label of many words", "art")])
    mig.main([str(tmp_path / "a.jsonl"), str(loading.model_path(artifact)), str(tmp_path / "v.safetensors")])
    found = load_file(tmp_path / "v.safetensors")
    tokenizer, model = loading.load_tokenizer(artifact), loading.load_model(artifact, "cpu", headless=True)
    assert sorted(found) == ["a rather long label of many words", "art", "mathematics"]
    for label, vector in found.items():
        with torch.inference_mode():
            alone = model(**tokenizer(label, return_tensors="pt")).last_hidden_state[0, -1]
        np.testing.assert_allclose(vector, alone.numpy(), atol=1e-5)
