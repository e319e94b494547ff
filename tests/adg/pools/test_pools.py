"""Pools: every way in gives the same records, every fault is named, nothing is lost silently."""

from __future__ import annotations

import dataclasses
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from adg.artifacts.artifact import Artifact
from adg.artifacts.files import sha256_file, sha256_text
from adg.artifacts.store import Store
from adg.errors import BadInput, HarnessError
from adg.execution import ExecConfig
from adg.pools import records, sources
from adg.pools import stage as pool_stage
from adg.pools.config import FieldMap, PoolConfig
from adg.pools.records import Record

COMMIT = "0123456789abcdef0123456789abcdef01234567"
ROWS = [
    {"id": 7, "instruction": "Name a bird.", "input": "", "output": "Heron.", "tags": ["short"], "quality": 0.5},
    {"id": "b", "instruction": "Sum up.", "input": "Two\u2028lines", "output": "One.", "tags": [], "quality": None},
    {"id": 2, "instruction": "鳥を挙げて。", "input": "", "output": "サギ。🐦", "tags": None, "quality": 1.0},
    {"id": "B", "instruction": "Say {nothing}.", "input": "  ", "output": ""},
]
ORDER = ["2", "7", '"B"', '"b"']


def jsonl(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join((r if isinstance(r, str) else json.dumps(r, ensure_ascii=False)) + "\n" for r in rows))
    return path


def build(path: Path, runs: Path | None = None, **config: Any) -> Artifact:
    node = pool_stage.node(PoolConfig(**{"name": "own", "path": str(path), "empty_output": "keep", **config}))
    return Store(runs or path.parent / "runs", ExecConfig()).ensure(node)


def refusal(path: Path, **config: Any) -> str:
    with pytest.raises(BadInput) as caught:
        build(path, **config)
    return str(caught.value)


def lines(artifact: Artifact, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in artifact.file(name).read_bytes().splitlines()]


# -- ids ---------------------------------------------------------------------------------------------

IDS = st.one_of(st.integers(), st.text(st.characters(exclude_categories=["Cs"]), min_size=1))


@given(st.lists(IDS, unique_by=lambda i: (type(i), i)))
def test_keys_are_unique_reversible_and_ordered(ids):
    assert len({records.key(i) for i in ids}) == len(ids)
    assert [records.from_key(records.key(i)) for i in ids] == ids
    ordered = sorted(ids, key=records.order)
    numbers = [i for i in ids if isinstance(i, int)]
    assert ordered == sorted(numbers) + sorted(i for i in ids if isinstance(i, str))


def test_integer_and_text_ids_differ():
    assert records.key(12) == "12" and records.key("12") == '"12"' and records.key("é") == '"é"'


# -- ways in -----------------------------------------------------------------------------------------


def test_every_format_gives_the_same_records(tmp_path):
    rows = [{**row, "id": i} for i, row in enumerate(ROWS)]  # one type of id, for parquet
    jsonl(tmp_path / "a.jsonl", rows)
    jsonl(tmp_path / "lines.json", rows)
    (tmp_path / "b.json").write_text(json.dumps(rows, indent=2))
    (tmp_path / "bom.json").write_bytes(b"\xef\xbb\xbf" + json.dumps(rows).encode())
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "c.parquet")
    names = ["a.jsonl", "lines.json", "b.json", "bom.json", "c.parquet"]
    loaded = [records.load(build(tmp_path / name)) for name in names]
    assert all(other == loaded[0] for other in loaded)
    assert loaded[0] == [Record(r["id"], r["instruction"], r["input"], r["output"]) for r in rows]


def test_canonical_order_original_fields_and_counts(tmp_path):
    pool = build(jsonl(tmp_path / "p.jsonl", ROWS))
    assert [r.key for r in records.load(pool)] == ORDER
    original = records.load_original(pool)
    assert list(original) == ORDER
    assert original == {records.key(row["id"]): row for row in ROWS}
    assert pool.file("dropped.jsonl").read_bytes() == b""
    expected = {"rows_in": 4, "rows_out": 4, "sampled_from": 4, "dropped": 0, "empty_output": 1, "failed": []}
    assert {name: pool.info[name] for name in expected} == expected


