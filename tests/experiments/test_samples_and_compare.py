"""Items of a cell, and cells against each other: only what answered the same items alike is compared."""

from __future__ import annotations

import csv
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from adg.errors import BadInput
from adg.evaluation import samples as samples_
from adg.evaluation.config import EMBEDDED
from adg.evaluation.overlap import words
from experiments import compare, contamination, samples
from experiments.report import __main__ as report
from experiments.report import analyses, lengths
from experiments.report import rows as rows_

pytestmark = pytest.mark.usefixtures("sections_in_common")

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Call an entry point: (exit code, what it printed, its error)."""

    def call(module: Any, *arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["x", *arguments])
        code: Any = 0
        try:
            module.main()
        except SystemExit as end:
            code = end.code
        shown = capsys.readouterr()
        return (1 if isinstance(code, str) else code), shown.out, shown.err + (code if isinstance(code, str) else "")

    return call


def pair(study: Any, ours: Any, theirs: Any, **other: Any) -> list[Any]:
    """The two cells of the smoke profile, finished with these scores; ``other`` changes random's evaluation."""
    random, adg = sorted(study.cells(), key=lambda cell: cell.config.selector["name"], reverse=True)
    study.finish(random, theirs, **other)
    study.finish(adg, ours)
    return [random, adg]


def test_adg_is_compared_with_the_others_task_by_task(study: Any, flat: Any) -> None:
    chosen = pair(study, flat(0.9), flat(0.3))
    (found,) = compare.pairings(chosen, study.store)
    assert (found.ours, found.theirs, found.reason, found.seeds) == ("adg", "random", "", (42,))
    assert set(found.tasks) == {"bbh", "gsm8k", "mmlu", "truthfulqa_mc2", "mbpp", "humaneval", "avg"}
    assert found.tasks["avg"].difference == pytest.approx(0.6) and found.tasks["avg"].n == 120
    assert found.tasks["bbh"].p_exact == pytest.approx(2 / 2**12), "twelve items changed, all for the better"
    assert found.holm["avg"] == (found.tasks["avg"].p, 1) and found.tasks["avg"].p < 0.01, "one needs no correction"
    text = compare.render([found])
    assert "+60.00" in text and "training variance is left out" in text
    again = compare.pairings(chosen, study.store)
    assert compare.comma_separated(again) == compare.comma_separated([found]), "the same draws every time"


def test_many_selectors_are_corrected_for_one_another(study: Any, flat: Any) -> None:
    chosen = study.cells("selector=random,longest,all,adg")
    shares = {"random": 0.3, "longest": 0.75, "all": 0.85, "adg": 0.9}
    for cell in chosen:
        study.finish(cell, flat(shares[cell.config.selector["name"]]))
    found = compare.pairings(chosen, study.store)
    assert [x.theirs for x in found] == ["random", "longest", "all"]
    for task in found[0].tasks:
        raw, adjusted = [x.tasks[task].p for x in found], [x.holm[task].p for x in found]
        assert all(p <= q for p, q in zip(raw, adjusted, strict=True)) and adjusted != raw
    assert found[0].holm_exact["bbh"] == (pytest.approx(3 * found[0].tasks["bbh"].p_exact), 3)
    assert "Holm over" not in compare.render(found)


