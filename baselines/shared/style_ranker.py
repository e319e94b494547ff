"""SCAR's ranker: an encoder and a small head that score the style of (instruction, answer); zhuang-li/SCAR at d1365fe.

Only its forward pass and the reading of a checkpoint folder; no pickle is read and no code of a hub is run. Nothing
here bears identity: the stage that runs it names the folder's digest.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from adg.backbones import weights as fit
from adg.errors import BadInput
from adg.progress import progress

HEAD = {  # tensor of the ranker -> its shape in terms of h (width of the encoder) and m (width of the middle layer)
    "relation_network.0.weight": ("m", "2h"),
    "relation_network.0.bias": ("m",),
    "relation_network.2.weight": ("h", "m"),
    "relation_network.2.bias": ("h",),
    "output_layer.0.weight": ("m", "2h"),
    "output_layer.0.bias": ("m",),
    "output_layer.2.weight": ("1", "m"),
    "output_layer.2.bias": ("1",),
}
CONVERT = (
    'python -c "import torch, safetensors.torch as s; s.save_file({k: v.clone() for k, v in '
    "torch.load('pytorch_model.bin', weights_only=True).items()}, 'model.safetensors')\""
)


class Ranker:
    """Encoder and head. ``tokenizer`` is called as transformers' are; ``head`` holds the tensors of ``HEAD``.

    e_x, e_y: the encoder's pooled output, or the first token's last hidden state where it has none; r = relation
    network of [e_x; e_y]; p = maximum over the answer's tokens of the last hidden states; score = output layer of
    [r; p], larger is better, unbounded.
    """

    def __init__(self, encoder: Any, tokenizer: Any, head: dict[str, Any], device: str = "cpu") -> None:
        self.encoder = encoder.to(device).eval()
        self.tokenizer = tokenizer
        self.head = {name: tensor.float().to(device) for name, tensor in head.items()}
        self.device = device

    def score(
        self, pairs: Sequence[tuple[str, str]], max_length: int = 512, tokens_per_batch: int = 4096
    ) -> np.ndarray:
        """(n,) float64. Each distinct text and pair counts once, so equal pairs get the very same score; texts are
        encoded among texts of their length, and their neighbours change nothing beyond rounding."""
        import torch

        distinct = sorted(set(pairs))
        instructions = sorted({instruction for instruction, _ in distinct})
        place = {text: i for i, text in enumerate(instructions)}
        answers = sorted({answer for _, answer in distinct})
        instructions_of: dict[str, list[int]] = {answer: [] for answer in answers}  # those that it answers
        for instruction, answer in distinct:
            instructions_of[answer].append(place[instruction])
        scores: dict[tuple[str, str], float] = {}
        with torch.inference_mode(), progress(len(instructions) + len(answers), "scar", unit="texts") as bar:
            embedded = [torch.empty(0)] * len(instructions)
            for batch, pooled, _ in self._encoded(instructions, max_length, tokens_per_batch):
                for i, vector in zip(batch, pooled, strict=True):
                    embedded[i] = vector
                bar.update(len(batch))
            for batch, pooled, form in self._encoded(answers, max_length, tokens_per_batch):
                rows = [(x, i) for i, answer in enumerate(batch) for x in instructions_of[answers[answer]]]
                own = [i for _, i in rows]
                question = torch.stack([embedded[x] for x, _ in rows])
                relation = self._layers("relation_network", torch.cat([question, pooled[own]], dim=1))
                final = self._layers("output_layer", torch.cat([relation, form[own]], dim=1))
                for (x, i), value in zip(rows, final[:, 0].tolist(), strict=True):
                    scores[instructions[x], answers[batch[i]]] = value
                bar.update(len(batch))
        return np.array([scores[pair_] for pair_ in pairs], dtype=np.float64)

    def _layers(self, name: str, x: Any) -> Any:
        from torch.nn.functional import linear, relu

        middle = relu(linear(x, self.head[f"{name}.0.weight"], self.head[f"{name}.0.bias"]))
        return linear(middle, self.head[f"{name}.2.weight"], self.head[f"{name}.2.bias"])

    def _encoded(self, texts: Sequence[str], max_length: int, tokens: int) -> Iterator[tuple[list[int], Any, Any]]:
        """Batches of positions in ``texts`` with (pooled, maximum over tokens) of each, both (batch, h)."""
        import torch

        ids: list[list[int]] = []
        for start in range(0, len(texts), 1000):
            some = list(texts[start : start + 1000])
            ids += self.tokenizer(some, truncation=True, max_length=max_length)["input_ids"]
        order = sorted(range(len(texts)), key=lambda i: (len(ids[i]), i))
        pad = self.tokenizer.pad_token_id or 0
        start = 0
        while start < len(order):
            stop = start + 1
            while stop < len(order) and (stop + 1 - start) * len(ids[order[stop]]) <= tokens:
                stop += 1
            batch, start = order[start:stop], stop
            longest = len(ids[batch[-1]])
            padded = torch.tensor([ids[i] + [pad] * (longest - len(ids[i])) for i in batch], device=self.device)
            mask = torch.tensor([[1] * len(ids[i]) + [0] * (longest - len(ids[i])) for i in batch], device=self.device)
            out = self.encoder(input_ids=padded, attention_mask=mask)
            states = out.last_hidden_state.float()
            pooled = getattr(out, "pooler_output", None)
            pooled = states[:, 0] if pooled is None else pooled.float()
            yield batch, pooled, states.masked_fill(mask[..., None] == 0, -1e9).amax(dim=1)


def load(folder: Path, device: str) -> Ranker:
    """The ranker in a checkpoint folder (see ``ScarConfig``); no pickle is read and no code of a hub is run.

    Raises ``BadInput`` saying what the folder lacks and how to make it.
    """
    from safetensors.torch import load_file
    from transformers import MODEL_MAPPING, AutoTokenizer

    weights = folder / "model.safetensors"
    if not weights.is_file():
        pickled = (
            "pytorch_model.bin is a pickle, which is never loaded here; " if _has(folder, "pytorch_model.bin") else ""
        )
        raise BadInput(f"{folder} lacks model.safetensors; {pickled}convert it once, in that folder: {CONVERT}")
    for name in ("config.json", "encoder/config.json"):
        if not _has(folder, name):
            raise BadInput(
                f"{folder} lacks {name}; expected the ranker's config.json and, as encoder/config.json, the "
                f"config.json of the encoder it names"
            )
    ranker = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    state = load_file(weights)
    head = _head(state, ranker, weights)
    encoder_state = {k.removeprefix("encoder."): v for k, v in state.items() if k.startswith("encoder.")}
    config = encoder_config(folder / "encoder" / "config.json")
    # from_pretrained, not load_state_dict: it knows older names of a model's tensors
    kind: Any = MODEL_MAPPING[type(config)]
    with fit.quietly():
        encoder, report = kind.from_pretrained(
            None, config=config, state_dict=encoder_state, output_loading_info=True, ignore_mismatched_sizes=True
        )
    fit.check_report(
        f"{weights} and its {type(encoder).__name__}",
        report,
        f"Expected all of {ranker.get('encoder_name')} under 'encoder.'",
    )
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    return Ranker(encoder.float(), tokenizer, head, device)


def _has(folder: Path, name: str) -> bool:
    return (folder / name).is_file()


def _head(state: dict[str, Any], ranker: dict[str, Any], weights: Path) -> dict[str, Any]:
    """The tensors of the head, their shapes checked against the ranker's config."""
    h, m = ranker.get("hidden_dim"), ranker.get("linear_dim")
    if not isinstance(h, int) or not isinstance(m, int):
        raise BadInput(f"{weights.parent}/config.json has hidden_dim {h!r} and linear_dim {m!r}; expected two integers")
    widths = {"1": 1, "m": m, "h": h, "2h": 2 * h}
    for name, shape in HEAD.items():
        expected = tuple(widths[s] for s in shape)
        present = tuple(state[name].shape) if name in state else "nothing"
        if present != expected:
            raise BadInput(
                f"{weights} holds {present} for {name}, expected shape {expected}; the released loader would "
                f"have gone on with random numbers"
            )
    return {name: state[name] for name in HEAD}


