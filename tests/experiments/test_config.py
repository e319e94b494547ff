"""Composing the configuration: every file, every refusal, and what changes what."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path

import pytest

from adg.artifacts.store import Store
from adg.errors import BadInput
from experiments import cells as cells_
from experiments import compose, search_path
from experiments.report import rows as rows_
from tests import processes

pytestmark = pytest.mark.usefixtures("sections_in_common")

GROUPS = sorted(p.name for p in search_path.CONF.iterdir() if p.is_dir())
FILES = [(p.parent.name, p.stem) for p in sorted(search_path.CONF.glob("*/*.yaml"))]
COMMIT = "0123456789abcdef0123456789abcdef01234567"
RELEASED = ("adg_alpaca_gpt4_llama3_8b", "adg_cot_llama3_8b", "adg_wizardlm_qwen2_5_7b")
UNPINNED = {("backbone", name) for name in ("llama3_8b_instruct", "qwen2_5_7b_instruct", *RELEASED)}
NEEDS = {
    ("pool", "local"): ["pool.path=my.jsonl"],
    ("suite", "chinese"): ["suite.data_root=mirror"],
    ("pool", "chinese"): ["pool.path=my.jsonl"],
    ("experiment", "released_checkpoints"): [f"backbone.revision={COMMIT}"],
}


def test_all_groups_are_there() -> None:
    expected = {
        "profile",
        "backbone",
        "pool",
        "sampling",
        "embedding",
        "selector",
        "engine",
        "finetune",
        "suite",
        "tracker",
        "experiment",
        "preset",
    }
    assert expected == set(GROUPS)


@pytest.mark.parametrize(("group", "name"), FILES)
def test_every_file_composes(group: str, name: str) -> None:
    overrides = [f"{group}={name}", *NEEDS.get((group, name), [])]
    if (group, name) in UNPINNED:
        with pytest.raises(BadInput, match="revision"):
            _ = cells_.Cell(compose.compose(overrides)).nodes
        overrides.append(f"backbone.revision={COMMIT}")
    config = compose.compose(overrides)
    assert config.profile.name


@pytest.mark.parametrize("name", sorted(p.stem for p in (search_path.CONF / "experiment").glob("*.yaml")))
@pytest.mark.parametrize("profile", ["mini", "paper", "pilot", "smoke"])
def test_every_experiment_has_cells_in_every_profile(name: str, profile: str, tmp_path: Path) -> None:
    overrides = NEEDS.get(("experiment", name), [])
    if name == "chinese" and profile in ("paper", "pilot"):  # there a person names the pool, and the data
        for task in compose.compose(["suite=chinese", "suite.data_root=mirror"]).suite.tasks.values():
            (tmp_path / task.repo).mkdir(parents=True)
        overrides = ["pool.path=mini:chinese/everyday.jsonl", f"suite.data_root={tmp_path}"]
    chosen = cells_.cells([f"profile={profile}", f"experiment={name}", *overrides])
    assert chosen
    assert len({c.fingerprint for c in chosen}) == len(chosen)
    assert len({c.name for c in chosen}) == len(chosen)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "sampling.temprature=1",
            r"unknown config key 'sampling.temprature' \(did you mean 'sampling.temperature'\?\)",
        ),
        ("selector=adgg", r"selector=adgg is not known \(did you mean 'adg'\?\)"),
        ("selector.lamb=1", r"selector 'adg' has no option 'lamb' \(did you mean 'lam'\?\)"),
        ("budgett=1", "did you mean 'budget'"),
        ("budget=many", "many"),
        ("selector.part=best", "top, middle, bottom"),
        ("exec.device=tpu", "auto, cpu, cuda"),
    ],
)
def test_refusals_name_the_nearest(override: str, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        config = compose.compose([override])
        _ = cells_.Cell(config).selector


def test_the_command_line_refuses_in_one_line(root: Path) -> None:
    done = processes.run(["-m", "experiments.run", "sampling.temprature=1"], cwd=root)
    assert done.returncode == 1
    assert done.stderr.strip() == (
        "error: unknown config key 'sampling.temprature' (did you mean 'sampling.temperature'?); "
        "adg run --cfg job prints all keys"
    )


def test_paper_profile_is_the_papers_table() -> None:
    chosen = cells_.cells(["profile=paper"])
    untrained, trained = ([c for c in chosen if c.selector.trains is trains] for trains in (False, True))
    assert len(trained) == 2 * 3 * 8
    assert len({c.last.fingerprint for c in untrained}) == 2, "row 0 is one evaluation a backbone"
    config = trained[0].config
    assert (config.budget, config.engine.name, config.finetune.method, config.suite.name, config.tracker.chosen) == (
        10_000,
        "vllm",
        "lora",
        "paper",
        ("wandb",),
    )
    assert all(c.config.pool.revision and c.config.backbone.revision for c in chosen)
    nodes = cells_.distinct(chosen)
    count = {stage: sum(n.stage.name == stage for n in nodes) for stage in ("pool", "backbone", "answers", "grams")}
    assert count["pool"] == 3 and count["answers"] == count["grams"] == 6
    subsets = [n for n in nodes if n.stage.name == "subset"]
    assert len(subsets) < 48, "subsets that do not depend on the backbone are shared"


def test_presets_set_every_point() -> None:
    paper, released = compose.compose(["preset=paper"]), compose.compose(["preset=released"])
    assert (paper.sampling.top_k, released.sampling.top_k) == (0, 50)
    assert (paper.sampling.prompt_tokens, released.sampling.prompt_tokens) == (None, 80)
    assert (paper.sampling.use_input, released.sampling.use_input) == (True, False)
    assert (paper.embedding.pooling, released.embedding.pooling) == ("answer", "all")
    assert (paper.selector["rule"], released.selector["rule"]) == ("largest_remainder", "released")


# Each override changes exactly the stages that read it, and what depends on them.
MEASURED = ("eval", "heldout")  # what reads the adapter
CHANGES = [
    ("exec.device=cpu", set()),
    ("exec.tokens_per_batch=64", set()),
    ("tracker=none", set()),
    ("budget=11", {"subset", "adapter", *MEASURED}),
    ("selector.lam=0.5", {"scores", "subset", "adapter", *MEASURED}),
    ("embedding.bins.clusters=7", {"bins", "scores", "subset", "adapter", *MEASURED}),
    ("embedding.max_tokens=99", {"grams", "bins", "scores", "subset", "adapter", *MEASURED}),
    ("sampling.temperature=1.0", {"answers", "grams", "bins", "scores", "subset", "adapter", *MEASURED}),
    ("finetune.learning_rate=0.01", {"adapter", *MEASURED}),
    ("suite.limit=2", {"eval"}),
    ("pool.rows=40", {"pool", "answers", "grams", "bins", "scores", "subset", "adapter", *MEASURED}),
]


@pytest.mark.parametrize(("override", "changed"), CHANGES)
def test_exactly_the_right_stages_change(override: str, changed: set[str]) -> None:
    before, after = cells_.Cell(compose.compose([])).nodes, cells_.Cell(compose.compose([override])).nodes
    assert {role for role in before if before[role].fingerprint != after[role].fingerprint} == changed


def test_grid_matches_a_multirun_and_command_line_wins() -> None:
    lines = compose.grid(["profile=mini"])
    trained = [line for line in lines if "selector=untrained" not in line]
    assert len(trained) == 48 and len(lines) == 54 == len(set(map(tuple, lines)))
    lines = compose.grid(["profile=mini", "selector=adg", "pool=mini_cot,mini_general"])
    assert [tuple(sorted(line)) for line in lines].count(
        ("backbone=smollm2_135m", "pool=mini_cot", "profile=mini", "selector=adg")
    ) == 1
    assert len(lines) == 4


def test_seeds_follow_the_root() -> None:
    seven = compose.compose(["seed=7"])
    assert {seven.sampling.seed, seven.finetune.seed, seven.embedding.bins.seed} == {7}


def test_config_comments_say_what_is_not_obvious() -> None:
    for path in search_path.CONF.glob("*/*.yaml"):
        lines = [line for line in path.read_text().splitlines() if line and not line.startswith("# @package")]
        assert lines[0].startswith("#"), f"{path.name} starts with a line saying what it is"
        assert all(not (a.startswith("#") and b == "") for a, b in pairwise(lines))


def test_the_authors_checkpoints_are_evaluated_as_they_are() -> None:
    chosen = cells_.cells(["profile=paper", "experiment=released_checkpoints", f"backbone.revision={COMMIT}"])
    assert [cell.config.backbone.name for cell in chosen] == list(RELEASED)
    assert all(list(cell.nodes) == ["backbone", "eval"] for cell in chosen)
    assert {cell.config.suite.name for cell in chosen} == {"paper"}
    rows = [rows_.row(cell, Store(Path("nowhere"))) for cell in chosen]
    assert [(row.pool, row.name, row.paper["avg"]) for row in rows if row.paper] == [
        ("alpaca_gpt4", "adg, as published", 50.85),
        ("cot", "adg, as published", 45.11),
        ("wizardlm", "adg, as published", 67.64),
    ]
    with pytest.raises(BadInput, match="revision"):
        _ = cells_.cells(["profile=paper", "experiment=released_checkpoints"])[0].nodes


def test_the_chinese_suite_asks_for_revisions_or_a_folder() -> None:
    with pytest.raises(BadInput, match=r"no revision of haonan-li/cmmlu; pin one, or set suite\.data_root"):
        compose.compose(["suite=chinese"])


def test_what_the_answers_cannot_serve_is_refused_before_they_are_sampled() -> None:
    for override, message in (
        ("selector.answers=9", "selector.answers is 9 but sampling.n is 5"),
        ("selector.window=24-27", "selector.window is '24-27'; the declared windows are last4"),
        ("sampling.n=1", "sampling.n is 1; with selector.lam=0.4 every record"),
    ):
        (cell,) = cells_.cells(["profile=paper", "backbone=llama3_8b", "pool=alpaca_gpt4", "selector=adg", override])
        with pytest.raises(BadInput, match=re.escape(message)):
            _ = cell.nodes


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (["selector=kcenter", "selector.strat=3"], "selector 'kcenter' has no option 'strat' (did you mean 'start'?)"),
        (
            ["selector.checkpoint=/x"],
            "scar has it: on a command line an option reaches every selector of a sweep, so name "
            "one (selector=scar), or write the option into conf/selector/scar.yaml",
        ),
    ],
)
def test_an_option_of_another_selector_is_explained(asked: list[str], message: str) -> None:
    with pytest.raises(BadInput, match=re.escape(message)):
        cells_.cells(["profile=paper", *asked])
