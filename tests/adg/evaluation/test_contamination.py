"""Overlap with the benchmarks: planted leaks are found in whatever spelling, and nothing is found that is not there."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from adg.artifacts.store import Store
from adg.errors import BadInput
from adg.evaluation import contamination, items, overlap
from adg.evaluation.config import EMBEDDED, SuiteConfig
from adg.evaluation.items import Split
from adg.evaluation.overlap import ContaminationConfig, Index
from adg.execution import ExecConfig
from adg.pools import stage as pool_stage
from adg.pools.config import PoolConfig

LONG = (
    "A farmer named Hedwig keeps nineteen geese and sells six of them at the Tuesday market, "
    "then buys twice as many ducks; how many birds does Hedwig own now?"
)
SHORT = "Who painted the ceiling of Brennwick Hall?"
ANSWER = (
    "After the market thirteen geese are left, since nineteen minus six is thirteen, and with the twelve "
    "ducks that were bought there are twenty five birds."
)


def index(*splits: tuple[str, bool, list[tuple[str, str]]], **options: Any) -> Index:
    """An index with one task for each of the splits' names."""
    found: dict[str, list[Split]] = {}
    for task, test, rows in splits:
        found.setdefault(task, []).append(Split("main", "test" if test else "train", test, rows))
    return Index(found, ContaminationConfig(**options))


def compare(found: Index, *outputs: str, prompt: str = "") -> list[dict[str, Any]]:
    return found.compare([(str(i), prompt, output) for i, output in enumerate(outputs)])


@pytest.mark.parametrize(
    "text",
    [
        LONG,
        LONG.upper(),
        LONG.replace(";", " --").replace(",", "").replace("?", "..."),
        LONG.replace(" ", "\n\t"),
        "Q: " + LONG + " A: 25.",
        "".join(chr(ord(c) + 0xFEE0) if c.isalpha() else c for c in LONG),  # full width
    ],
)
def test_a_planted_question_is_found_in_any_spelling(text: str) -> None:
    (row,) = compare(index(("gsm8k", True, [(LONG, "25")])), text)
    assert (row["match"], row["field"], row["kind"], row["item"]) == ("ngram", "question", "test", 0)
    assert row["words"] == len(overlap.words(LONG)) and row["span"] == " ".join(overlap.words(LONG))


def test_part_of_a_question_is_found_with_all_the_words_in_common() -> None:
    found = index(("gsm8k", True, [(LONG, "25")]))
    part = " ".join(LONG.split()[2:17])
    (row,) = compare(found, f"Once more: {part} and so on.")
    assert row["span"] == " ".join(overlap.words(part)) and row["words"] == 15
    assert compare(found, "Once more: " + " ".join(LONG.split()[:12])) == [], "12 words are not 13"
    assert compare(index(("gsm8k", True, [(LONG, "25")]), ngram=12), " ".join(LONG.split()[:12]))


def test_an_answer_counts_when_it_is_long_and_never_when_it_is_short() -> None:
    (row,) = compare(index(("gsm8k", True, [(LONG, ANSWER)])), ANSWER.lower())
    assert (row["field"], row["part"]) == ("answer", "output")
    assert compare(index(("mmlu", True, [(SHORT, "thirteen geese are left")])), ANSWER) == []


def test_a_short_question_must_stand_there_as_a_whole() -> None:
    found = index(("truthfulqa_mc2", True, [(SHORT, "Nobody")]))
    (row,) = compare(found, f"I wonder: {SHORT.lower()} Tell me.")
    assert (row["match"], row["words"]) == ("whole", 7)
    assert compare(found, "Who painted the ceiling of Brennwick Castle?") == []
    below = index(("truthfulqa_mc2", True, [("Who was she?", "Nobody")]))
    assert compare(below, "Who was she?") == [] and below.counts()["truthfulqa_mc2"]["test"]["checked"] == 0


def test_a_short_question_that_two_items_share_names_neither() -> None:
    text = "Which of the following statements is true?"
    found = index(("mmlu", True, [(text, "A"), (text.lower(), "B"), (SHORT, "Nobody")]))
    assert [row["item"] for row in compare(found, f"{text} {SHORT}")] == [2]
    assert found.counts()["mmlu"]["test"] == {"items": 3, "checked": 1}


def test_a_short_question_of_the_test_and_of_the_training_split_names_both() -> None:
    text = "What is the capital city of France?"
    found = index(("triviaqa", True, [(text, "Paris"), (SHORT, "Nobody")]), ("triviaqa", False, [(text.upper(), "P.")]))
    assert [(row["kind"], row["item"]) for row in compare(found, f"So: {text}")] == [("test", 0), ("train", 0)]
    assert found.counts()["triviaqa"] == {"test": {"items": 2, "checked": 2}, "train": {"items": 1, "checked": 1}}
    parts = {
        "mmlu": [
            Split(config, "test" if test else "dev", test, [(text, "Paris")])
            for config, test in (("a", True), ("a", False), ("b", True))
        ]
    }
    found = Index(parts, ContaminationConfig())
    assert [row["kind"] for row in compare(found, text)] == ["train"], "two subtasks' tests share it, one dev has it"
    assert found.counts()["mmlu"] == {"test": {"items": 2, "checked": 0}, "train": {"items": 1, "checked": 1}}


