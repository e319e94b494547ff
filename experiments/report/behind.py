"""What is behind a cell's numbers: artifacts, training, items that are right, wrong, or changed against random.

Items are shown within a limit of bytes: of each kind the first ones, and how many there are.
Nothing here bears identity.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from adg.artifacts.artifact import Artifact
from adg.artifacts.sealed import Damaged
from adg.artifacts.store import Store
from adg.errors import BadInput
from adg.evaluation import benchmarks, samples
from adg.evaluation.results import DONE
from experiments.cells import Cell
from experiments.report.table import BASELINE, WORDS
from experiments.report.templates import render

ASKED, ANSWERED = 240, 400  # characters of a prompt's end and of an answer that are shown
CHOICES = 6  # of a multiple choice that are shown with their log-likelihoods


@dataclass(frozen=True)
class Made:
    """One artifact of a cell: where its manifest is (below the folder of artifacts), or how far it is and why."""

    role: str
    state: str
    manifest: str = ""
    finished: str = ""
    seconds: float | None = None
    reason: str = ""


@dataclass(frozen=True)
class AnsweredItem:
    """An item of a benchmark as it was asked and answered; ``before`` and ``other`` are random's score and answer."""

    subtask: str
    number: int
    score: float
    asked: str
    expected: str
    answer: str
    response: str
    error: str
    before: float | None = None
    other: str = ""


@dataclass(frozen=True)
class Kind:
    """Items of one kind: how many there are, and those that are shown, as markup."""

    name: str
    count: int
    shown: Sequence[str]
    option: str = ""  # of experiments.samples, which prints all of them


@dataclass(frozen=True)
class Task:
    """A benchmark of a cell. ``length``: characters of its free answers, (5th percentile, median, 95th)."""

    name: str
    title: str
    score: str
    kinds: Sequence[Kind]
    right: int = 0
    wrong: int = 0
    better: int | None = None  # than random's; None where the two cannot be compared
    worse: int | None = None
    length: tuple[float, float, float] | None = None
    reason: str = ""


def artifacts(cell: Cell, store: Store) -> list[Made]:
    """The artifacts of a cell in the order in which they are built."""
    found = store.statuses(cell.nodes.values())
    made = []
    for role, node in cell.nodes.items():
        status = found[node.fingerprint]
        if status.state != "done":
            made.append(Made(role, WORDS.get(status.state, status.state), reason=status.reason))
            continue
        manifest = json.loads((store.path(node) / "manifest.json").read_text(encoding="utf-8"))
        finished = str(manifest.get("finished", ""))[:16].replace("T", " ")
        made.append(Made(role, "done", f"{node.folder}/manifest.json", finished, manifest.get("seconds")))
    return made


def training(cell: Cell, store: Store) -> tuple[str, list[dict[str, Any]]]:
    """(address below the folder of artifacts, steps that have a loss) of a cell's training; ("", []) without one."""
    node = cell.nodes.get("adapter")
    if node is None or not store.complete(node):
        return "", []
    path = store.path(node) / "training.jsonl"
    if not path.is_file():
        return "", []
    steps = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    return f"{node.folder}/{path.name}", [step for step in steps if step.get("loss") is not None]


def tasks(ours: Artifact, random: Artifact | None, limit: int) -> list[Task]:
    """The benchmarks of an evaluation with their items, which take at most ``limit`` bytes of a page; ``random``: the
    evaluation that they are held against. Raises ``Damaged`` where an evaluation is not as it was built."""
    comparable: set[str] = set()
    if random is not None:
        try:
            comparable = set(samples.same_items(random, ours))
        except BadInput:  # other items: nothing changed, since nothing can be compared
            comparable = set()
    entries = samples.results(ours)["tasks"]
    done = [name for name, entry in entries.items() if entry["status"] == DONE]
    found = []
    for name, entry in entries.items():
        if entry["status"] != DONE:
            word = WORDS.get(entry["status"], "missing")
            found.append(Task(name, benchmarks.title(name), word, (), reason=entry["reason"] or word))
            continue
        share = limit // (len(done) - done.index(name))
        against = random if name in comparable else None
        task, used = _task(name, entry, ours, against, share)
        limit -= used
        found.append(task)
    return found


