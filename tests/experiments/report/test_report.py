"""Tables from plain data: what was not measured never becomes a number, and the numbers are the right ones."""

import csv
import io
import json
import re
import subprocess
import sys
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adg.artifacts.store import Store
from adg.errors import BadInput, BadMeasurement
from adg.evaluation import aggregate, benchmarks
from adg.evaluation.benchmarks import CATEGORIES, Benchmark, DataSet
from experiments.report import as_csv, as_html, as_markdown, as_terminal, sweep, templates
from experiments.report import files as files_
from experiments.report.sections import Section
from experiments.report.table import WORDS, Deviation, Row, Table

TASKS = ("bbh", "gsm8k", "mmlu", "truthfulqa_mc2", "mbpp", "humaneval")
STATEMENT = "mini: a working instrument at small scale, says nothing about the method"
LIMIT = "at most 4 items a subtask (suite.limit)"


def results(value=0.5, partial=False, not_run=(), suite="mini", backend="hf", **values):
    tasks = {}
    for task in TASKS:
        reason = "no sandbox" if task in not_run else ""
        tasks[task] = {
            "status": "not-run" if reason else "done",
            "reason": reason,
            "metric": "acc",
            "filter": "none",
            "value": None if reason else values.get(task, value),
            "stderr": None if reason else 0.125,
            "n": 0 if reason else 16,
            "num_fewshot": 3,
            "version": 1.0,
            "partial": partial and not reason,
            "partial_reasons": [LIMIT] if partial and not reason else [],
            "subtasks": {},
            "beside": {"flexible-extract": {"value": 0.875, "stderr": 0.1}} if task == "gsm8k" else {},
        }
    scores = {task: entry["value"] for task, entry in tasks.items()}
    return {
        "schema": "adg-results/1",
        "backend": backend,
        "suite": suite,
        "partial": partial,
        "partial_reasons": [],
        "tasks": tasks,
        "categories": aggregate.categories(scores),
    }


def done(selector, value=0.5, pool="general", paper=None, variant="", facts=None, **changes):
    return Row("tiny", pool, selector, variant, "done", "", results(value, **changes), paper, facts or {}, {"seed": 42})


def table(*rows, **changes):
    return Table(**{"title": "Main table", "profile": "mini", "statement": STATEMENT, "rows": rows, **changes})


def pipes(text):
    """The first Markdown table as a list of dicts."""
    lines = next(line for line in text.split("\n\n") if line.startswith("|")).splitlines()
    head, _, *body = ([cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines)
    assert all(len(row) == len(head) for row in body)
    return [dict(zip(head, row, strict=True)) for row in body]


def rows_of(text):
    return list(csv.DictReader(io.StringIO(text)))


def everything(found):
    return {
        "md": as_markdown.markdown(found),
        "csv": as_csv.comma_separated(found),
        "html": as_html.page(found),
        "txt": as_terminal.terminal(found),
    }


class Structure(HTMLParser):
    """Checks that tags close in order and collects the text of cells."""

    VOID = ("meta", "br", "link")

    def __init__(self):
        super().__init__()
        self.open, self.rows, self.links = [], [], []

    def handle_starttag(self, tag, attributes):
        self.links += [value for name, value in attributes if name in ("src", "href")]
        if tag in self.VOID:
            return
        self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            span = int(dict(attributes).get("colspan", 1))
            self.rows[-1] += [""] * span

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] == "small":
            return
        if "td" in self.open or "th" in self.open:
            self.rows[-1][-1] += data


def parsed(page):
    structure = Structure()
    structure.feed(page)
    assert structure.open == []
    return structure


def test_scores_averages_and_differences():
    found = table(done("random", 0.25), done("adg", bbh=1.0))  # adg: 0.5 but BBH 1.0 -> reasoning 0.75
    random, adg = pipes(as_markdown.markdown(found))
    assert adg["BBH (n=16)"] == "**100.00** [80.64, 100.00]"
    assert adg["Reasoning"] == "**75.00**"
    assert adg["Average"] == "**58.33**"
    assert (random["Average"], random["vs random"], adg["vs random"]) == ("25.00", "–", "+33.33")


