"""The experiments beside the main table: what they share, how they run, and what their report says."""

from __future__ import annotations

import csv
import dataclasses
import functools
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from adg import geometry, seeds
from adg.artifacts.artifact import SCHEMA
from adg.artifacts.files import write_json
from adg.artifacts.sealed import write_sealed
from adg.artifacts.store import Store
from adg.errors import BadInput
from adg.pools import records
from adg.selection.stability import Matrices, Terms
from experiments import cells, plan
from experiments.config import SECTIONS, ExperimentConfig
from experiments.report import analyses, averages, overlaps, published, remade, selections, settings, sweep
from experiments.report import rows as rows_
from experiments.report.sections import Section
from tests import processes

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("sections_in_common")]

TRAINED = ("terms", "answers", "layers", "budget", "bins", "cross_backbone")


@functools.cache
def chosen(experiment: str, profile: str = "mini", *more: str) -> list[cells.Cell]:
    return cells.cells([f"profile={profile}", f"experiment={experiment}", *more])


def fingerprints(of: list[cells.Cell], role: str) -> set[str]:
    return {cell.nodes[role].fingerprint for cell in of}


@pytest.mark.parametrize("profile", ["mini", "paper"])
def test_answers_layers_and_stability_share_one_pass_over_ten_answers(profile: str) -> None:
    answers, layers, stability = (chosen(name, profile) for name in ("answers", "layers", "stability"))
    assert {cell.config.sampling.n for cell in (*answers, *layers, *stability)} == {10}
    assert len(fingerprints(answers, "grams")) == 1
    assert fingerprints(answers, "grams") == fingerprints(layers, "grams") < fingerprints(stability, "grams")
    assert [cell.selector.config.answers for cell in answers] == [3, 5, 7, 10]
    assert {cell.selector.config.window for cell in layers} == set(layers[0].config.embedding.declared)


def test_the_papers_layers_and_budgets_are_the_swept_ones() -> None:
    figures = {name: block.get("averages") for name, block in published.figures()["analyses"].items()}
    shown = [rows_.row(cell, Store("nowhere")) for cell in chosen("layers", "paper")]
    assert {row.paper["avg"] for row in shown if row.paper} == set(figures["layers"]["adg"].values())
    assert [c.config.budget for c in chosen("budget", "paper", "selector=adg")] == [*figures["budget"]["adg"]]
    shown = [rows_.row(cell, Store("nowhere")) for cell in chosen("budget", "paper")]
    beside = [row.paper["avg"] for row in shown if row.paper and row.selector == "adg"]
    assert beside == [*figures["budget"]["adg"].values()]
    shown = [rows_.row(cell, Store("nowhere")) for cell in chosen("answers", "paper")]
    assert [row.paper and row.paper["avg"] for row in shown] == [*figures["answers"]["adg"].values()]
    cross = chosen("cross_backbone", "paper")
    assert all(rows_.row(cell, Store("nowhere")).paper for cell in cross) and len(cross) == 4


def test_a_default_cell_is_the_main_tables() -> None:
    """Where an analysis asks for what the main table has, nothing is trained or evaluated twice."""
    main = fingerprints(chosen("main"), "eval")
    assert len(fingerprints(chosen("budget"), "eval") & main) == 3, "the three at the profile's own budget"
    assert len(fingerprints(chosen("cross_backbone"), "eval") & main) == 2, "each backbone with its own choice"
    assert fingerprints(chosen("terms"), "answers") <= fingerprints(
        [cell for cell in chosen("main") if "answers" in cell.nodes], "answers"
    )


def test_cross_backbone_trains_one_and_asks_the_other() -> None:
    of = chosen("cross_backbone")
    found = {(c.config.backbone.name, c.config.selecting.name): c for c in of if c.config.selecting}
    assert len(found) == 4
    cell = found["smollm2_135m", "smollm2_qwen2"]
    assert cell.variant == "chosen by smollm2_qwen2"
    assert cell.nodes["adapter"].inputs["backbone"] is cell.nodes["backbone"]
    assert cell.nodes["answers"].inputs["backbone"] is cell.nodes["selecting"]
    assert "selecting" not in found["smollm2_135m", "smollm2_135m"].nodes
    same = found["smollm2_qwen2", "smollm2_qwen2"].nodes["subset"]
    assert cell.nodes["subset"].fingerprint == same.fingerprint