def test_missing_id_is_the_position(tmp_path):
    rows = ["", {"instruction": "a", "output": "x"}, {"id": None, "instruction": "b", "output": "y"}]
    assert [r.id for r in records.load(build(jsonl(tmp_path / "p.jsonl", rows)))] == [0, 1]


def test_position_that_meets_a_given_id_is_refused(tmp_path):
    rows = [{"id": 1, "instruction": "a", "output": "x"}, {"instruction": "b", "output": "y"}]
    assert "line 2: id 1: the id is already used at line 1" in refusal(jsonl(tmp_path / "p.jsonl", rows))


def test_field_mapping(tmp_path):
    rows = [{"uid": "q1", "question": "Why?", "context": "Because", "answer": "So."}]
    fields = FieldMap(id="uid", instruction="question", input="context", output="answer")
    pool = build(jsonl(tmp_path / "p.jsonl", rows), fields=fields)
    assert records.load(pool) == [Record("q1", "Why?", "Because", "So.")]


def test_a_mapped_field_that_no_row_has_is_named_once(tmp_path):
    path = jsonl(tmp_path / "p.jsonl", [{"question": "Why?", "output": "So."}] * 50)
    text = refusal(path)
    assert "no row has the field 'instruction'; rows have ['question', 'output']" in text
    assert "Set pool.fields.instruction=question\n" in text and text.count("no row has") == 1
    assert "pool.fields.output=<field>, or pool.fields.output=null" in refusal(
        path, fields=FieldMap(instruction="question", output="reply")
    )
    assert "'contxt'" in refusal(path, fields=FieldMap(instruction="question", input="contxt"))
    only = FieldMap(instruction="question", output=None)
    assert records.load(build(path, fields=only))[0].output == ""


@pytest.mark.parametrize("layout", ["conversations from value", "messages role content"])
def test_conversations(tmp_path, layout):
    name, role, text = layout.split()

    def said(*turns: tuple[str, str]) -> dict[str, Any]:
        return {name: [{role: who, text: what} for who, what in turns]}

    human, answer = ("human", "gpt") if role == "from" else ("user", "assistant")
    rows = [
        said((human, "Hi"), (answer, "Hello")),
        said(("system", "Be kind"), (human, "Q1"), (answer, "A1"), (human, "Q2"), (answer, "A2")),
        said((answer, "Welcome"), (human, "Q"), (human, "more"), (answer, "A")),
        said((human, "Unanswered")),
    ]
    pool = build(jsonl(tmp_path / "p.jsonl", rows))
    assert [(r.instruction, r.input, r.output) for r in records.load(pool)] == [
        ("Hi", "", "Hello"),
        ("Q1", "", "A1"),
        ("Q\nmore", "", "A"),
        ("Unanswered", "", ""),
    ]
    assert (pool.info["multi_turn"], pool.info["system_turn"], pool.info["empty_output"]) == (2, 1, 1)
    assert records.load_original(pool)["1"] == rows[1]


def test_faulty_conversations_are_listed(tmp_path):
    rows = [
        {"conversations": [{"from": "gpt", "value": "A"}]},
        {"conversations": "Hi"},
        {"conversations": [{"from": "robot", "value": "A"}, {"from": "human", "value": 3}]},
    ]
    text = refusal(jsonl(tmp_path / "p.jsonl", rows))
    assert "line 1: id 0: 'conversations' has no human turn" in text
    assert "line 2: id 1: 'conversations' is str, expected a list" in text
    assert "line 3: id 2: 'conversations' turn 1 has role 'robot'" in text
    assert "line 3: id 2: 'conversations' turn 2 has no valid text, found int" in text


# -- faults ------------------------------------------------------------------------------------------