def test_the_statement_is_at_the_top_of_every_rendering():
    found = table(done("adg"))
    assert as_markdown.markdown(found).splitlines()[2] == f"> **{STATEMENT}**"
    assert as_terminal.terminal(found).splitlines()[1] == STATEMENT
    assert STATEMENT in as_html.page(found).split("<h2>")[0]


def test_what_an_analysis_says_in_brief_stands_below_the_table_of_a_terminal():
    found = table(done("adg"), sections=[Section("controls", "Controls", brief=["positive: seen."])])
    assert "positive: seen." in as_terminal.terminal(found).splitlines()


@pytest.mark.parametrize("state", [s for s in WORDS if s not in ("failed", "upstream-failed")])
def test_a_row_without_results_shows_a_word_and_no_number(state):
    found = table(done("random"), Row("tiny", "general", "adg", state=state))
    word = WORDS[state]
    _, row = pipes(as_markdown.markdown(found))
    assert {row[name] for name in row} - {"tiny", "general", "adg"} == {word}
    line = rows_of(as_csv.comma_separated(found))[1]
    assert {line[task] for task in (*TASKS, *CATEGORIES)} == {word}
    assert not any(re.search(r"\d", value) for name, value in line.items() if name != "seeds")
    assert ["adg", *[""] * 9, word] in parsed(as_html.page(found)).rows  # one cell across all columns
    assert [part for part in as_terminal.terminal(found).splitlines() if part.strip().startswith("adg ")] == [
        f"{'  adg':<26} {word}"
    ]


def test_a_failure_is_printed_with_its_reason_and_without_its_traceback():
    reason = "adapter: the loss | became nan\nTraceback (most recent call last):\n  File x"
    found = table(done("random"), Row("tiny", "general", "adg", state="failed", reason=reason))
    texts = everything(found)
    assert pipes(texts["md"])[1]["BBH (n=16)"] == r"failed: adapter: the loss \| became nan"
    assert rows_of(texts["csv"])[1]["reason"] == "adapter: the loss | became nan"
    for text in (texts["html"], texts["txt"]):
        assert "failed: adapter: the loss | became nan" in text
    assert not any("Traceback" in text for text in texts.values())


def test_a_task_that_did_not_run_leaves_its_category_and_average_missing():
    found = table(done("random"), done("adg", not_run=("humaneval",)))
    texts = everything(found)
    row = pipes(texts["md"])[1]
    assert row["HumanEval (n=16)"] == "not run [1]"
    assert row["Coding"] == row["Average"] == "missing [2]"
    line = rows_of(texts["csv"])[1]
    columns = ("humaneval", "humaneval_low", "humaneval_high", "coding", "avg", "to_random")
    assert tuple(line[name] for name in columns) == (
        "not run",
        "",
        "",
        "missing",
        "missing",
        "",
    )
    for name in ("md", "html", "txt"):
        assert "[1] HumanEval not run: no sandbox" in texts[name]


def test_a_score_of_zero_is_a_number():
    row = pipes(as_markdown.markdown(table(done("adg", 0.0))))[0]
    assert row["BBH (n=16)"] == "0.00 [0.00, 19.36]"


@pytest.mark.parametrize("value", [1.5, -0.1, float("nan"), "0.5", True, 45.0])
def test_a_score_that_is_no_fraction_is_refused(value):
    broken = results()
    broken["tasks"]["mmlu"]["value"] = value
    with pytest.raises(BadMeasurement, match="mmlu of tiny / general / adg"):
        as_markdown.markdown(table(Row("tiny", "general", "adg", state="done", results=broken)))


def with_task(task, **entry):
    changed = results()
    changed["tasks"][task] |= entry
    return table(Row("tiny", "general", "adg", state="done", results=changed))


