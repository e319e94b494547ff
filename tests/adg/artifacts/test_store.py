"""The artifact store: identity, completeness, resuming, tampering, locks, failures."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from adg.artifacts.artifact import UNLESS_DEFAULT, Job, Node, Stage, canonical, plain
from adg.artifacts.files import write_atomic
from adg.artifacts.sealed import Damaged
from adg.artifacts.store import Status, Store
from adg.errors import HarnessError, NotRunnable

CALLS: list[str] = []


@dataclass(frozen=True)
class Toy:
    word: str = "a"
    times: int = 2
    note: str = field(default="", metadata={"identity": False})


def write_words(job: Job) -> dict:
    CALLS.append(job.node.label)
    (job.work / "shard").write_text("kept for a resume")
    parents = "".join(a.file("words.txt").read_text() for _, a in sorted(job.inputs.items()))
    (job.folder / "words.txt").write_text(parents + job.config.word * job.config.times)
    return {"rows_out": job.config.times}


def fails(job: Job) -> dict:
    CALLS.append(job.node.label)
    raise ValueError("no such measurement")


def cannot(job: Job) -> dict:
    raise NotRunnable("needs a checkpoint")


WORDS = Stage("words", 1, f"{__name__}:write_words")
FAILS = Stage("fails", 1, f"{__name__}:fails")
CANNOT = Stage("cannot", 1, f"{__name__}:cannot")


@dataclass(frozen=True)
class Grown(Toy):
    """``Toy`` after an option was added."""

    loud: bool = field(default=False, metadata={"identity": UNLESS_DEFAULT})


def local_runner(node: Node, folder: Path, inputs, exec_) -> dict:
    return globals()[node.stage.builder.split(":")[1]](Job(node, folder, inputs, exec_))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    CALLS.clear()
    return Store(tmp_path / "runs", runner=local_runner)


def chain(word: str = "a") -> tuple[Node, Node]:
    first = Node(WORDS, "first", Toy(word))
    return first, Node(WORDS, "second", Toy("b"), {"above": first})


def test_builds_once_and_in_order(store: Store) -> None:
    first, second = chain()
    assert store.ensure(second).file("words.txt").read_text() == "aabb"
    assert store.ensure(second).info == {"rows_out": 2}
    assert CALLS == ["first", "second"]
    assert not (store.path(first) / "work").exists()


def test_an_option_that_came_later_changes_identity_only_where_it_is_used() -> None:
    assert canonical(Grown("b")) == canonical(Toy("b"))
    assert plain(Grown("b", loud=True)) == {"word": "b", "times": 2, "loud": True}


def test_identity_covers_every_field_but_those_marked(store: Store) -> None:
    first, second = chain()
    assert Node(WORDS, "other label", Toy()).fingerprint == first.fingerprint
    assert Node(WORDS, "first", Toy(note="how")).fingerprint == first.fingerprint
    assert Node(WORDS, "first", Toy(times=3)).fingerprint != first.fingerprint
    assert Node(dataclasses.replace(WORDS, version=2), "first", Toy()).fingerprint != first.fingerprint
    assert chain("z")[1].fingerprint != second.fingerprint, "a changed input changes what depends on it"


def test_only_what_changed_runs_again(store: Store) -> None:
    first, second = chain()
    store.ensure(second)
    CALLS.clear()
    store.ensure(Node(WORDS, "third", Toy("c"), {"above": first}))
    assert CALLS == ["third"]


@pytest.mark.parametrize("value", [object(), float("nan"), {1, 2}, lambda: 0, Path("x")])
def test_values_without_a_stable_form_are_refused(value: object) -> None:
    with pytest.raises(TypeError, match="no stable identity"):
        plain({"x": value})


def test_canonical_form_does_not_depend_on_key_order() -> None:
    assert canonical({"b": 1, "a": (1, 2)}) == canonical({"a": [1, 2], "b": 1}) == '{"a":[1,2],"b":1}'


def test_a_deleted_folder_is_a_plain_miss(store: Store) -> None:
    import shutil

    first, second = chain()
    store.ensure(second)
    shutil.rmtree(store.path(first))
    CALLS.clear()
    assert store.ensure(second)
    assert CALLS == [], "what depends on it is complete and is not built again"
    store.ensure(first)
    assert CALLS == ["first"]


MARK: list[str] = []


def write_mark(job: Job) -> dict:
    """What a machine decides: not the same each time."""
    (job.folder / "words.txt").write_text(MARK[0])
    (job.folder / "place.txt").write_text(str(len(MARK)))
    return {"aside": ["place.txt"], "decided": {"dtype": MARK[-1]}}


@pytest.mark.parametrize(("again", "fits"), [(["a", "x", "d"], True), (["b", "d"], False), (["a", "e"], False)])
def test_what_was_made_from_another_build_of_its_input_is_refused(
    store: Store, tmp_path: Path, again: list[str], fits: bool
) -> None:
    import shutil

    first = Node(Stage("mark", 1, f"{__name__}:write_mark"), "first", Toy())
    second = Node(WORDS, "second", Toy("b"), {"above": first})
    MARK[:] = ["a", "d"]
    store.ensure(second)
    shutil.rmtree(store.path(first))
    assert Store(store.root, runner=local_runner).find(second), "an input that is gone says nothing"
    MARK[:] = again
    store.ensure(first)
    later = Store(store.root, runner=local_runner)
    if fits:
        assert later.ensure(second).file("words.txt").read_text() == "abb"
    else:
        with pytest.raises(Damaged, match="another build of its above") as told:
            later.ensure(second)
        assert str(store.path(second)) in str(told.value)


@pytest.mark.parametrize("damage", ["change", "remove"])
def test_a_tampered_payload_is_refused(store: Store, damage: str) -> None:
    first, second = chain()
    store.ensure(first)
    target = store.path(first) / "words.txt"
    target.write_text("ax") if damage == "change" else target.unlink()
    with pytest.raises(HarnessError, match=r"words\.txt .*run the same command again"):
        Store(store.root, runner=local_runner).ensure(second)


def test_a_foreign_folder_under_the_same_name_is_refused(store: Store) -> None:
    first, _ = chain()
    store.ensure(first)
    manifest = store.path(first) / "manifest.json"
    manifest.write_bytes((store.ensure(Node(WORDS, "other", Toy("z"))).path / "manifest.json").read_bytes())
    with pytest.raises(HarnessError, match="belongs to"):
        store.find(first)


def test_a_failure_is_kept_and_not_tried_twice_in_a_process(store: Store) -> None:
    broken = Node(FAILS, "broken", Toy())
    above = Node(WORDS, "above", Toy(), {"in": broken})
    for _ in range(2):
        with pytest.raises(HarnessError, match="ValueError: no such measurement"):
            store.ensure(above)
    assert CALLS == ["broken"]
    kept = json.loads((store.partial(broken) / "failed.json").read_text())
    assert kept["state"] == "failed" and "Traceback" in kept["traceback"]
    assert store.status(broken).state == "failed"
    assert store.status(above).state == "upstream-failed" and "no such" in store.status(above).reason
    with pytest.raises(HarnessError):  # a new process tries again
        Store(store.root, runner=local_runner).ensure(above)
    assert CALLS == ["broken", "broken"]


def test_not_runnable_is_not_a_failure(store: Store) -> None:
    node = Node(CANNOT, "cannot", Toy())
    with pytest.raises(NotRunnable):
        store.ensure(node)
    assert store.status(node) == Status("not-run", "needs a checkpoint", store.partial(node))
    assert store.status(Node(WORDS, "above", Toy(), {"in": node})).state == "not-run"


def test_each_artifact_is_looked_at_once(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many paths lead to it: the states of a study cost a look for each of its artifacts."""
    node = Node(WORDS, "0", Toy())
    every = [node]
    for place in range(1, 20):
        every.append(node := Node(WORDS, str(place), Toy(), {"left": node, "right": node}))
    looks: list[str] = []
    complete = Store.complete
    monkeypatch.setattr(Store, "complete", lambda self, node: looks.append(node.label) or complete(self, node))
    found = store.statuses(every)
    assert {status.state for status in found.values()} == {"missing"} and len(found) == 20
    assert sorted(looks, key=int) == [node.label for node in every]


