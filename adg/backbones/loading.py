"""A backbone's folder becomes a tokenizer and a model in memory, one way for every stage.

Padding, end and beginning of text are decided here. Nothing here bears identity.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from adg import hub
from adg.artifacts.artifact import Artifact
from adg.errors import BadInput, BadMeasurement
from adg.execution import DTYPES, ExecConfig

WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".gguf")
NOT_DOWNLOADED = ("original/*",)
DOWNLOADED = ("*.json", "*.safetensors", "*.txt", "*.model", "*.jinja")  # nothing executable, no pickled weights


# Tokens that exist only to be padding, tried in this order where a tokenizer pads with its end of text.
PAD_CANDIDATES = (
    "<pad>",
    "<|pad|>",
    "[PAD]",
    "<|finetune_right_pad_id|>",
    "<|fim_pad|>",
    "<|reserved_special_token_0|>",
)


def model_path(artifact: Artifact) -> Path:
    """The folder that ``from_pretrained`` of transformers, PEFT, lm-eval and vLLM loads."""
    source = _source(artifact)
    if source["source"] in ("embedded", "tuned"):
        return artifact.path / "model"
    if source["source"] == "hub":
        return fetch_model(source["hub"], source["revision"], offline=True)
    folder = Path(source["path"])
    check_folder(
        folder,
        f"it was there when {artifact.path.name} was made; put it back, or delete "
        f"{artifact.path} and run the same command with the new backbone.path",
    )
    return folder


def dtype_of(artifact: Artifact) -> str:
    """The backbone's own dtype, which "auto" stands for everywhere."""
    return _source(artifact)["dtype"]


def positions(artifact: Artifact) -> int | None:
    """Tokens a text may have at most, by the model's config; None where it names no limit."""
    config = json.loads((model_path(artifact) / "config.json").read_text())
    return config.get("max_position_embeddings") or config.get("n_positions")


def load_tokenizer(artifact: Artifact) -> Any:
    """The tokenizer with an explicit padding token, distinct from the end of text wherever it has one.

    Raises ``BadInput`` when there is no end of text: training and sampling could not stop.
    """
    return open_tokenizer(model_path(artifact))


def load_model(artifact: Artifact, device: str, dtype: str | None = None, headless: bool = False, gpus: int = 1) -> Any:
    """The model in eval mode on ``device``; ``headless`` leaves out the language-model head.

    ``dtype`` None or "auto" is the backbone's own. Over more than one of ``gpus`` accelerate lays the layers out.
    """
    chosen = dtype_of(artifact) if dtype is None or dtype == "auto" else dtype
    return load_folder(model_path(artifact), device, chosen, headless, gpus)


def load_folder(folder: Path, device: str, dtype: str, headless: bool = False, gpus: int = 1) -> Any:
    """As ``load_model``, from a folder as ``save_pretrained`` writes it.

    The checkpoint's generation defaults (penalties, top-k) are dropped: nothing that samples may inherit a setting
    that is not in its config. Raises ``BadInput``, and ``BadMeasurement`` where weights are missing.
    """
    import torch
    from transformers import AutoModel, AutoModelForCausalLM, GenerationConfig
    from transformers.utils import logging

    if dtype not in DTYPES:
        raise BadInput(f"dtype is {dtype!r}; expected auto or one of {', '.join(DTYPES)}")
    spread = gpus > 1 and device == "cuda"
    if spread and torch.cuda.device_count() < gpus:
        raise BadInput(
            f"exec.tensor_parallel is {gpus} but torch sees {torch.cuda.device_count()} GPUs; set it to that"
        )
    placed: dict[str, Any] = {}
    if spread:
        placed = {"device_map": "balanced", "max_memory": {i: torch.cuda.mem_get_info(i)[0] for i in range(gpus)}}
    kind = AutoModel if headless else AutoModelForCausalLM
    logging.disable_progress_bar()
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # its report warns of the head that is left out; what is missing is checked here
    try:
        model, report = kind.from_pretrained(
            folder,
            dtype=getattr(torch, dtype),
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
            output_loading_info=True,
            **placed,
        )
    finally:
        logging.set_verbosity(verbosity)
    if report["missing_keys"] or report["mismatched_keys"]:
        lacking = sorted(report["missing_keys"]) + sorted(map(str, report["mismatched_keys"]))
        raise BadMeasurement(
            f"{folder} lacks {len(lacking)} weights of {type(model).__name__} (first: {lacking[0]}); "
            f"they would be random. Delete {folder} and run the same command again, which makes or fetches it anew"
        )
    model.generation_config = GenerationConfig()
    return (model if spread else model.to(device)).eval()