def test_a_correction_over_fewer_selectors_than_planned_says_so(study: Any, flat: Any) -> None:
    chosen = study.cells("selector=random,longest,all,adg")
    shares = {"random": 0.3, "longest": 0.75, "adg": 0.9}
    for cell in chosen:
        if (name := cell.config.selector["name"]) in shares:
            fewer = {task: parts for task, parts in flat(shares[name]).items() if task != "mbpp" or name != "longest"}
            study.finish(cell, fewer)
    random, longest, everything = compare.pairings(chosen, study.store)
    assert everything.reason and [x.planned for x in (random, longest, everything)] == [3, 3, 3]
    assert (random.holm["bbh"].over, random.holm["mbpp"].over, random.holm["avg"].over) == (2, 1, 1)
    text = compare.render([random, longest, everything])
    assert "  Holm over 1 of 3 selectors (mbpp, avg)\n" in text and "McNemar's p over" not in text
    assert text.count("  Holm over 2 of 3 selectors (bbh, gsm8k, mmlu, truthfulqa_mc2, humaneval)\n") == 1
    assert text.count("  Holm over 2 of 3 selectors\n") == 1
    rows = list(csv.DictReader(compare.comma_separated([random, longest, everything]).splitlines()))
    assert [
        (row["holm_over"], row["mcnemar_holm_over"], row["holm_planned"])
        for row in rows
        if row["task"] in ("bbh", "mbpp", "")
    ] == [("2", "2", "3"), ("1", "1", "3"), ("2", "2", "3"), ("", "", "3")]


def test_variants_of_adg_are_compared_in_pairs_where_it_stands_alone(study: Any, flat: Any, run: Run) -> None:
    chosen = study.cells("experiment=terms")
    shares = dict(zip((cell.variant for cell in chosen), (0.3, 0.5, 0.9), strict=True))
    for cell in chosen:
        study.finish(cell, flat(shares[cell.variant]))
    found = compare.pairings(chosen, study.store)
    d, i, both = (f"adg, {variant}" for variant in shares)
    assert [(x.ours, x.theirs) for x in found] == [(d, i), (d, both), (i, both)]
    assert [x.tasks["avg"].difference for x in found] == pytest.approx([-0.2, -0.6, -0.4])
    assert all(x.holm["bbh"].over == x.planned == 3 for x in found)
    code, out, _ = run(compare, "profile=smoke", "experiment=terms", f"exec.runs={study.runs}")
    assert code == 0 and f"{d} against {both}" in out and "pairs of variants of a backbone and pool" in out
    assert (study.runs / "report" / "smoke-terms" / "compare.csv").exists()


def test_variants_of_adg_are_compared_with_seeds_in_pairs(study: Any, flat: Any) -> None:
    chosen = study.cells("selector=adg", "selector.lam=0,1", "seed=1,2")
    for cell in chosen:
        if cell.config.selector["lam"] == 0 or cell.config.seed == 1:
            study.finish(cell, flat(0.5))
    (found,) = compare.pairings(chosen, study.store)
    assert (found.ours, found.theirs) == ("adg, selector.lam=0", "adg, selector.lam=1")
    assert "seed=2" in found.reason and "is missing at" in found.reason


@pytest.mark.parametrize("module", [compare, samples])
def test_an_experiment_that_only_selects_has_nothing_to_compare(run: Run, study: Any, module: Any) -> None:
    stability = ["experiment=stability", f"exec.runs={study.runs}", "preset=paper", "sampling.seed=42"]
    code, _, err = run(module, "profile=smoke", *stability, "embedding.bins.seed=42")
    assert code == 1 and "experiment=stability only selects" in err and "nothing is evaluated" in err


def test_where_there_is_no_interval_the_table_says_why(study: Any, flat: Any) -> None:
    one = {"bbh": {"a": [0.0] * 9, "b": [1.0]}}
    chosen = pair(study, {**flat(1.0), **one}, {**flat(0.0), **one})
    text = compare.render(compare.pairings(chosen, study.store))
    assert "a subtask with a single item cannot be resampled" in text and "all resamples are equal" in text
    row = next(line for line in text.splitlines() if line.startswith("  gsm8k"))
    assert row.split()[:4] == ["gsm8k", "20", "+100.00", "–"] and "[" not in row


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"prompt": "Other"}, "items_hash of bbh"),
        ({"partial": True}, "partial (a limit)"),
        ({"backend": "vllm"}, "backend is 'hf' and 'vllm'"),
    ],
)
def test_other_items_or_partial_results_are_refused(
    study: Any, flat: Any, run: Run, change: dict[str, Any], said: str
) -> None:
    chosen = pair(study, flat(0.9), flat(0.3), **change)
    (found,) = compare.pairings(chosen, study.store)
    assert found.refused and not found.tasks and said in found.reason
    code, out, err = run(compare, "profile=smoke", f"exec.runs={study.runs}")
    assert code == 1 and "refused" in out and "1 of 1 comparisons were refused" in err
    (line,) = csv.DictReader((study.runs / "report" / "smoke-main" / "compare.csv").open())
    assert line["difference"] == "" and said in line["reason"]
    with pytest.raises(BadInput, match="cannot be compared"):
        samples_.diff(*(study.store.find(cell.nodes["eval"]) for cell in chosen), "bbh")


