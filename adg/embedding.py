"""Answers become geometry: hidden states pooled into one vector an answer, kept as K x K Gram matrices.

One pass through the blocks that are needed gives every declared layer window; the tokens that the K answers of a
record share are run once. Kept are the Gram matrices (for the score) and the instruction's vector (for the bins).
"""

from __future__ import annotations

import dataclasses
import io
import json
import os
import re
import time
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from adg import geometry, models, prompts, records, scale
from adg.binning import BinsConfig
from adg.errors import BadInput, BadMeasurement, nearest
from adg.execution import ExecConfig
from adg.progress import progress
from adg.records import Record
from adg.store import Artifact, Job, Node, Stage, write_atomic, write_json

if TYPE_CHECKING:
    import torch

STAGE = Stage("grams", 1, "adg.embedding:build", gpu=True)

SHARD = 128  # records done between two savings; a kill loses at most these
MIN_SHARED = 16  # tokens that answers must have in common before a separate pass over them pays
REPORTED = 20  # failed rows listed in the manifest

# What the presets set; every other field means the same in both (paper.md: "differ exactly here").
PRESETS: dict[str, dict[str, Any]] = {
    "paper": {"pooling": "answer", "windows": ("last4",), "use_input": True},
    "released": {"pooling": "all", "windows": ("released",), "use_input": False},
}
POOLINGS = ("answer", "all")
EMPTY = ("prompt_vector", "zero", "fail")
DTYPES = ("auto", *models.DTYPES)


@dataclass(frozen=True)
class EmbeddingConfig:
    """How an answer becomes a vector. Fields left at None take the preset's value.

    ``pooling="answer"``: the Alpaca prompt and the answer are run, the answer's tokens are pooled (paper).
    ``pooling="all"``: the text is instruction + " " + answer without special tokens, every token pooled (released).
    ``windows``: the layer windows kept, see ``resolve_windows``; ADG scores with the first unless told otherwise,
    and the instruction's vector is that of the first.
    ``max_tokens``: first tokens kept of the whole text (``all``) or of the answer (``answer``; the prompt stays
    whole).
    ``empty_answer``: an answer of blanks gets "prompt_vector", the vector of the text without it (the prompt's
    tokens are pooled; released LLaMA script), "zero", a vector of zeros (released Qwen script), or counts as "fail".
    ``instruction_tokens`` and ``instruction_special_tokens`` belong to the vector for the bins, which is made from
    the stripped instruction alone (released ``embed.py``: 512 with special tokens; its fallback: 1024 without).
    """

    preset: str = field(default="paper", metadata={"identity": False})
    pooling: str | None = None  # answer | all
    windows: tuple[str, ...] | None = None
    use_input: bool | None = None
    token_weights: bool = True  # blanks and punctuation 0, numbers 1.3, else 1; false: all equal
    max_tokens: int = 1024
    empty_answer: str = "prompt_vector"  # prompt_vector | zero | fail
    instruction_tokens: int = 512
    instruction_special_tokens: bool = True
    dtype: str = "auto"  # auto: the backbone's own (released: float16 autocast)
    bins: BinsConfig = field(default_factory=BinsConfig, metadata={"identity": False})

    def __post_init__(self) -> None:
        _choice("preset", self.preset, tuple(PRESETS))
        for name, value in PRESETS[self.preset].items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)
        object.__setattr__(self, "windows", tuple(str(window) for window in self.windows or ()))
        _choice("pooling", self.pooling, POOLINGS)
        _choice("empty_answer", self.empty_answer, EMPTY)
        _choice("dtype", self.dtype, DTYPES)
        for name in ("max_tokens", "instruction_tokens"):
            if getattr(self, name) < 1:
                raise BadInput(f"embedding.{name} is {getattr(self, name)!r}; expected 1 or more")
        if not self.declared or len(set(self.declared)) != len(self.declared):
            raise BadInput(f"embedding.windows is {list(self.declared)!r}; expected one or more names, each once")
        for window in self.declared:
            _parse_window(window)

    @property
    def name(self) -> str:
        """The preset's name, or "custom" where a field that it sets was changed."""
        same = all(getattr(self, name) == value for name, value in PRESETS[self.preset].items())
        return self.preset if same else "custom"

    @property
    def declared(self) -> tuple[str, ...]:
        """The declared layer windows, in order."""
        assert self.windows is not None  # set above
        return self.windows