def device(exec_: ExecConfig) -> str:
    """ "cuda" or "cpu": what ``exec.device`` says, or what is there for "auto"."""
    import torch

    if exec_.device == "cuda" and not torch.cuda.is_available():
        raise BadInput(
            "exec.device is 'cuda' but torch sees no GPU; set exec.device=cpu (or auto), or install the "
            "CUDA build of torch"
        )
    if exec_.device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return exec_.device


def stop_ids(artifact: Artifact, tokenizer: Any) -> list[int]:
    """Ids that end an answer: the tokenizer's end of text and those the checkpoint's generation config adds
    (LLaMA-3-Instruct has two)."""
    found = {int(tokenizer.eos_token_id)}
    defaults = model_path(artifact) / "generation_config.json"
    if defaults.is_file():
        named = json.loads(defaults.read_text()).get("eos_token_id")
        found |= {int(i) for i in (named if isinstance(named, list) else [named]) if i is not None}
    return sorted(found)


def adds_bos(tokenizer: Any) -> bool:
    """Whether the tokenizer puts its beginning-of-text token before a text by itself."""
    return tokenizer.bos_token_id is not None and tokenizer("a").input_ids[:1] == [tokenizer.bos_token_id]


def check_bos(ids: Sequence[int], tokenizer: Any) -> None:
    """Raise ``BadMeasurement`` unless ``ids`` begin with exactly one BOS, or with none where none is added.

    A BOS written out inside a text is that text's own business and is left alone.
    """
    bos = tokenizer.bos_token_id
    found = next((i for i, token in enumerate(ids) if token != bos), len(ids))
    expected = int(adds_bos(tokenizer))
    if bos is not None and found != expected:
        raise BadMeasurement(
            f"a sequence begins with {found} beginning-of-text tokens ({tokenizer.bos_token!r}, id "
            f"{bos}), expected {expected}; its first ids are {list(ids[:6])}. Encode texts with "
            f"adg.prompts only"
        )


def _source(artifact: Artifact) -> dict[str, Any]:
    return json.loads(artifact.file("source.json").read_text())


def open_tokenizer(folder: Path) -> Any:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    if tokenizer.eos_token_id is None:
        raise BadInput(
            f"the tokenizer in {folder} names no end-of-text token; set eos_token in its tokenizer_config.json"
        )
    if tokenizer.pad_token_id is None or tokenizer.pad_token_id == tokenizer.eos_token_id:
        tokenizer.pad_token = _pad_token(tokenizer)
    return tokenizer


def _pad_token(tokenizer: Any) -> str:
    """A token of the vocabulary to pad with; the end of text itself when there is no other (padding is always
    masked by position, never recognised by its id)."""
    vocabulary = tokenizer.get_vocab()
    for token in (*PAD_CANDIDATES, tokenizer.unk_token):
        if token in vocabulary and vocabulary[token] != tokenizer.eos_token_id:
            return token
    return tokenizer.eos_token


def check_folder(folder: Path, hint: str) -> None:
    """Raise ``BadInput`` naming what a model folder lacks: config, tokenizer or a shard of its weights."""
    if not folder.is_dir():
        raise BadInput(f"{folder} is not a folder; {hint}")
    lacking = [] if (folder / "config.json").is_file() else ["config.json"]
    if not any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer.model", "vocab.json")):
        lacking.append("tokenizer.json")
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        shards = set(json.loads(index.read_text())["weight_map"].values())
        lacking += sorted(name for name in shards if not (folder / name).is_file())
    elif not (folder / "model.safetensors").is_file():
        lacking.append("model.safetensors")
    if lacking:
        raise BadInput(f"{folder} lacks {', '.join(lacking)}; {hint}")


def fetch_model(repo: str, revision: str, offline: bool) -> Path:
    """The local folder of a hub model at a commit, downloaded unless ``offline``."""
    folder = hub.download(repo, revision, "model", patterns=DOWNLOADED, ignored=NOT_DOWNLOADED, offline=offline)
    check_folder(folder, f"the download is incomplete; run `hf download {repo} --revision {revision}`")
    return folder