@pytest.mark.parametrize(
    ("value", "low", "high"), [(0.0, 0, 48.9891), (0.25, 4.5587, 69.9358), (1.0, 51.0109, 100)], ids=["0", "1", "4"]
)
def test_a_proportion_has_wilsons_interval_the_same_in_every_form(value, low, high):
    """Of 4 items; the standard error of 0 right, or of all, is 0 and would claim to be sure."""
    found = with_task("gsm8k", value=value, stderr=0.0 if value in (0, 1) else 0.25, n=4)
    texts = everything(found)
    assert pipes(texts["md"])[0]["GSM8K (n=4)"] == f"{100 * value:.2f} [{low:.2f}, {high:.2f}]"
    assert f"<small>{low:.2f} – {high:.2f}</small>" in texts["html"]
    (line,) = rows_of(texts["csv"])
    assert (float(line["gsm8k_low"]), float(line["gsm8k_high"])) == pytest.approx((low, high), abs=1e-4)
    assert not any("±" in text or "stderr" in text for text in texts.values())
    assert "Wilson" in texts["md"] and "Wilson" in texts["html"]


def test_a_score_that_is_no_proportion_has_students_interval_or_none_where_items_are_alike():
    (row,) = pipes(as_markdown.markdown(with_task("truthfulqa_mc2", value=0.4, stderr=0.05, n=16)))
    assert row["TruthfulQA (n=16)"] == "40.00 [29.34, 50.66]"  # 2.1314 standard errors
    alike = everything(with_task("truthfulqa_mc2", value=0.4, stderr=0.0, n=16))
    assert pipes(alike["md"])[0]["TruthfulQA (n=16)"] == "40.00"
    assert rows_of(alike["csv"])[0]["truthfulqa_mc2_low"] == ""
    assert '<td class="score">40.00</td>' in alike["html"]


def test_a_benchmark_is_one_entry(monkeypatch):
    """Its columns, names, order, interval and category follow from the table of benchmarks alone."""
    entry = Benchmark("Drop It", DataSet(lambda row: (row["q"], row["a"])), ("f1",), short="Drop")
    monkeypatch.setattr(benchmarks, "BENCHMARKS", benchmarks.BENCHMARKS)
    monkeypatch.setitem(benchmarks.BENCHMARKS, "drop", entry)
    other = results()
    other["tasks"] = {"drop": {**other["tasks"]["mmlu"], "value": 0.25}, "mmlu": other["tasks"]["mmlu"]}
    found = table(Row("tiny", "general", "adg", state="done", results=other))
    texts = everything(found)
    assert list(pipes(texts["md"])[0])[3:5] == ["MMLU (n=16)", "Drop It (n=16)"]
    assert pipes(texts["md"])[0]["Drop It (n=16)"] == "25.00 [10.18, 49.50]"
    assert re.search(r"MMLU +Drop ", texts["txt"]) and "<th>Drop It" in texts["html"]
    assert rows_of(texts["csv"])[0]["drop_low"]


HOSTILE = '=HYPERLINK("x")\x1b[2J\u202e<img src=x onerror=alert(1)>[a](http://b)'


def test_what_others_wrote_is_shown_and_does_nothing():
    """Reasons, names and analyses may hold escapes, directions of writing, markup and formulas."""
    parts = [Section("part", HOSTILE, [HOSTILE], ("what", HOSTILE), [(HOSTILE, "-1.5")])]
    rows = [Row("tiny", "general", HOSTILE, state="failed", reason=HOSTILE), done("adg", facts={"note": HOSTILE})]
    texts = everything(table(*rows, title=HOSTILE, notes=[HOSTILE], sections=parts))
    texts |= {"section.csv": as_csv.section(parts[0]), "section.txt": as_terminal.section(parts[0])}
    for name, text in texts.items():
        assert not {"\x1b", "\u202e", "\r"} & set(text), name
        assert ("\\x1b[2J\\u202e" in text) or ("\\\\x1b" in text), name
    assert "<img" not in texts["md"] + texts["html"] and "](http" not in texts["md"]
    for name in ("csv", "section.csv"):
        cells = [cell for row in csv.reader(io.StringIO(texts[name])) for cell in row]
        assert not [cell for cell in cells if cell.startswith("=")] and any(cell.startswith("'=") for cell in cells)
    assert next(csv.DictReader(io.StringIO(texts["section.csv"])))["what"].startswith("'=")
    assert "-1.5" in list(csv.reader(io.StringIO(texts["section.csv"])))[1]