@dataclass(frozen=True)
class Identity:
    """What makes two grams artifacts of the same answers the same."""

    embedding: EmbeddingConfig
    template: str  # hash of the prompt templates


@dataclass(frozen=True)
class Grams:
    """A loaded artifact: n records in canonical id order, W declared windows, K answers, width d."""

    ids: list[str]  # id keys, see adg.records
    windows: list[str]
    grams: np.ndarray  # (n, W, K, K) float64
    instructions: np.ndarray  # (n, d) float32, length 1, of the first window; read from disk as it is used


def node(answers: Node, pool: Node, backbone: Node, cfg: EmbeddingConfig) -> Node:
    """Grams of ``answers``; the settings of the bins are no part of it."""
    return Node(
        STAGE,
        f"{pool.label}+{backbone.label}+{cfg.name}",
        Identity(cfg, prompts.HASH),
        {"answers": answers, "pool": pool, "backbone": backbone},
    )


def load(artifact: Artifact) -> Grams:
    """The payload of a grams artifact."""
    return Grams(
        json.loads(artifact.file("ids.json").read_text()),
        list(artifact.info["windows"]),
        np.load(artifact.file("grams.npy"), allow_pickle=False),
        np.load(artifact.file("instructions.npy"), allow_pickle=False, mmap_mode="r"),
    )


# -- layer windows ---------------------------------------------------------------------------------------


def resolve_windows(windows: Sequence[str], blocks: int) -> tuple[tuple[int, ...], ...]:
    """Hidden-state tensors of each declared window, for a model of ``blocks`` blocks.

    Tensor 0 is the embedding output and tensor i the output of the i-th block; the last, number ``blocks``, is taken
    after the final norm, as transformers hands it out. Forms:

    - ``last4``: the last four tensors (paper); any number.
    - ``released``: tensors -4, -3, -2, that is ``-4:-2`` (the last is left out).
    - ``-4:-2``, ``0:3``: tensors from:to, both included, negative ones from the end.
    - ``24-27``: blocks counted from 0 as in the paper's layer study, both included: tensors 25 to 28.
    - ``rel:0.75-1.0``: by relative depth, tensors i with 0.75 L < i <= 1.0 L (L blocks), to compare backbones.

    Raises ``BadInput`` naming the window where the model has no such tensor.
    """
    found = []
    for window in windows:
        form, low, high = _parse_window(window)
        if form == "last":
            first, last = blocks + 1 - int(high), blocks
        elif form == "tensors":
            first, last = (int(end) + (blocks + 1 if end < 0 else 0) for end in (low, high))
        elif form == "blocks":
            first, last = int(low) + 1, int(high) + 1
        else:
            inside = [i for i in range(1, blocks + 1) if low * blocks + 1e-9 < i <= high * blocks + 1e-9]
            first, last = (inside[0], inside[-1]) if inside else (1, 0)
        if not 0 <= first <= last <= blocks:
            raise BadInput(
                f"embedding.windows: {window!r} means hidden states {first} to {last}, but the backbone has "
                f"{blocks} blocks, that is hidden states 0 to {blocks}"
            )
        found.append(tuple(range(first, last + 1)))
    return tuple(found)


def _parse_window(window: str) -> tuple[str, float, float]:
    """(form, low, high) of a declared window."""
    if window == "released":
        return "tensors", -4, -2
    if match := re.fullmatch(r"last([1-9]\d*)", window):
        return "last", 0, int(match[1])
    if match := re.fullmatch(r"(-?\d+):(-?\d+)", window):
        return "tensors", int(match[1]), int(match[2])
    if match := re.fullmatch(r"(\d+)-(\d+)", window):
        return "blocks", int(match[1]), int(match[2])
    if match := re.fullmatch(r"rel:(\d*\.?\d+)-(\d*\.?\d+)", window):
        low, high = float(match[1]), float(match[2])
        if 0 <= low < high <= 1:
            return "relative", low, high
    raise BadInput(
        f"embedding.windows: {window!r} is not a layer window; expected last4, released, hidden states "
        f"like -4:-2, blocks like 24-27, or a relative depth like rel:0.75-1.0"
    )


# -- token weights ---------------------------------------------------------------------------------------

_PUNCTUATION = frozenset(",.;:!?()[]{}\"'`~-_/\\")
_NUMBER = re.compile(r"[\d%℃°]")  # \d: any Unicode decimal digit


