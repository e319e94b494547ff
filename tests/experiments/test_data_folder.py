"""A subset as a folder for a hub of data sets: its files, its card, the way to a hub; and what --dry-run says."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from adg.errors import BadInput
from experiments import select as select_
from experiments.compose import compose
from experiments.quoting import quoted

ROWS: list[dict[str, Any]] = [
    {"id": i, "instruction": f"Say {i}.", "output": "word " * i, "tags": ["a", str(i)]} for i in range(1, 8)
]


@pytest.fixture
def asked(tmp_path: Path) -> Callable[..., Any]:
    """The config of a selection of three rows, in this process."""
    pool = tmp_path / "rows.jsonl"

    def config(*more: str, rows: list[dict[str, Any]] = ROWS) -> Any:
        pool.write_text("".join(json.dumps(row) + "\n" for row in rows))
        common = ["profile=own", f"pool.path={pool}", "selector=random", "budget=3", f"exec.runs={tmp_path / 'runs'}"]
        return compose(quoted([*common, f"out={tmp_path / 'subset'}/", *more]))

    return config


def front(folder: Path) -> tuple[dict[str, Any], str]:
    """What a hub reads of the card, and the rest."""
    _, head, body = (folder / "README.md").read_text().split("---\n", 2)
    return yaml.safe_load(head), body


def test_a_folder_holds_data_card_scores_and_what_chose_them(asked: Callable[..., Any], tmp_path: Path) -> None:
    folder = tmp_path / "subset"
    assert select_.select(asked("pool.empty_output=drop")) == folder / "data/train.jsonl"
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert names == {"README.md", "data/train.jsonl", "scores.jsonl", "selection.json"}
    rows = [json.loads(line) for line in (folder / "data/train.jsonl").read_text().splitlines()]
    assert len(rows) == 3 and all(row in ROWS for row in rows)
    head, body = front(folder)
    files = {each["config_name"]: each["data_files"][0]["path"] for each in head["configs"]}
    assert files == {"default": "data/train.jsonl", "scores": "scores.jsonl"}
    assert head["size_categories"] == ["n<1K"]
    facts = json.loads((folder / "selection.json").read_text())
    assert facts["method"]["selector"] == "random" and facts["rows"] == 3 and facts["source"]["rows"] == 7
    for name in ("data/train.jsonl", "scores.jsonl", "selection.json"):
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() in body
    assert "# 3 rows of local, chosen by random" in body and facts["source"]["sha256"] in body
    text = (folder / "README.md").read_text() + (folder / "selection.json").read_text()
    assert str(tmp_path) not in text and os.uname().nodename not in text


def test_a_folder_can_be_read_as_a_data_set(asked: Callable[..., Any], tmp_path: Path) -> None:
    import datasets

    select_.select(asked())
    found = {
        name: datasets.load_dataset(str(tmp_path / "subset"), name, split="train", cache_dir=str(tmp_path / "cache"))
        for name in ("default", "scores")
    }
    assert len(found["default"]) == 3 and len(found["scores"]) == 7


def test_a_folder_is_replaced_on_request_alone(asked: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "subset").mkdir()
    (tmp_path / "subset" / "README.md").write_text("mine")
    with pytest.raises(BadInput, match=r"README\.md exists already; overwrite=true replaces it"):
        select_.select(asked())
    select_.select(asked("overwrite=true"))
    assert front(tmp_path / "subset")[0]
    with pytest.raises(BadInput, match=r"end it with a stroke, out=.*subset/, for a folder"):
        select_.select(asked(f"out={tmp_path / 'subset'}"))
    with pytest.raises(BadInput, match="exists and is no folder"):
        select_.select(asked(f"out={tmp_path / 'rows.jsonl'}/"))
    with pytest.raises(BadInput, match="does not exist; create it first"):
        select_.select(asked(f"out={tmp_path / 'gone' / 'subset'}/"))


# -- what it would do --------------------------------------------------------------------------------


def test_a_dry_run_says_rows_tokens_cost_and_writes_nothing(
    asked: Callable[..., Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [*ROWS, {"id": 8, "instruction": "Say.", "output": ""}, {"id": 9, "instruction": "Say.", "output": " "}]
    adg = ["selector=adg", "sampling.n=4", "sampling.max_new_tokens=10", "backbone.parameters=1e9"]
    config = asked("pool.empty_output=drop", "pool.rows=6", *adg, rows=rows)
    select_.plan(config)
    said = capsys.readouterr().out
    assert "9 rows in" in said and "6 to choose from, 3 to be chosen" in said
    assert "2 will be dropped: empty output (id 8, 9)" in said and "1 are not drawn (pool.rows)" in said
    assert "tokens (estimated at 4 characters each" in said
    assert "to sample: 24 answers of at most 10 tokens, 240 at most" in said
    assert "GPU-hours on one H100" in said and "models run in: answers, grams" in said
    assert sorted(path.name for path in tmp_path.iterdir()) == ["rows.jsonl"]
    with pytest.raises(BadInput, match="budget is 8 but the pool holds 7"):
        select_.plan(asked("pool.empty_output=drop", "budget=8", rows=rows))
    with pytest.raises(BadInput, match=r"2 x empty output: pool\.empty_output=drop leaves such rows out"):
        select_.plan(asked(rows=rows))


def test_a_dry_run_of_what_needs_no_model(asked: Callable[..., Any], capsys: pytest.CaptureFixture[str]) -> None:
    select_.plan(asked())
    said = capsys.readouterr().out
    assert "none will be dropped" in said and "no model is run" in said


# -- to a hub ----------------------------------------------------------------------------------------


class Hub(BaseHTTPRequestHandler):
    """The few addresses of a hub that an upload asks for; what is uploaded is kept in ``server.files``."""

    def answer(self, value: Any, status: int = 200) -> None:
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def do_GET(self) -> None:
        server: Any = self.server
        server.asked.append(self.path)
        if self.headers.get("Authorization") != "Bearer hf_a_token_that_may_write":
            self.answer({"error": "Invalid credentials"}, 401)
        elif self.path == "/api/whoami-v2":
            self.answer({"name": "me", "type": "user", "auth": {}})
        else:
            self.answer({"id": "me/three", "sha": "0" * 40, "siblings": [], "private": True})

    def do_POST(self) -> None:
        server: Any = self.server
        server.asked.append(self.path)
        content = self.body()
        if self.path == "/api/repos/create":
            server.created = json.loads(content)
            self.answer({"url": f"http://{self.headers['Host']}/datasets/me/three", "id": "me/three"})
        elif self.path == "/api/validate-yaml":
            self.answer({"errors": [], "warnings": []})
        elif "/preupload/" in self.path:
            names = [file["path"] for file in json.loads(content)["files"]]
            self.answer({"files": [{"path": n, "uploadMode": "regular", "shouldIgnore": False} for n in names]})
        elif "/commit/" in self.path:
            for line in map(json.loads, content.splitlines()):
                if line["key"] == "file":
                    server.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            url = f"http://{self.headers['Host']}/datasets/me/three/commit/{'1' * 40}"
            self.answer({"commitUrl": url, "commitOid": "1" * 40, "success": True})
        else:
            self.answer({"error": "not known here"}, 404)

    def log_message(self, *_: Any) -> None: ...


@pytest.fixture
def hub() -> Iterator[Any]:
    server: Any = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.files, server.asked, server.created = {}, [], None
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()


def test_a_folder_is_pushed_where_the_user_says(root: Path, hub: Any, tmp_path: Path) -> None:
    """The whole command against a server that speaks the addresses of an upload."""
    pool = tmp_path / "rows.jsonl"
    pool.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    words = [f"pool.path={pool}", "selector=random", "budget=3", f"exec.runs={tmp_path / 'runs'}"]
    command = [sys.executable, "-m", "experiments.select", *words, f"out={tmp_path / 'three'}/", "push=me/three"]
    env = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    env |= {"HF_ENDPOINT": f"http://127.0.0.1:{hub.server_port}", "HF_HOME": str(tmp_path / "home")}
    env |= {"HF_HUB_DISABLE_XET": "1", "NO_PROXY": "127.0.0.1"}

    def run(**more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(command, cwd=root, env=env | more, capture_output=True, text=True)

    done = run()
    assert done.returncode == 1 and "push=me/three needs a token of the hub that may write" in done.stderr
    done = run(HF_TOKEN="hf_another_token_without_rights")
    assert done.returncode == 1 and "push=me/three was refused" in done.stderr and "nothing was done yet" in done.stderr
    assert "hf_another" not in done.stderr and not (tmp_path / "three").exists()
    done = run(HF_TOKEN="hf_a_token_that_may_write")
    assert done.returncode == 0, done.stderr + str(hub.asked)
    assert f"pushed: {env['HF_ENDPOINT']}/datasets/me/three/commit/{'1' * 40}" in done.stdout
    assert hub.created["visibility"] == "private" and hub.created["type"] == "dataset"
    local = {p.relative_to(tmp_path / "three").as_posix(): p for p in (tmp_path / "three").rglob("*") if p.is_file()}
    assert hub.files == {name: path.read_bytes() for name, path in local.items()} and len(local) == 4


def test_what_cannot_be_pushed_is_refused_before_the_work(asked: Callable[..., Any], tmp_path: Path) -> None:
    for more, said in (
        (["push=three"], "expected the data set's name on the hub, push=owner/name"),
        (["push=me/three", f"out={tmp_path / 'a.jsonl'}"], "needs the subset as a folder"),
        (["push=me/three", "exec.offline=true"], "forbids it"),
    ):
        with pytest.raises(BadInput, match=said):
            select_.select(asked(*more))
    assert not (tmp_path / "runs").exists()