def test_bins_cover_both_rules_none_and_every_part() -> None:
    found = chosen("bins")
    options = {(c.selector.config.bins, c.selector.config.rule, c.selector.config.part) for c in found}
    assert len(found) == len(options) == 9
    assert {(b, r) for b, r, _ in options} == {
        (True, "largest_remainder"),
        (True, "released"),
        (False, "largest_remainder"),
    }
    with pytest.raises(BadInput, match=r"experiment\.choices\.non\.bins"):
        chosen("bins", "mini", "experiment.choice=non")


def test_stability_trains_nothing_and_keeps_each_presets_own_window() -> None:
    found = chosen("stability")
    assert all("adapter" not in cell.nodes and "eval" not in cell.nodes for cell in found)
    first = {cell.config.preset.name: cell.config.embedding.declared[0] for cell in found}
    assert first == {"paper": "last4", "released": "released"}
    assert len({cell.name for cell in found}) == len(found)


def test_the_chinese_experiment_has_its_own_pool_and_suite() -> None:
    found = chosen("chinese")
    assert {(cell.config.pool.name, cell.config.suite.name) for cell in found} == {("mini_chinese", "mini_chinese")}
    assert {cell.variant for cell in found} == {""}


def test_the_embedded_chinese_pool_is_read_whole(tmp_path: Path) -> None:
    cell = cells.cells(["profile=mini", "pool=mini_chinese", "selector=random", "backbone=smollm2_135m"])[0]
    loaded = records.load(Store(tmp_path, cell.config.exec).ensure(cell.nodes["pool"]))
    assert len(loaded) == 36 and all(any("\u4e00" <= c <= "\u9fff" for c in r.instruction) for r in loaded)
    assert len({r.instruction for r in loaded}) == 36 and all(r.output for r in loaded)


@pytest.mark.parametrize("experiment", [*TRAINED, "stability"])
def test_what_is_not_there_is_missing_and_never_a_number(experiment: str, tmp_path: Path) -> None:
    of = chosen(experiment, "smoke", f"exec.runs={tmp_path}")
    shown = sweep.write(of, Store(tmp_path))
    assert "missing" in shown
    folder = tmp_path / "report" / f"smoke-{experiment}"
    assert (folder / "index.html").is_file()
    if experiment == "stability":
        rows = list(csv.reader((folder / "selections.csv").open()))[1:]
        assert rows and all(row[1:] == ["missing", "–", "–"] for row in rows)
    else:
        rows = list(csv.DictReader((folder / "swept.csv").open()))
        assert rows and all(row["average"] == "missing" and row["examples"] == "missing" for row in rows)
        assert ">missing<" in (folder / "swept.svg").read_text() or experiment == "budget"


@pytest.mark.parametrize("experiment", ["main", "budget", "chinese", "cross_backbone", "bins"])
def test_any_experiment_may_end_with_the_subsets(experiment: str, tmp_path: Path) -> None:
    of = chosen(experiment, "smoke", f"exec.runs={tmp_path}", "experiment.last=subset")
    assert {cell.last.stage.name for cell in of} == {"subset"}
    sweep.write(of, Store(tmp_path))
    (written,) = (tmp_path / "report").glob("*/selections.csv")
    assert len(written.read_text(encoding="utf-8").splitlines()) == 1 + len(of)


