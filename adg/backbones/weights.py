"""Do stored weights and a model fit each other: is all that is stored used, and all that is needed stored?

Libraries warn of a weight that is missing, which stays random, or of one that fits nothing, which is left out, and go
on. Here both are refused, by the headers of the files alone: a model of 16 GB is checked in a tenth of a second, before
any of it is read. Nothing in here bears identity.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from adg.artifacts import digests
from adg.errors import BadInput

INDEX = "model.safetensors.index.json"
WHOLE = "model.safetensors"
NAMED = 5  # weights of each kind that a message names

_checked: set[str] = set()  # by the state of all files


def files(folder: Path) -> list[Path]:
    """The weight files of a model folder that there should be: one, or the shards that its index names."""
    index = folder / INDEX
    if not index.is_file():
        return [folder / WHOLE]
    try:
        return [
            folder / name for name in sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        ]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadInput(f"{index} is not an index of weights ({error!r}); expected a 'weight_map' of files") from error


def stored(file: Path) -> dict[str, Any]:
    """Name -> empty tensor (on the meta device) of each weight in a safetensors file, by its header.

    Raises ``BadInput`` for a file that is not one, or not whole.
    """
    import torch
    from safetensors import SafetensorError, safe_open

    with open(file, "rb") as opened:
        if opened.read(23) == b"version https://git-lfs":
            raise BadInput(f"{file} is a Git LFS pointer, the weights were not fetched; run `git lfs pull` there")
    try:
        with safe_open(file, "pt") as content:
            shapes = {name: content.get_slice(name).get_shape() for name in content.keys()}
    except SafetensorError as error:
        raise BadInput(
            f"{file} is not a whole safetensors file ({error}; {file.stat().st_size} bytes); fetch or save it again"
        ) from error
    return {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}


def read_config(folder: Path) -> Any:
    """The model's config as transformers reads it; ``BadInput`` where it cannot, or not without code from a hub."""
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except (OSError, ValueError, TypeError, KeyError) as error:
        first = next(iter(str(error).splitlines()), "")
        raise BadInput(
            f"{folder}/config.json describes no model that transformers has ({first}); expected a folder written by "
            f"save_pretrained, without code of its own"
        ) from error


def skeleton(config: Any, head: bool = True) -> Any:
    """The model that ``config`` describes, with weights that are names and shapes only."""
    return _fitted(config, None, head)[0]


def check(folder: Path, remedy: str, head: bool = True) -> Any:
    """Raise ``BadInput``, with ``remedy``, unless the weights in ``folder`` are those of the model of its config.

    ``head``: a causal language model; otherwise the bare model, to which weights outside of it (a head, a pooling
    layer) may be added or lack. Returns the model without weights.
    """
    weights: dict[str, Any] = {}
    for file in files(folder):
        weights |= stored(file)
    model, report = _fitted(read_config(folder), weights, head)
    check_report(f"{folder} and its {type(model).__name__}", report, remedy, None if head else model)
    return model


def check_once(folder: Path, remedy: str) -> None:
    """``check`` of a causal language model, not again in this process while its files stay as they are."""
    there = [file for file in [folder / "config.json", *files(folder)] if file.is_file()]
    key = json.dumps([[str(file), digests.state(file)] for file in there])
    if key not in _checked:
        check(folder, remedy)
        _checked.add(key)


def check_report(what: str, report: Mapping[str, Iterable[Any]], remedy: str, bare: Any = None) -> None:
    """Raise ``BadInput`` where transformers' loading report names a weight that is missing, unused or misshapen.

    ``bare``: the model was loaded without a head, so what is stored outside of its modules is another model's part.
    """
    missing, unused = list(report["missing_keys"]), list(report["unexpected_keys"])
    if bare is not None:
        own, prefix = {name for name, _ in bare.named_children()}, f"{bare.base_model_prefix}."
        missing = [name for name in missing if not name.startswith("pooler.")]
        unused = [name for name in unused if name.removeprefix(prefix).partition(".")[0] in own - {"pooler"}]
    shapes = [
        f"{name} {tuple(stored_shape)} where {tuple(shape)} is expected"
        for name, stored_shape, shape in report["mismatched_keys"]
    ]
    refuse(what, missing, unused, shapes, remedy)


def refuse(what: str, missing: Iterable[str], unused: Iterable[str], misshapen: Iterable[str], remedy: str) -> None:
    """Raise ``BadInput`` naming the weights that do not fit, if there are any; every kind of load reports this way."""
    kinds = (
        (missing, "is missing and would be random", "are missing and would be random"),
        (unused, "fits nothing and would be left out", "fit nothing and would be left out"),
        (misshapen, "has another shape", "have other shapes"),
    )
    said = []
    for names, one, several in kinds:
        some = sorted(names)
        if some:
            more = f" and {len(some) - NAMED} more" if len(some) > NAMED else ""
            count = f"1 weight {one}" if len(some) == 1 else f"{len(some)} weights {several}"
            said.append(f"{count} ({', '.join(some[:NAMED])}{more})")
    if said:
        raise BadInput(f"{what} do not fit each other: {'; '.join(said)}. {remedy}")


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Without transformers' warnings and progress bars: what they warn of is checked here."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)


def _fitted(config: Any, weights: dict[str, Any] | None, head: bool) -> tuple[Any, Any]:
    """The model of ``config`` on the meta device, and transformers' report on ``weights`` loaded into it.

    The report follows the library's own rules: older names of weights, tied ones, buffers that are computed.
    """
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_MAPPING

    kinds: Any = (MODEL_FOR_CAUSAL_LM_MAPPING if head else MODEL_MAPPING).get(type(config), None)
    if not kinds:
        wanted = "causal language model" if head else "model"
        raise BadInput(f"config.json is a {type(config).__name__}, for which transformers has no {wanted}")
    named = config.architectures or ()
    choices = kinds if isinstance(kinds, tuple) else (kinds,)
    kind = next((choice for choice in choices if choice.__name__ in named), choices[0])
    with quietly():
        return kind.from_pretrained(
            None,
            config=config,
            state_dict=weights or {},
            device_map="meta",
            output_loading_info=True,
            ignore_mismatched_sizes=True,
        )