def test_all_problems_at_once_with_file_line_and_id(tmp_path):
    rows = [
        {"id": 1, "instruction": "fine", "output": "x"},
        '{"id": 2, "instruction": "cut',
        {"id": 3, "instruction": " \n", "output": "x"},
        {"id": 1, "instruction": "again", "output": "x"},
        {"id": True, "instruction": "a", "output": "x"},
        {"id": 2.0, "instruction": "a", "output": "x"},
        {"id": "s", "instruction": ["a"], "input": 4, "output": {"t": 1}},
        "[1, 2]",
        {"id": 9, "output": "x"},
        '{"id": 10, "instruction": "a", "output": NaN}',
        {"id": "", "instruction": "a"},
        '{"id": 12, "instruction": "\\ud800", "output": "x"}',
    ]
    path = jsonl(tmp_path / "p.jsonl", rows)
    text = refusal(path)
    expected = [
        "line 2: malformed",
        "line 3: id 3: missing or empty instruction",
        "line 4: id 1: the id is already used at line 1",
        "line 5: no usable id: 'id' is True (bool)",
        "line 6: no usable id: 'id' is 2.0 (float)",
        "line 7: id \"s\": 'instruction' is ['a'] (list), expected text",
        "line 7: id \"s\": 'input' is 4 (int)",
        "line 7: id \"s\": 'output' is {'t': 1} (dict)",
        "line 8: expected an object, found list",
        "line 9: id 9: missing or empty instruction",
        "line 10: malformed (NaN is not JSON)",
        "line 11: no usable id: 'id' is ''",
        "line 12: id 12: 'instruction' holds half of a surrogate pair",
    ]
    for part in expected:
        assert f"{path}: {part}" in text, part
    assert f"{len(expected)} problems in 12 rows" in text and "line 1:" not in text
    assert not list((tmp_path / "runs").rglob("manifest.json"))


def test_the_printed_list_is_capped(tmp_path):
    faulty = [{"id": i, "instruction": "", "output": "x"} for i in range(33)]
    text = refusal(jsonl(tmp_path / "p.jsonl", [*faulty, {"instruction": "a", "output": "x"}]))
    assert text.count(": missing or empty instruction\n") == 20 and "33 problems" in text and "and 13 more" in text
    assert "\n33 x missing or empty instruction: pool.empty_instruction=drop leaves such rows out\n" in text
    text = refusal(jsonl(tmp_path / "p.jsonl", faulty))
    assert "\n33 x missing or empty instruction\n" in text and "=drop" not in text, "nothing would be left"


@pytest.mark.parametrize(
    ("content", "part"),
    [
        ('[\n {"instruction": "a", "output": "b"},\n {"instruction": }\n]', "line 3: malformed"),
        ('[\n {"instruction": "a", "output": "b"}\n {"instruction": "c"}]', "line 3: malformed (expected ',' or ']'"),
        ('[\n {"instruction": "a", "output": "b"},\n]', "line 3: malformed"),
        ('[{"instruction": "a", "output": "b"}] tail', "text after the closing bracket: 'tail'"),
        ('[\n\n {"instruction": "", "output": "b"}]', "line 3: id 0: missing or empty instruction"),
        ('[\n {"instruction": "a", "output": "b"', "line 2: malformed"),
        ("[]", "holds no rows"),
        ("", "an empty file"),
        ('{"rows": [', "line 1: malformed"),
    ],
)
def test_faulty_json(tmp_path, content, part):
    path = tmp_path / "p.json"
    path.write_text(content)
    assert part in refusal(path)


def test_other_unreadable_files(tmp_path):
    (tmp_path / "a.parquet").write_bytes(b"no parquet")
    assert "not a readable parquet file" in refusal(tmp_path / "a.parquet")
    (tmp_path / "a.jsonl").write_bytes(b'{"instruction": "\xff", "output": "x"}\n')
    assert "line 1: malformed" in refusal(tmp_path / "a.jsonl")
    (tmp_path / "a.json").write_bytes(b'[{"instruction": "\xff", "output": "x"}]')
    assert "not UTF-8" in refusal(tmp_path / "a.json")
    (tmp_path / "a.txt").write_text("x")
    assert "set pool.format" in refusal(tmp_path / "a.txt")
    assert f"no file {tmp_path / 'gone.jsonl'}" in refusal(tmp_path / "gone.jsonl")
    assert "pool.path=" in refusal(tmp_path / "gone.jsonl")


def test_expected_rows_and_digest(tmp_path):
    path = jsonl(tmp_path / "p.jsonl", ROWS)
    assert "has 4 rows, expected 5" in refusal(path, expected_rows=5)
    with pytest.raises(BadInput, match="expected 0000"):
        pool_stage.node(PoolConfig(name="own", path=str(path), sha256="0" * 64))
    digest = sha256_file(path)
    assert build(path, sha256=digest, expected_rows=4).info["sha256"] == digest


