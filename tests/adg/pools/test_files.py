"""Files that people have: CSV, folders of shards, broken tables, and what is no data at all; one message a fault."""

from __future__ import annotations

import csv
import gzip
import json
import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from adg.artifacts.artifact import Artifact
from adg.artifacts.store import Store
from adg.errors import BadInput
from adg.execution import ExecConfig
from adg.pools import records
from adg.pools import stage as pool_stage
from adg.pools.config import PoolConfig

ROWS = [
    {"id": 5, "instruction": "Say: a, b", "input": "", "output": 'She said "c"\nand left'},
    {"id": 2, "instruction": "鳥を挙げて。", "input": "x\r\ny", "output": "サギ;"},
    {"id": -1, "instruction": "Add\tthem", "input": "1", "output": "2"},
]


def node(path: Path, **config: Any) -> Any:
    return pool_stage.node(PoolConfig(**{"name": "own", "path": str(path), **config}))


def build(path: Path, runs: Path | None = None, **config: Any) -> Artifact:
    return Store(runs or path.parent / "runs", ExecConfig()).ensure(node(path, **config))


def refusal(path: Path, **config: Any) -> str:
    with pytest.raises(BadInput) as caught:
        build(path, **config)
    return str(caught.value)


def lines(*rows: Any) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


# -- CSV ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "mark", "end"), [("a.csv", ",", "\r\n"), ("a.csv", ";", "\n"), ("a.tsv", "\t", "\n")])
def test_csv_gives_the_same_records_as_json_lines(tmp_path: Path, name: str, mark: str, end: str) -> None:
    with open(tmp_path / name, "w", newline="", encoding="utf-8-sig") as file:
        writer = csv.DictWriter(file, list(ROWS[0]), delimiter=mark, lineterminator=end, quoting=csv.QUOTE_ALL)
        writer.writeheader()
        writer.writerows(ROWS)
    (tmp_path / "a.jsonl").write_text(lines(*ROWS))
    assert records.load(build(tmp_path / name)) == records.load(build(tmp_path / "a.jsonl"))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('id,instruction,output\n1,a,"b\nc"\n2,d\n', "line 4: has 2 cells, the header names 3"),
        ('id,instruction,output\n1,a,b\n2,c,"d\n', "line 3: malformed"),
        ("id,instruction,instruction\n1,a,b\n", "line 1: two columns are called 'instruction'"),
        ("instruction,output\n", "holds no rows"),
        ("question,answer\na,b\n", "Set pool.fields.instruction=question pool.fields.output=answer"),
        ("instruction,output\na,\n", "line 2: id 0: empty output"),
        ("id,instruction,output\n1,a,b\n1,c,d\n", "line 3: id 1: the id is already used at line 2"),
    ],
)
def test_faults_of_csv_are_named_with_their_line(tmp_path: Path, content: str, said: str) -> None:
    (tmp_path / "p.csv").write_text(content)
    message = refusal(tmp_path / "p.csv")
    assert said in message and message.count("p.csv: ") <= 2