def test_nothing_is_joined_across_records_or_their_parts() -> None:
    found = index(("gsm8k", True, [(LONG, "25")]))
    half = len(LONG.split()) // 2
    first, second = " ".join(LONG.split()[:12]), " ".join(LONG.split()[12:24])
    assert half > 12 and compare(found, first, second) == []
    assert found.compare([("a", first, second)]) == []
    assert found.compare([("a", f"{first}\n{second}", "")])[0]["part"] == "prompt"


def test_a_near_duplicate_is_found_and_its_similarity_told() -> None:
    near = LONG.replace("nineteen", "forty").replace("ducks", "hens").replace("Tuesday", "Friday")
    found = index(("gsm8k", True, [(LONG, "25")]), similarity=0.5)
    (row,) = compare(found, near)
    mine, theirs = (_runs_of_three(text) for text in (LONG, near))
    assert row["match"] == "near" and row["similarity"] == pytest.approx(len(mine & theirs) / len(mine))
    assert row["span"] in " ".join(overlap.words(near)) and row["span"] in " ".join(overlap.words(LONG))
    assert compare(index(("gsm8k", True, [(LONG, "25")]), similarity=1.0), near) == []


def _runs_of_three(text: str) -> set[tuple[str, ...]]:
    found = overlap.words(text)
    return {tuple(found[i : i + 3]) for i in range(len(found) - 2)}


def test_a_tasks_form_is_no_evidence_but_an_items_own_words_are() -> None:
    form = "If you follow these instructions in the order in which they are given do you return to the start?"
    rows = [
        (f"{form} Take {i} steps towards the {place} and {i + 1} back again past the old {place} gate.", "Yes")
        for i, place in enumerate(["harbour", "mill", "chapel", "quarry", "orchard", "bridge"])
    ]
    found = index(("bbh", True, rows), template=5)
    assert compare(found, form) == []
    assert [row["item"] for row in compare(found, rows[3][0])] == [3]
    alike = index(("bbh", True, [(form, "Yes")] * 6), template=5)
    assert alike.counts()["bbh"]["test"] == {"items": 6, "checked": 0}


def test_chinese_is_compared_character_by_character() -> None:
    question = "下列关于细胞膜结构和功能的叙述中，正确的是哪一项？"
    (row,) = compare(index(("cmmlu", True, [(question, "甲")])), "请回答：" + question.replace("，", " "))
    assert row["match"] == "ngram" and row["words"] == 23


def test_equal_hashes_are_not_taken_for_equal_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overlap, "_mixed", lambda numbers: np.zeros(len(numbers), np.uint64))
    found = index(("gsm8k", True, [(LONG, "25")]))
    assert len(compare(found, LONG, " ".join(reversed(LONG.split())))) == 1


def test_what_is_found_does_not_depend_on_how_records_are_split_up() -> None:
    found = index(("gsm8k", True, [(LONG, ANSWER)]), ("truthfulqa_mc2", False, [(SHORT, "Nobody")]))
    rows = [(str(i), text, ANSWER if i % 3 else "") for i, text in enumerate([LONG, SHORT, "none", LONG + SHORT] * 5)]
    alone = [row for record in rows for row in found.compare([record])]
    assert found.compare(rows) == alone and len(alone) > 20


# -- on data sets -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def suite(root: Path) -> SuiteConfig:
    return SuiteConfig.of(yaml.safe_load((root / "conf" / "suite" / "mini.yaml").read_text()))


def pool_of(path: Path, rows: list[dict[str, Any]]) -> Any:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return pool_stage.node(PoolConfig(name="p", path=str(path)))


def test_leaks_of_every_benchmark_are_found_and_no_record_is_lost(suite: SuiteConfig, tmp_path: Path) -> None:
    planted, rows = [], [{"id": "clean", "instruction": "Name three birds.", "output": "Sparrow, robin, wren."}]
    for task, cfg in suite.tasks.items():
        assert suite.root is not None
        for split in items.read(task, suite.root / cfg.repo, cfg.subtasks):
            number, (question, _) = next((i, t) for i, t in enumerate(split.items) if len(t[0].split()) > 4)
            planted.append((task, split.name, split.config, number))
            rows.append(
                {
                    "id": "/".join(map(str, planted[-1])),
                    "instruction": "Say it.",
                    "output": question.upper().replace(",", " ;"),
                }
            )
    store = Store(tmp_path / "runs", ExecConfig())
    artifact = store.ensure(contamination.node(pool_of(tmp_path / "p.jsonl", rows), suite))
    found = contamination.overlaps(artifact)
    hit = {(r["id"], (r["task"], r["split"], r["config"], r["item"])) for r in found}
    lost = [p for p in planted if (json.dumps("/".join(map(str, p))), p) not in hit]
    assert lost == [] and {p[0] for p in planted} == set(suite.tasks)
    assert artifact.info["rows_out"] == artifact.info["rows_in"] == len(rows)
    assert '"clean"' not in {r["id"] for r in found}
    counts = contamination.count(artifact, found)
    assert counts["gsm8k"]["test"]["overlap"] >= 1 and counts["gsm8k"]["train"]["overlap"] >= 1
    assert all(entry["overlap"] <= entry["checked"] <= entry["items"] for k in counts.values() for entry in k.values())
    ids = [json.dumps("/".join(map(str, p))) for p in planted if p[0] == "gsm8k" and p[1] == "test"]
    part = contamination.count(artifact, found, ids)
    assert part["gsm8k"]["test"]["records"] == 1 and part["gsm8k"]["train"]["records"] == 0
    assert part["mbpp"]["test"]["overlap"] == 0