def test_partial_results_are_marked_and_never_best():
    found = table(done("random", 0.25, partial=True), done("adg", partial=True))
    texts = everything(found)
    row = pipes(texts["md"])[1]
    assert row["BBH (n=16)"] == "50.00* [28.00, 72.00]"
    assert row["Average"] == "50.00*"
    assert row["vs random"] == "+25.00"
    assert "**5" not in texts["md"] and "<b>" not in texts["html"]
    for name in ("md", "html", "txt"):
        assert f"partial, not the whole benchmark: {LIMIT} in all" in " ".join(texts[name].split())
    assert [line["partial"] for line in rows_of(texts["csv"])] == ["yes", "yes"]


@pytest.mark.parametrize(
    "other", [{"state": "missing"}, {"state": "failed", "reason": "x"}, {"state": "running"}], ids=lambda o: o["state"]
)
def test_nothing_is_best_while_the_block_is_unfinished(other):
    found = table(done("random", 0.25), done("adg"), Row("tiny", "general", "zip", **other))
    assert "<b>" not in as_html.page(found)
    whole = table(*found.rows[:2], Row("tiny", "general", "scar", state="not-run", reason="needs a checkpoint"))
    assert as_html.page(whole).count("<b>50.00</b>") == 10


def test_partial_and_whole_results_are_not_compared():
    found = table(done("random", 0.25, partial=True), done("adg"))
    assert rows_of(as_csv.comma_separated(found))[1]["to_random"] == ""
    found = table(done("random", 0.25, suite="paper"), done("adg"))
    assert rows_of(as_csv.comma_separated(found))[1]["to_random"] == ""


def test_random_is_that_of_the_same_backbone_pool_and_variant():
    found = table(
        done("random", 0.0, pool="cot"),
        done("random", 0.25),
        done("random", 0.4375, variant="budget 3"),
        done("adg"),
        done("adg", variant="budget 3"),
        done("adg", variant="lam 0"),
    )
    differences = [line["to_random"] for line in rows_of(as_csv.comma_separated(found))]
    assert differences == ["", "", "", "25.0000", "6.2500", "25.0000"]


def test_the_paper_stands_beside_each_average():
    figure = {"reasoning": 50.11, "knowledge": 60.31, "coding": 42.14, "avg": 50.85}
    scar = Row("tiny", "general", "scar", state="not-run", paper=figure)
    found = table(done("adg", paper=figure), scar, source="page")
    texts = everything(found)
    row, missing = pipes(texts["md"])
    assert row["Average"] == "50.00 (paper 50.85)" and row["vs paper"] == "-0.85"
    assert missing["Average"] == "not run (paper 50.85)" and missing["vs paper"] == "–"
    assert re.search(r"adg .* 50\.00   50\.85$", texts["txt"], re.MULTILINE)
    assert rows_of(texts["csv"])[0]["avg_paper"] == "50.8500"
    assert all("(page)" in texts[name] for name in ("md", "html", "txt"))
    partial = table(done("adg", paper=figure, partial=True))
    assert pipes(as_markdown.markdown(partial))[0]["vs paper"] == "–"


def test_without_published_figures_no_such_column():
    texts = everything(table(done("adg")))
    assert "paper" not in texts["txt"] and "vs paper" not in texts["md"] + texts["html"]


def test_the_items_stand_in_the_cell_when_they_differ():
    fewer = results()
    fewer["tasks"]["mmlu"]["n"] = 8
    found = table(done("random"), Row("tiny", "general", "adg", state="done", results=fewer))
    assert [row["MMLU"] for row in pipes(as_markdown.markdown(found))] == [
        "**50.00** [28.00, 72.00] (n=16)",
        "**50.00** [21.52, 78.48] (n=8)",
    ]


def test_flexible_extract_facts_and_seeds_are_kept():
    texts = everything(table(done("adg", facts={"rows_out": 12, "invalid": {"empty": 2}})))
    assert "| tiny | general | adg | seed 42 | 12 | empty 2 | 87.50 |" in texts["md"]
    assert "flexible 87.50" in texts["html"]
    assert rows_of(texts["csv"])[0]["subset_rows_out"] == "12"


