"""What names a cell and a report's folder: every option that makes another result, and no other."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from adg.artifacts.store import Store
from adg.errors import BadInput
from adg.evaluation.config import TaskConfig
from baselines import selector_types
from experiments import compose, names
from experiments.cells import Cell, cells, report_folder
from experiments.config import Config

pytestmark = pytest.mark.usefixtures("sections_in_common")

DIGEST = "0" * 64
COMMIT = "0123456789abcdef0123456789abcdef01234567"
SCORER = {"scorer": "gpt2", "scorer_revision": COMMIT}
ENCODER = {"vectors": "encoder", "encoder": "FOLDER", "encoder_sha256": DIGEST, "encoder_revision": COMMIT}
ANNOTATED = {"annotations": "FILE", "annotations_sha256": DIGEST}
# What makes a selector read an option, or allows it another value.
READ: dict[str, tuple[dict[str, Any], ...]] = {
    "ifd": ({"pre_experience": True, "pre_finetune": {"epochs": 1}}, SCORER),
    "superfiltering": (SCORER,),
    "superfiltering_d": ({**SCORER, **ENCODER},),
    "perplexity": (SCORER,),
    "tshirt": (SCORER,),
    "kcenter": (ENCODER,),
    "facility_location": (ENCODER,),
    "kmq": ({**ENCODER, **ANNOTATED},),
    "deita": (
        {**ENCODER, **ANNOTATED},
        {"variant": "released"},
        {
            f"{which}_{end}": value
            for which in ("complexity", "quality")
            for end, value in (("scorer", "FOLDER"), ("scorer_sha256", DIGEST), ("revision", COMMIT))
        },
    ),
    "mig": (
        {**ANNOTATED, "label_graph": "identity"},
        {
            **ANNOTATED,
            "valid_tags": "FILE",
            "valid_tags_sha256": DIGEST,
            "label_embeddings": "FILE",
            "label_embeddings_sha256": DIGEST,
        },
    ),
    "adg": ({"reading": "cluster_entropy"}, {"match": "length"}),
    "cluster_random": ({"match": "length"},),
    "scar": ({"checkpoint": "FOLDER", "checkpoint_sha256": DIGEST, "revision": COMMIT},),
}
WORDS = (  # values that options with a choice take
    *("released", "corrected", "released_vic", "record", "mean", "last", "distance", "cosine", "characters", "highest"),
    *(
        "bottom",
        "largest_remainder",
        "float32",
        "bf16",
        "hf",
        "vllm",
        "backbone",
        "random",
        "exp",
        "identity",
        "alpaca",
    ),
    *("drop", "jsonl", "all", "zero", "full", "refuse", "subset", "24-27", "tiny_random", "x/y"),
    *("wandb", "offline", "cpu", "process", "ray", "vicuna", "last4", "none", "auto"),
)
SPECIAL: dict[str, list[Any]] = {
    "tracker.names": [{"wandb": True}, {}],
    "suite.tasks": [{"gsm8k": TaskConfig(1, "exact_match", "strict-match", repo="openai/gsm8k", revision=COMMIT)}],
    "selector.pre_finetune": [{"epochs": 1, "seed": 9}],
    "selector.pre_percentiles": [(20.0, 75.0)],
    "selector.zlib": [],
    "selector.reading": ["vendi"],
    "selector.threshold": [0.8],
    "selector.measure": ["tfidf"],
    "selector.take": ["corrupted"],
    "selector.keys": [("conversations",)],
    "selector.match": ["length"],
    "selector.strata": [4],
    "selector.direction": ["high"],
    "embedding.source": ["sampling"],
    "embedding.windows": [("24-27",), ("last4", "24-27")],
}
# A mirror has the digests of its files in the place of the revisions, so that the evaluation is another; but it holds
# the same items, and nobody who works without a network wants that in every row. Two roots in one table are refused.
UNSAID = {"suite.data_root"}
# True is refused; T-SHIRT knows one engine, and ZIP the library that is installed.
ONE_VALUE = {"finetune.packing", "selector.scorer_engine", "selector.zlib"}
COMPOSED = ("profile", "preset", "experiment", "seed")  # groups that other options take their values from


@pytest.fixture(scope="module")
def things(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A file of records and a folder with a model's files, and copies that differ."""
    folder = tmp_path_factory.mktemp("things")
    found = {}
    for name, letter in (("FILE", "a"), ("OTHER", "b")):
        path = folder / f"{name}.jsonl"
        path.write_text(f'{{"instruction": "{letter}", "output": "o"}}\n' * 6, encoding="utf-8")
        found[name] = str(path)
    for name, size in (("FOLDER", 1), ("OTHER FOLDER", 2)):
        (folder / name).mkdir()
        for file in ("config.json", "tokenizer.json", "tokenizer_config.json"):
            (folder / name / file).write_text("{}", encoding="utf-8")
        (folder / name / "model.safetensors").write_bytes(bytes(size))
        found[name] = str(folder / name)
    return found