def test_a_cell_that_is_not_done_is_missing_and_no_error(study: Any, flat: Any, run: Run) -> None:
    study.finish(next(c for c in study.cells() if c.config.selector["name"] == "adg"), flat(0.5))
    code, out, _ = run(compare, "profile=smoke", f"exec.runs={study.runs}")
    assert code == 0 and "random is missing at scores" in out
    code, out, _ = run(compare, "profile=smoke", "selector=random", f"exec.runs={study.runs}")
    assert code == 0 and "no cell of adg" in out


def test_seeds_are_compared_in_pairs(study: Any, flat: Any) -> None:
    chosen = study.cells("seed=1,2,3")
    for cell in chosen:
        lift = 0.1 * cell.config.seed
        study.finish(cell, flat((0.5 if cell.config.selector["name"] == "adg" else 0.3) + lift))
    (found,) = compare.pairings(chosen, study.store)
    assert found.seeds == (1, 2, 3) and found.tasks["avg"].difference == pytest.approx(0.2)
    assert found.tasks["avg"].interval is not None and found.tasks["bbh"].p_exact is None
    assert "training variance" not in compare.render([found])


def test_a_task_that_one_cell_did_not_run_is_left_out_with_the_average(study: Any, flat: Any) -> None:
    fewer = {task: parts for task, parts in flat(0.3).items() if task != "mbpp"}
    (found,) = compare.pairings(pair(study, flat(0.9), fewer), study.store)
    assert set(found.tasks) == {"bbh", "gsm8k", "mmlu", "truthfulqa_mc2", "humaneval"}


