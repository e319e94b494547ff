"""The published figures are complete and hold together; what was not published is None."""

import pytest
import yaml

from experiments.report import published

CELLS = [
    (backbone, pool, selector)
    for backbone, pools in published.figures()["main"].items()
    for pool, selectors in pools.items()
    for selector in selectors
]


def test_the_main_table_is_complete():
    assert len(CELLS) == 2 * 3 * 8
    assert {selector for _, _, selector in CELLS} == {
        "all",
        "random",
        "ifd",
        "superfiltering",
        "zip",
        "mig",
        "scar",
        "adg",
    }


@pytest.mark.parametrize("cell", CELLS, ids="/".join)
def test_the_average_is_the_mean_of_the_categories(cell):
    figure = published.figure(*cell)
    mean = (figure["reasoning"] + figure["knowledge"] + figure["coding"]) / 3
    assert figure["avg"] == pytest.approx(mean, abs=0.04)


def test_a_figure_by_name():
    assert published.figure("llama3_8b", "alpaca_gpt4", "adg") == {
        "reasoning": 50.11,
        "knowledge": 60.31,
        "coding": 42.14,
        "avg": 50.85,
    }


@pytest.mark.parametrize(
    "cell",
    [(None, None, "adg"), ("llama3_8b", None, "adg"), ("gpt2", "cot", "adg"), ("llama3_8b", "cot", "longest")],
)
def test_what_was_not_published_is_none(cell):
    assert published.figure(*cell) is None


def test_the_analyses_agree_with_the_main_table():
    figures = published.figures()
    adg = {backbone: pools["alpaca_gpt4"]["adg"] for backbone, pools in figures["main"].items()}
    for backbone, selecting in figures["analyses"]["cross_backbone"]["rows"].items():
        assert selecting[backbone] == adg[backbone]
    averages = {name: block.get("averages") for name, block in figures["analyses"].items()}
    assert averages["layers"]["adg"]["28-31"] == averages["answers"]["adg"][5] == adg["llama3_8b"][-1]
    assert {tuple(values) for values in averages["budget"].values()} == {(3000, 5000, 10000, 20000, 25000)}


def test_paper_keys_in_conf_name_published_columns(root):
    def named(group):
        files = (root / "conf" / group).glob("*.yaml")
        return {yaml.safe_load(path.read_text()).get("paper") for path in files} - {None}

    assert named("backbone") == set(published.figures()["main"])
    assert named("pool") == set(published.figures()["main"]["llama3_8b"])
