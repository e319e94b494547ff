"""A PEFT adapter and the model it is for: whether they fit, and one put onto the other. Nothing here bears identity.

PEFT leaves out stored weights that fit nothing, and leaves those that it lacks as they were initialised: the result
is the base model, or a part of the adapter, in silence.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from adg.artifacts import digests
from adg.artifacts.artifact import Artifact
from adg.backbones import loading, weights
from adg.errors import BadInput

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
REMEDY = (
    "PEFT would go on without them. Give the adapter that was trained on this very model, its weights named as PEFT "
    "names them"
)

_fitting: set[str] = set()  # adapters that fit, by the state of all files
_empty: dict[str, Any] = {}  # the last model without weights that carried an adapter, by the configs of both


def read_settings(adapter: Path) -> dict[str, Any]:
    """The adapter's own config. Raises ``BadInput`` where a file is missing or not what it should be."""
    missing = [name for name in (CONFIG, WEIGHTS) if not (adapter / name).is_file()]
    if missing:
        raise BadInput(f"{adapter} holds no {' and no '.join(missing)}; expected a PEFT adapter in safetensors form")
    try:
        settings = json.loads((adapter / CONFIG).read_text(encoding="utf-8"))
    except ValueError as error:
        raise BadInput(f"{adapter / CONFIG} is not valid JSON ({error}); save the adapter again") from error
    if not isinstance(settings, dict) or not isinstance(settings.get("peft_type"), str):
        raise BadInput(f"{adapter / CONFIG} names no 'peft_type'; expected what PEFT's save_pretrained writes")
    return settings


def check(adapter: Path, model: Path) -> None:
    """Raise ``BadInput`` unless the adapter in one folder fits the model in the other, weight by weight.

    Compares names and shapes by PEFT's own rules, on a model without weights: nothing large is read, and not again in
    this process while the files stay as they are.
    """
    settings = read_settings(adapter)
    files = [adapter / CONFIG, adapter / WEIGHTS, model / "config.json"]
    key = json.dumps([[str(file), digests.state(file)] for file in files if file.is_file()])
    if key in _fitting:
        return
    stored = weights.stored(adapter / WEIGHTS)
    what = f"the adapter {adapter} and the model {model}"
    config = weights.read_config(model)
    same = json.dumps([settings, config.to_dict()], default=str)
    adapted = _empty.pop(same, None) or _adapted(adapter, settings, config, what)  # kept where all fitted only
    _compare(adapted, stored, what)
    _fitting.add(key)
    _empty.clear()
    _empty[same] = adapted


def _adapted(adapter: Path, settings: dict[str, Any], base: Any, what: str) -> Any:
    """A model of the config ``base``, without weights, that carries an adapter of the config in ``adapter``."""
    from peft import PeftConfig, get_peft_model

    bare = weights.skeleton(base)
    try:
        config = PeftConfig.from_pretrained(str(adapter))
        ignored = sorted(key for key, value in settings.items() if value and not hasattr(config, key))
        if ignored:
            raise BadInput(
                f"{adapter / CONFIG} sets {', '.join(ignored)}, which the installed PEFT does not know and would leave "
                f"out; save the adapter with this version of PEFT, or install the one it was made with"
            )
        config.inference_mode = False  # so that its own weights are those that can be trained
        config.base_model_name_or_path = None  # the model is the one given here
        return get_peft_model(bare, config, low_cpu_mem_usage=True)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        first = next(iter(str(error).splitlines()), type(error).__name__)
        raise BadInput(f"{what} do not fit each other: {first}. {REMEDY}") from error


def _compare(adapted: Any, stored: dict[str, Any], what: str) -> None:
    """Hold stored names and shapes against those of a model that carries an adapter as it was initialised."""
    from peft import set_peft_model_state_dict

    own = {name: weight for name, weight in adapted.named_parameters() if weight.requires_grad}
    fitting, shapes = {}, {}
    for name, weight in stored.items():
        there = own.get(_in_place(name))
        if there is not None and there.shape != weight.shape:
            shapes[_in_place(name)] = f"{name} {tuple(weight.shape)} where {tuple(there.shape)} is expected"
        else:
            fitting[name] = weight
    try:
        report = set_peft_model_state_dict(adapted, fitting, low_cpu_mem_usage=True)
    except KeyError:  # a module that is kept whole is not there: PEFT goes no further
        expected = {name.replace(".modules_to_save.default", "").replace(".default", "") for name in own}
        weights.refuse(what, expected - stored.keys(), stored.keys() - expected, shapes.values(), REMEDY)
        raise
    except RuntimeError as error:  # such a module in another shape
        raise BadInput(f"{what} do not fit each other: {' '.join(str(error).split())}. {REMEDY}") from error
    lacking = [name.replace(".default", "") for name in report.missing_keys if name in own and name not in shapes]
    weights.refuse(what, lacking, report.unexpected_keys, shapes.values(), REMEDY)


def attach(model: Any, adapter: Path, folder: Path) -> Any:
    """``model``, loaded from ``folder``, with the adapter beside its weights, in eval mode. Raises as ``check``."""
    from peft import PeftModel

    check(adapter, folder)
    return PeftModel.from_pretrained(model, str(adapter), is_trainable=False).eval()


def load_trained(backbone: Artifact, adapter: Artifact | None, device: str, dtype: str = "auto", gpus: int = 1) -> Any:
    """The model that an adapter artifact of ``backbone`` stands for: the adapter beside the weights, or all weights
    where all were trained; without one the backbone as it is. Raises as ``check``, before anything large is read."""
    if adapter is not None and (adapter.path / "model").is_dir():
        again = f"Delete {adapter.path}, which a run of this project made, and run the same command again"
        own = loading.dtype_of(backbone) if dtype == "auto" else dtype
        return loading.load_folder(adapter.path / "model", device, own, gpus=gpus, remedy=again)
    folder = loading.model_path(backbone)
    if adapter is not None:
        check(adapter.path / "adapter", folder)
    model = loading.load_model(backbone, device, dtype, gpus=gpus)
    return model if adapter is None else attach(model, adapter.path / "adapter", folder)


def refuse_other_backbone(made_for: str | None, used: str, adapter: str, backbone: str) -> None:
    """Raise ``BadInput`` unless the adapter was trained on the backbone it is to be used with, by fingerprints."""
    if made_for != used:
        raise BadInput(
            f"the adapter {adapter} was trained on the backbone {(made_for or 'unknown')[:12]}, not on "
            f"{used[:12]} ({backbone}); evaluate it with its own backbone, or train one for this one"
        )


def _in_place(name: str) -> str:
    """The name of a stored LoRA weight inside a model that carries the adapter."""
    head, dot, kind = name.rpartition(".")
    return f"{head}.default{dot}{kind}"