def test_scores_are_read_once_and_anew_where_they_were_built_again(
    study: Any, flat: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import pyarrow.parquet as pq

    cell, read, known = study.cells()[0], [], pq.read_table
    monkeypatch.setattr(pq, "read_table", lambda *given, **more: read.append(given) or known(*given, **more))
    first = study.finish(cell, flat(0.5))
    assert samples_.scores(first, "mmlu") == samples_.scores(first, "mmlu") and len(read) == 1
    shutil.rmtree(first.path)
    again = study.finish(cell, flat(0.75))
    assert samples_.scores(again, "mmlu") != samples_.scores(first, "mmlu") and len(read) == 2
    assert samples_.matrix([again], "mmlu")[0].sum() == 15


def test_samples_that_do_not_give_the_score_back_are_refused(study: Any, flat: Any) -> None:
    artifact = study.finish(study.cells()[0], flat(0.5))
    results = json.loads((artifact.path / "results.json").read_text())
    results["tasks"]["bbh"]["value"] = 0.75
    (artifact.path / "results.json").write_text(json.dumps(results))
    with pytest.raises(Exception, match="mean is not that of results"):
        samples_.scores(artifact, "bbh")


# -- samples ------------------------------------------------------------------------------------------


@pytest.fixture
def shown(study: Any, flat: Any, run: Run) -> Callable[..., tuple[int, str, str]]:
    pair(study, flat(0.9), flat(0.3))

    def call(*arguments: str) -> tuple[int, str, str]:
        return run(samples, "profile=smoke", f"exec.runs={study.runs}", *arguments)

    return call


def test_rows_are_filtered(shown: Callable[..., tuple[int, str, str]]) -> None:
    code, out, err = shown("selector=adg", "--task", "gsm8k", "--wrong")
    assert (code, err) == (0, "") and out.count("gsm8k / gsm8k item") == 2
    assert "0 right of 2" in out and "target" in out
    _, out, _ = shown("selector=adg", "--task", "gsm8k", "--right", "--limit", "5")
    assert out.count("score 1") == 5 and "and 13 more (--limit 0 prints all)" in out
    _, out, _ = shown("selector=adg", "--search", "q 7 OF mm", "--limit", "0")
    assert out.count(" item 7: ") == 1 and "mmlu 1 right of 1" in out and "bbh 0 right of 0" in out
    _, out, _ = shown("selector=adg", "--subtask", "mbp", "--json", "--limit", "0")
    rows = [json.loads(line) for line in out.splitlines()]
    assert len(rows) == 20 and {row["task"] for row in rows} == {"mbpp"} and "prompt_hash" in rows[0]


def test_two_cells_are_diffed_item_by_item(shown: Callable[..., tuple[int, str, str]]) -> None:
    code, out, _ = shown("selector=random,adg", "--diff", "--task", "bbh", "--limit", "0")
    assert code == 0 and out.count(": 0 -> 1") == 12 and ": 1 -> 0" not in out
    assert "bbh 12 better, 0 worse" in out
    _, out, _ = shown("selector=adg,random", "--diff", "--task", "bbh", "--search", "q 8 ")
    assert out.count(": 1 -> 0") == 1 and "0 better, 1 worse" in out


def test_two_backends_are_held_against_each_other_item_by_item(study: Any, flat: Any, run: Run) -> None:
    options = ("selector=random", "suite.backend=hf,vllm", "suite.merge_adapter=false")
    hf, vllm = study.cells(*options)
    study.finish(hf, flat(0.5))
    study.finish(vllm, {**flat(0.5), "bbh": {"bbh": [1.0] * 9 + [0.0] * 11}}, backend="vllm")
    code, out, _ = run(samples, "profile=smoke", f"exec.runs={study.runs}", *options, "--diff")
    assert code == 0 and out.count("bbh / bbh item 9: 1 -> 0") == 1 and out.count(" item ") == 1
    assert "hf -> vllm: bbh 19 of 20 alike, gsm8k 20 of 20 alike" in out and "in vllm: a0" in out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "name 2 cells"),
        (("selector=adg", "--diff"), "expected exactly 2 for --diff"),
        (("selector=adg", "--task", "gsm"), "did you mean 'gsm8k'"),
        (("selector=longest",), "run it first"),
        (("selector=adg", "--task", "bbh", "--filter", "x"), "no filter 'x'"),
        (("selector=adg", "--limit", "-5"), "--limit: '-5' is no whole number from 0 on"),
        (("selector=adg", "--limit", "2.5"), "--limit: '2.5' is no whole number"),
        (("selector=adg", "--limt", "5"), "no option --limt (did you mean '--limit'?)"),
        (("selector=adg", "--wro"), "no option --wro (did you mean '--wrong'?)"),
        (("selector=adg", "--right", "--wrong"), "not allowed with argument --right"),
        (("selector=random,adg", "--diff", "--filter", "x"), "leave --filter out"),
    ],
)
def test_what_cannot_be_shown_is_said(
    shown: Callable[..., tuple[int, str, str]], arguments: tuple[str, ...], said: str
) -> None:
    code, _, err = shown(*arguments)
    assert code == 1 and said in err and "Traceback" not in err
    assert len(err.splitlines()) == 1 and err.startswith("error: ")