def test_the_ledger_ends_the_page():
    entry = Deviation("Top-k", "not named", "50 | default", "0 <off>", ("sampling.top_k",))
    texts = everything(table(done("adg"), ledger=[entry]))
    assert texts["md"].rstrip().endswith(r"| Top-k | not named | 50 \| default | 0 &lt;off&gt; | `sampling.top_k` |")
    assert parsed(texts["html"]).rows[-1] == ["Top-k", "not named", "50 | default", "0 <off>", "sampling.top_k"]


def test_two_backends_do_not_meet_in_one_table():
    with pytest.raises(BadInput, match=r"hf in tiny / general / random; vllm in tiny / general / adg"):
        as_markdown.markdown(table(done("random"), done("adg", backend="vllm")))


@pytest.mark.parametrize("row", [{"state": "done"}, {"state": "missing", "results": results()}, {"state": "finished"}])
def test_a_row_that_contradicts_itself_is_refused(row):
    with pytest.raises(BadInput, match="tiny / general / adg"):
        Row("tiny", "general", "adg", **row)


def test_an_unknown_task_gets_a_column_of_its_own():
    other = results()
    other["tasks"]["drop"] = {**other["tasks"]["mmlu"], "value": 0.25}
    row = pipes(as_markdown.markdown(table(Row("tiny", "general", "adg", state="done", results=other))))[0]
    assert row["drop (n=16)"] == "25.00 [0.00, 51.64]"


def test_a_suite_of_other_tasks_has_no_column_of_the_papers_categories():
    chinese = results()
    chinese["tasks"] = {
        name: {**chinese["tasks"]["mmlu"], "value": value} for name, value in (("ceval-valid", 0.5), ("cmmlu", 0.25))
    }
    chinese["categories"] = aggregate.categories({"cmmlu": 0.25, "ceval-valid": 0.5})
    found = table(Row("tiny", "general", "adg", state="done", results=chinese), Row("tiny", "general", "zip"))
    texts = everything(found)
    row, missing = pipes(texts["md"])
    assert (row["CMMLU (n=16)"], row["C-Eval (n=16)"], row["Average"]) == (
        "25.00 [10.18, 49.50]",
        "50.00 [28.00, 72.00]",
        "37.50",
    )
    assert missing["Average"] == "missing" and "Reasoning" not in row
    assert not any("Reasoning" in text or "BBH" in text for text in texts.values())
    assert rows_of(texts["csv"])[0]["avg"] == "37.5000"


def test_overlap_and_interval_stand_beside_the_score():
    overlap = {"gsm8k": {"test": 3, "train": 7300}, "mmlu": {"test": 0, "train": 0}}
    leaking = Row("tiny", "general", "adg", state="done", results=results(), overlap=overlap, interval=(0.4, 0.6))
    texts = everything(table(done("random"), leaking))
    first, row = pipes(texts["md"])
    assert row["GSM8K (n=16)"] == "**50.00** [28.00, 72.00] (overlap 3 test, 7,300 train)"
    assert row["MMLU (n=16)"].endswith("(overlap 0 test, 0 train)") and "overlap" not in row["BBH (n=16)"]
    assert row["Average"] == "**50.00** [40.00, 60.00]" and first["Average"] == "**50.00**"
    assert "<small>overlap 3 test, 7,300 train</small>" in texts["html"] and "40.00 – 60.00" in texts["html"]
    assert "overlap of tiny / general / adg: GSM8K 3 test, 7,300 train\n" in texts["txt"] + "\n"
    assert all("nothing was removed" in " ".join(texts[name].split()) for name in ("md", "html", "txt"))
    assert "leaves training variance out" in texts["md"]
    without, line = rows_of(texts["csv"])
    assert (line["gsm8k_overlap_test"], line["gsm8k_overlap_train"], line["bbh_overlap_test"]) == ("3", "7300", "")
    assert (line["avg_low"], line["avg_high"], without["avg_low"]) == ("40.0000", "60.0000", "")
    plain = everything(table(done("random")))
    assert not any("overlap" in text for text in plain.values())