def test_a_file_that_changes_between_plan_and_build_is_refused(tmp_path):
    path = jsonl(tmp_path / "p.jsonl", ROWS)
    node = pool_stage.node(PoolConfig(name="own", path=str(path)))
    jsonl(path, ROWS[:2])
    with pytest.raises(BadInput, match="it changed"):
        Store(tmp_path / "runs", ExecConfig()).ensure(node)


@pytest.mark.parametrize(
    "config",
    [
        {"format": "xml"},
        {"empty_output": "zero"},
        {"over_long": "cut"},
        {"empty_instruction": "keep"},
        {"rows": 0},
        {"max_chars": -1},
        {"sha256": "abc"},
    ],
)
def test_config_values_are_checked(config):
    with pytest.raises(BadInput, match=rf"pool\.{next(iter(config))} is"):
        PoolConfig(**config)


@pytest.mark.parametrize(
    "config", [{}, {"path": "a", "hub": "b/c"}, {"path": "???"}, {"hub": "b/c", "sha256": "0" * 64}]
)
def test_the_source_must_be_said(config):
    with pytest.raises(BadInput, match="pool 'own'"):
        pool_stage.node(PoolConfig(name="own", **config))


# -- what is left out --------------------------------------------------------------------------------


def test_dropped_rows_are_counted_and_listed(tmp_path):
    rows = [*ROWS, {"id": 1, "instruction": "", "output": "x"}, {"id": 9, "instruction": "a" * 90, "output": ""}]
    path = jsonl(tmp_path / "p.jsonl", rows)
    pool = build(path, empty_instruction="drop", empty_output="drop", max_chars=80, over_long="drop")
    assert [r.key for r in records.load(pool)] == ["2", "7", '"b"'] == list(records.load_original(pool))
    assert lines(pool, "dropped.jsonl") == [
        {"id": "1", "reason": "missing or empty instruction"},
        {"id": "9", "reason": "empty output; over-long (90 characters, limit 80)"},
        {"id": '"B"', "reason": "empty output"},
    ]
    info = pool.info
    assert (info["rows_in"], info["rows_out"], info["dropped"]) == (6, 3, 3)
    assert (info["empty_instruction"], info["empty_output"], info["over_long"]) == (1, 2, 1)


def test_kept_refused_and_all_dropped(tmp_path):
    rows = [{"instruction": "long one", "output": ""}]
    path = jsonl(tmp_path / "p.jsonl", rows)
    kept = build(path, max_chars=3)
    assert (kept.info["rows_out"], kept.info["over_long"], kept.info["empty_output"]) == (1, 1, 1)
    text = refusal(path, max_chars=3, over_long="refuse", empty_output="refuse")
    assert "line 1: id 0: over-long (8 characters, limit 3)" in text and "line 1: id 0: empty output" in text
    assert "all 1 rows would be dropped" in refusal(path, empty_output="drop")


# -- sampling and identity ---------------------------------------------------------------------------


@settings(max_examples=15, deadline=None)
@given(st.permutations(range(30)), st.integers(1, 30), st.integers(0, 5))
def test_the_sample_depends_on_ids_not_on_file_order(shuffled, rows, seed):
    with tempfile.TemporaryDirectory() as folder:
        row = [{"id": i, "instruction": f"do {i}", "output": "x"} for i in range(30)]
        a = records.load(build(jsonl(Path(folder) / "a.jsonl", row), rows=rows, seed=seed))
        b = records.load(build(jsonl(Path(folder) / "b.jsonl", [row[i] for i in shuffled]), rows=rows, seed=seed))
        assert a == b and len({r.id for r in a}) == rows
        assert a == sorted(a, key=lambda r: records.order(r.id))


def test_samples_differ_by_seed_and_cannot_exceed_the_pool(tmp_path):
    path = jsonl(tmp_path / "p.jsonl", [{"instruction": f"do {i}", "output": "x"} for i in range(40)])
    drawn = [tuple(r.id for r in records.load(build(path, rows=10, seed=s))) for s in (0, 1)]
    assert drawn[0] != drawn[1]
    assert len(records.load(build(path, rows=40))) == 40
    assert "has 40 usable rows but pool.rows=41" in refusal(path, rows=41)