def candidates(key: str, value: Any, things: dict[str, str]) -> list[Any]:
    """Other values that an option may take."""
    if key in SPECIAL:
        return SPECIAL[key]
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, (int, float)):
        return [value + 1, value - 1, value / 2, 1, 0.5]
    return [1, 0.5, 64, 3, True, False, *WORDS, *things.values(), "1" * 64, COMMIT[::-1], None]


def leaves(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted key and value of every option of a config."""
    for field in dataclasses.fields(value):
        inner = getattr(value, field.name)
        if dataclasses.is_dataclass(inner):
            yield from leaves(inner, f"{prefix}{field.name}.")
        elif f"{prefix}{field.name}" not in ("selector", "selecting"):
            yield f"{prefix}{field.name}", inner


def replaced(config: Any, key: str, value: Any) -> Any:
    first, _, rest = key.partition(".")
    if first == "selector":
        return dataclasses.replace(config, selector={**config.selector, rest: value})
    return dataclasses.replace(config, **{first: replaced(getattr(config, first), rest, value) if rest else value})


def results(config: Config) -> set[str]:
    """The fingerprints of what a cell is made for, its name aside."""
    nodes = Cell(config).nodes
    return {nodes[role].fingerprint for role in (config.experiment.last, "heldout", "task-types") if role in nodes}


def changes(config: Config, key: str, value: Any, things: dict[str, str]) -> tuple[bool, bool]:
    """Whether another value was accepted, and whether one that was made another result."""
    before, accepted = results(config), 0
    for other in candidates(key, value, things):
        if other == value and type(other) is type(value):
            continue
        try:
            after = results(replaced(config, key, other))
        except (BadInput, TypeError, AttributeError, ValueError, KeyError):
            continue
        accepted += 1
        if after != before:
            return True, True
        if accepted == 3:
            break
    return accepted > 0, False


def bases(things: dict[str, str]) -> list[Config]:
    """Cells that between them read every option."""
    common = ["profile=mini", "selector=adg"]
    hub = ["pool=wizardlm", "backbone=llama3_8b", "engine=vllm", "suite=paper", *common]
    return [
        compose.compose(["engine=vllm", *common]),
        compose.compose(hub),
        compose.compose(["pool=alpaca_gpt4", *hub[1:]]),
        compose.compose(["pool=local", f"pool.path={things['FILE']}", *common, "pool.rows=2", "pool.max_chars=9999"]),
        compose.compose([f"backbone.path={things['FOLDER']}", "backbone.builder=null", *common]),
        compose.compose(["experiment=task_types", *common]),
    ]


def test_an_option_is_said_where_it_makes_another_result_and_only_there(things: dict[str, str]) -> None:
    wrong, unread = [], []
    every = bases(things)
    for key, value in leaves(every[0]):
        if key.partition(".")[0] in COMPOSED or key in UNSAID:
            continue
        accepted, changed = False, False
        for config in every:
            more = changes(config, key, dict(leaves(config))[key], things)
            accepted, changed = accepted or more[0], changed or more[1]
            if changed or key.partition(".")[0] in ("exec", "tracker", "contamination"):
                break
        if not accepted:
            unread.append(key)
        elif changed != any(names.tells(key, config) for config in every):
            wrong.append((key, value, changed))
    assert set(unread) <= ONE_VALUE, "no other value was accepted, so that nothing was tested"
    assert not wrong


@pytest.mark.parametrize("name", sorted(selector_types()))
def test_an_option_of_a_selector_is_said_where_it_makes_another_result(name: str, things: dict[str, str]) -> None:
    corrupt = ["pool.corrupt=0.5"] if name == "oracle" else []  # it reads no pool as it is
    config = compose.compose(["profile=mini", f"selector={name}", *corrupt])
    configs = [config]
    for more in READ.get(name, ()):
        options = {key: things.get(value, value) if isinstance(value, str) else value for key, value in more.items()}
        configs.append(dataclasses.replace(config, selector={**config.selector, **options}))
    kind = selector_types()[name].Config
    wrong, unread = [], []
    for field in dataclasses.fields(kind):
        key = f"selector.{field.name}"
        each = [changes(c, key, getattr(Cell(c).selector.config, field.name), things) for c in configs]
        if not any(accepted for accepted, _ in each):
            unread.append(key)
        if key not in unread and any(changed for _, changed in each) != names.tells(key, config):
            wrong.append(key)
    assert unread == [key for key in unread if key in ONE_VALUE] and not wrong


@pytest.mark.parametrize(
    ("study", "override"),
    [
        ((), "profile.rows=24"),
        (("experiment=layers", "selector.window=last4"), "profile.windows=0-3"),
        (("experiment=layers", "selector.window=0-3", "profile.windows=0-3"), "preset.window=released"),
        ((), "preset.quota=released"),
        ((), "seed=3"),
        (("experiment=bins", "selector.part=top", "experiment.choice=exact"), "experiment.choice=none"),
        (("experiment=bins", "selector.part=top", "experiment.choice=none"), "experiment.choices.none.bins=true"),
        ((), "experiment.last=subset"),
        (("experiment=released_checkpoints", "backbone=smollm2_135m"), "experiment.untrained=false"),
    ],
)
def test_options_that_others_take_their_values_from_are_said(study: tuple[str, ...], override: str) -> None:
    common = ["profile=mini", "pool=mini_cot", "backbone=smollm2_135m", "selector=adg", *study]
    (before,), (after,) = cells(common), cells([*common, override])
    assert before.last.fingerprint != after.last.fingerprint
    assert before.name != after.name and override.partition("=")[0] in after.varied


def test_other_options_of_those_groups_are_not_said() -> None:
    config = compose.compose(["profile=mini"])
    quiet = ("rows", "heldout", "control_rows", "windows", "quota", "window", "choice", "choices", "last", "untrained")
    for key, _ in leaves(config):
        if key.partition(".")[0] in COMPOSED and key != "seed":
            assert names.tells(key, config) == (key.rpartition(".")[2] in quiet), key


@pytest.mark.parametrize(
    "override",
    [
        "selector.workers=3",
        "finetune.save_steps=7",
        "finetune.gradient_checkpointing=true",
        "pool.expected_rows=128",
        "engine.max_num_seqs=8",
        "tracker=none",
        "hydra.launcher.n_jobs=2",
        "+hydra.foo=2",
        "suite.data_root=mini:",
    ],
)
def test_how_a_cell_is_run_changes_neither_its_name_nor_its_report(override: str, tmp_path: Path) -> None:
    common = ["profile=mini", "selector=zip", "backbone=smollm2_135m", "pool=mini_cot"]
    (plain,) = cells(common)
    more = dataclasses.replace(plain, overrides=(*plain.overrides, override))
    assert (more.name, more.fingerprint) == (plain.name, plain.fingerprint)
    assert report_folder([more], Store(tmp_path)) == report_folder([plain], Store(tmp_path))


def test_a_digest_is_said_by_its_first_digits() -> None:
    (cell,) = cells(["profile=paper", "backbone=llama3_8b", "pool=cot", "selector=adg", f"backbone.revision={COMMIT}"])
    assert cell.variant == "backbone.revision=01234567"


def test_two_texts_have_two_report_folders() -> None:
    config = compose.compose(["profile=smoke"])
    long = "pool.path=" + "é" * 45
    texts = [
        *(long + end for end in "ab"),  # differ beyond the bytes that a name keeps
        *(f"pool.path=a{mark}b" for mark in "/-:#"),
        *("pool.path=a b", "pool.path=a.b"),
    ]
    folders = [names.report_folder(config, text) for text in texts]
    assert len(set(folders)) == len(texts) and all(len(folder.encode()) < 120 for folder in folders)
    assert names.report_folder(config, "seed=1,2") == "smoke-main+seed-1-2"


def test_values_are_read_without_the_marks_of_the_grammar() -> None:
    assert names.by_key(["pool.path='a b'", r"+x=a\,b", 'y="it\\"s"', "~z"]) == {
        "pool.path": "a b",
        "x": "a,b",
        "y": 'it"s',
        "z": "",
    }