def encoder_config(path: Path) -> Any:
    """The encoder's configuration; gte-en-v1.5's own model type "new" is read as transformers' "gte".

    Its rotary embedding divides the frequencies of base theta * s by s^(2 / width of a head) (s: the scaling factor),
    which is what transformers calls linear scaling by that number.
    """
    from transformers import AutoConfig

    options = json.loads(path.read_text(encoding="utf-8"))
    options.pop("auto_map", None)
    kind = options.pop("model_type", None)
    if kind == "new":
        kind = "gte"
        scaling = options.pop("rope_scaling", None)
        theta = options.pop("rope_theta", 10000.0)
        expected = {"position_embedding_type": "rope", "layer_norm_type": "layer_norm", "logn_attention_scale": False}
        wrong = {k: options[k] for k, v in expected.items() if options.get(k, v) != v}
        if wrong or (scaling is not None and (scaling.get("type") != "ntk" or scaling.get("mixed_b") is not None)):
            raise BadInput(f"{path} describes an encoder that cannot be run: {wrong or scaling}; expected gte-en-v1.5")
        for name in (*expected, "logn_attention_clip1", "pack_qkv", "unpad_inputs", "use_memory_efficient_attention"):
            options.pop(name, None)
        options["rope_parameters"] = {"rope_type": "default", "rope_theta": float(theta)}
        if scaling is not None:
            s, width = float(scaling["factor"]), options["hidden_size"] // options["num_attention_heads"]
            options["rope_parameters"] = {
                "rope_type": "linear",
                "rope_theta": float(theta * s),
                "factor": s ** (2 / width),
            }
    try:
        return AutoConfig.for_model(kind, **options)
    except ValueError as error:
        raise BadInput(
            f"{path} has model_type {kind!r}, which transformers cannot build without code from a hub; expected the "
            f"config.json of roberta-base, gte-base-en-v1.5 or gte-large-en-v1.5"
        ) from error
