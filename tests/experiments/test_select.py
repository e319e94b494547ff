"""``experiments.select``: what it writes, and that it replaces nothing that the user has."""

from __future__ import annotations

import csv
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import experiments.run
from adg.errors import BadInput, BadMeasurement
from experiments import outputs
from experiments.compose import compose
from experiments.quoting import quoted
from experiments.select import select

pytestmark = pytest.mark.usefixtures("sections_in_common")

ROWS = [
    {"id": i, "instruction": f"Say {i}.", "output": f"It is, say, {i}\nor so", "tags": ["a", str(i)], "more": None}
    for i in range(6)
]


def jsonl(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return path


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture
def choose(tmp_path: Path) -> Callable[..., Path]:
    """Three of a pool's rows at random, in this process."""

    def run(pool: Path, out: str | Path, *more: str) -> Path:
        common = ["profile=own", "selector=random", "budget=3", f"exec.runs={tmp_path / 'runs'}"]
        return select(compose(quoted([*common, f"pool.path={pool}", f"out={out}", *more])))

    return run


# -- what is written ---------------------------------------------------------------------------------


def test_every_format_holds_the_same_rows(choose: Callable[..., Path], tmp_path: Path) -> None:
    pool = jsonl(tmp_path / "pool.jsonl", ROWS)
    lines, listed, table, cells = (choose(pool, tmp_path / f"a{i}.{end}") for i, end in enumerate(outputs_ends()))
    rows = read(lines)
    assert len(rows) == 3 and all(row in ROWS for row in rows)
    assert json.loads(listed.read_text()) == rows
    assert pq.read_table(table).to_pylist() == rows
    with open(cells, newline="") as file:
        found = list(csv.DictReader(file))
    assert [(row["id"], row["output"], json.loads(row["tags"]), row["more"]) for row in found] == [
        (str(row["id"]), row["output"], row["tags"], "") for row in rows
    ]
    for number in range(4):
        scores = read(tmp_path / f"a{number}.scores.jsonl")
        assert [row["id"] for row in scores] == list(range(6))
        assert json.loads((tmp_path / f"a{number}.manifest.json").read_text())["stage"] == "subset"


def outputs_ends() -> list[str]:
    ends = [end.removeprefix(".") for end in outputs.WRITERS]
    assert ends == ["jsonl", "json", "parquet", "csv"]
    return ends


def test_no_fault_is_put_into_rows_that_are_chosen(choose: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="rows are chosen from the pool as it is"):
        choose(jsonl(tmp_path / "pool.jsonl", ROWS), tmp_path / "a.jsonl", "pool.corrupt=0.5")
    assert not (tmp_path / "a.jsonl").exists()


def test_what_a_format_cannot_hold_is_refused_before_the_work(choose: Callable[..., Path], tmp_path: Path) -> None:
    mixed = jsonl(tmp_path / "mixed.jsonl", [*ROWS[:4], {"id": "x", "instruction": "Say.", "output": "y"}])
    with pytest.raises(BadInput, match=r"parquet cannot hold the pool's field 'id' .*\.jsonl"):
        choose(mixed, tmp_path / "out.parquet")
    half = jsonl(tmp_path / "half.jsonl", ROWS[:4])
    half.write_text(half.read_text() + '{"instruction": "Say.", "output": "y", "more": "\\ud800"}\n')
    for end in ("parquet", "csv"):
        with pytest.raises(BadInput, match=r"cannot hold .*ends with \.jsonl"):
            choose(half, tmp_path / f"out.{end}")
    assert not list((tmp_path / "runs").glob("subset/*")) and not list(tmp_path.glob("out*"))
    assert choose(half, tmp_path / "out.jsonl", "budget=5").read_text().count("\n") == 5


def test_every_row_of_the_file_has_its_line_in_the_scores(
    choose: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [
        *ROWS,
        {"id": "s", "instruction": "Say nothing.", "output": " "},
        {"id": 9, "instruction": "", "output": "x"},
    ]
    pool = jsonl(tmp_path / "pool.jsonl", rows)
    out = choose(pool, tmp_path / "out.jsonl", "pool.empty_output=drop", "pool.empty_instruction=drop", "pool.rows=5")
    scores = read(tmp_path / "out.scores.jsonl")
    assert [row["id"] for row in scores] == [0, 1, 2, 3, 4, 5, 9, "s"]
    reasons = {row["id"]: row["reason"] for row in scores}
    assert reasons["s"] == "dropped: empty output" and reasons[9] == "dropped: missing or empty instruction"
    assert list(reasons.values()).count("not drawn (pool.rows)") == 1
    assert {row["id"] for row in scores if row["selected"] is not None} == {row["id"] for row in read(out)}
    assert len({tuple(row) for row in scores}) == 1, "every line has the same fields"
    said = capsys.readouterr().out
    assert f"3 of 8 records, 2 dropped, 1 not drawn (pool.rows) -> {out}" in said
    assert "2 of 8 rows are dropped" in said


def test_what_was_made_of_chats_is_said_with_a_count(
    choose: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def turns(*texts: str) -> list[dict[str, str]]:
        return [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(texts)]

    chats = [{"messages": turns("Hi", "Hello", "And?", "Well")}] * 2 + [{"messages": turns("Hi", "Hello")}] * 3
    choose(jsonl(tmp_path / "p.jsonl", chats), tmp_path / "out.jsonl")
    said = capsys.readouterr().out
    assert "2 of 5 rows have further turns (or a history): of a chat the first question and its answer are used" in said


# -- nothing of the user's ---------------------------------------------------------------------------


def test_no_output_is_the_pool_by_any_name(choose: Callable[..., Path], tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    pool = jsonl(tmp_path / "pool.scores.jsonl", ROWS)
    content = pool.read_bytes()
    (tmp_path / "link.jsonl").symlink_to(pool)
    os.link(pool, tmp_path / "hard.jsonl")
    (tmp_path / "other").symlink_to(tmp_path)
    names = ["pool.scores.jsonl", "sub/../pool.scores.jsonl", "link.jsonl", "hard.jsonl", "other/pool.scores.jsonl"]
    names += ["pool.jsonl", "pool.csv", "sub/../pool.parquet", "other/pool.json"]  # their scores would be the pool
    for name in names:
        with pytest.raises(BadInput, match=r"what pool\.path reads"):
            choose(pool, tmp_path / name, "overwrite=true")
    linked = tmp_path / "linked.jsonl"
    linked.symlink_to(pool)
    with pytest.raises(BadInput, match=r"what pool\.path reads"):
        choose(linked, pool, "overwrite=true")
    assert pool.read_bytes() == content and (tmp_path / "link.jsonl").is_symlink()
    assert not (tmp_path / "runs").exists()


def test_no_output_is_anything_else_that_is_read(choose: Callable[..., Path], tmp_path: Path) -> None:
    shards = tmp_path / "shards"
    (shards / "deep").mkdir(parents=True)
    jsonl(shards / "a.jsonl", ROWS[:3])
    jsonl(shards / "deep" / "b.jsonl", ROWS[3:])
    outside = jsonl(tmp_path / "outside.jsonl", [{**row, "id": row["id"] + 10} for row in ROWS])
    (shards / "c.jsonl").symlink_to(outside)
    for name in ("shards/a.jsonl", "shards/new.jsonl", "shards/deep/new.jsonl", "outside.jsonl"):
        with pytest.raises(BadInput, match=r"what pool\.path.* reads"):
            choose(shards, tmp_path / name, "overwrite=true")
    notes = jsonl(tmp_path / "notes.jsonl", ROWS)
    mig = ["selector=mig", f"selector.annotations={notes}"]
    with pytest.raises(BadInput, match=r"what selector\.annotations reads"):
        choose(outside, notes, *mig, "overwrite=true")
    model = tmp_path / "model"
    model.mkdir()
    with pytest.raises(BadInput, match=r"what backbone\.path reads"):
        choose(outside, model / "subset.jsonl", "backbone.builder=null", f"backbone.path={model}")


def test_other_files_are_replaced_on_request_alone(choose: Callable[..., Path], tmp_path: Path) -> None:
    pool, out = jsonl(tmp_path / "pool.jsonl", ROWS), tmp_path / "out.jsonl"
    for name in ("out.jsonl", "out.scores.jsonl", "out.manifest.json"):
        (tmp_path / name).write_text("mine")
        with pytest.raises(BadInput, match=rf"{name} exists already; overwrite=true replaces it"):
            choose(pool, out)
        assert (tmp_path / name).read_text() == "mine"
        (tmp_path / name).unlink()
    choose(pool, out)
    with pytest.raises(BadInput, match="overwrite=true replaces them, also where an earlier run of the same command"):
        choose(pool, out)
    kept = jsonl(tmp_path / "kept.jsonl", ROWS[:1])
    out.unlink()
    out.symlink_to(kept)
    choose(pool, out, "overwrite=true")
    assert len(read(out)) == 3 and read(kept) == ROWS[:1], "a link is replaced, not what it points to"


def test_a_file_that_appears_meanwhile_is_kept(
    choose: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out.jsonl"
    monkeypatch.setattr("experiments.select.refuse_budget", lambda *_: out.write_text("mine"))
    with pytest.raises(BadInput, match="exists already"):
        choose(jsonl(tmp_path / "pool.jsonl", ROWS), out)
    assert out.read_text() == "mine"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("folder", r"is a folder; name a file in it, out=.*/folder/subset\.jsonl, or end it"),
        ("folder.jsonl", "is a folder"),
        ("out.txt", r"cannot write '\.txt'; expected a name that ends with \.jsonl, \.json, \.parquet, \.csv"),
        ("out", "cannot write ''"),
        ("gone/out.jsonl", "create it first"),
        ("pool.jsonl/out.jsonl", "does not exist"),
        ("x" * 240 + ".jsonl", "too long"),
        ("/proc/out.jsonl", "nothing can be written into /proc"),
        ("pipe.jsonl", "is no file"),
    ],
)
def test_places_where_nothing_can_be_written_are_refused_before_the_work(
    choose: Callable[..., Path], tmp_path: Path, name: str, said: str
) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder.jsonl").mkdir()
    os.mkfifo(tmp_path / "pipe.jsonl")
    pool = jsonl(tmp_path / "pool.jsonl", ROWS)
    with pytest.raises(BadInput, match=said):
        choose(pool, tmp_path / name)
    assert not (tmp_path / "runs").exists() and not list(tmp_path.rglob("*.tmp")) and not list(tmp_path.rglob(".*"))


# -- remedies ----------------------------------------------------------------------------------------


def test_each_remedy_for_long_prompts_works_alone(
    choose: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the message of a selection names is typed as it stands, and the selection ends."""
    long = [{"id": i, "instruction": "word " * 3000, "output": "x" * i} for i in (7, 8)]
    pool = jsonl(tmp_path / "pool.jsonl", [*ROWS, *long])
    adg = ["selector=adg", "backbone=tiny_random", "sampling.max_new_tokens=4", "exec.device=cpu"]
    with pytest.raises(BadMeasurement, match=r"2 of 8 records cannot be sampled \(first: record 7") as caught:
        choose(pool, tmp_path / "out.jsonl", *adg)
    options = re.findall(
        r"(?:(?:pool|sampling|exec|embedding|finetune)\.\w+=\w+ ?)+", str(caught.value).partition("may; ")[2]
    )
    assert [option.split("=")[0] for option in options] == ["pool.max_chars", "exec.max_failed"]
    for number, option in enumerate(options):
        monkeypatch.setattr(experiments.run, "_store", None)  # as a new command: one process tries nothing twice
        out = choose(pool, tmp_path / f"out{number}.jsonl", *adg, *option.split())
        assert len(read(out)) == 3
        scores = {row["id"]: row for row in read(tmp_path / f"out{number}.scores.jsonl")}
        assert len(scores) == 8 and all(scores[i]["score"] is None and scores[i]["reason"] for i in (7, 8))


# -- names of files ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["données.jsonl", "鳥.jsonl", "a=b#c.jsonl", "my (1) [x].jsonl", "a, b.jsonl", "it's~.jsonl"]
)
def test_files_of_any_name_need_no_quotes(choose: Callable[..., Path], tmp_path: Path, name: str) -> None:
    (tmp_path / "out").mkdir()
    out = choose(jsonl(tmp_path / name, ROWS), tmp_path / "out" / name.replace(",", ""))
    assert len(read(out)) == 3 and out.name == name.replace(",", "")


def test_values_of_hydras_grammar_stay_as_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    kept = ["-m", "seed=1,2", "selector=glob(*)", "a=[1, 2]", "a={b: c}", "pool.path='é'", "x=null", "~key", "a=${b}"]
    assert quoted([*kept, "pool.path=a.jsonl,b.jsonl", "pool.path=é,b"]) == [
        *kept,
        "pool.path=a.jsonl,b.jsonl",
        "pool.path=é,b",
    ]
    (tmp_path / "a.jsonl,b.jsonl").touch()
    assert quoted(["pool.path=a.jsonl,b.jsonl", "x=~/y"]) == ["pool.path='a.jsonl,b.jsonl'", "x='~/y'"]


def test_the_command_with_a_home_folder_and_a_name_beyond_ascii(root: Path, tmp_path: Path) -> None:
    jsonl(tmp_path / "données.jsonl", [*ROWS, {"instruction": "Say a.", "output": ""}])
    command = [sys.executable, "-m", "experiments.select", "pool=local", "pool.path=~/données.jsonl", "selector=random"]
    command += ["budget=2", "out=~/été.csv", "pool.empty_output=drop", f"exec.runs={tmp_path / 'runs'}"]
    env = {**os.environ, "HOME": str(tmp_path)}
    done = subprocess.run(command, cwd=root, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert f"2 of 7 records, 1 dropped -> {tmp_path / 'été.csv'}" in done.stdout
    done = subprocess.run(command, cwd=root, env=env, capture_output=True, text=True)
    assert done.returncode == 1 and "error: " in done.stderr and "overwrite=true" in done.stderr


# -- a data set of the hub ---------------------------------------------------------------------------


def test_a_data_set_of_the_hub_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commit = "0123456789abcdef0123456789abcdef01234567"
    folder = tmp_path / "hub" / "datasets--some--pool" / "snapshots" / commit
    folder.mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(ROWS), folder / "rows.parquet")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    common = ["profile=own", "pool=local", "pool.hub=some/pool", "selector=random", "budget=2", "exec.offline=true"]
    common += ["pool.file=rows.parquet", f"out={tmp_path / 'out.jsonl'}", f"exec.runs={tmp_path / 'runs'}"]
    with pytest.raises(BadInput, match=r"Set pool\.revision=<commit>"):
        select(compose(common))
    assert len(read(select(compose([*common, f"pool.revision={commit}"])))) == 2
    with pytest.raises(BadInput, match="exactly one"):
        select(compose([*common, f"pool.revision={commit}", f"pool.path={folder / 'rows.parquet'}", "overwrite=true"]))