def test_identity_is_content_not_name_place_or_unused_options(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    here, there = jsonl(tmp_path / "p.jsonl", ROWS), jsonl(tmp_path / "elsewhere" / "q.json", ROWS)

    def print_of(path: Path, **config: Any) -> str:
        return pool_stage.node(PoolConfig(**{"name": "own", "path": str(path), **config})).fingerprint

    assert print_of(here) == print_of(there) == print_of(here, name="x", seed=3, over_long="drop", paper="z")
    different = [
        {"rows": 3},
        {"rows": 3, "seed": 1},
        {"empty_output": "drop"},
        {"max_chars": 9},
        {"fields": FieldMap(id="k")},
    ]
    assert len({print_of(here), *(print_of(here, **config) for config in different)}) == 6
    assert str(tmp_path) not in json.dumps(pool_stage.node(PoolConfig(name="own", path=str(here))).payload)
    jsonl(there, ROWS[:3])
    assert print_of(here) != print_of(there)


def test_a_second_build_is_byte_identical(tmp_path):
    path = jsonl(tmp_path / "p.jsonl", ROWS)
    a, b = (build(path, runs=tmp_path / name, rows=3) for name in ("one", "two"))
    assert a.manifest["files"] == b.manifest["files"] and len(a.manifest["files"]) == 4
    assert len(records.load_left_out(a)) == 1


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(IDS, *[st.text(st.characters(exclude_categories=["Cs"]))] * 3)))
def test_saved_rows_come_back_in_the_same_order(rows):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "records.parquet"
        records.save_rows(path, [Record(*row) for row in rows])
        assert records.load_rows(path) == [Record(*row) for row in rows]


def test_original_rows_are_strict_json(tmp_path):
    import datetime
    import decimal

    rows = [
        {
            "instruction": "a",
            "output": "b",
            "day": datetime.date(2024, 2, 3),
            "score": float("nan"),
            "price": decimal.Decimal("1.50"),
            "nested": {"x": [float("inf"), 1.0]},
        }
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "p.parquet")
    row = records.load_original(build(tmp_path / "p.parquet"))["0"]
    assert row == {
        "instruction": "a",
        "output": "b",
        "day": "2024-02-03",
        "score": None,
        "price": "1.50",
        "nested": {"x": [None, 1.0]},
    }
    binary = [{"instruction": "a", "output": "b", "image": b"\x00"}]
    pq.write_table(pa.Table.from_pylist(binary), tmp_path / "q.parquet")
    assert "holds bytes" in refusal(tmp_path / "q.parquet")
    odd = jsonl(tmp_path / "p.jsonl", ['{"instruction": "a", "output": "b", "extra": "\\ud83d"}'])
    assert records.load_original(build(odd))["0"]["extra"] == "\ud83d"


# -- embedded and hub pools --------------------------------------------------------------------------


def test_embedded_pools_by_prefix(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "MINI", tmp_path)
    jsonl(tmp_path / "small.jsonl", ROWS)
    node = pool_stage.node(PoolConfig(name="mini_small", path="mini:small.jsonl", rows=2, empty_output="keep"))
    assert node.label == "mini_small-2"
    assert Store(tmp_path / "runs", ExecConfig()).ensure(node).info["rows_out"] == 2
    with pytest.raises(BadInput, match=r"gone\.jsonl.*small\.jsonl"):
        pool_stage.node(PoolConfig(name="mini_gone", path="mini:gone.jsonl"))


def hub_cache(root: Path, files: dict[str, str]) -> None:
    """A repository as the hub's client keeps it on disk after a download."""
    for name, content in files.items():
        path = root / "datasets--some--pool" / "snapshots" / COMMIT / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)


def hub_pool(**config: Any) -> PoolConfig:
    return PoolConfig(**{"name": "hub", "hub": "some/pool", "revision": COMMIT, **config})


