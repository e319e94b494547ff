"""A backbone's folder becomes a tokenizer and a model in memory, one way for every stage.

Padding, end and beginning of text are decided here. Nothing here bears identity.
"""

from __future__ import annotations

import copy
import json
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from adg.artifacts import digests
from adg.artifacts.artifact import Artifact
from adg.backbones import content, model_config, weights
from adg.errors import BadInput, BadMeasurement
from adg.execution import DTYPES, ExecConfig

SAVE_AGAIN = "Save the model again with save_pretrained"
# Tokens that exist only to be padding, tried in this order where a tokenizer pads with its end of text.
PAD_CANDIDATES = (
    "<pad>",
    "<|pad|>",
    "[PAD]",
    "<|finetune_right_pad_id|>",
    "<|fim_pad|>",
    "<|reserved_special_token_0|>",
)
TOKENIZER_FILES = (".json", ".jinja", ".model", ".txt")  # of a model's folder, by the ends of their names
TOKENIZERS = 2  # kept in memory

_tokenizers: OrderedDict[str, Any] = OrderedDict()  # by the state of their files


def model_path(artifact: Artifact) -> Path:
    """The folder that ``from_pretrained`` of transformers, PEFT, lm-eval and vLLM loads.

    Raises ``BadInput`` for a local folder that is gone, or whose content is no longer what the artifact stands for.
    """
    source = _source(artifact)
    if source["source"] in ("embedded", "tuned"):
        return artifact.path / "model"
    if source["source"] == "hub":
        return content.fetch_model(source["hub"], source["revision"], offline=True)
    folder = Path(source["path"])
    content.check_folder(
        folder,
        f"it was there when {artifact.path.name} was made; put it back, or run the same command with the folder where "
        f"it is now (backbone.path=...)",
    )
    if "files" not in source:
        raise BadInput(f"{artifact.path} knows a part of its model's content only; make it again by the same command")
    content.check_unchanged(folder, source["files"])
    return folder


def dtype_of(artifact: Artifact) -> str:
    """The backbone's own dtype, which "auto" stands for everywhere."""
    return _source(artifact)["dtype"]


def remedy_of(artifact: Artifact) -> str:
    """What to do about a backbone whose files are not right."""
    return remedy_for(_source(artifact), artifact.path)


def remedy_for(source: Mapping[str, Any], place: Path) -> str:
    """What to do about a model, of which ``source.json`` in ``place`` tells, whose files are not right.

    Only a folder that this project made may be deleted.
    """
    if source["source"] in ("embedded", "tuned"):
        return f"Delete {place}, which a run of this project made, and run the same command again"
    if source["source"] == "hub":
        return (
            f"Fetch it again: `hf download {source['hub']} --revision {source['revision']} --force-download`; if that "
            f"changes nothing, the repository is at fault: choose another revision"
        )
    return (
        f"The folder is yours and stays as it is: put the right weights into it, or save the model again with "
        f"save_pretrained and give that folder as backbone.path (now {source['path']})"
    )


def read_config(artifact: Artifact) -> dict[str, Any]:
    """The ``config.json`` of the model."""
    return model_config.read(model_path(artifact))


def positions(artifact: Artifact) -> int | None:
    """Tokens a text may have at most, by the model's config; None where it names no limit."""
    return model_config.positions(read_config(artifact))


def blocks(artifact: Artifact) -> int | None:
    """Blocks of the model, by its config; None where it does not say."""
    return model_config.blocks(read_config(artifact))


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
    return load_folder(model_path(artifact), device, chosen, headless, gpus, remedy_of(artifact))


def load_folder(
    folder: Path, device: str, dtype: str, headless: bool = False, gpus: int = 1, remedy: str = SAVE_AGAIN
) -> Any:
    """As ``load_model``, from a folder as ``save_pretrained`` writes it.

    The checkpoint's generation defaults (penalties, top-k) are dropped: nothing that samples may inherit a setting
    that is not in its config. Raises ``BadInput``, before weights are read, where they are not those of the model;
    ``remedy`` ends the message.
    """
    import torch
    from transformers import AutoModel, AutoModelForCausalLM, GenerationConfig

    if dtype not in DTYPES:
        raise BadInput(f"dtype is {dtype!r}; expected auto or one of {', '.join(DTYPES)}")
    spread = gpus > 1 and device == "cuda"
    if spread and torch.cuda.device_count() < gpus:
        raise BadInput(
            f"exec.tensor_parallel is {gpus} but torch sees {torch.cuda.device_count()} GPUs; set it to that"
        )
    weights.check_once(folder, remedy)
    placed: dict[str, Any] = {}
    if spread:
        placed = {"device_map": "balanced", "max_memory": {i: torch.cuda.mem_get_info(i)[0] for i in range(gpus)}}
    with weights.quietly():
        model, report = (AutoModel if headless else AutoModelForCausalLM).from_pretrained(
            folder,
            dtype=getattr(torch, dtype),
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            **placed,
        )
    weights.check_report(f"{folder} and its {type(model).__name__}", report, remedy, model if headless else None)
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
    ends = {int(tokenizer.eos_token_id)}
    defaults = model_path(artifact) / "generation_config.json"
    if defaults.is_file():
        named = json.loads(defaults.read_text(encoding="utf-8")).get("eos_token_id")
        ends |= {int(i) for i in (named if isinstance(named, list) else [named]) if i is not None}
    return sorted(ends)