def test_a_stage_that_writes_nothing_is_refused(store: Store) -> None:
    store.runner = lambda *_: {}
    with pytest.raises(HarnessError, match="wrote no file"):
        store.ensure(chain()[0])


def test_killed_between_manifest_and_rename_is_adopted(store: Store) -> None:
    first, _ = chain()
    store.ensure(first)
    store.path(first).rename(store.partial(first))
    CALLS.clear()
    assert Store(store.root, runner=local_runner).ensure(first).file("words.txt").read_text() == "aa"
    assert CALLS == []


@pytest.mark.parametrize("damage", ["payload", "manifest"])
def test_what_was_nearly_finished_and_is_damaged_is_built_again_and_said(
    store: Store, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    first, _ = chain()
    store.ensure(first)
    store.path(first).rename(store.partial(first))
    target = store.partial(first) / {"payload": "words.txt", "manifest": "manifest.json"}[damage]
    target.write_text(target.read_text().replace("a", "b"))
    assert Store(store.root, runner=local_runner).ensure(first).file("words.txt").read_text() == "aa"
    told = capsys.readouterr().err
    assert str(target) in told and "is built again" in told and "Delete" not in told


def test_only_what_the_builder_wrote_now_becomes_the_payload(store: Store) -> None:
    first, _ = chain()
    for name in ("from an earlier try.txt", "model/weights.bin", "failed.json"):
        (store.partial(first) / name).parent.mkdir(parents=True, exist_ok=True)
        (store.partial(first) / name).write_text("{}")
    assert list(store.ensure(first).manifest["files"]) == ["words.txt"]
    assert sorted(path.name for path in store.path(first).iterdir()) == ["manifest.json", "words.txt"]


def test_a_continued_artifact_is_found_by_its_builder_once_it_is_verified(store: Store) -> None:
    first, _ = chain()
    store.ensure(first)
    store.reopen(first)
    job = Job(first, store.partial(first), {}, None)
    earlier = job.earlier()
    assert earlier is not None and earlier.file("words.txt").read_text() == "aa" and store.find(first) is None
    earlier.file("words.txt").write_text("ab")
    with pytest.raises(Damaged, match=r"words\.txt differs"):
        job.earlier()


def test_a_file_is_on_the_disk_before_it_has_its_name_and_its_folder_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The order of what a disk is asked to do, seen by a trace of the system's calls where Python makes them."""
    events: list[str] = []
    fsync, replace = os.fsync, Path.replace

    def flushing(handle: int) -> None:
        events.append(f"flush {Path(os.readlink(f'/proc/self/fd/{handle}')).name}")
        fsync(handle)

    def renaming(path: Path, target: Path) -> Path:
        events.append(f"rename {path.name}")
        return replace(path, target)

    monkeypatch.setattr(os, "fsync", flushing)
    monkeypatch.setattr(Path, "replace", renaming)
    write_atomic(tmp_path / "x.bin", b"12")
    temporary = f".x.bin.{os.getpid()}.tmp"
    assert events == [f"flush {temporary}", f"rename {temporary}", f"flush {tmp_path.name}"]
    events.clear()
    Store(tmp_path / "runs", runner=local_runner).ensure(chain()[0])
    assert events.index("flush words.txt") < next(i for i, e in enumerate(events) if "manifest.json" in e)


def test_two_processes_build_one_artifact_once(tmp_path: Path, root: Path) -> None:
    module = tmp_path / "toy_stage.py"
    module.write_text(
        textwrap.dedent("""
        import os, sys, time
        from adg.artifacts.artifact import Node, Stage
        from adg.artifacts.store import Store
        def build(job):
            with open(sys.argv[1] + "/calls", "a") as f:
                f.write("x")
            time.sleep(1)
            (job.folder / "out").write_text("done")
            return {}
        if __name__ == "__main__":
            Store(sys.argv[1] + "/runs").ensure(Node(Stage("toy", 1, "toy_stage:build"), "one", {}))
    """)
    )
    env = {**os.environ, "PYTHONPATH": f"{root}{os.pathsep}{tmp_path}"}
    both = [subprocess.Popen([sys.executable, str(module), str(tmp_path)], env=env) for _ in range(2)]
    assert [p.wait(timeout=60) for p in both] == [0, 0]
    assert (tmp_path / "calls").read_text() == "x"


def test_status_sees_a_running_build_and_a_killed_one(tmp_path: Path, root: Path) -> None:
    module = tmp_path / "toy_stage.py"
    module.write_text(
        textwrap.dedent("""
        import sys, time
        from adg.artifacts.artifact import Node, Stage
        from adg.artifacts.store import Store
        NODE = Node(Stage("toy", 1, "toy_stage:build"), "one", {})
        def build(job):
            (job.work / "started").write_text("")
            time.sleep(60)
        if __name__ == "__main__":
            Store(sys.argv[1] + "/runs").ensure(NODE)
    """)
    )
    env = {**os.environ, "PYTHONPATH": f"{root}{os.pathsep}{tmp_path}"}
    process = subprocess.Popen([sys.executable, str(module), str(tmp_path)], env=env)
    node, store = Node(Stage("toy", 1, "toy_stage:build"), "one", {}), Store(tmp_path / "runs")
    deadline = time.time() + 30
    while not (store.partial(node) / "work" / "started").exists():
        assert time.time() < deadline
        time.sleep(0.05)
    assert store.status(node).state == "running"
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert store.status(node).state == "partial"