def test_what_a_model_wrote_does_nothing_to_a_terminal() -> None:
    """Escapes, a bell, a C1 control and marks that turn the direction are shown; joiners and other letters stay."""
    hostile = "a\x1b]52;c;ZXZpbA==\x07 \x9b2J \u202eb\u2066\ud800\x7f \u0915\u094d\u200d\u0937 é"
    row = {"subtask": "s", "doc_id": 0, "score": 0.0, "error": f"E: {hostile}", "prompt": hostile, "target": hostile}
    row |= {"answer": hostile, "response": hostile}
    for text in (samples.show(row, "t"), samples.show_change(row, row, "t", ("one", "other"))):
        assert text.count("\\x1b]52") == text.count("\\x9b2J") == text.count("\\u202eb\\u2066\\ud800\\x7f") > 2
        assert not {"\x1b", "\x07", "\x9b", "\u202e", "\u2066", "\ud800", "\x7f"} & set(text)
        assert "\u0915\u094d\u200d\u0937 é" in text
    line = samples.as_json(row)
    assert not {"\x9b", "\u202e", "\u2066", "\ud800", "\x7f"} & set(line) and json.loads(line) == row


def test_an_interval_of_few_items_stays_between_0_and_1(study: Any) -> None:
    """Two items in each part: what is resampled reaches beyond what an average can be."""
    tasks = ("bbh", "gsm8k", "mmlu", "truthfulqa_mc2", "mbpp", "humaneval")
    for rest in (0.0, 1.0):
        scores = {task: {"a": [rest, rest], "b": [rest, abs(rest - (task == "bbh"))]} for task in tasks}
        cell = study.cells()[0]
        study.finish(cell, scores)
        row = rows_.row(cell, study.store)
        assert row.interval is not None and 0 <= row.interval[0] < row.interval[1] <= 1
        assert row.interval[0 if rest == 0 else 1] == rest
        study = type(study)(study.runs.with_name("other"))


# -- in the report ------------------------------------------------------------------------------------


def test_the_report_has_intervals_and_after_the_comparison_the_overlap_of_each_subset(
    study: Any, flat: Any, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    question = json.loads((EMBEDDED / "openai/gsm8k/main/train.jsonl").read_text().splitlines()[0])["question"]
    rows = [{"instruction": question.upper(), "output": "?"}, {"instruction": "Name a bird.", "output": "Wren."}]
    (tmp_path / "my.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    own = ["pool=local", f"pool.path={tmp_path / 'my.jsonl'}"]
    chosen = study.cells(*own)
    for cell in chosen:
        study.finish(cell, flat(0.5))
    before = [rows_.row(cell, study.store) for cell in chosen]
    assert all(row.overlap is None for row in before)
    assert all(row.interval and row.interval[0] < 0.5 < row.interval[1] for row in before)
    code, out, _ = run(contamination, "profile=smoke", f"exec.runs={study.runs}", *own)
    assert code == 0 and "gsm8k main/train item 0, question, in the prompt of record 0: ngram" in out
    assert "subset of tiny_random/local/adg" in out and out.count(": gsm8k 1 train\n") == 2
    assert " ".join(words(question))[:60] in out
    after = [rows_.row(cell, study.store) for cell in chosen]
    assert [row.overlap["gsm8k"] for row in after if row.overlap] == [{"test": 0, "train": 1}] * 2
    assert [row.interval for row in after] == [row.interval for row in before], "the same draws every time"
    for part in (analyses, lengths):  # they read scores and answers, which these cells have not
        monkeypatch.setattr(part, "sections", lambda *_: [])
    code, out, err = run(report, "profile=smoke", f"exec.runs={study.runs}", *own)
    assert code == 0, err
    assert code == 0 and " ".join(out.split()).count(": GSM8K 0 test, 1 train") == 2


def test_another_setting_is_another_comparison_of_the_same_cells(study: Any) -> None:
    plain, changed = study.cells("selector=adg"), study.cells("selector=adg", "contamination.ngram=8")
    assert contamination.node(plain[0]).fingerprint != contamination.node(changed[0]).fingerprint
    assert [c.fingerprint for c in plain] == [c.fingerprint for c in changed] and changed[0].variant == ""