def adds_bos(tokenizer: Any) -> bool:
    """Whether the tokenizer puts its beginning-of-text token before a text by itself."""
    return tokenizer.bos_token_id is not None and tokenizer("a").input_ids[:1] == [tokenizer.bos_token_id]


def check_bos(ids: Sequence[int], tokenizer: Any) -> None:
    """Raise ``BadMeasurement`` unless ``ids`` begin with exactly one BOS, or with none where none is added.

    A BOS written out inside a text is that text's own business and is left alone.
    """
    bos = tokenizer.bos_token_id
    first_other = next((i for i, token in enumerate(ids) if token != bos), len(ids))
    expected = int(adds_bos(tokenizer))
    if bos is not None and first_other != expected:
        raise BadMeasurement(
            f"a sequence begins with {first_other} beginning-of-text tokens ({tokenizer.bos_token!r}, id "
            f"{bos}), expected {expected}; its first ids are {list(ids[:6])}. Encode texts with "
            f"adg.prompts only"
        )


def _source(artifact: Artifact) -> dict[str, Any]:
    return json.loads(artifact.file("source.json").read_text(encoding="utf-8"))


def open_tokenizer(folder: Path) -> Any:
    """As ``load_tokenizer``, from a folder. Raises ``BadInput`` also where its tokens are not those of the model.

    The files are not read again in this process while they stay as they are; each call gives a tokenizer of its own.
    """
    files = sorted(file for file in folder.iterdir() if file.suffix in TOKENIZER_FILES) if folder.is_dir() else []
    key = json.dumps([str(folder), [[file.name, digests.state(file)] for file in files]])
    if key not in _tokenizers:
        opened = _read_tokenizer(folder)
        while len(_tokenizers) >= TOKENIZERS:
            _tokenizers.popitem(last=False)
        _tokenizers[key] = opened
    return copy.deepcopy(_tokenizers[key])


def _read_tokenizer(folder: Path) -> Any:
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except Exception as error:  # the tokenizers library raises plain Exception for a damaged file
        first = next(iter(str(error).splitlines()), type(error).__name__)
        raise BadInput(f"the tokenizer in {folder} cannot be read ({first}); save it with save_pretrained") from error
    if tokenizer.eos_token_id is None:
        raise BadInput(
            f"the tokenizer in {folder} names no end-of-text token; set eos_token in its tokenizer_config.json"
        )
    rows = model_config.read(folder).get("vocab_size") or 1 << 62
    _check_tokens(tokenizer, folder, rows)
    if tokenizer.pad_token_id in (None, tokenizer.eos_token_id) or tokenizer.pad_token_id >= rows:
        tokenizer.pad_token = _pad_token(tokenizer, rows)
    return tokenizer


def _check_tokens(tokenizer: Any, folder: Path, rows: int) -> None:
    """Refuse ids that the model, with ``rows`` input vectors, has no vector for, and tokens that no file defines."""
    if tokenizer.vocab_size > rows:
        raise BadInput(
            f"the tokenizer in {folder} has {tokenizer.vocab_size} tokens, its model vectors for {rows}; expected the "
            f"tokenizer that the model was trained with"
        )
    for role in ("bos_token", "eos_token"):
        token, number = getattr(tokenizer, role), getattr(tokenizer, f"{role}_id")
        if token is not None and (number >= rows or not _defined(token, number, tokenizer, folder)):
            raise BadInput(
                f"{folder} names {token!r} as its {role}, which its model has no vector for (id {number}, and no file "
                f"of the tokenizer defines it); correct {role} in tokenizer_config.json"
            )


def _defined(token: str, number: int, tokenizer: Any, folder: Path) -> bool:
    """Whether a file defines the token. One that is only named as special is given a new id when it is loaded."""
    file = folder / "tokenizer.json"
    if number < tokenizer.vocab_size or not file.is_file():
        return True
    added = {entry["content"] for entry in json.loads(file.read_text(encoding="utf-8"))["added_tokens"]}
    settings = folder / "tokenizer_config.json"
    if settings.is_file():
        written = json.loads(settings.read_text(encoding="utf-8")).get("added_tokens_decoder") or {}
        added |= {entry["content"] for entry in written.values()}
    others = folder / "added_tokens.json"
    return token in added or (others.is_file() and token in json.loads(others.read_text(encoding="utf-8")))


def _pad_token(tokenizer: Any, rows: int) -> str:
    """A token of the vocabulary to pad with; the end of text itself when there is no other (padding is always
    masked by position, never recognised by its id)."""
    vocabulary = tokenizer.get_vocab()
    for token in (*PAD_CANDIDATES, tokenizer.unk_token):
        if token in vocabulary and vocabulary[token] != tokenizer.eos_token_id and vocabulary[token] < rows:
            return token
    return tokenizer.eos_token
