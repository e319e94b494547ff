"""Filling and verifying a mirror, against a server on this machine that answers as the hub does."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from adg import hub as hub_
from adg.errors import BadInput
from adg.evaluation.config import EMBEDDED
from experiments import fetch, mirror
from experiments.cells import cells, distinct
from experiments.mirror import Source

ITEMS = {"bbh": 12, "gsm8k": 12, "mmlu": 12, "truthfulqa_mc2": 12, "mbpp": 12, "humaneval": 15}
STUDY = [
    "profile=smoke",
    "backbone=llama3_8b",
    "pool=alpaca_gpt4",
    "pool.expected_rows=3",
    "selector=random",
    "suite=paper",
    *(f"suite.tasks.{task}.items={n}" for task, n in ITEMS.items()),
]


class Hub(BaseHTTPRequestHandler):
    """Lists and serves the files below ``folder``: models as <id>/, data sets as datasets/<id>/."""

    folder: Path
    served: list[str]

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def answer(self, body: bool) -> None:
        path = unquote(urlsplit(self.path).path)
        if "/tree/" in path or "/revision/" in path:
            what = "/tree/" if "/tree/" in path else "/revision/"
            name, revision = path.removeprefix("/api/").removeprefix("models/").split(what)
            root = self.folder / name
            files = sorted(p for p in root.rglob("*") if p.is_file())
            tree = [
                {
                    "type": "file",
                    "path": p.relative_to(root).as_posix(),
                    "size": p.stat().st_size,
                    "oid": hashlib.sha1(p.read_bytes()).hexdigest(),
                }
                for p in files
            ]
            info = {"id": name, "sha": revision, "siblings": [{"rfilename": entry["path"]} for entry in tree]}
            listed = tree if what == "/tree/" else info
            self.reply(json.dumps(listed).encode(), revision, body) if files else self.send_error(404)
        elif "/resolve/" in path:
            name, rest = path.lstrip("/").split("/resolve/")
            revision, file = rest.split("/", 1)
            target = self.folder / name / file
            if body:
                self.served.append(f"{name}/{file}")
            self.reply(target.read_bytes(), revision, body) if target.is_file() else self.send_error(404)
        else:
            self.send_error(404)

    def reply(self, data: bytes, revision: str, body: bool) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("ETag", f'"{hashlib.sha256(data).hexdigest()}"')
        self.send_header("X-Repo-Commit", revision)
        self.send_header("X-Linked-Size", str(len(data)))
        self.end_headers()
        if body:
            self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[tuple[str, Path, list[str]]]:
    """(address, folder, files that were downloaded) of a small hub with a model, a pool and the six benchmarks."""
    folder = tmp_path / "hub"
    shutil.copytree(EMBEDDED, folder / "datasets")
    pool = folder / "datasets" / "vicgalle" / "alpaca-gpt4"
    pool.mkdir(parents=True)
    rows = [{"instruction": f"Name {n} birds.", "input": "", "output": "wren " * n} for n in (1, 2, 3)]
    (pool / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    model = folder / "meta-llama" / "Meta-Llama-3-8B"
    model.mkdir(parents=True)
    for name in ("config.json", "tokenizer.json", "model.safetensors", "original/consolidated.00.pth", "run.py"):
        (model / name).parent.mkdir(exist_ok=True)
        (model / name).write_text(json.dumps({"is": name}))
    served: list[str] = []
    handler = type("Handler", (Hub,), {"folder": folder, "served": served})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", folder, served
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture
def run(root: Path, tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run an entry point with an empty home for the hub's library."""

    def call(module: str, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
        clean = {k: v for k, v in os.environ.items() if not k.startswith("HF_")}
        clean |= {"HF_HOME": str(tmp_path / "home"), "HF_HUB_DISABLE_XET": "1", **env}
        return subprocess.run(
            [sys.executable, "-m", module, *arguments], cwd=root, env=clean, text=True, capture_output=True
        )

    return call


def test_a_mirror_is_filled_verified_used_offline_damaged_and_repaired(
    hub: tuple[str, Path, list[str]], run: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    address, _, served = hub
    to, no_hub = tmp_path / "mirror", "http://127.0.0.1:1"
    done = run("experiments.fetch", *STUDY, f"to={to}", HF_ENDPOINT=address)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("fetched") == 8 and "benchmark openai/gsm8k at e53f04885" in done.stdout
    assert not [name for name in served if name.endswith((".pth", ".py"))], "nothing executable is fetched"
    entries = json.loads((to / "manifest.json").read_text())["sources"]
    assert sorted(entry["rows"] for entry in entries.values() if entry["rows"]) == [3, 12, 12, 12, 12, 12, 15]

    downloads = len(served)
    done = run("experiments.fetch", *STUDY, f"to={to}", "--verify", "--json", HF_ENDPOINT=no_hub)
    assert done.returncode == 0 and done.stderr.count("verified") == 8, done.stdout + done.stderr
    said = json.loads(done.stdout)
    assert said["complete"] and {one["state"] for one in said["sources"]} == {"verified"} and len(said["sources"]) == 8
    assert [one["rows"] for one in said["sources"] if one["kind"] == "model"] == [None]

    offline = [*STUDY, "exec.offline=true", f"suite.data_root={to / 'benchmarks'}", f"exec.runs={tmp_path / 'runs'}"]
    done = run("experiments.contamination", *offline, HF_ENDPOINT=no_hub, HF_HUB_CACHE=str(to / "hub"))
    assert done.returncode == 0 and "alpaca_gpt4 (3 records) and the suite paper" in done.stdout, done.stderr

    damaged = to / "benchmarks" / "openai" / "gsm8k" / "main" / "test.jsonl"
    damaged.write_bytes(damaged.read_bytes().replace(b"a", b"b", 1))
    done = run("experiments.fetch", *STUDY, f"to={to}", "--json", HF_ENDPOINT=address)
    assert done.returncode == 1 and len(served) == downloads
    said = json.loads(done.stdout)
    assert not said["complete"]
    assert [one["repo"] for one in said["sources"] if one["state"] == "damaged"] == ["openai/gsm8k"]
    assert f"{damaged} has sha256" in done.stderr and "--repair" in done.stderr and "1 problem\n" in done.stderr
    blob = next((to / "hub").rglob("snapshots/*/model.safetensors"))
    blob.write_text("{ }")
    done = run("experiments.fetch", *STUDY, f"to={to}", "--repair", HF_ENDPOINT=address)
    assert done.returncode == 0, done.stdout + done.stderr
    assert sorted(served[downloads:]) == [
        "datasets/openai/gsm8k/main/test.jsonl",
        "meta-llama/Meta-Llama-3-8B/model.safetensors",
    ]
    assert json.loads(blob.read_text()) == {"is": "model.safetensors"}


def test_what_cannot_be_had_or_has_other_rows_is_named_and_the_rest_is_kept(
    hub: tuple[str, Path, list[str]], run: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    address, folder, _ = hub
    shutil.rmtree(folder / "datasets" / "cais")
    to = tmp_path / "mirror"
    done = run("experiments.fetch", *STUDY, "suite.tasks.mbpp.items=500", f"to={to}", HF_ENDPOINT=address)
    assert done.returncode == 1 and "2 problems" in done.stderr
    assert (
        "cais/mmlu at c30699e8356da336a370243923dbaf21066bb9fe is not on this machine and could not be fetched"
        in done.stderr
    )
    assert "holds 12 rows, expected 500" in done.stderr and "Traceback" not in done.stderr
    kept = json.loads((to / "manifest.json").read_text())["sources"]
    assert len(kept) == 6 and not any("mmlu" in key or "mbpp" in key for key in kept)


def test_the_paper_needs_eleven_repositories() -> None:
    chosen = cells(["profile=paper", "selector=random"])
    wanted = mirror.sources(distinct(chosen), [cell.config.suite for cell in chosen])
    assert [source.kind for source in wanted].count("model") == 2
    assert [source.kind for source in wanted].count("pool") == 3
    assert [source.kind for source in wanted].count("benchmark") == 6
    cot = next(source for source in wanted if source.repo == "QingyiSi/Alpaca-CoT")
    assert cot.patterns == ("Chain-of-Thought/CoT_data.json",), "one file of a large collection"
    local = cells(["profile=mini", "selector=random"])
    assert mirror.sources(distinct(local), [cell.config.suite for cell in local]) == []


@pytest.mark.parametrize(
    ("arguments", "said"), [(["profile=paper"], "to=<folder"), (["to=x", "--verify", "--repair"], "one of them")]
)
def test_arguments_are_refused_in_words(arguments: list[str], said: str) -> None:
    with pytest.raises(BadInput, match=said):
        fetch.arguments(arguments)


def test_missing_and_further_files_are_told_apart_from_damage(tmp_path: Path) -> None:
    source = Source(mirror.BENCHMARK, "a/b", "0" * 40)
    folder = tmp_path / "benchmarks" / "a" / "b"
    (folder / ".cache").mkdir(parents=True)
    for name in ("x.jsonl", "y.jsonl", ".cache/z"):
        (folder / name).write_text(name)
    mirror.enter(source, folder, 2, tmp_path)
    entry = hub_.read(tmp_path)[source.key]
    assert list(entry["files"]) == ["x.jsonl", "y.jsonl"] and mirror.damaged(source, entry, tmp_path) == []
    (folder / "x.jsonl").unlink()
    (folder / "y.jsonl").write_text("longer than before")
    (folder / "more.jsonl").write_text("")
    found = {path.name: what for path, what in mirror.damaged(source, entry, tmp_path)}
    assert found == {
        "x.jsonl": "is missing",
        "more.jsonl": "is not in the manifest",
        "y.jsonl": "has 18 bytes, expected 7",
    }
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(BadInput, match="not readable"):
        hub_.read(tmp_path)


@pytest.mark.parametrize("way", ["folder", "name", "absolute", "link", "linked folder"])
def test_nothing_outside_the_mirror_is_deleted(tmp_path: Path, way: str) -> None:
    """Whatever leads there: the manifest's folder or file, or a link. Nothing is downloaded either."""
    to, source = tmp_path / "mirror", Source(mirror.BENCHMARK, "a/b", "0" * 40)
    folder, mine = to / "benchmarks" / "a" / "b", tmp_path / "mine.txt"
    folder.mkdir(parents=True)
    mine.write_text("mine")
    (folder / "x.jsonl").write_text("x")
    mirror.enter(source, folder, 1, to)
    manifest = json.loads((to / "manifest.json").read_text())
    entry = manifest["sources"][source.key]
    if way == "folder":
        entry["folder"] = "benchmarks/../.."
        entry["files"] = {"mine.txt": {"bytes": 9, "sha256": "0" * 64}}
    elif way in ("name", "absolute"):
        name = "../../../../mine.txt" if way == "name" else str(mine)
        entry["files"][name] = {"bytes": 9, "sha256": "0" * 64}
    elif way == "link":
        (folder / "more.jsonl").symlink_to(mine)
    else:
        shutil.rmtree(folder)
        folder.symlink_to(tmp_path)
    (to / "manifest.json").write_text(json.dumps(manifest))
    (brought,) = mirror.fill([source], to, True, True, lambda one: None)
    problems = brought.problems
    assert len(problems) == 1 and "leads out of the mirror; nothing was deleted" in problems[0]
    assert mine.read_text() == "mine"
