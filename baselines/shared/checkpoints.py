"""Files and folders that a selector reads from outside the pool: their content is part of a result's identity.

A path says nothing about a result and differs between machines, so a config names the path (not identity) and the
digest of what is there (identity); a wrong or missing digest is refused with the right one.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from adg.artifacts import digests
from adg.artifacts.files import sha256_text
from adg.backbones import weights
from adg.errors import BadInput


def check_paths(config: Any, *files: str, folders: Sequence[str] = ()) -> None:
    """Raise ``BadInput`` where an option's digest is set without the option itself, or the other way round.

    ``files`` and ``folders`` name the options. A path alone would not be part of the identity: results made without
    the file would be found in its place.
    """
    for option in (*files, *folders):
        path, sha256 = getattr(config, option), getattr(config, f"{option}_sha256")
        if path is None and sha256 is not None:
            raise BadInput(f"selector.{option}_sha256 is set without selector.{option}; set the path of it too")
        if path is not None and sha256 is None:
            (folder if option in folders else file)(option, path, sha256)  # refuses, naming the digest


def file(option: str, path: str, sha256: str | None) -> Path:
    """The file at ``path``, checked against ``sha256``. ``option`` is the name of the config's option."""
    place = Path(path).expanduser()
    if not place.is_file():
        raise BadInput(f"selector.{option} is {path!r}, which is not a file; expected a path to one")
    return _checked(option, place, digests.of_files([place])[place], sha256)


def folder(option: str, path: str, sha256: str | None) -> Path:
    """The folder at ``path``, checked against ``sha256``: of the names and digests of all files in it."""
    place = Path(path).expanduser()
    if not place.is_dir():
        raise BadInput(f"selector.{option} is {path!r}, which is not a folder; expected a path to one")
    return _checked(option, place, folder_digest(place), sha256)


def folder_digest(path: Path) -> str:
    """One digest for the names and contents of the files below ``path``; hidden files and folders do not count."""
    files = sorted(
        p
        for p in path.rglob("*")
        if p.is_file() and not any(part.startswith(".") for part in p.relative_to(path).parts)
    )
    digest_of = digests.of_files(files)
    return sha256_text("\n".join(f"{digest_of[p]}  {p.relative_to(path).as_posix()}" for p in files))


def pretrained(path: Path, device: str, head: bool = False) -> tuple[Any, Any]:
    """The model (eval mode, on ``device``, in the dtype it was saved in) and the tokenizer of a checkpoint folder.

    ``head`` asks for a causal language model with its head, otherwise the bare encoder or decoder is loaded; a pooling
    layer that it brings along or lacks is not used here. No pickle is read and no code of a hub is run. Raises
    ``BadInput`` saying what the folder lacks.
    """
    from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer

    kind = AutoModelForCausalLM if head else AutoModel
    _check_files(path, kind.__name__)
    remedy = "Fetch the checkpoint again, all of its files from one place"
    weights.check(path, remedy, head)
    try:
        with weights.quietly():
            model, report = kind.from_pretrained(
                path,
                dtype="auto",
                use_safetensors=True,
                trust_remote_code=False,
                local_files_only=True,
                output_loading_info=True,
                ignore_mismatched_sizes=True,
            )
        tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=False, local_files_only=True)
    except (OSError, ValueError) as error:
        raise BadInput(f"{path} cannot be loaded: {error}") from error
    weights.check_report(f"{path} and its {type(model).__name__}", report, remedy, None if head else model)
    return model.to(device).eval(), tokenizer


def _check_files(path: Path, kind: str) -> None:
    lacking = sorted(file.name for file in (path / "config.json", *weights.files(path)) if not file.is_file())
    if lacking:
        raise BadInput(
            f"{path} lacks {', '.join(lacking)}; expected a folder written by save_pretrained. Pickled weights are "
            f'never loaded here; convert them once: python -c "from transformers import {kind} as M; '
            f"M.from_pretrained('<folder>').save_pretrained('<folder>')\""
        )


def _checked(option: str, path: Path, digest: str, expected: str | None) -> Path:
    if expected != digest:
        state = "is not set" if expected is None else f"is {expected}"
        raise BadInput(
            f"selector.{option}_sha256 {state}, but the content of {path} has {digest}; it is part of the result's "
            f"identity, so add selector.{option}_sha256={digest}, or restore the file that was meant"
        )
    return path