def test_a_hub_file_at_its_commit(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    content = json.dumps([{"instruction": "a", "output": "b"}])
    hub_cache(tmp_path / "hub", {"deep/data.json": content})
    runs = Store(tmp_path / "runs", ExecConfig(offline=True))
    pool = runs.ensure(pool_stage.node(hub_pool(file="deep/data.json", sha256=sha256_text(content))))
    assert records.load(pool) == [Record(0, "a", "", "b")]
    assert pool.info["source"] == "some/pool@01234567/deep/data.json"
    with pytest.raises(BadInput, match="has sha256"):
        runs.ensure(pool_stage.node(hub_pool(file="deep/data.json", sha256="0" * 64)))
    other = dataclasses.replace(hub_pool(file="deep/data.json"), revision=COMMIT[::-1])
    with pytest.raises(HarnessError, match=r"exec\.offline.*pool\.path="):  # another commit is never used instead
        runs.ensure(pool_stage.node(other))


def test_a_hub_dataset_through_its_own_layout(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")
    head = "---\nconfigs:\n- config_name: default\n  data_files:\n  - split: train\n    path: data/*.jsonl\n---\n"
    rows = [{"instruction": f"do {i}", "input": "", "output": "x", "text": "t"} for i in range(3)]
    hub_cache(tmp_path / "hub", {"README.md": head, "data/a.jsonl": "\n".join(map(json.dumps, rows))})
    runs = Store(tmp_path / "runs", ExecConfig(offline=True))
    pool = runs.ensure(pool_stage.node(hub_pool(expected_rows=3)))
    assert [r.instruction for r in records.load(pool)] == ["do 0", "do 1", "do 2"]
    assert records.load_original(pool)["1"] == rows[1]
    with pytest.raises(BadInput, match=r"pool\.split"):
        runs.ensure(pool_stage.node(hub_pool(split="nope")))


@pytest.mark.parametrize("revision", ["???", None, "main", "0123456"])
def test_a_hub_pool_without_a_commit_is_planned_but_not_built(tmp_path, revision):
    node = pool_stage.node(hub_pool(file="a.json", revision=revision))
    assert len(node.fingerprint) == 64
    with pytest.raises(BadInput, match=r"Set pool\.revision=<commit>"):
        Store(tmp_path, ExecConfig(offline=True)).ensure(node)


def test_the_configs_fit_the_dataclass(root):
    found = {}
    for path in sorted((root / "conf" / "pool").glob("*.yaml")):
        whole = OmegaConf.merge(
            {"profile": {"rows": 48, "heldout": 8}}, OmegaConf.load(path)
        )  # embedded pools name the profile's
        values = {key: value for key, value in OmegaConf.to_container(whole, resolve=True).items() if key != "profile"}
        merged = OmegaConf.merge(OmegaConf.structured(PoolConfig), values)
        found[path.stem] = OmegaConf.to_object(merged)
        assert found[path.stem].name == path.stem
    for name, rows in (("alpaca_gpt4", 52002), ("wizardlm", 70000), ("cot", 74771)):
        cfg = found[name]
        assert cfg.expected_rows == rows and len(cfg.revision) == 40 and cfg.paper == name
        assert pool_stage.node(cfg).folder.startswith(f"pool/{name}-")
    assert found["mini_cot"].path == "mini:cot.jsonl" and found["mini_cot"].paper is None
    own = {name for name, cfg in found.items() if cfg.empty_output == "refuse"}
    assert own == {"local", "chinese"}, "a user's own data; the others keep every row, as the paper's pools do"


# -- real pools --------------------------------------------------------------------------------------

REAL = {  # rows, empty outputs
    "alpaca": (52002, 28),
    "alpaca_gpt4_partial": (9376, None),
    "alpaca_gpt4_zh_1k": (900, None),
    "alpaca_zh_9k": (8944, None),
    "cot_partial": (32943, None),
    "dolly_3k": (2796, None),
    "wizardlm_evol_partial": (900, None),
}


def test_real_pools_load_in_seconds(shared_dir, tmp_path):
    for name, (rows, empty) in REAL.items():
        path = shared_dir / "data" / "pools" / f"{name}.parquet"
        started = time.monotonic()
        pool = build(path, runs=tmp_path / "runs", expected_rows=rows)
        loaded = records.load(pool)
        seconds = time.monotonic() - started
        assert len(loaded) == rows and loaded == sorted(loaded, key=lambda r: r.id)
        assert empty is None or pool.info["empty_output"] == empty
        assert seconds < 30, f"{name}: {seconds:.1f} s"
    source = pq.read_table(shared_dir / "data" / "pools" / "wizardlm_evol_partial.parquet").to_pylist()
    assert [dataclasses.asdict(r) for r in loaded] == source