def test_identity_follows_data_and_options_not_places(suite: SuiteConfig, tmp_path: Path) -> None:
    pool = pool_of(tmp_path / "p.jsonl", [{"instruction": "a", "output": "b"}])
    base = contamination.node(pool, suite).fingerprint
    shutil.copytree(EMBEDDED, tmp_path / "copy")
    there = dataclasses.replace(suite, data_root=str(tmp_path / "copy"))
    assert contamination.node(pool, there).fingerprint == base
    assert contamination.node(pool, dataclasses.replace(suite, limit=1, seed=3)).fingerprint == base
    assert contamination.node(pool, suite, ContaminationConfig(ngram=8)).fingerprint != base
    with open(tmp_path / "copy" / "openai/gsm8k/main/test.jsonl", "a") as file:
        file.write("\n")
    assert contamination.node(pool, there).fingerprint != base


def test_a_task_without_known_columns_is_named_and_not_counted(suite: SuiteConfig, tmp_path: Path) -> None:
    other = dataclasses.replace(suite, tasks={"gsm8k": suite.tasks["gsm8k"], "drop": suite.tasks["mmlu"]})
    pool = pool_of(tmp_path / "p.jsonl", [{"instruction": "a", "output": "b"}])
    artifact = Store(tmp_path / "runs", ExecConfig()).ensure(contamination.node(pool, other))
    assert json.loads(artifact.file("summary.json").read_text())["unknown"] == ["drop"]
    assert set(contamination.count(artifact, [])) == {"gsm8k"}


@pytest.mark.parametrize("change", [{"ngram": 1}, {"similarity": 0.0}, {"similarity": 1.5}, {"template": 0}])
def test_wrong_options_are_refused_by_name(change: dict[str, Any]) -> None:
    with pytest.raises(BadInput, match=f"contamination.{next(iter(change))} is"):
        ContaminationConfig(**change)


def test_a_data_set_without_the_column_or_the_split_is_refused(suite: SuiteConfig, tmp_path: Path) -> None:
    folder = tmp_path / "gsm8k"
    shutil.copytree(EMBEDDED / "openai" / "gsm8k", folder)
    (folder / "main" / "test.jsonl").write_text('{"query": "a", "answer": "b"}\n')
    with pytest.raises(BadInput, match="the data of gsm8k cannot be read from"):
        list(items.read("gsm8k", folder))
    head = (folder / "README.md").read_text().split("dataset_info")[0]
    (folder / "README.md").write_text(head + "---\n")
    shutil.copyfile(folder / "main" / "test.jsonl", folder / "main" / "train.jsonl")
    with pytest.raises(BadInput, match=r"config main has the columns query.*gsm8k"):
        list(items.read("gsm8k", folder))
    (folder / "README.md").write_text(
        "---\nconfigs:\n- config_name: main\n  data_files:\n  - split: train\n    path: main/train.jsonl\n---\n"
    )
    with pytest.raises(BadInput, match="has the splits train; expected 'test'"):
        list(items.read("gsm8k", folder))
    with pytest.raises(BadInput, match="adg fetch fills such a folder"):
        items.locate("openai/gsm8k", None, tmp_path, offline=True)


# -- real data ----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_cot_pool_holds_the_training_set_of_gsm8k(root: Path, shared_dir: Path, tmp_path: Path) -> None:
    values = yaml.safe_load((root / "conf" / "suite" / "paper.yaml").read_text())
    real = SuiteConfig.of(
        {**values, "tasks": {"gsm8k": values["tasks"]["gsm8k"]}, "data_root": str(shared_dir / "data" / "benchmarks")}
    )
    pool = pool_stage.node(PoolConfig(name="cot", path=str(shared_dir / "data" / "pools" / "cot_partial.parquet")))
    artifact = Store(tmp_path, ExecConfig()).ensure(contamination.node(pool, real))
    found = contamination.overlaps(artifact)
    counts = contamination.count(artifact, found)["gsm8k"]
    assert counts["train"]["items"] == 7473 and counts["test"]["items"] == 1319
    assert counts["train"]["question"] > 0.98 * counts["train"]["checked"] > 0.97 * 7473
    assert counts["test"]["overlap"] < 0.05 * 1319
    of_gsm8k = [str(i) for i in range(16755, 24228)]
    assert contamination.count(artifact, found, of_gsm8k)["gsm8k"]["train"]["question"] > 7300
