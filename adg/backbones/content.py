"""The files of a model folder: which must be there, their digests, and how a hub's are fetched.

The digests of a local folder are a backbone's identity; those of the hub are known by repository and commit.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from adg import hub
from adg.artifacts import digests
from adg.backbones import weights
from adg.errors import BadInput

NOT_DOWNLOADED = ("original/*",)
DOWNLOADED = ("*.json", "*.safetensors", "*.txt", "*.model", "*.jinja")  # nothing executable, no pickled weights
TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json")  # one of these is enough
TEMPLATES = "additional_chat_templates"  # the one sub-folder that a tokenizer reads


def check_folder(folder: Path, hint: str) -> None:
    """Raise ``BadInput`` naming what a model folder lacks: config, tokenizer or a shard of its weights."""
    if not folder.is_dir():
        raise BadInput(f"{folder} is not a folder; {hint}")
    lacking = [] if (folder / "config.json").is_file() else ["config.json"]
    if not any((folder / name).is_file() for name in TOKENIZERS):
        lacking.append(TOKENIZERS[0])
    lacking += [file.name for file in weights.files(folder) if not file.is_file()]
    if lacking:
        raise BadInput(f"{folder} lacks {', '.join(lacking)}; {hint}")


def digests_of(folder: Path) -> dict[str, str]:
    """Name -> sha256 of the whole content of each file that loading may read; notes in Markdown are left out."""
    files = [path for place in (folder, folder / TEMPLATES) if place.is_dir() for path in sorted(place.iterdir())]
    read = [path for path in files if path.is_file() and not path.name.startswith(".") and path.suffix != ".md"]
    return {path.relative_to(folder).as_posix(): digest for path, digest in digests.of_files(read).items()}


def check_unchanged(folder: Path, expected: Mapping[str, str]) -> None:
    """Raise ``BadInput`` where the files of a local model are no longer those whose digests are ``expected``."""
    present = digests_of(folder)
    changed = sorted(name for name in {*present, *expected} if present.get(name) != expected.get(name))
    if changed:
        raise BadInput(
            f"the model in {folder} was changed since this run looked at it ({', '.join(changed[:5])}); run the same "
            f"command again, which takes what is there now as a model of its own"
        )


def fetch_model(repo: str, revision: str, offline: bool) -> Path:
    """The local folder of a hub model at a commit, downloaded unless ``offline``."""
    folder = hub.download(repo, revision, "model", patterns=DOWNLOADED, ignored=NOT_DOWNLOADED, offline=offline)
    check_folder(folder, f"the download is incomplete; run `hf download {repo} --revision {revision}`")
    return folder