def _task(name: str, entry: Mapping[str, Any], ours: Artifact, random: Artifact | None, limit: int) -> tuple[Task, int]:
    """A task, and how many bytes its items take."""
    rows = samples.rows(ours, name)
    before: dict[samples.Item, dict[str, Any]] = {}
    if random is not None:
        before = {(row["subtask"], row["doc_id"]): row for row in samples.rows(random, name)}
    items = [_item(row, before.get((row["subtask"], row["doc_id"]))) for row in rows]
    right, wrong = [item for item in items if item.score >= 1], [item for item in items if item.score < 1]
    better = [item for item in items if item.before is not None and item.score > item.before]
    worse = [item for item in items if item.before is not None and item.score < item.before]
    apart = {id(item) for item in (*better, *worse)}
    also = "other " if apart else ""
    groups = [
        (f"better than {BASELINE}", better, ""),
        (f"worse than {BASELINE}", worse, ""),
        (f"{also}wrong", [item for item in wrong if id(item) not in apart], "--wrong"),
        (f"{also}right", [item for item in right if id(item) not in apart], "--right"),
    ]
    kinds, left = [], limit
    for place, (kind, members, option) in enumerate(groups):
        rendered, room = [], left // (len(groups) - place)
        for item in members:
            text = render("item.html", item=item, baseline=BASELINE)
            if len(text.encode()) > room:
                break
            room -= len(text.encode())
            left -= len(text.encode())
            rendered.append(text)
        if members:
            kinds.append(Kind(kind, len(members), rendered, option))
    free = [len(row["response"]) for row in rows if _choices(row["response"]) is None]
    low, middle, high = np.percentile(free, (5, 50, 95)) if free else (0.0, 0.0, 0.0)
    task = Task(
        name,
        benchmarks.title(name),
        f"{100 * entry['value']:.2f}" + "*" * bool(entry.get("partial")),
        kinds,
        len(right),
        len(wrong),
        len(better) if random is not None else None,
        len(worse) if random is not None else None,
        (float(low), float(middle), float(high)) if free else None,
    )
    return task, limit - left


def _item(row: Mapping[str, Any], before: Mapping[str, Any] | None) -> AnsweredItem:
    choices = _choices(row["response"])
    answer, response = row["answer"], row["response"]
    target = str(row["target"])
    if choices is not None:
        response = " · ".join(f"{str(text).strip()} {value:.2f}" for text, value in choices[:CHOICES])
        if target.isdigit() and int(target) < len(choices):
            target = str(choices[int(target)][0]).strip()
    elif response.strip() == answer.strip():
        response = ""
    return AnsweredItem(
        row["subtask"],
        row["doc_id"],
        row["score"],
        _end(row["prompt"], ASKED),
        _cut(target),
        _cut(answer.strip()),
        _cut(response.strip()),
        _cut(row["error"]),
        None if before is None else before["score"],
        "" if before is None or before["score"] == row["score"] else _cut(before["answer"].strip()),
    )


def _choices(response: str) -> list[tuple[str, float]] | None:
    """The choices of a multiple choice with their log-likelihoods; None for a free answer."""
    if not response.startswith("[["):
        return None
    try:
        return [(str(text), float(value)) for text, value, *_ in json.loads(response)]
    except (ValueError, TypeError):
        return None


def _cut(text: str) -> str:
    return text if len(text) <= ANSWERED else text[: ANSWERED - 1] + "…"


def _end(text: str, letters: int) -> str:
    text = text.strip()
    return text if len(text) <= letters else "…" + text[1 - letters :]


def found(cell: Cell, store: Store) -> Artifact | None:
    """The finished evaluation of a cell; None where there is none, or where it is not as it was built."""
    try:
        return store.find(cell.nodes["eval"]) if "eval" in cell.nodes else None
    except Damaged:
        return None