def test_what_an_experiment_shows_is_said_by_its_file(tmp_path: Path) -> None:
    """A copy of an experiment under another name shows the same."""
    scored = ["score-ranks", "score-terms", "score-chosen"]  # of every experiment with ADG
    shows: dict[str, list[str]] = {"budget": ["swept"], "main": [], "stability": ["selections", "between"]}
    for experiment, names in shows.items():
        of = chosen(experiment, "smoke")
        of = [dataclasses.replace(c, config=dataclasses.replace(c.config, experiment=renamed(c))) for c in of]
        rows = [rows_.row(cell, Store(tmp_path)) for cell in of] if experiment != "stability" else []
        assert [section.name for section in analyses.sections(of, Store(tmp_path), rows)] == [*names, *scored]
    with pytest.raises(BadInput, match=r"'swept'.*known: averages"):
        chosen("main", "smoke", "experiment.sections=[swept]")
    assert set(analyses.SECTIONS) == set(SECTIONS)


def renamed(cell: cells.Cell) -> ExperimentConfig:
    return dataclasses.replace(cell.config.experiment, name="mine", title="Mine")


def test_nothing_is_trained_and_nothing_chosen_is_refused() -> None:
    with pytest.raises(BadInput, match=r"experiment\.untrained=true nothing is selected"):
        chosen("released_checkpoints", "paper", "experiment.last=subset")


def test_models_that_are_only_evaluated_have_a_report(tmp_path: Path) -> None:
    of = chosen("released_checkpoints", "paper", f"backbone.revision={'0' * 40}", f"exec.runs={tmp_path}")
    assert "missing" in sweep.write(of, Store(tmp_path))
    (swept,) = analyses.sections(of, Store(tmp_path), [rows_.row(cell, Store(tmp_path)) for cell in of])
    assert [row[0] for row in swept.body] == [cell.config.backbone.name for cell in of]
    assert all(row[1] == "missing" and float(row[2]) > 0 and row[3] == "–" for row in swept.body)


def test_each_curve_of_the_budgets_is_one_thing_and_seeds_are_averaged(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: dict[str, list[float | None]] = {}
    monkeypatch.setattr(averages.plots, "curves", lambda x, series, *words, **options: drawn.update(series) or "")

    def section(values: dict[tuple[str, ...], float], *more: str) -> Section:
        """``values``: average (percent) of the cells that have all these overrides."""
        drawn.clear()
        of = chosen("budget", "smoke", "selector=random,adg", *more)
        rows = []
        for cell in of:
            value = next((v for wanted, v in values.items() if set(wanted) <= set(cell.overrides)), None)
            row = rows_.row(cell, Store("nowhere"))
            if value is not None:
                row = dataclasses.replace(row, state="done", results={"categories": {"avg": value / 100}})
            rows.append(row)
        (shown,) = averages.sections(of, Store("nowhere"), rows)
        return shown

    plain = section({("selector=adg", "budget=4"): 30.0, ("selector=random",): 20.0})
    assert drawn == {"random": [20.0, 20.0], "adg": [30.0, None]} and "seeds" not in " ".join(plain.text)
    values = {
        ("pool=mini_cot", "selector=adg", "budget=4", "seed=1"): 10.0,
        ("pool=mini_cot", "selector=adg", "budget=4", "seed=2"): 40.0,
        ("pool=mini_cot", "selector=adg", "budget=8", "seed=2"): 50.0,
        ("pool=mini_general", "selector=random"): 60.0,
    }
    several = section(values, "pool=mini_cot,mini_general", "seed=1,2")
    assert drawn == {
        "mini_cot, random": [None, None],
        "mini_cot, adg": [25.0, 50.0],
        "mini_general, random": [60.0, 60.0],
        "mini_general, adg": [None, None],
    }
    assert "mean over those of its seeds" in " ".join(several.text) and len(several.body) == 16
    section({("finetune.epochs=2",): 30.0}, "backbone=tiny_random,smollm2_135m", "finetune.epochs=1,2", "budget=4")
    assert len(drawn) == 8 and drawn["smollm2_135m, adg, finetune.epochs=2"] == [30.0]


def test_a_published_curve_stands_beside_its_own() -> None:
    at = [("one", 4), ("one", 8), ("other", 4)]
    svg = averages.curves(at, [None, 1.0, 2.0], [1.0, 2.0, None])
    assert ">one (paper)<" in svg and ">other<" in svg and ">other (paper)<" not in svg


def test_a_map_says_how_many_cells_it_leaves_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selections, "ids", lambda cell, store: ["a"])
    of = chosen("terms", "smoke", f"seed={','.join(map(str, range(10)))}")
    (shown,) = overlaps.sections(of, Store("nowhere"), ())
    assert "the first 20 of 30 cells" in shown.text[0] and len(shown.body) == 20
    (shown,) = overlaps.sections(of[:20], Store("nowhere"), ())
    assert "first" not in shown.text[0]


