"""Which trackers are chosen, and what is refused before any work."""

import subprocess
import sys

import pytest

from adg.errors import BadInput
from experiments import early
from experiments.cells import Cell
from experiments.compose import compose
from experiments.trackers import config as config_module
from experiments.trackers.config import TrackerConfig, check


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"name": "neptune"}, r"tracker\.name"),
        ({"names": {"tensorbord": True}}, r"tracker\.names.*did you mean 'tensorboard'"),
        ({"mode": "on"}, r"tracker\.mode"),
        ({"timeout": 0.0}, r"tracker\.timeout"),
        ({"names": {"wandb": True}, "options": {"file": "x"}}, r"tracker\.options.*tracker=wandb"),
    ],
)
def test_wrong_values_are_refused_by_name(change, named):
    with pytest.raises(BadInput, match=named):
        TrackerConfig(**change)


def test_several_at_once_and_none():
    def chosen(*line: str) -> tuple[str, ...]:
        return compose(["profile=mini", *line]).tracker.chosen

    assert chosen() == chosen("tracker=wandb") == ("wandb",)
    assert chosen("tracker=none") == chosen("profile=smoke") == ()
    assert chosen("tracker=[tensorboard,wandb]") == ("wandb", "tensorboard")
    assert chosen("tracker=[mlflow,trackio]", "tracker.project=mine") == ("trackio", "mlflow")
    assert TrackerConfig(name="wandb").chosen == ("wandb",)  # as files of other packages say it


def test_a_tracker_is_no_part_of_a_cell():
    cells = {
        line: Cell(compose(["profile=smoke", "selector=random", line]), ("profile=smoke", "selector=random", line))
        for line in ("tracker=none", "tracker=[wandb,tensorboard]", "tracker=mlflow", "tracker=trackio")
    }
    assert len({cell.fingerprint for cell in cells.values()}) == 1
    assert len({cell.name for cell in cells.values()}) == 1
    with pytest.raises(BadInput, match=r"several at once are tracker=\[trackio,mlflow\]"):
        early.check_trackers([cells["tracker=trackio"], cells["tracker=mlflow"]])


@pytest.mark.parametrize("name", sorted(config_module.OURS))
def test_a_missing_library_is_refused_with_its_extra(name, monkeypatch):
    monkeypatch.setattr(config_module, "find_spec", lambda library: None)
    with pytest.raises(BadInput, match=rf"tracker={name}: .*pip install '\.\[{name}\]'"):
        check(TrackerConfig(names={name: True}))
    alone = Cell(compose(["profile=smoke", "selector=random", f"tracker={name}"]))
    with pytest.raises(BadInput, match=rf"tracker={name}: "):
        early.check([alone])
    early.check([alone], training=False)  # `adg select` tells no tracker


def test_importing_trackers_imports_none_of_their_libraries(root):
    code = (
        "import sys, experiments.tracking, experiments.trackers.follow\n"
        "from experiments.trackers import mlflow, tensorboard, trackio, wandb\n"
        "sys.exit(', '.join({'wandb', 'tensorboard', 'trackio', 'mlflow', 'torch'} & set(sys.modules)) or 0)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=root, check=True)
