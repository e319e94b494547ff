"""The ledger covers what it must, and every key it names exists in the composed config."""

from collections.abc import Mapping

import pytest
import yaml

from adg.errors import BadInput
from experiments import compose
from experiments.report import ledger

LINES = ledger.load()
KEYS = sorted({key for line in LINES for key in line.keys})


@pytest.fixture(scope="module")
def composed():
    return compose.compose(["selector=adg"])


@pytest.fixture(scope="module")
def selector_options(root):
    """Every option of every selector: a line about one selector names its options as ``selector.<option>``."""
    return {key for path in (root / "conf" / "selector").glob("*.yaml") for key in yaml.safe_load(path.read_text())}


@pytest.mark.parametrize("key", KEYS)
def test_the_key_exists(composed, selector_options, key):
    if key.startswith("selector."):
        assert key.removeprefix("selector.") in selector_options, f"{key}: no selector has this option"
        return
    node = composed
    for name in key.split("."):
        known = node if isinstance(node, Mapping) else vars(node)
        assert name in known, f"{key}: there is {sorted(known)}"
        node = known[name]


def test_lora_comes_first():
    assert "LoRA" in LINES[0].ours
    assert LINES[0].keys[0] == "finetune.method"


def test_each_line_is_complete_and_its_own():
    questions = [line.question for line in LINES]
    assert len(set(questions)) == len(questions)
    assert all(line.paper and line.released and line.ours for line in LINES)


def test_every_variant_of_a_selector_has_its_line(root):
    questions = " ".join(line.question.lower() for line in LINES if "selector.variant" in line.keys)
    for path in (root / "conf" / "selector").glob("*.yaml"):
        if "variant" in yaml.safe_load(path.read_text()):
            word = {"superfiltering_d": "superfiltering.d"}.get(path.stem, path.stem)
            assert f"{word}:" in questions, f"{path.stem} has variants and no line in the ledger"


def test_what_the_presets_set_differently_is_in_the_ledger(root):
    for group in ("sampling", "embedding"):
        paper, released = (
            yaml.safe_load((root / "conf" / group / f"{p}.yaml").read_text()) for p in ("paper", "released")
        )
        differing = {f"{group}.{key}" for key in paper if paper[key] != released[key]} - {f"{group}.preset"}
        assert differing <= set(KEYS)


def test_a_malformed_line_is_named(tmp_path):
    path = tmp_path / "ledger.yaml"
    path.write_text("- {question: Sampling, paper: a, released: b, our: c, keys: []}\n")
    with pytest.raises(BadInput, match=r"line 1 \(Sampling\)"):
        ledger.load(path)