def test_stability_over_several_pools(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = {"mini_general": 16, "mini_cot": 80}
    monkeypatch.setattr(selections, "ids", lambda cell, store: [str(i) for i in range(8)])
    monkeypatch.setattr(selections, "pool_size", lambda cell, store: sizes[cell.config.pool.name])
    monkeypatch.setattr(settings, "DRAWS", 2)

    def matrices(cell: cells.Cell, store: Store) -> Matrices:
        n, windows = sizes[cell.config.pool.name], cell.config.embedding.declared
        draw = seeds.generator(0, "test", cell.config.pool.name)
        grams = np.stack([geometry.gram(draw.normal(size=(n, 10, 4))) for _ in windows], 1)
        return Matrices(windows, grams, np.zeros(n, dtype=np.int64))

    monkeypatch.setattr(settings, "matrices", matrices)
    for pools in (["mini_general"], list(sizes)):
        of = chosen("stability", "smoke", f"pool={','.join(pools)}")
        (between,) = remade.sections(of, Store("nowhere"), ())
        chance = sum(8 / sizes[pool] for pool in pools) / len(pools)
        assert {row[6] for row in between.body} == {f"{chance:.3f}"}
        within, *maps = settings.sections(of, Store("nowhere"), ())
        lines = [dict(zip(within.head, row, strict=True)) for row in within.body]
        assert {line.get("pool") for line in lines} == (set(pools) if len(pools) > 1 else {None})
        found = {line["by chance"] for line in lines if line["changed"] == "K" and line["preset"] == "paper"}
        assert found == {f"{8 / sizes[pool]:.3f}" for pool in pools}
        assert ("mini_general" in maps[0].title) == (len(pools) > 1)


@pytest.fixture(scope="module")
def stability(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The stability experiment on the tiny random model, through the command a person types."""
    runs = tmp_path_factory.mktemp("stability") / "runs"
    done = processes.run(
        ["-m", "experiments.run", "-m", "profile=smoke", "experiment=stability", f"exec.runs={runs}"],
        cwd=root,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "Subsets when one thing is made anew" in done.stdout
    return runs


def test_stability_is_measured_from_saved_matrices(stability: Path) -> None:
    folder = stability / "report" / "smoke-stability"
    between = {row["changed"]: row for row in csv.DictReader((folder / "between.csv").open())}
    assert set(between) == {"sampling seed", "clustering seed", "preset"}
    assert all(0 <= float(row["overlap"]) <= 1 and row["pairs missing"] == "0" for row in between.values())
    within = list(csv.DictReader((folder / "within.csv").open()))
    assert {row["changed"] for row in within} == {"answers", "K", "lam", "layer window", "bins", "quota rule", "part"}
    assert {row["preset"] for row in within} == {"paper", "released"}
    lam = list(csv.reader((folder / "overlap-lam.csv").open()))
    assert len(lam) == 12 and all(lam[i][i] == "1.000" for i in range(1, 12))
    page = (folder / "index.html").read_text()
    assert "high D, low I" in page and page.count('<svg class="plot"') == len(list(folder.glob("*.svg"))) + 2
    assert not list(stability.glob("adapter/*")) and not list(stability.glob("eval/*"))


def test_the_report_repeats_what_the_selector_chose(stability: Path) -> None:
    of = chosen("stability", "smoke", f"exec.runs={stability}")
    store = Store(stability)
    for cell in of:
        matrices = settings.matrices(cell, store)
        ids = selections.ids(cell, store)
        assert matrices is not None and ids is not None
        keys = json.loads(store.find(cell.nodes["grams"]).file("ids.json").read_text())  # type: ignore[union-attr]
        mine = Terms(matrices).subset(settings.reference(cell))
        assert {keys[row] for row in mine} == set(ids)


def test_manifests_say_that_fewer_answers_were_used(stability: Path) -> None:
    infos = [json.loads(path.read_text())["info"] for path in stability.glob("scores/*/manifest.json")]
    assert infos and all((info["answers"], info["answers_sampled"]) == (5, 10) for info in infos)
    assert {info["window"] for info in infos} == {"last4", "released"}


def test_a_report_is_the_same_each_time_and_needs_no_torch(root: Path, stability: Path) -> None:
    folder = stability / "report" / "smoke-stability"

    def files() -> dict[str, str]:
        """What is in the folder, without when and by what the page was made."""
        texts = {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*.*") if path.is_file()}
        return {
            name: re.sub(r'<details class="made".*?</details>', "", text, flags=re.S) for name, text in texts.items()
        }

    before = files()
    assert any(name.startswith("cells/") for name in before)
    code = (
        "import sys\nfrom experiments.report import __main__ as report\n"
        f"sys.argv = ['report', 'profile=smoke', 'experiment=stability', 'exec.runs={stability}']\n"
        "report.main()\nheavy = {'torch', 'transformers', 'vllm', 'trl', 'lm_eval', 'wandb', 'sklearn', 'ray'}\n"
        "sys.exit(', '.join(sorted(heavy & set(sys.modules))) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert files() == before


def test_the_plan_names_hours_only_from_measured_rates(tmp_path: Path) -> None:
    of = chosen("main", "paper", f"exec.runs={tmp_path}")
    store = Store(tmp_path)
    text = plan.render(of, store)
    assert "52,002 examples with LLaMA-3-8B" in text and "1.78 h on 4 GPUs" in text
    assert "sampling  no measured rate" in text and "scoring   no measured rate" in text and "together" not in text
    bench = {
        "shape": "llama3_8b",
        "device": "a GPU",
        "answer_tokens": 250,
        "scoring": {"answers_per_second": 260.01},
        "sampling": "not measured",
    }
    write_json(tmp_path / "bench" / "gpu.json", bench)
    text = plan.render(of, store)
    assert "scoring   0.28 GPU-hours" in text and "sampling  no measured rate" in text and "together" not in text
    write_json(tmp_path / "bench" / "gpu.json", {**bench, "sampling": {"tokens_per_second": 26001.0, "engine": "vllm"}})
    assert "together  0.97 GPU-hours, 0.24 h on 4 GPUs" in plan.render(of, store)
    write_json(tmp_path / "bench" / "gpu.json", {**bench, "shape": "tiny"})
    assert "scoring   no measured rate" in plan.render(of, store)
    assert "52,002" not in plan.render(chosen("main", "smoke", f"exec.runs={tmp_path}"), store)


def test_a_pace_counts_only_when_a_gpu_showed_it(tmp_path: Path) -> None:
    of, store = chosen("main", "paper", f"exec.runs={tmp_path}"), Store(tmp_path)
    node = next(c for c in of if c.selector.name == "adg" and "llama" in c.name.lower()).nodes["answers"]

    def sampled(tokens: int, seconds: float, device: str) -> str:
        info = {"tokens": 2500, "answers": 10, "sampling": {"tokens": tokens, "seconds": seconds, "device": device}}
        manifest = {
            "schema": SCHEMA,
            "fingerprint": node.fingerprint,
            "payload": node.payload,
            "inputs": {},
            "files": {},
            "info": info,
            "seconds": 1.0,
            "machine": {"host": "here"},
        }
        write_sealed(store.path(node) / "manifest.json", manifest)
        return plan.render(of, store)

    assert "sampling  0.72 GPU-hours" in sampled(25_000, 1.0, "cuda")  # 260,010 answers at 100 a second
    assert "no measured rate" in sampled(25_000, 1.0, "cpu")
    assert "no measured rate" in sampled(0, 0.0, "cuda"), "every batch was there already"