def token_weight(text: str) -> float:
    """Weight of one decoded token (paper.md, from the released code).

    0 for blanks and for tokens made only of , . ; : ! ? ( ) [ ] { } " ' ` ~ - _ / and the backslash; 1.3 where there
    is a decimal digit or one of % ℃ °; else 1.
    """
    text = text.strip()
    if not text or _PUNCTUATION.issuperset(text):
        return 0.0
    return 1.3 if _NUMBER.search(text) else 1.0


def weight_table(tokenizer: Any) -> np.ndarray:
    """Weights of the whole vocabulary, (V,) float32. Special tokens decode to nothing and weigh 0."""
    texts = (tokenizer.decode([i], skip_special_tokens=True) for i in range(len(tokenizer)))
    return np.fromiter(map(token_weight, texts), dtype=np.float32, count=len(tokenizer))


# -- encoding --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Vectors:
    """Vectors of the m records that could be embedded, and the others with the reason."""

    keys: list[str]
    answers: np.ndarray  # (m, K, W, d) float32, length 1, or 0 under empty_answer=zero
    instructions: np.ndarray  # (m, d) float32, length 1
    failed: list[tuple[str, str]]  # (id key, reason)
    counts: dict[str, int]


@dataclass(frozen=True)
class _Text:
    """Tokens of one text to run; those before ``start`` are context and not pooled."""

    ids: np.ndarray  # (T,) int64
    start: int
    weights: np.ndarray  # (T,) float32, sum 1, 0 before ``start``
    total: float  # of the table's weights that were pooled; 0: equal weights instead