def test_the_page_fetches_nothing_and_runs_its_own_script_alone():
    page = as_html.page(table(done("<script>alert(1)</script>"), notes=["a & b"]))
    structure = parsed(page)
    assert structure.links and all(link.startswith("#") for link in structure.links)
    own = (templates.FOLDER / "page.js").read_text()
    assert re.findall(r"<script[^>]*>(.*?)</script>", page, re.DOTALL) == [f"\n{own}"]
    assert page.count("<script") == 1 and "@import" not in page and "url(" not in page
    assert "a &amp; b" in page


def test_long_names_differ_in_their_last_words():
    found = table(
        *(
            Row(
                "tiny",
                "general",
                "adg",
                variant=f"chosen by a backbone with a very long name {i}",
                state="done",
                results=results(),
            )
            for i in (1, 2)
        )
    )
    names = {re.split(r"\s{2,}", line.strip())[0] for line in as_terminal.terminal(found).splitlines() if "…" in line}
    assert len(names) == 2 and all(name.startswith("adg, ") for name in names), names


@pytest.mark.parametrize("name", ["adg", "a-selector-with-a-long-name, lam=0.25, budget=10000, answers=3"])
def test_the_terminal_table_fits(name):
    figure = dict.fromkeys(CATEGORIES, 100.0)
    found = table(
        done("random", 1.0, paper=figure, partial=True),
        done(name, 1.0, paper=figure, partial=True),
        Row("tiny", "general", "zip", state="failed", reason="word " * 200),
    )
    assert max(map(len, as_terminal.terminal(found).splitlines())) <= as_terminal.WIDTH


def test_writing_twice_gives_the_same_bytes(tmp_path):
    found = table(done("random", 0.25), done("adg"), Row("tiny", "general", "zip"))
    files = files_.write(found, tmp_path / "a")
    assert [file.name for file in files] == ["table.md", "table.csv", "table.json", "index.html"]
    again = files_.write(table(*json_copy(found.rows)), tmp_path / "b")
    assert [f.read_bytes() for f in files] == [f.read_bytes() for f in again]


def json_copy(rows):
    return [
        Row(
            r.backbone,
            r.pool,
            r.selector,
            r.variant,
            r.state,
            r.reason,
            json.loads(json.dumps(r.results)),
            r.paper,
            r.facts,
            r.seeds,
        )
        for r in rows
    ]


@pytest.mark.parametrize("name", ["results.json", "manifest.json"])
def test_a_damaged_file_costs_one_row_and_is_named(study, flat, name):
    first, second = study.cells("selector=random,longest")
    study.finish(first, flat(0.5))
    path = study.finish(second, flat(0.4)).path / name
    data = bytearray(path.read_bytes())
    data[100] ^= 1
    path.write_bytes(data)
    sweep.write([first, second], Store(study.runs))
    text = next(study.runs.glob("report/*/table.md")).read_text()
    assert "2 cells: 1 done, 1 failed" in text and "failed: eval: " in text and str(path) in text


def test_an_empty_table_renders():
    assert "no cells" in as_markdown.markdown(table())
    assert "no cells" in as_html.page(table())


@given(st.lists(st.sampled_from(["done", *WORDS]), min_size=1, max_size=6), st.floats(0.01, 1))
def test_every_rendering_has_every_row_and_no_number_for_a_row_without_results(states, value):
    found = table(
        *(
            done(f"s{i}x", value) if state == "done" else Row("tiny", "general", f"s{i}x", state=state)
            for i, state in enumerate(states)
        )
    )
    lines = rows_of(as_csv.comma_separated(found))
    assert [line["selector"] for line in lines] == [row.selector for row in found.rows]
    for line, row in zip(lines, pipes(as_markdown.markdown(found)), strict=True):
        numeric = line["avg"].replace(".", "").isdigit()
        assert numeric == (line["state"] == "done") == bool(re.match(r"\**\d", row["Average"]))


def test_rendering_needs_no_heavy_library(root):
    heavy = {"torch", "wandb", "transformers", "vllm", "trl", "lm_eval", "datasets", "pyarrow", "sklearn"}
    code = (
        "import sys, experiments.report.files, experiments.report.as_html, experiments.report.published; "
        f"found = {heavy} & set(sys.modules); print(found); sys.exit(bool(found))"
    )
    subprocess.run([sys.executable, "-c", code], cwd=root, check=True)