def test_text_that_is_not_utf8_in_csv(tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_bytes("instruction,output\na,b\nc,é\n".encode("latin-1"))
    assert "line 3: not UTF-8" in refusal(tmp_path / "p.csv")


def test_ids_of_csv_are_numbers_where_all_are(tmp_path: Path) -> None:
    for cells, ids in ((("7", "", "-3"), [-3, 1, 7]), (("7", "x", "07"), ["07", "7", "x"])):
        text = "".join(f"{cell},do {i},x\n" for i, cell in enumerate(cells))
        (tmp_path / "p.csv").write_text("id,instruction,output\n" + text)
        assert [r.id for r in records.load(build(tmp_path / "p.csv"))] == ids


# -- folders -----------------------------------------------------------------------------------------


def shards(folder: Path, *names: str, start: int = 0) -> Path:
    for number, name in enumerate(names, start):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        rows = [{"instruction": f"Do {number}.{i}", "output": "x"} for i in range(2)]
        if name.endswith(".parquet"):
            pq.write_table(pa.Table.from_pylist(rows), folder / name)
        else:
            (folder / name).write_text(lines(*rows))
    return folder


def test_a_folder_of_shards_is_one_pool(tmp_path: Path) -> None:
    folder = shards(tmp_path / "p", "data/b-00001.parquet", "data/b-00000.parquet", "a.parquet")
    (folder / "README.md").write_text("about")
    (folder / ".cache").mkdir()
    (folder / ".cache" / "x.parquet").write_text("no table")
    pool = build(folder)
    assert [r.instruction for r in records.load(pool)] == ["Do 2.0", "Do 2.1", "Do 1.0", "Do 1.1", "Do 0.0", "Do 0.1"]
    assert (pool.info["rows_in"], [r.id for r in records.load(pool)]) == (6, list(range(6)))
    before = node(folder).fingerprint
    other = tmp_path / "elsewhere"
    os.rename(folder, other)
    assert node(other).fingerprint == before
    shards(other, "data/b-00001.parquet", start=7)
    assert node(other).fingerprint != before
    (other / "c.parquet").write_text("no table")
    assert f"{other / 'c.parquet'} is not a readable parquet file" in refusal(other)


def test_faults_in_shards_name_the_file(tmp_path: Path) -> None:
    folder = shards(tmp_path / "p", "a.jsonl", "b.jsonl")
    (folder / "b.jsonl").write_text(
        '{"instruction": "a", "output": "b"}\n{"instruction": \n{"instruction": "", "output": "b"}\n'
    )
    message = refusal(folder)
    assert f"{folder / 'b.jsonl'}: line 2: malformed" in message and "b.jsonl: line 3: id 4: missing" in message


def test_splits_in_a_folder_are_kept_apart(tmp_path: Path) -> None:
    folder = shards(tmp_path / "p", "train-00000-of-00001.parquet", "test-00000-of-00001.parquet", "dev/x.parquet")
    assert [r.instruction for r in records.load(build(folder))] == ["Do 0.0", "Do 0.1"]
    assert [r.instruction for r in records.load(build(folder, split="dev"))] == ["Do 2.0", "Do 2.1"]
    assert "choose one with pool.split=dev" in refusal(folder, split="nope")
    alone = shards(tmp_path / "q", "training.parquet", "latest.parquet")
    assert build(alone).info["rows_in"] == 4, "words that only begin or end as a split's are none"


def test_a_folder_of_several_formats_or_none_is_refused(tmp_path: Path) -> None:
    folder = shards(tmp_path / "p", "a.jsonl", "b.parquet")
    assert "several formats (jsonl, parquet); choose one with pool.format=parquet" in refusal(folder)
    assert build(folder, format="parquet").info["rows_in"] == 2
    (tmp_path / "q").mkdir()
    (tmp_path / "q" / "dataset_info.json5").write_text("")
    assert "holds no data file, only ['dataset_info.json5']" in refusal(tmp_path / "q")


# -- JSON of another shape ---------------------------------------------------------------------------

ROW = {"instruction": "a", "output": "b"}


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.json", json.dumps(ROW), "one object with the fields ['instruction', 'output'], not a list"),
        ("a.json", json.dumps(ROW, indent=1), "one object with the fields"),
        (
            "a.json",
            json.dumps({"messages": [{"role": "user", "content": "a"}]}, indent=1),
            "one object with the fields",
        ),
        (
            "a.json",
            json.dumps({"data": [ROW] * 3}),
            "a list of 3 objects under 'data': write that list alone (jq '.[\"data\"]'",
        ),
        ("a.json", json.dumps({"version": 1, "rows": [ROW]}, indent=1), "a list of 1 objects under 'rows'"),
        ("a.json", json.dumps(ROW, indent=1) * 2, "several values one after another"),
        ("a.json", '"text"', "expected a list of objects, found 'text'"),
        ("a.json", "id: 3", "expected a list of objects, found 'id: 3'"),
        ("a.json", json.dumps(["a", "b", "c"]), "expected objects, found str in every row"),
        ("a.jsonl", json.dumps([ROW] * 3), "begins as a list ('['), expected one object a line; if it is one list set"),
        ("a.jsonl", json.dumps([ROW] * 3, indent=1), "begins as a list"),
        ("a.jsonl", json.dumps(ROW, indent=1), "line 1: an object stands over several lines"),
        ("a.jsonl", "\n" + json.dumps(ROW, indent=1) * 3, "line 2: an object stands over several lines"),
        ("a.jsonl", "1\n2\n3\n", "expected objects, found int in every row"),
    ],
)
def test_json_of_another_shape_is_one_problem(tmp_path: Path, name: str, content: str, said: str) -> None:
    (tmp_path / name).write_text(content)
    message = refusal(tmp_path / name)
    assert said in message and ": 1 problem" in message


def test_the_options_named_for_other_shapes_work(tmp_path: Path) -> None:
    (tmp_path / "list.jsonl").write_text(json.dumps([ROW] * 3, indent=1))
    assert build(tmp_path / "list.jsonl", format="json").info["rows_out"] == 3
    (tmp_path / "lines.json").write_text("1 " + lines(ROW, ROW))
    assert "pool.format=jsonl" in refusal(tmp_path / "lines.json")
    (tmp_path / "list.json").write_text(f"[{json.dumps(ROW)}]")
    assert build(tmp_path / "list.json").info["rows_out"] == 1
    (tmp_path / "two.json").write_text(lines(ROW, ROW))
    assert build(tmp_path / "two.json").info["rows_out"] == 2