class Encoder:
    """Runs texts through a backbone and pools the declared windows.

    ``model`` is a Llama- or Qwen2-like decoder, with or without its head. It is changed: blocks above the last one
    used are dropped. ``share_prefix=False`` runs every text on its own (the plain path; the same vectors to 1e-5 in
    float32, as with every ``tokens_per_batch`` and order of records).
    """

    def __init__(
        self, model: Any, tokenizer: Any, cfg: EmbeddingConfig, tokens_per_batch: int = 4096, share_prefix: bool = True
    ) -> None:
        base = model.base_model
        lacking = [name for name in ("embed_tokens", "layers", "norm") if not hasattr(base, name)]
        if lacking:
            raise BadInput(
                f"{type(model).__name__} has no {', '.join(lacking)}; a decoder of Llama's or Qwen2's shape is expected"
            )
        blocks = len(base.layers)
        self.cfg = cfg
        self.tensors = resolve_windows(cfg.declared, blocks)
        self.blocks, self.blocks_run = blocks, max(1, *map(max, self.tensors))
        self.width = int(base.config.hidden_size)
        self.positions = int(getattr(base.config, "max_position_embeddings", 1 << 30))
        self.tokens_per_batch = tokens_per_batch
        self.share_prefix = share_prefix
        self._pooled = _Pooler(base, self.tensors)  # before the cut: tensor L is the norm's output
        base.layers = base.layers[: self.blocks_run]
        base.config.num_hidden_layers = self.blocks_run
        self._base = base
        self._tokenizer = tokenizer
        weights = weight_table(tokenizer) if cfg.token_weights else np.ones(len(tokenizer), dtype=np.float32)
        self._table = weights

    @property
    def device(self) -> torch.device:
        return self._base.embed_tokens.weight.device

    @property
    def dtype(self) -> str:
        return str(self._base.embed_tokens.weight.dtype).removeprefix("torch.")

    def embed(self, items: Sequence[tuple[Record, Sequence[str]]], answers: int) -> Vectors:
        """Vectors of records with ``answers`` texts each. A row that fails is listed, never turned into a number."""
        counts = dict.fromkeys(
            ("empty_answers", "truncated_answers", "unweighted_answers", "identical_records", "tokens"), 0
        )
        texts: list[_Text] = []
        known: dict[tuple[int, bytes, int], int] = {}
        failed: dict[str, str] = {}
        slots: dict[str, list[int]] = {}  # of a record's answers, then its instruction; -1 is the zero vector
        for number, (record, given) in enumerate(items):
            reason = "" if len(given) == answers else f"has {len(given)} of {answers} answers"
            made = [] if reason else [self._answer(record, text, counts) for text in given]
            made.append(self._instruction(record))
            for text in made:
                if isinstance(text, str):
                    reason = reason or text
                elif text is not None and len(text.ids) > self.positions:
                    reason = reason or (
                        f"needs {len(text.ids)} tokens, the backbone has {self.positions} positions; "
                        f"leave over-long records out (pool.max_chars, pool.over_long=drop)"
                    )
            if reason:
                failed[record.key] = reason
                continue
            row = []
            for text in made:
                if text is None:
                    row.append(-1)
                    continue
                assert isinstance(text, _Text)
                row.append(known.setdefault((number, text.ids.tobytes(), text.start), len(texts)))
                if row[-1] == len(texts):
                    texts.append(text)
            counts["identical_records"] += answers > 1 and len(set(row[:-1])) == 1
            slots[record.key] = row
        counts["tokens"] = sum(len(text.ids) for text in texts)
        pooled = self._run(texts, [row for row in slots.values()])
        for key, row in slots.items():
            rows = pooled[[slot for slot in row if slot >= 0]]
            if not np.isfinite(rows).all():
                failed[key] = f"the backbone gave NaN or infinity in {self.dtype} for it"
            elif not rows.any(axis=2).all():
                failed[key] = "the backbone gave a vector of zeros for it"
        kept = [key for key in slots if key not in failed]
        pooled = np.concatenate([pooled, np.zeros((1, *pooled.shape[1:]), dtype=np.float32)])  # slot -1
        chosen = np.array([slots[key] for key in kept], dtype=np.int64).reshape(len(kept), answers + 1)
        return Vectors(
            kept,
            _unit(pooled[chosen[:, :-1]]),
            _unit(pooled[chosen[:, -1], 0]),
            list(failed.items()),
            {name: int(value) for name, value in counts.items()},
        )

    # -- text to tokens

    def _answer(self, record: Record, answer: str, counts: dict[str, int]) -> _Text | str | None:
        """The text of one answer, None for the zero vector, or the reason why there is none."""
        empty = not answer.strip()
        counts["empty_answers"] += empty
        if empty and self.cfg.empty_answer == "fail":
            return "has an empty answer (embedding.empty_answer=fail)"
        if empty and self.cfg.empty_answer == "zero":
            return None
        limit = self.cfg.max_tokens
        if self.cfg.pooling == "answer":
            text = prompts.render(record.instruction, record.input if self.cfg.use_input else "")
            ids = prompts.encode_prompt(self._tokenizer, text)
            start = 0 if empty else len(ids)
            tail = [] if empty else prompts.encode(self._tokenizer, answer)
            counts["truncated_answers"] += len(tail) > limit
            ids = ids + tail[:limit]
        else:
            head = prompts.instruction_text(record) if self.cfg.use_input else record.instruction
            start, ids = 0, prompts.encode(self._tokenizer, f"{head} {answer}")
            counts["truncated_answers"] += len(ids) > limit
            ids = ids[:limit]
        if len(ids) <= start:
            return "has an answer without a token"
        made = self._weighted(ids, start)
        counts["unweighted_answers"] += made.total == 0
        return made

    def _instruction(self, record: Record) -> _Text | str:
        text, limit = record.instruction.strip(), self.cfg.instruction_tokens
        if not text:
            return "has an empty instruction, so no vector for the bins"
        if self.cfg.instruction_special_tokens:
            ids = prompts.encode_prompt(self._tokenizer, text, limit)
        else:
            ids = prompts.encode(self._tokenizer, text)[:limit]
        return self._weighted(ids, 0)

    def _weighted(self, ids: Sequence[int], start: int) -> _Text:
        array = np.asarray(ids, dtype=np.int64)
        weights = self._table[array]
        weights[:start] = 0
        total = float(weights.sum())
        if total == 0:  # released code: NaN, or equal weights in embed.py
            weights[start:] = 1
        return _Text(array, start, weights / weights.sum(), total)

    # -- tokens to pooled states

    def _run(self, texts: Sequence[_Text], rows: Sequence[Sequence[int]]) -> np.ndarray:
        """Window means of every text, (len(texts), W, d) float32; ``rows`` says which texts belong to one record."""
        import torch

        result = np.zeros((len(texts), len(self.tensors), self.width), dtype=np.float32)
        shared = []
        for row in rows if self.share_prefix else ():
            length, members = self._shared(texts, row)
            if members:
                shared.append((length, members))
        taken = {member for _, members in shared for member in members}
        with torch.inference_mode():
            alone = [i for i in range(len(texts)) if i not in taken]
            for batch in batches(alone, lambda i: len(texts[i].ids), self.tokens_per_batch):
                ids, weights = self._padded([texts[i].ids for i in batch], [texts[i].weights for i in batch])
                result[batch] = self._forward(ids, weights).cpu().numpy()
            for group in batches(range(len(shared)), lambda g: shared[g][0], self.tokens_per_batch):
                self._run_shared(texts, [shared[g] for g in group], result)
        return result

    def _shared(self, texts: Sequence[_Text], row: Sequence[int]) -> tuple[int, list[int]]:
        """How many leading tokens the texts of one record share, and which of its texts do so.

        The instruction (last of ``row``) joins in where that costs the answers little of what they share.
        """

        def common(slots: list[int]) -> int:
            pooled_from = [texts[slot].start for slot in slots if texts[slot].start > 0]
            return min([_common([texts[slot].ids for slot in slots]), *pooled_from])

        # a text that pools its beginning with equal weights, for want of others, is run on its own
        fit = [slot for slot in row if slot >= 0 and (texts[slot].start > 0 or texts[slot].total > 0)]
        slots = list(dict.fromkeys(slot for slot in fit if slot != row[-1]))
        if not slots:
            return 0, []
        length = common(slots)
        if row[-1] in fit and (together := common([*slots, row[-1]])) >= 0.75 * length:
            slots, length = [*slots, row[-1]], together
        return (length, slots) if len(slots) > 1 and length >= MIN_SHARED else (0, [])

    def _run_shared(self, texts: Sequence[_Text], groups: list[tuple[int, list[int]]], result: np.ndarray) -> None:
        """Run each group's common tokens once, then what follows them in each of its texts."""
        import torch
        from transformers import DynamicCache

        heads = [texts[members[0]].ids[:length] for length, members in groups]
        ids, weights = self._padded(heads, [self._table[head] for head in heads])
        cache = DynamicCache()
        head_sums = self._forward(ids, weights, cache).cpu().numpy()
        states: list[tuple[Any, Any]] = [(layer.keys, layer.values) for layer in cache.layers]  # type: ignore[union-attr]
        tails = []
        for g, (length, members) in enumerate(groups):
            for member in members:
                if texts[member].start == 0:  # the head's tokens are pooled too
                    result[member] = head_sums[g] / texts[member].total
                if len(texts[member].ids) > length:
                    tails.append((member, g, length))
        # a batch holds the heads' keys and values beside its own tokens
        size = [max(len(texts[i].ids) - length, len(texts[i].ids) // 2) for i, _, length in tails]
        for batch in batches(range(len(tails)), size.__getitem__, self.tokens_per_batch):
            chosen = [tails[i] for i in batch]
            ids, weights = self._padded(
                [texts[member].ids[length:] for member, _, length in chosen],
                [texts[member].weights[length:] for member, _, length in chosen],
            )
            rows = torch.tensor([g for _, g, _ in chosen], device=self.device)
            lengths = torch.tensor([length for _, _, length in chosen], device=self.device)
            longest = int(lengths.max())
            past = DynamicCache()
            for i, (keys, values) in enumerate(states):
                past.update(*(state[:, :, :longest].index_select(0, rows) for state in (keys, values)), i)
            sums = self._forward(ids, weights, past, lengths).cpu().numpy()
            result[[member for member, _, _ in chosen]] += sums

    def _padded(self, ids: list[np.ndarray], weights: list[np.ndarray]) -> tuple[torch.Tensor, torch.Tensor]:
        """Right-padded (B, T) ids and weights; padding weighs 0."""
        import torch

        width = max(map(len, ids))
        tokens, shares = np.zeros((len(ids), width), dtype=np.int64), np.zeros((len(ids), width), dtype=np.float32)
        for i, (row, share) in enumerate(zip(ids, weights, strict=True)):
            tokens[i, : len(row)], shares[i, : len(share)] = row, share
        return torch.from_numpy(tokens).to(self.device), torch.from_numpy(shares).to(self.device)

    def _forward(
        self, ids: torch.Tensor, weights: torch.Tensor, cache: Any = None, lengths: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Weighted sums over tokens, mean over each window's tensors: (B, W, d) float32.

        ``cache`` is filled when empty; otherwise ``lengths`` (B,) says how many of its positions are each row's own.
        Padding stands on the right, where no token that counts can see it, so only a cache needs a mask.
        """
        import torch

        steps = torch.arange(ids.shape[1], device=ids.device)
        if lengths is None:
            mask, positions = None, steps[None]
        else:
            held = torch.arange(cache.get_seq_length(), device=ids.device)[None] < lengths[:, None]
            mask = torch.cat([held, torch.ones_like(ids, dtype=torch.bool)], dim=1)
            positions = lengths[:, None] + steps[None]
        with self._pooled.of(weights):
            self._base(
                input_ids=ids,
                attention_mask=mask,
                position_ids=positions,
                past_key_values=cache,
                use_cache=cache is not None,
            )
            return self._pooled.sums


class _Pooler:
    """Forward hooks that add each needed hidden state's pooled sum to its windows; no stack of states is kept."""

    def __init__(self, base: Any, tensors: Sequence[Sequence[int]]) -> None:
        self._tensors = tensors
        self._width = int(base.config.hidden_size)
        self._weights: torch.Tensor | None = None
        self.sums: Any = None
        modules = [base.embed_tokens, *base.layers[:-1], base.norm]
        for number in sorted({i for window in tensors for i in window}):
            modules[number].register_forward_hook(self._hook(number))

    def of(self, weights: torch.Tensor) -> _Pooler:
        """Pool the next forward pass with ``weights`` (B, T)."""
        self._weights = weights
        return self

    def __enter__(self) -> _Pooler:
        import torch

        assert self._weights is not None
        self.sums = torch.zeros(
            (len(self._weights), len(self._tensors), self._width), dtype=torch.float32, device=self._weights.device
        )
        return self

    def __exit__(self, *_: object) -> None:
        self._weights = self.sums = None

    def _hook(self, number: int) -> Any:
        windows = [(w, len(window)) for w, window in enumerate(self._tensors) if number in window]

        def hook(module: Any, args: Any, output: Any) -> None:
            if self._weights is None:  # the model is used for something else
                return
            state = output[0] if isinstance(output, tuple) else output
            pooled = (self._weights[:, None] @ state.float())[:, 0]
            for w, size in windows:
                self.sums[:, w] += pooled / size

        return hook


def batches(items: Sequence[int], size: Any, budget: int) -> Iterator[list[int]]:
    """``items`` in batches of similar ``size``, longest first, whose padded tokens stay within ``budget``."""
    batch: list[int] = []
    for item in sorted(items, key=lambda i: (-size(i), i)):
        if batch and (len(batch) + 1) * size(batch[0]) > budget:
            yield batch
            batch = []
        batch.append(item)
    if batch:
        yield batch


def _common(rows: Sequence[np.ndarray]) -> int:
    """Length of the longest common beginning of ``rows``."""
    if not rows:
        return 0
    shortest = min(map(len, rows))
    same = np.all([row[:shortest] == rows[0][:shortest] for row in rows], axis=0)
    return shortest if same.all() else int(np.argmin(same))


def _unit(vectors: np.ndarray) -> np.ndarray:
    """Rows of length 1 (last axis); zeros stay zeros."""
    length = np.linalg.norm(vectors.astype(np.float64), axis=-1, keepdims=True)
    return (vectors / np.where(length > 0, length, 1.0)).astype(np.float32)


def _choice(name: str, value: Any, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise BadInput(
            f"embedding.{name} is {value!r}{nearest(str(value), list(allowed))}; expected one of {', '.join(allowed)}"
        )


# -- the stage -------------------------------------------------------------------------------------------


def build(job: Job) -> dict[str, Any]:
    """Embed every record's answers, shard by shard; payload ``ids.json``, ``grams.npy``, ``instructions.npy``.

    A finished shard is found again in ``job.work`` after a kill. Raises ``BadMeasurement`` naming the records once
    more of them fail than ``exec.max_failed``.
    """
    cfg: EmbeddingConfig = job.config.embedding
    pool, answers = job.inputs["pool"].file("records.parquet"), job.inputs["answers"].file("answers.parquet")
    total, k = _sizes(pool, answers)
    encoder: Encoder | None = None
    failed: list[tuple[str, str]] = []
    counts: dict[str, int] = {}
    shards: list[Path] = []
    model: dict[str, Any] = {}
    embedded, seconds = 0, 0.0
    if job.exec.distributed == "ray":
        embedded, seconds = _over_ray(job, cfg, pool, answers, k)
    with progress(total, "embedding", unit="records") as bar:
        for number, items in enumerate(_shards(pool, answers)):
            path = job.work / f"shard-{number:06d}.npz"
            keys = [record.key for record, _ in items]
            info, vectors = _read_info(path, keys), None
            if info is None:
                if encoder is None:
                    encoder = _encoder(job.inputs["backbone"], job.exec, cfg)
                started = time.perf_counter()
                vectors = encoder.embed(items, k)
                embedded, seconds = embedded + len(items) * k, seconds + time.perf_counter() - started
                info = _about(encoder, keys, vectors)
            failed += [(key, reason) for key, reason in info["failed"]]
            _check_failures(failed, job.exec.max_failed)
            if vectors is not None:
                _save(path, info, vectors)
            for name, value in info["counts"].items():
                counts[name] = counts.get(name, 0) + value
            shards.append(path)
            model = info["model"]
            bar.update(len(items))
    kept, names = total - len(failed), list(cfg.declared)
    if not kept:
        raise BadMeasurement(f"all {total} records failed; the first: {failed[0][0]}: {failed[0][1]}")
    _assemble(job, shards, "grams", (kept, len(names), k, k), np.float64)
    _assemble(job, shards, "instructions", (kept, model["width"]), np.float32)
    write_json(job.folder / "ids.json", [key for path in shards for key in _info(path)["keys"]])
    return {
        "rows_in": total,
        "rows_out": kept,
        "failed": failed[:REPORTED],
        "failed_count": len(failed),
        "answers": k,
        "windows": names,
        "hidden_states": dict(zip(names, model["tensors"], strict=True)),
        "blocks": model["blocks"],
        "blocks_run": model["blocks_run"],
        "width": model["width"],
        "dtype": model["dtype"],
        "preset": cfg.name,
        **counts,
        "embedding": {"answers": embedded, "seconds": round(seconds, 3), "device": models.device(job.exec)},  # rates
    }


def _encoder(backbone: Artifact, exec_: ExecConfig, cfg: EmbeddingConfig) -> Encoder:
    model = models.load_model(backbone, models.device(exec_), cfg.dtype, headless=True)
    return Encoder(model, models.load_tokenizer(backbone), cfg, exec_.tokens_per_batch)


def _about(encoder: Encoder, keys: list[str], vectors: Vectors) -> dict[str, Any]:
    """What a shard says of itself."""
    return {
        "asked": keys,
        "failed": vectors.failed,
        "counts": vectors.counts,
        "keys": vectors.keys,
        "model": {
            "tensors": encoder.tensors,
            "blocks": encoder.blocks,
            "width": encoder.width,
            "blocks_run": encoder.blocks_run,
            "dtype": encoder.dtype,
        },
    }


class _Embedder:
    """An actor's part of the embedding: the encoder, and one shard at a time."""

    def __init__(self, backbone: Artifact, exec_: ExecConfig, cfg: EmbeddingConfig, k: int) -> None:
        self.encoder, self.k = _encoder(backbone, exec_, cfg), k

    def work(self, row: dict[str, Any]) -> dict[str, Any]:
        asked = json.loads(Path(row["items"]).read_text())
        items = [(Record(**record), given) for record, given in asked]
        vectors = self.encoder.embed(items, self.k)
        _save(Path(row["path"]), _about(self.encoder, [record.key for record, _ in items], vectors), vectors)
        return {"records": len(items), "failed": len(vectors.failed)}


def _over_ray(job: Job, cfg: EmbeddingConfig, pool: Path, answers: Path, k: int) -> tuple[int, float]:
    """Make the missing shards with Ray; returns the answers embedded and the seconds that took.

    What a shard is made from is handed over in a file, so that no pool has to fit into memory.
    """
    rows, asked = [], 0
    for number, items in enumerate(_shards(pool, answers)):
        path = job.work / f"shard-{number:06d}.npz"
        if _read_info(path, [record.key for record, _ in items]) is None:
            given = path.with_suffix(".json")
            write_json(given, [[dataclasses.asdict(record), texts] for record, texts in items])
            rows.append({"path": str(path), "items": str(given)})
            asked += len(items) * k
    if not rows:
        return 0, 0.0
    started = time.perf_counter()
    scale.over_ray(rows, "adg.embedding:_Embedder", (job.inputs["backbone"], job.exec, cfg, k), job.exec, "embedding")
    missing = [row["path"] for row in rows if not Path(row["path"]).is_file()]
    if missing:
        raise BadMeasurement(
            f"{missing[0]} is not there although a Ray actor wrote it; the artifacts folder (exec.runs) must be on a "
            f"file system that all machines of the cluster share"
        )
    return asked, time.perf_counter() - started


def _sizes(pool: Path, answers: Path) -> tuple[int, int]:
    """Records of the pool and K, the answers a record should have."""
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    rows = pq.ParquetFile(pool).metadata.num_rows
    largest = pc.max(pq.read_table(answers, columns=["sample"])["sample"]).as_py()
    if not rows or largest is None:
        raise BadInput(
            f"{pool} holds {rows} records and {answers} {'no' if largest is None else 'some'} answers; "
            f"there is nothing to embed"
        )
    return rows, largest + 1


def _shards(pool: Path, answers: Path) -> Iterator[list[tuple[Record, list[str]]]]:
    """Records with their answers by sample, ``SHARD`` at a time: both files are read as they are needed."""
    rows = _rows(answers, ["id", "sample", "text"])
    at = next(rows, None)
    batch: list[tuple[Record, list[str]]] = []
    for key, instruction, given, output in _rows(pool, ["id", "instruction", "input", "output"]):
        found: list[tuple[int, str]] = []
        while at is not None and at[0] == key:
            found.append((at[1], at[2]))
            at = next(rows, None)
        found.sort(key=lambda pair: pair[0])
        if [sample for sample, _ in found] != list(range(len(found))):
            raise BadInput(
                f"{answers}: record {key} has the samples {[sample for sample, _ in found]}; expected "
                f"0, 1, 2, … each once. Delete that folder and run the same command again"
            )
        batch.append((Record(records.from_key(key), instruction, given, output), [text for _, text in found]))
        if len(batch) == SHARD:
            yield batch
            batch = []
    if batch:
        yield batch
    if at is not None:
        raise BadInput(
            f"{answers}: the answers of record {at[0]} belong to no record of {pool}, or stand out of id "
            f"order. Delete the folder of the answers and run the same command again"
        )


def _rows(path: Path, columns: list[str]) -> Iterator[tuple[Any, ...]]:
    import pyarrow.parquet as pq

    for batch in pq.ParquetFile(path).iter_batches(batch_size=1024, columns=columns):
        yield from zip(*(batch.column(name).to_pylist() for name in columns), strict=True)


def _check_failures(failed: Sequence[tuple[str, str]], limit: int) -> None:
    if len(failed) > limit:
        shown = "; ".join(f"record {key}: {reason}" for key, reason in failed[:REPORTED])
        raise BadMeasurement(
            f"{len(failed)} records could not be embedded, exec.max_failed allows {limit}: {shown}. "
            f"Mend or drop them in the pool, or allow failures with exec.max_failed=<n>"
        )


def _save(path: Path, info: dict[str, Any], vectors: Vectors) -> None:
    windows = vectors.answers.shape[2]
    m, k = vectors.answers.shape[:2]
    grams = np.empty((m, windows, k, k))
    for w in range(windows):
        grams[:, w] = geometry.gram(vectors.answers[:, :, w])
    sink = io.BytesIO()
    text = np.frombuffer(json.dumps(info).encode(), dtype=np.uint8)
    np.savez(sink, info=text, grams=grams, instructions=vectors.instructions)
    write_atomic(path, sink.getvalue())


def _info(path: Path) -> dict[str, Any]:
    with np.load(path, allow_pickle=False) as shard:
        return json.loads(shard["info"].tobytes())


def _read_info(path: Path, keys: list[str]) -> dict[str, Any] | None:
    """What a finished shard says of itself; None when it has to be made (again)."""
    if not path.is_file():
        return None
    try:
        with np.load(path, allow_pickle=False) as shard:
            info = json.loads(shard["info"].tobytes())
            whole = all(len(shard[name]) == len(info["keys"]) for name in ("grams", "instructions"))  # CRC is checked
    except (zipfile.BadZipFile, ValueError, EOFError, KeyError):
        return None  # damaged on disk: scratch is made again
    return info if whole and info["asked"] == keys else None


def _assemble(job: Job, shards: Sequence[Path], name: str, shape: tuple[int, ...], dtype: Any) -> None:
    """Write ``name``.npy from the shards, one at a time in memory."""
    target, temporary = job.folder / f"{name}.npy", job.work / f"{name}.npy.tmp"
    header = {"descr": np.lib.format.dtype_to_descr(np.dtype(dtype)), "fortran_order": False, "shape": shape}
    with open(temporary, "wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        for path in shards:
            with np.load(path, allow_pickle=False) as shard:
                file.write(np.ascontiguousarray(shard[name], dtype=dtype).tobytes())
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(target)
