"""Fixtures shared by all tests: nothing here needs a hub, a GPU or an account."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from adg import collector

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_OFFLINE", "1")
os.environ.setdefault("WANDB_MODE", "disabled")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")  # vLLM compiles parts of itself, for longer than tests run
os.environ.setdefault("OMP_NUM_THREADS", "1")  # the models are tiny: more threads would only wait for each other
if "ADG_CACHE" not in os.environ:  # no test reads or writes what is remembered of this user's files
    os.environ["ADG_CACHE"] = tempfile.mkdtemp(prefix="adg-cache-")
    atexit.register(shutil.rmtree, os.environ["ADG_CACHE"], ignore_errors=True)

ROOT = Path(__file__).resolve().parent.parent
WORKERS = 8  # at most: each holds the libraries, and some an engine
ENGINES = "engines"  # tests that start vLLM or Ray, which take all cores: one worker runs them, one by one


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """What ``-n auto`` means: a worker for each core that this process may use, and one that works while others wait.

    A sixth of the time a worker waits: for an engine, a cluster, a server, a signal to arrive.
    """
    return min(len(os.sched_getaffinity(0)) + 1, WORKERS)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What a worker takes as a whole under ``--dist loadgroup``: a file, or all tests that start an engine.

    These come first, files with slow tests next and those with few tests last, so that no worker is left with a long
    one at the end.
    """
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    tests = Counter(item.path for item in items)
    for item in items:
        if item.get_closest_marker("vllm"):
            item.add_marker(pytest.mark.xdist_group(ENGINES))
        elif not item.get_closest_marker("xdist_group"):
            item.add_marker(pytest.mark.xdist_group(item.path.relative_to(ROOT / "tests").as_posix()))

    def place(item: pytest.Item) -> tuple[bool, bool, int]:
        mark = item.get_closest_marker("xdist_group")
        return mark is None or mark.args != (ENGINES,), item.path not in slow, -tests[item.path]

    items.sort(key=place)


def pytest_sessionstart() -> None:
    collector.collect_seldom()


@pytest.hookimpl(trylast=True)  # when its fixtures have ended
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """What a file of tests held is let go of at its end; to look for cycles at any time costs an eighth of all."""
    if nextitem is None or nextitem.path != item.path:
        collector.collect()


@pytest.fixture(scope="session")
def root() -> Path:
    """The project's root folder."""
    return ROOT


@pytest.fixture(scope="module")
def sections_in_common() -> Iterator[None]:
    """What the tests of a file compose has its sections in common, as the cells of a sweep have (experiments/parts.py).

    Not for tests that change the folders of configuration or run Hydra's own application.
    """
    from experiments import parts

    with parts.shared():
        yield


@pytest.fixture(scope="session")
def golden() -> Path:
    """Golden values kept with the tests."""
    return ROOT / "tests" / "golden"


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """Real pools and benchmarks beside the checkout; tests that use them are skipped where they are absent."""
    path = Path(os.environ.get("ADG_SHARED", ROOT.parent / "shared"))
    if not path.is_dir():
        pytest.skip("no real data beside the checkout (set ADG_SHARED to its folder)")
    return path


@pytest.fixture(scope="session")
def real_runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Artifacts of the embedded real models: one folder for all workers, so that each model is converted once."""
    base = tmp_path_factory.getbasetemp()
    return (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "real"


@pytest.fixture(scope="session")
def tiny_backbone(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The tiny random model, built once."""
    from adg.artifacts.store import Store
    from adg.backbones import stage as backbone_stage
    from adg.backbones.config import BackboneConfig
    from adg.execution import ExecConfig

    config = BackboneConfig(name="tiny_random", builder="tiny_random", dtype="float32")
    return Store(tmp_path_factory.mktemp("tiny"), ExecConfig(device="cpu")).ensure(backbone_stage.node(config))


@pytest.fixture(scope="session")
def tiny_model(tiny_backbone: Any) -> Any:
    from adg.backbones import loading

    return loading.load_model(tiny_backbone, "cpu")


@pytest.fixture(scope="session")
def tiny_tokenizer(tiny_backbone: Any) -> Any:
    """It adds a BOS."""
    from adg.backbones import loading

    return loading.load_tokenizer(tiny_backbone)


@pytest.fixture(scope="session")
def tiny_tokenizer_without_bos(tiny_backbone: Any) -> Any:
    """The same as one that adds none, as gpt2's."""
    from tokenizers import processors

    from adg.backbones import loading

    made = loading.load_tokenizer(tiny_backbone)
    made.backend_tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    assert not loading.adds_bos(made)
    return made


@pytest.fixture(scope="session")
def spoilt_token(tiny_tokenizer: Any) -> tuple[int, str]:
    """A token and its text, a control character: no pool, prompt or template holds it."""
    (token,) = tiny_tokenizer.encode("\x7f", add_special_tokens=False)
    return token, "\x7f"


@pytest.fixture
def spoilt(tiny_model: Any, spoilt_token: tuple[int, str]) -> Any:
    """The tiny model with one token whose embedding is NaN: what holds it cannot be measured."""
    import copy

    made = copy.deepcopy(tiny_model)
    made.base_model.embed_tokens.weight.data[spoilt_token[0]] = float("nan")
    return made
