"""A subset as a folder that a hub of data sets can hold: data files, a card, what chose them, and the way there.

Nothing here bears identity. Nothing written here names a path of this machine or the machine itself.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from adg.artifacts.artifact import Artifact, plain
from adg.artifacts.files import sha256_file
from adg.errors import BadInput
from adg.redaction import without_secrets
from experiments.cells import Cell
from experiments.outputs import Outputs

SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))  # the hub's words
READS = {"answers": ("sampling", "engine"), "grams": ("embedding",), "pooled-answers": ("sampling", "embedding")}
PUSHED = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def selection(cell: Cell, pool: Artifact, subset: Artifact) -> dict[str, Any]:
    """What chose the rows: method, settings, counts, digests, versions."""
    config, info = cell.config, pool.info
    stages = {node.stage.name for node in cell.nodes["subset"].walk()}
    settings = {part: getattr(config, part) for stage, parts in READS.items() if stage in stages for part in parts}
    if stages & {"backbone"}:
        settings["backbone"] = config.selecting or config.backbone
    rows = "sampled_from", "dropped", "held_out"
    return {
        "schema": "adg-selection/1",
        "method": {"selector": cell.selector.name, "version": cell.selector.version, "options": _told(config.selector)},
        "budget": subset.info["budget"],
        "seed": config.seed,
        "settings": {name: _told(plain(value)) for name, value in sorted(settings.items())},
        "source": {
            "name": config.pool.name,
            "hub": config.pool.hub,
            "revision": config.pool.revision if config.pool.hub else None,
            "file": Path(str(config.pool.path)).name if config.pool.path else config.pool.file,
            "sha256": info["sha256"],
            "rows": info["rows_in"],
            **{name: info[name] for name in rows if info.get(name)},
        },
        "rows": subset.info["rows_out"],
        "without_score": subset.info["invalid"] or None,
        "fingerprint": subset.fingerprint,
        "versions": subset.manifest["versions"],
        "code": subset.manifest.get("git") or None,
    }


def _told(value: Any) -> Any:
    """Settings, of a path of this machine its last part."""
    if isinstance(value, Mapping):
        return {name: _told(inner) for name, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_told(inner) for inner in value]
    return Path(value).name if isinstance(value, str) and value.startswith(("/", "~")) else value


def card(outputs: Outputs, facts: Mapping[str, Any]) -> str:
    """README.md of the folder: what a hub reads of it, and what a person does."""
    source, method = facts["source"], facts["method"]
    data = outputs.rows.relative_to(outputs.folder).as_posix()
    head = {
        "configs": [
            {"config_name": "default", "data_files": [{"split": "train", "path": data}]},
            {"config_name": "scores", "data_files": [{"split": "train", "path": outputs.scores.name}]},
        ],
        "task_categories": ["text-generation"],
        "tags": ["instruction-tuning", "data-selection"],
        "size_categories": [next((word for limit, word in SIZES if facts["rows"] < limit), "n>1M")],
        **({"source_datasets": [source["hub"]]} if source["hub"] else {}),
    }
    origin = f"{source['hub']} at {source['revision']}" if source["hub"] else f"`{source['file']}`"
    counted = [
        ("rows of the source", source["rows"]),
        ("dropped", source.get("dropped")),
        ("held out", source.get("held_out")),
        ("chosen", facts["rows"]),
        ("asked for", facts["budget"]),
    ]
    settings = {"options of the selector": method["options"], "seed": facts["seed"], **facts["settings"]}
    digests = [(outputs.rows, data), (outputs.scores, outputs.scores.name), (outputs.manifest, outputs.manifest.name)]
    return "\n".join(
        [
            "---",
            yaml.safe_dump(head, sort_keys=False, allow_unicode=True).rstrip(),
            "---",
            "",
            f"# {facts['rows']:,} rows of {source['name']}, chosen by {method['selector']}",
            "",
            f"The rows are those of {origin}, with all their fields, in the order in which `{method['selector']}` "
            f"(version {method['version']}) chose them; the licence of the source holds for them. "
            f'`load_dataset(<this>, "scores")` has a line for every row of the source: its scores and its place, or '
            f"why it was not chosen.",
            "",
            "## Counts",
            "",
            *_table(("", "rows"), [(name, f"{count:,}") for name, count in counted if count is not None]),
            *([f"\nWithout a score: {facts['without_score']}."] if facts["without_score"] else []),
            "",
            "## Method and settings",
            "",
            *_table(("", "setting"), [(name, _code(value)) for name, value in settings.items()]),
            "",
            "## Digests",
            "",
            *_table(
                ("", "sha256"),
                [
                    *([("the source", f"`{source['sha256']}`")] if source["sha256"] else []),
                    *((f"`{name}`", f"`{sha256_file(path)}`") for path, name in digests),
                ],
            ),
            "",
            f"`{outputs.manifest.name}` has all of this for programs, and the versions of the libraries.",
            "",
        ]
    )


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows)]


def _code(value: Any) -> str:
    """A setting in one cell of a table."""
    return f"`{json.dumps(value, ensure_ascii=False, default=str)}`".replace("|", "\\|")


# -- to the hub ------------------------------------------------------------------------------------------


def check_push(repo: str, outputs: Outputs, offline: bool) -> None:
    """Refuse, before any work, what could not be pushed: no folder, no such name, no token, no way to the hub."""
    if not PUSHED.fullmatch(repo):
        raise BadInput(f"push is {repo!r}; expected the data set's name on the hub, push=owner/name")
    if outputs.card is None:
        raise BadInput("push= needs the subset as a folder: out=my_subset/ (with the stroke at its end)")
    import huggingface_hub
    from huggingface_hub import constants

    if offline or constants.HF_HUB_OFFLINE:
        raise BadInput("push= needs the hub, and exec.offline or HF_HUB_OFFLINE forbids it; leave one of them out")
    if huggingface_hub.get_token() is None:
        raise BadInput(
            f"push={repo} needs a token of the hub that may write, and none was found; run `hf auth login`, or set "
            f"HF_TOKEN"
        )
    with _told_plainly(repo, "nothing was done yet"):
        huggingface_hub.HfApi().whoami()


def push(repo: str, outputs: Outputs, public: bool) -> str:
    """Add the folder to the data set ``repo`` of the hub, which is made (private unless ``public``) where it is not
    there; returns the address of the commit. Raises ``BadInput`` with the command that does it by hand."""
    import huggingface_hub

    api = huggingface_hub.HfApi()
    by_hand = f"the folder is complete; `hf upload {repo} {outputs.folder} --repo-type dataset` adds it later"
    with _told_plainly(repo, by_hand):
        api.create_repo(repo, repo_type="dataset", private=not public, exist_ok=True)
        done = api.upload_folder(
            repo_id=repo,
            repo_type="dataset",
            folder_path=outputs.folder,
            allow_patterns=[path.relative_to(outputs.folder).as_posix() for path in outputs.all],
            commit_message=f"{outputs.rows.name}: chosen rows, their scores and what chose them",
        )
    return str(done.commit_url)


@contextmanager
def _told_plainly(repo: str, then: str) -> Iterator[None]:
    """Errors of the hub as one line without secrets."""
    import httpx
    from huggingface_hub.errors import HFValidationError

    try:
        yield
    except (OSError, httpx.HTTPError, HFValidationError) as error:  # the hub's own errors are kinds of OSError
        words = without_secrets(f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}")
        raise BadInput(f"push={repo} was refused ({words}); {then}") from error
