"""Sealed files and manifests: what was changed after it was written is named, and what was made before is found."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from adg.artifacts import artifact as artifact_
from adg.artifacts.artifact import Job, Node, Stage, read_artifact
from adg.artifacts.sealed import Damaged, file_digests, first_difference, read_sealed, write_sealed
from adg.artifacts.store import Store
from adg.errors import HarnessError


def write_word(job: Job) -> dict[str, Any]:
    (job.folder / "word.txt").write_text("word")
    return {"rows_out": 24}


NODE = Node(Stage("word", 1, f"{__name__}:write_word"), "one", {"x": 0.1})


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path, runner=lambda node, folder, inputs, exec_: write_word(Job(node, folder, inputs, exec_)))


def test_a_sealed_file_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    assert read_sealed(path) is None
    write_sealed(path, {"b": [1, 0.1, None], "ä": {"ü": True}, "path": tmp_path})
    assert read_sealed(path) == {"b": [1, 0.1, None], "ä": {"ü": True}, "path": str(tmp_path)}
    path.write_text(json.dumps(json.loads(path.read_text()), indent=7, sort_keys=True))
    assert read_sealed(path) is not None, "how the JSON is laid out does not count"


@pytest.mark.parametrize(
    "text, said",
    [
        ("", "no valid JSON"),
        ("{", "no valid JSON"),
        ("[1, 2]", "a list, expected an object"),
        ("7", "a number"),
        ("null", "null"),
        ('"text"', "a text"),
        ("{}", "no digest"),
        ('{"a": 1}', "no digest"),
        ('{"a": 1, "digest": 3}', "differs from its own digest"),
        ('{"a": 1, "digest": null}', "no digest"),
    ],
)
def test_anything_else_is_named(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(Damaged, match=said) as told:
        read_sealed(path)
    assert str(path) in str(told.value)


def test_no_flipped_bit_of_a_manifest_is_accepted(store: Store) -> None:
    folder = store.ensure(NODE).path
    path, whole = folder / "manifest.json", (folder / "manifest.json").read_bytes()
    expected = json.loads(whole)
    draw = random.Random(2)
    for _ in range(500):
        damaged = bytearray(whole)
        damaged[draw.randrange(len(whole))] ^= 1 << draw.randrange(8)
        path.write_bytes(damaged)
        try:
            found = Store(store.root).find(NODE)
        except Damaged as error:
            assert str(path) in str(error) and "run the same command again" in str(error)
        else:  # blanks between the words of JSON
            assert found is not None and {**found.manifest, "digest": expected["digest"]} == expected


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m["info"].update(rows_out=7777),
        lambda m: m.pop("digest"),
        lambda m: m.update(schema="adg-artifact/1"),
        lambda m: m.update(schema="adg-artifact/3"),
        lambda m: m.pop("schema"),
        lambda m: m["files"]["word.txt"].update(bytes=5),
        lambda m: m.pop("files"),
    ],
)
def test_an_edited_manifest_is_refused_by_name(store: Store, change: Any) -> None:
    path = store.ensure(NODE).path / "manifest.json"
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest))
    for act in (Store(store.root).find, Store(store.root).complete, Store(store.root).ensure):
        with pytest.raises(Damaged, match=r"manifest\.json.*Delete the folder"):
            act(NODE)
    status = store.status(NODE)
    assert status.state == "failed" and str(path) in status.reason


def old(folder: Path) -> dict[str, Any]:
    """The manifest as it was before it had a digest."""
    manifest = json.loads((folder / "manifest.json").read_text())
    del manifest["digest"]
    return {**manifest, "schema": artifact_.UNSEALED}


def test_artifacts_made_before_manifests_had_digests_are_found(store: Store) -> None:
    folder = store.ensure(NODE).path
    (folder / "manifest.json").write_text(json.dumps(old(folder)))
    found = Store(store.root).find(NODE)
    assert found is not None and found.info == {"rows_out": 24}
    (folder / "word.txt").write_text("Word")
    with pytest.raises(Damaged, match="differs from its digest"):
        Store(store.root).find(NODE)


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m["payload"]["config"].update(x=0.2),
        lambda m: m.update(fingerprint=7),
        lambda m: m.update(info=[1]),
        lambda m: m.update(files=["word.txt"]),
        lambda m: m.update(files={"word.txt": "abc"}),
        lambda m: m.update(files={"word.txt": {"bytes": "4", "sha256": "x"}}),
        lambda m: m.pop("inputs"),
    ],
)
def test_the_shape_of_an_old_manifest_is_checked(store: Store, change: Any) -> None:
    folder = store.ensure(NODE).path
    manifest = old(folder)
    change(manifest)
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(Damaged, match=r"manifest\.json is damaged"):
        read_artifact(folder)


@pytest.mark.parametrize("text", ["[]", "{", '{"state": "failed"}', '{"state": 3, "reason": "x"}', '"x"', ""])
def test_a_damaged_failure_is_told_as_such(store: Store, text: str) -> None:
    store.runner = lambda *_: 1 / 0
    with pytest.raises(HarnessError, match="division by zero"):
        store.ensure(NODE)
    assert "division by zero" in store.status(NODE).reason
    path = store.partial(NODE) / "failed.json"
    path.write_text(text)
    status = store.status(NODE)
    assert status.state == "failed" and f"{path} is damaged" in status.reason and "run the same" in status.reason


def test_a_failure_kept_before_failures_had_digests_is_read(store: Store) -> None:
    path = store.partial(NODE) / "failed.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"state": "not-run", "reason": "needs a checkpoint", "traceback": "", "payload": {}}))
    assert store.status(NODE).state == "not-run"


def test_a_folder_is_as_it_was_or_the_difference_is_named(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "b.bin").write_bytes(b"1234")
    (tmp_path / "c.bin").write_bytes(b"")
    digests = file_digests(tmp_path, leave_out=("c.bin",))
    assert list(digests) == ["a/b.bin"] and first_difference(tmp_path, digests) == ""
    (tmp_path / "a" / "b.bin").write_bytes(b"1235")
    assert "b.bin differs" in first_difference(tmp_path, digests)
    (tmp_path / "a" / "b.bin").unlink()
    assert "b.bin is missing" in first_difference(tmp_path, digests)
