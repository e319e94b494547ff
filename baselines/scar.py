"""SCAR (arXiv 2406.10882; zhuang-li/SCAR, commit d1365fe): a learned ranker of the style of (instruction, answer).

The ranker's weights are the method: without its checkpoint this selector does not run, and one trained elsewhere is
another selector. Filters of the official pipeline are options, and count what they drop.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from adg.backbones import loading
from adg.backbones import weights as fit
from adg.errors import BadInput, BadMeasurement, NotRunnable
from adg.execution import ExecConfig
from adg.options import aside, location
from adg.pools.records import Record
from adg.progress import progress
from adg.prompts import instruction_text
from adg.selection.contract import ScoreTable, Selector, SelectorData
from baselines.shared import checkpoints
from baselines.shared.near_duplicates import groups

VARIANTS = ("corrected", "released")
ENGLISH = 70.0  # percent of letters above which a text counts as English
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


@dataclass(frozen=True)
class ScarConfig:
    """Which ranker, and which filters come before it.

    ``checkpoint`` is a folder with the hub repository's files, its pickled weights converted to
    ``model.safetensors`` (pickles are never loaded here), and the encoder's own ``config.json`` as
    ``encoder/config.json``. ``hub`` and ``revision`` say what it was made from.

    ``variant="released"`` reads no ``input``, as the official loader, and filters as the official script: exact
    duplicates and texts that are not English go, near-duplicates stay. ``"corrected"`` puts the input below the
    instruction and drops nothing, because the English filter shapes a pool with code or arithmetic more than the
    ranker does. Each filter can be set by itself.
    """

    variant: str = "corrected"
    hub: str = "lizhuang144/scar-gte-base"
    revision: str = "???"
    checkpoint: str | None = location()
    checkpoint_sha256: str | None = None
    max_length: int = 512  # tokens of the instruction and of the answer, each
    exact_duplicates: bool | None = None  # drop all but the first of equal pairs; None: as the variant does
    english: bool | None = None  # drop a pair of which a side has 70 percent letters or less; None: as the variant does
    near_duplicates: bool = False  # drop all but the first of each group of near-duplicates
    near_threshold: float = 0.5  # Jaccard similarity of word bigrams from which two pairs are near-duplicates
    device: str = aside("auto")
    tokens_per_batch: int = aside(4096)

    def __post_init__(self) -> None:
        if self.variant not in VARIANTS:
            raise BadInput(f"selector.variant is {self.variant!r}; expected one of {', '.join(VARIANTS)}")
        if self.max_length < 1:
            raise BadInput(f"selector.max_length is {self.max_length}; expected a number of tokens above 0")
        if not 0 < self.near_threshold <= 1:
            raise BadInput(f"selector.near_threshold is {self.near_threshold}; expected a number above 0, at most 1")
        checkpoints.check_paths(self, folders=("checkpoint",))
        for name in ("exact_duplicates", "english"):
            if getattr(self, name) is None:
                object.__setattr__(self, name, self.variant == "released")


# -- filters ---------------------------------------------------------------------------------------------


def letters(text: str) -> float:
    """Percent of the characters that are letters A-Z or a-z (spaces and digits count as others); 0 for no text."""
    return 100 * len(re.findall("[A-Za-z]", text)) / len(text) if text else 0.0


def pair(record: Record, variant: str = "corrected") -> tuple[str, str]:
    """The instruction and the answer that the ranker reads."""
    return (record.instruction if variant == "released" else instruction_text(record)), record.output


def filtered(pairs: Sequence[tuple[str, str]], config: ScarConfig) -> dict[int, str]:
    """Rows that the filters drop and why, each by the first filter it fails: exact, English, near-duplicates."""
    dropped: dict[int, str] = {}
    if config.exact_duplicates:
        seen: set[tuple[str, str]] = set()
        for row, (instruction, answer) in enumerate(pairs):
            bare = (instruction.strip(), answer.strip())
            if bare in seen:
                dropped[row] = "exact duplicate of an earlier record"
            seen.add(bare)
    if config.english:
        for row, texts in enumerate(pairs):
            if row not in dropped and min(map(letters, texts)) <= ENGLISH:
                dropped[row] = f"not English ({ENGLISH:.0f} percent letters or less)"
    if config.near_duplicates:
        left = [row for row in range(len(pairs)) if row not in dropped]
        first = groups([" ".join(pairs[row]) for row in left], config.near_threshold)
        for place, row in enumerate(left):
            if first[place] != place:
                dropped[row] = "near-duplicate of an earlier record"
    return dropped


# -- the ranker ------------------------------------------------------------------------------------------


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
        asked_of: dict[str, list[int]] = {answer: [] for answer in answers}  # the instructions it answers
        for instruction, answer in distinct:
            asked_of[answer].append(place[instruction])
        found: dict[tuple[str, str], float] = {}
        with torch.inference_mode(), progress(len(instructions) + len(answers), "scar", unit="texts") as bar:
            embedded = [torch.empty(0)] * len(instructions)
            for batch, pooled, _ in self._encoded(instructions, max_length, tokens_per_batch):
                for i, vector in zip(batch, pooled, strict=True):
                    embedded[i] = vector
                bar.update(len(batch))
            for batch, pooled, form in self._encoded(answers, max_length, tokens_per_batch):
                rows = [(asked, i) for i, answer in enumerate(batch) for asked in asked_of[answers[answer]]]
                own = [i for _, i in rows]
                question = torch.stack([embedded[asked] for asked, _ in rows])
                relation = self._layers("relation_network", torch.cat([question, pooled[own]], dim=1))
                final = self._layers("output_layer", torch.cat([relation, form[own]], dim=1))
                for (asked, i), value in zip(rows, final[:, 0].tolist(), strict=True):
                    found[instructions[asked], answers[batch[i]]] = value
                bar.update(len(batch))
        return np.array([found[pair_] for pair_ in pairs], dtype=np.float64)

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
    ranker = json.loads((folder / "config.json").read_text())
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
        found = tuple(state[name].shape) if name in state else "nothing"
        if found != expected:
            raise BadInput(
                f"{weights} holds {found} for {name}, expected shape {expected}; the released loader would "
                f"have gone on with random numbers"
            )
    return {name: state[name] for name in HEAD}


def encoder_config(path: Path) -> Any:
    """The encoder's configuration; gte-en-v1.5's own model type "new" is read as transformers' "gte".

    Its rotary embedding divides the frequencies of base theta * s by s^(2 / width of a head) (s: the scaling factor),
    which is what transformers calls linear scaling by that number.
    """
    from transformers import AutoConfig

    given = json.loads(path.read_text())
    given.pop("auto_map", None)
    kind = given.pop("model_type", None)
    if kind == "new":
        kind = "gte"
        scaling = given.pop("rope_scaling", None)
        theta = given.pop("rope_theta", 10000.0)
        expected = {"position_embedding_type": "rope", "layer_norm_type": "layer_norm", "logn_attention_scale": False}
        wrong = {k: given[k] for k, v in expected.items() if given.get(k, v) != v}
        if wrong or (scaling is not None and (scaling.get("type") != "ntk" or scaling.get("mixed_b") is not None)):
            raise BadInput(f"{path} describes an encoder that cannot be run: {wrong or scaling}; expected gte-en-v1.5")
        for name in (*expected, "logn_attention_clip1", "pack_qkv", "unpad_inputs", "use_memory_efficient_attention"):
            given.pop(name, None)
        given["rope_parameters"] = {"rope_type": "default", "rope_theta": float(theta)}
        if scaling is not None:
            s, width = float(scaling["factor"]), given["hidden_size"] // given["num_attention_heads"]
            given["rope_parameters"] = {
                "rope_type": "linear",
                "rope_theta": float(theta * s),
                "factor": s ** (2 / width),
            }
    try:
        return AutoConfig.for_model(kind, **given)
    except ValueError as error:
        raise BadInput(
            f"{path} has model_type {kind!r}, which transformers cannot build without code from a hub; expected the "
            f"config.json of roberta-base, gte-base-en-v1.5 or gte-large-en-v1.5"
        ) from error


# -- the selector ----------------------------------------------------------------------------------------


class Scar(Selector):
    """The highest scores of SCAR's ranker among the records its filters leave; ties to the lowest id."""

    name = "scar"
    Config = ScarConfig

    def scores(self, data: SelectorData) -> ScoreTable:
        c = self.config
        if c.checkpoint is None:
            raise NotRunnable(
                f"needs checkpoint {c.hub}: set selector.checkpoint=<folder with its files, model.safetensors in place "
                f"of pytorch_model.bin, and the encoder's config.json as encoder/config.json>"
            )
        folder = checkpoints.folder("checkpoint", c.checkpoint, c.checkpoint_sha256)
        ranker = load(folder, loading.device(ExecConfig(device=c.device)))
        return self.table(data.records, ranker)

    def table(self, records: Sequence[Record], ranker: Ranker) -> ScoreTable:
        """The scores of ``records`` by ``ranker``, with what the filters drop as invalid."""
        c = self.config
        pairs = [pair(record, c.variant) for record in records]
        dropped = filtered(pairs, c)
        left = [row for row in range(len(pairs)) if row not in dropped]
        score = np.full(len(pairs), np.nan)
        score[left] = ranker.score([pairs[row] for row in left], c.max_length, c.tokens_per_batch)
        failed = [row for row in left if not np.isfinite(score[row])]
        if failed:
            raise BadMeasurement(
                f"the ranker scored {len(failed)} records {score[failed[0]]} (first: id "
                f"{records[failed[0]].key}); the checkpoint's weights are not usable"
            )
        return ScoreTable(score, invalid=dropped)