# -- no data -----------------------------------------------------------------------------------------

LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 2\n"


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.parquet", "a.csv", "folder/a.parquet"])
@pytest.mark.parametrize(
    ("content", "said"),
    [
        (LFS, "is a Git LFS pointer, the data was not fetched"),
        (b"/annex/objects/SHA256E-s2--00.jsonl\n", "is a git-annex pointer, the data was not fetched"),
        (b"\n<!DOCTYPE html><html>Not found</html>", "is a web page"),
        (gzip.compress(b"{}", mtime=0), "is compressed (gzip)"),
        (b"PK\x03\x04rest", "is a zip archive or a spreadsheet"),
        ("﻿[]".encode("utf-16"), "is UTF-16 text"),
        (b"", "is an empty file"),
    ],
)
def test_what_is_no_data_is_named(tmp_path: Path, name: str, content: bytes, said: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / name).write_bytes(content)
    message = refusal((tmp_path / name).parent if "/" in name else tmp_path / name)
    assert said in message and str(tmp_path / name) in message and "\n" not in message


def test_a_table_under_another_name(tmp_path: Path) -> None:
    pq.write_table(pa.Table.from_pylist([ROW]), tmp_path / "a.jsonl")
    assert "a.jsonl is a parquet file: set pool.format=parquet" in refusal(tmp_path / "a.jsonl")
    assert build(tmp_path / "a.jsonl", format="parquet").info["rows_out"] == 1


# -- tables that cannot be read as a whole -----------------------------------------------------------


def table(path: Path, **columns: Any) -> Path:
    pq.write_table(pa.table({"instruction": ["a", "b", "c"], "output": ["x", "y", "z"], **columns}), path)
    return path


def as_text(*values: bytes) -> pa.Array:
    """Text that is not UTF-8, as other programs write it."""
    binary = pa.array(values, pa.binary())
    return pa.Array.from_buffers(pa.string(), len(binary), binary.buffers())


def test_text_that_is_not_utf8_is_named_by_row_and_column(tmp_path: Path) -> None:
    path = table(tmp_path / "p.parquet", output=as_text(b"x", b"\xff", b"z"))
    message = refusal(path)
    assert (
        f"{path}: row 2: column 'output' cannot be read ('utf-8' codec" in message and "1 problem in 3 rows" in message
    )
    nested = pa.ListArray.from_arrays([0, 1, 2, 3], as_text(b"x", b"y", b"\xfe"))
    assert "row 3: column 'tags' cannot be read" in refusal(table(tmp_path / "q.parquet", tags=nested))


@pytest.mark.parametrize("kind", [pa.timestamp("us"), pa.timestamp("s"), pa.date32(), pa.date64()])
def test_dates_outside_the_calendar_are_named_by_row_and_column(tmp_path: Path, kind: Any) -> None:
    far = {
        "timestamp[us]": 1 << 60,
        "timestamp[s]": 1 << 50,
        "date32[day]": 1 << 30,
        "date64[ms]": 86400000 * (1 << 30),
    }
    integers = pa.array([0, far[str(kind)], None], pa.int32() if kind == pa.date32() else pa.int64())
    message = refusal(table(tmp_path / "p.parquet", day=integers.view(kind)))
    assert "row 2: column 'day' cannot be read" in message and message.count("cannot be read") == 1


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("image", [None, b"\x89PNG", b"\x89PNG"]),
        ("output", [None, b"y", b"z"]),
        ("parts", [None, [{"bytes": b"\x89"}], [{"bytes": b"\x89"}]]),
    ],
)
def test_a_column_of_bytes_is_named_once(tmp_path: Path, name: str, values: list[Any]) -> None:
    message = refusal(table(tmp_path / "p.parquet", **{name: values}), empty_output="keep")
    assert f"row 2: column '{name}' holds bytes, which JSON cannot hold (2 rows); write the data again" in message
    assert "1 problem in 3 rows" in message


def test_columns_of_one_name_are_refused(tmp_path: Path) -> None:
    twice = pa.table([["a"], ["b"], ["c"]], names=["instruction", "output", "output"])
    pq.write_table(twice, tmp_path / "p.parquet")
    assert "more than one column called 'output'" in refusal(tmp_path / "p.parquet")


# -- names -------------------------------------------------------------------------------------------


def test_the_home_folder_and_names_beyond_ascii(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "données 鳥.jsonl").write_text(lines(ROW))
    assert build(Path("~/données 鳥.jsonl"), runs=tmp_path / "runs").info["rows_out"] == 1
    with pytest.raises(BadInput, match="write the folder's whole path"):
        node(Path("~nobody-of-that-name/x.jsonl"))
