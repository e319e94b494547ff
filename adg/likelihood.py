"""The one scorer of response losses: how a record becomes two texts, and their mean loss under a language model.

IFD, SuperFiltering and perplexity are ratios and powers of the same two numbers: the mean negative log-likelihood
(natural log) of a response after its prompt, and alone. They are an artifact of their own, shared by all of them.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import io
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from adg import models, prompts, records
from adg.embedding import batches
from adg.errors import BadInput, BadMeasurement, NotRunnable, nearest
from adg.progress import progress
from adg.records import Record
from adg.selection import counted
from adg.store import Artifact, Job, Node, Stage, canonical, sha256_text, write_atomic

if TYPE_CHECKING:
    import torch

STAGE = Stage("losses", 1, "adg.likelihood:build", gpu=True)

REPORTED = 20  # failed rows listed in the manifest
FAILED = "the model gave NaN or infinity"
CPU_TOKENS = 512  # in a batch on a CPU at most: measured, larger ones fall out of its caches and are slower
LOGIT_BYTES = 2**27  # of one block of float32 logits; the positions of a batch go through the head block by block


@dataclass(frozen=True)
class Prompt:
    """What stands before a response: with its record (P), without an input and with one, and "alone" (the head).

    ``slack`` is the constant c of the official code: tokens that the alone text may have beyond M - |P|. It stands
    for BOS and head in the tokens of LLaMA-1/2 (SuperFiltering: for the first token, which has no loss).
    """

    plain: str
    with_input: str
    head: str
    slack: int


# Data of the methods; "wiz" as in the later of IFD's two programs.
PROMPTS = {
    "alpaca": Prompt(prompts.PLAIN, prompts.WITH_INPUT, "### Response:", 4),
    "wiz": Prompt("{instruction}\n\n### Response:", "{instruction}\n{input}\n\n### Response:", "### Response:", 4),
    "vicuna": Prompt(
        "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, "
        "detailed, and polite answers to the user's questions. USER: {instruction} ASSISTANT:",
        "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, "
        "detailed, and polite answers to the user's questions. USER: {instruction}\nInput:\n{input} ASSISTANT:",
        "ASSISTANT:", 6,
    ),
    "none": Prompt("{instruction}\n", "{instruction}\n{input}\n", "", 1),
}  # fmt: skip


@dataclass(frozen=True)
class LossesConfig:
    """How a record becomes two texts. The response is glued on with nothing between, and no EOS is added.

    Conditioned: P + y, its first ``max_tokens`` tokens (M). Alone: head + y, its first M - |P| + c tokens. Both
    begin with BOS where the tokenizer adds one, and |P| counts it.
    ``slack`` is c. None (ours): as many tokens as BOS and head have with this tokenizer, so that both texts keep the
    same tokens of the response. The official code's constant (``Prompt.slack``) does so for LLaMA-1/2 only.
    """

    prompt: str = "alpaca"
    max_tokens: int = 512
    slack: int | None = None
    dtype: str = "auto"  # of the weights; auto: the model's own

    def __post_init__(self) -> None:
        if self.prompt not in PROMPTS:
            raise BadInput(
                f"prompt is {self.prompt!r}{nearest(str(self.prompt), list(PROMPTS))}; "
                f"expected one of {', '.join(PROMPTS)}"
            )
        if self.max_tokens < 2:
            raise BadInput(f"max_tokens is {self.max_tokens}; expected 2 or more")
        if self.dtype not in ("auto", *models.DTYPES):
            raise BadInput(f"dtype is {self.dtype!r}; expected auto or one of {', '.join(models.DTYPES)}")


@dataclass(frozen=True)
class ScorerOptions:
    """Options of a selector that say which model gives the losses; its config inherits them."""

    scorer: str = "backbone"  # backbone: the cell's own | a hub id, "gpt2" | auto: an embedded backbone, else gpt2
    scorer_revision: str = "???"  # commit of the hub's repository
    # a folder with the scorer's weights, taken instead of the hub; its files are the identity, not the path
    scorer_path: str | None = field(default=None, metadata={"identity": False})
    scorer_dtype: str = "auto"  # auto: the backbone's own, float32 for another model


@dataclass(frozen=True)
class Identity:
    """What makes two losses artifacts of the same pool and model the same."""

    losses: LossesConfig
    templates: str  # hash of the prompt's texts
    unpinned: str | None = None  # hub id of a scorer whose revision is not known: planned, but refused when built


@dataclass(frozen=True)
class Losses:
    """Both losses of n records, rows in canonical id order. A loss is NaN exactly where its reason is not ""."""

    ids: list[str]  # id keys, see adg.records
    nll_conditioned: np.ndarray  # (n,) float64, mean over the response tokens that have a loss, natural log
    tokens_conditioned: np.ndarray  # (n,) int64, how many tokens that is
    nll_alone: np.ndarray
    tokens_alone: np.ndarray
    invalid_conditioned: list[str]  # reasons
    invalid_alone: list[str]

    def invalid(self) -> dict[int, str]:
        """Row -> why one of the two losses is missing."""
        pairs = zip(self.invalid_conditioned, self.invalid_alone, strict=True)
        return {i: first or second for i, (first, second) in enumerate(pairs) if first or second}


def node(pool: Node, model: Node, cfg: LossesConfig) -> Node:
    """The losses of ``pool``'s responses under ``model``, a backbone artifact."""
    return Node(STAGE, f"{pool.label}+{model.label}+{cfg.prompt}", _identity(cfg), {"pool": pool, "model": model})


def nodes(pool: Node, backbone: Node, cfg: LossesConfig, options: ScorerOptions) -> dict[str, Node]:
    """What ``Selector.extra`` returns: the artifact "losses", and "scorer" where that is a model of its own.

    Needs no network. A hub scorer without a pinned revision can be planned; building it is refused.
    """
    chosen = options.scorer
    if chosen == "auto":
        chosen = "backbone" if backbone.config.source == "embedded" else "gpt2"
    if chosen == "backbone" and options.scorer_path is None:
        return {"losses": node(pool, backbone, dataclasses.replace(cfg, dtype=options.scorer_dtype))}
    name = "scorer" if chosen == "backbone" else chosen
    if options.scorer_path is None and options.scorer_revision in ("???", "", None):
        identity = dataclasses.replace(_identity(cfg), unpinned=chosen)
        return {"losses": Node(STAGE, f"{pool.label}+{name}+{cfg.prompt}", identity, {"pool": pool})}
    source: dict[str, Any] = {"path": options.scorer_path}
    if options.scorer_path is None:
        if not re.fullmatch(r"[0-9a-f]{40}", options.scorer_revision):
            raise BadInput(
                f"selector.scorer_revision is {options.scorer_revision!r}; expected the 40-digit commit "
                f"hash of {chosen} on its hub page"
            )
        source = {"hub": chosen, "revision": options.scorer_revision}
    dtype = "float32" if options.scorer_dtype == "auto" else options.scorer_dtype
    scorer = models.node(models.BackboneConfig(name=name, dtype=dtype, **source))
    return {"scorer": scorer, "losses": node(pool, scorer, cfg)}


def _identity(cfg: LossesConfig) -> Identity:
    return Identity(cfg, sha256_text(canonical(PROMPTS[cfg.prompt])))


# -- text to tokens --------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Text:
    """Tokens of one text, (T,) int32; those from ``start`` on are the response's and have a loss (``start`` >= 1)."""

    ids: np.ndarray
    start: int

    @property
    def tokens(self) -> int:
        """How many tokens have a loss."""
        return len(self.ids) - self.start

    @functools.cached_property
    def digest(self) -> str:
        """Equal for equal texts: copies are run once, so they tie exactly."""
        return hashlib.blake2b(self.ids.tobytes(), digest_size=16, salt=self.start.to_bytes(8, "big")).hexdigest()


class Layout:
    """``LossesConfig`` with a tokenizer: turns a record into its two texts."""

    def __init__(self, cfg: LossesConfig, tokenizer: Any) -> None:
        self.cfg, self._prompt, self._tokenizer = cfg, PROMPTS[cfg.prompt], tokenizer
        self._bos = [int(tokenizer.bos_token_id)] if models.adds_bos(tokenizer) else []
        self.head_tokens = len(self.encode(self._prompt.head))
        self.slack = self.head_tokens if cfg.slack is None else cfg.slack

    def encode(self, text: str) -> list[int]:
        """BOS, where the tokenizer adds one, and the tokens of ``text``."""
        return self._bos + (prompts.encode(self._tokenizer, text) if text else [])

    def prompt(self, record: Record) -> str:
        """P: the text before the response."""
        template = self._prompt.with_input if record.input.strip() else self._prompt.plain
        return template.format(instruction=record.instruction, input=record.input)

    def texts(self, record: Record) -> tuple[Text | str, Text | str]:
        """The conditioned and the alone text, or in place of either the reason why it has no loss.

        As in the official code, the response begins where the tokens of the prefix encoded by itself end; a token
        that merges across that place is counted on one side or the other.
        """
        limit, prompt = self.cfg.max_tokens, self.prompt(record)
        start = len(self.encode(prompt))
        if not record.output:
            return "the response is empty", "the response is empty"
        if start >= limit:
            reason = f"the prompt fills all {limit} tokens"
            return reason, reason
        conditioned = self._text(self.encode(prompt + record.output)[:limit], start)
        ids = self.encode(self._prompt.head + record.output)[: limit - start + self.slack]
        alone = self._text(ids, self.head_tokens)
        if isinstance(alone, Text) and start + alone.tokens > limit:
            alone = f"more of the response fits alone than beside its prompt in {limit} tokens"
        return conditioned, alone

    @staticmethod
    def _text(ids: list[int], start: int) -> Text | str:
        if len(ids) <= start:
            return "no token of the response is left"
        if len(ids) == 1:
            return "a response of one token has no loss without a prefix"
        return Text(np.array(ids, dtype=np.int32), max(start, 1))  # nothing predicts the first token of a sequence


# -- tokens to losses ------------------------------------------------------------------------------------


class Scorer:
    """Mean losses of texts under a causal language model with a head, in eval mode.

    Hidden states are cut to the positions that predict a response before the head sees them. Padding stands on the
    right, where no token that counts can see it, so neither the batch a text is in nor its place there matters
    (1e-5 in float32), nor the tokenizer's own padding side.
    """

    def __init__(self, model: Any, tokens_per_batch: int = 4096) -> None:
        self._model, self._base, self._head = model, model.base_model, model.get_output_embeddings()
        if self._head is None:
            raise BadInput(f"{type(model).__name__} has no language-model head; a causal language model is expected")
        self.tokens_per_batch = tokens_per_batch
        self.positions = int(getattr(model.config, "max_position_embeddings", 1 << 30))
        self.dtype = str(model.dtype).removeprefix("torch.")
        self._block = max(16, LOGIT_BYTES // (4 * int(model.config.vocab_size)))
        self._checked = False

    def score(self, texts: Sequence[Text]) -> np.ndarray:
        """Mean NLL of every text's response, (n,) float64; NaN where the model gave no finite number."""
        result = np.full(len(texts), np.nan)
        for batch in batches(range(len(texts)), lambda i: len(texts[i].ids), self.tokens_per_batch):
            result[batch] = self.batch([texts[i] for i in batch])
        return result

    def batch(self, texts: Sequence[Text]) -> np.ndarray:
        """The same for texts that are run together."""
        import torch

        width = max(len(text.ids) for text in texts)
        if width > self.positions:
            raise BadInput(
                f"a text has {width} tokens but {type(self._model).__name__} has {self.positions} "
                f"positions; set selector.max_tokens={self.positions} or less"
            )
        tokens = np.zeros((len(texts), width), dtype=np.int64)
        for i, text in enumerate(texts):
            tokens[i, : len(text.ids)] = text.ids
        counts = np.array([text.tokens for text in texts])
        rows = torch.from_numpy(np.repeat(np.arange(len(texts)), counts))
        columns = torch.from_numpy(np.concatenate([np.arange(text.start, len(text.ids)) for text in texts]))
        with torch.inference_mode():
            ids = torch.from_numpy(tokens).to(self._model.device)
            self._check_head(ids[:1, :8])
            states = self._states(ids)[rows, columns - 1]
            losses = self._losses(states, ids[rows, columns])
        sums = np.add.reduceat(losses, np.concatenate([[0], np.cumsum(counts)[:-1]]))
        return np.where(np.isfinite(sums), sums / counts, np.nan)

    def _states(self, ids: torch.Tensor) -> torch.Tensor:
        """Last hidden states (B, T, d)."""
        import torch

        positions = torch.arange(ids.shape[1], device=ids.device)[None]
        return self._base(input_ids=ids, position_ids=positions, use_cache=False).last_hidden_state

    def _losses(self, states: torch.Tensor, targets: torch.Tensor) -> np.ndarray:
        """NLL of ``targets`` (P,) after ``states`` (P, d), float64; log-softmax in float32, block by block."""
        import torch

        found = []
        for first in range(0, len(states), self._block):
            logits = self._head(states[first : first + self._block])
            logits = logits if logits.dtype == torch.float64 else logits.float()
            loss = torch.nn.functional.cross_entropy(logits, targets[first : first + self._block], reduction="none")
            found.append(loss.double().cpu().numpy())
        return np.concatenate(found)

    def _check_head(self, ids: torch.Tensor) -> None:
        """Refuse a model whose logits are not head(hidden state), such as one that caps or scales them."""
        import torch

        if self._checked:
            return
        own, ours = self._model(input_ids=ids).logits.float(), self._head(self._states(ids)).float()
        if not torch.allclose(own, ours, rtol=1e-2, atol=1e-2, equal_nan=True):
            raise BadInput(
                f"{type(self._model).__name__} changes its logits after the head, which this scorer leaves "
                f"out; choose another scorer (selector.scorer)"
            )
        self._checked = True


def batch_tokens(tokens_per_batch: int, device: str) -> int:
    """Padded tokens of a batch on ``device``, for ``exec.tokens_per_batch``."""
    return min(tokens_per_batch, CPU_TOKENS) if device == "cpu" else tokens_per_batch


def measure(
    pool: Sequence[Record], layout: Layout, scorer: Callable[[], Scorer], work: Path, tokens_per_batch: int = 4096,
    max_failed: int = 0,
) -> Losses:  # fmt: skip
    """Both losses of every record.

    Texts of the whole pool go in batches of similar length, longest first, equal texts once. Each batch is saved
    in ``work`` when it is done and found there by a later call; ``scorer`` is called when there is something to run.
    Raises ``BadMeasurement`` once more records than ``max_failed`` have a loss that is not a finite number.
    """
    pairs = [layout.texts(record) for record in pool]
    owners: dict[str, list[int]] = {}
    texts: dict[str, Text] = {}
    for row, pair in enumerate(pairs):
        for text in pair:
            if isinstance(text, Text):
                texts.setdefault(text.digest, text)
                owners.setdefault(text.digest, []).append(row)
    names = list(texts)
    known = _saved(work)
    failed: dict[int, None] = {}
    runner: Scorer | None = None
    with progress(sum(len(text.ids) for text in texts.values()), "losses", unit="tokens") as bar:
        for batch in batches(range(len(names)), lambda i: len(texts[names[i]].ids), tokens_per_batch):
            todo = [names[i] for i in batch if names[i] not in known]
            if todo:
                runner = runner or scorer()
                values = dict(zip(todo, runner.batch([texts[name] for name in todo]).tolist(), strict=True))
                finite = {name: value for name, value in values.items() if np.isfinite(value)}
                write_atomic(work / f"losses-{sha256_text(canonical(todo))[:32]}.json", json.dumps(finite).encode())
                known |= finite
                failed |= dict.fromkeys(row for name in values if name not in finite for row in owners[name])
                if len(failed) > max_failed:
                    shown = ", ".join(pool[row].key for row in sorted(failed)[:REPORTED])
                    raise BadMeasurement(
                        f"{len(failed)} records have a loss of NaN or infinity in {runner.dtype}, exec.max_failed "
                        f"allows {max_failed}; their ids: {shown}. Try selector.scorer_dtype=float32, drop them from "
                        f"the pool, or allow failures with exec.max_failed=<n>"
                    )
            bar.update(sum(len(texts[names[i]].ids) for i in batch))
    return _table(pool, pairs, known)


def _saved(work: Path) -> dict[str, float]:
    """Digest of a text -> its loss, of all batches that an earlier call finished."""
    known: dict[str, float] = {}
    for path in sorted(work.glob("losses-*.json")):
        try:
            known |= json.loads(path.read_text())
        except ValueError:  # damaged on disk: that batch is run again
            path.unlink()
    return known


def _table(pool: Sequence[Record], pairs: Sequence[tuple[Text | str, Text | str]], known: dict[str, float]) -> Losses:
    columns: dict[str, Any] = {}
    for side, name in enumerate(("conditioned", "alone")):
        texts = [pair[side] for pair in pairs]
        found = [known.get(text.digest) if isinstance(text, Text) else None for text in texts]
        tokens = [text.tokens if isinstance(text, Text) else 0 for text in texts]
        columns[f"nll_{name}"] = np.array([np.nan if value is None else value for value in found], dtype=np.float64)
        columns[f"tokens_{name}"] = np.array(tokens, dtype=np.int64)
        columns[f"invalid_{name}"] = [
            text if isinstance(text, str) else FAILED if value is None else ""
            for text, value in zip(texts, found, strict=True)
        ]
    return Losses([record.key for record in pool], **columns)


# -- the stage -------------------------------------------------------------------------------------------


def build(job: Job) -> dict[str, Any]:
    """Stage "losses": payload ``losses.parquet``, a row for every record of the pool; see ``Losses``."""
    identity: Identity = job.config
    if identity.unpinned is not None:
        raise NotRunnable(
            f"needs a pinned revision of {identity.unpinned}: set selector.scorer_revision=<commit>, or "
            f"selector.scorer_path=<folder> of its weights, or selector.scorer=backbone"
        )
    cfg, model = identity.losses, job.inputs["model"]
    layout = Layout(cfg, models.load_tokenizer(model))
    used = models.dtype_of(model) if cfg.dtype == "auto" else cfg.dtype

    device = models.device(job.exec)
    tokens = batch_tokens(job.exec.tokens_per_batch, device)
    pool = records.load(job.inputs["pool"])
    losses = measure(
        pool, layout, lambda: Scorer(models.load_model(model, device, used), tokens), job.work, tokens,
        job.exec.max_failed,
    )  # fmt: skip
    save(job.folder / "losses.parquet", losses)
    invalid = losses.invalid()
    failed = [losses.ids[row] for row, reason in invalid.items() if reason == FAILED]
    return {
        "rows_in": len(pool), "rows_out": len(pool) - len(invalid), "invalid": counted(invalid.values()),
        "failed": [[key, FAILED] for key in failed[:REPORTED]], "failed_count": len(failed),
        "scorer": job.node.inputs["model"].label, "dtype": used, "prompt": cfg.prompt, "max_tokens": cfg.max_tokens,
        "slack": layout.slack, "head_tokens": layout.head_tokens,
        "tokens_conditioned": int(losses.tokens_conditioned.sum()), "tokens_alone": int(losses.tokens_alone.sum()),
    }  # fmt: skip


def save(path: Path, losses: Losses) -> None:
    """Write ``losses.parquet``; a missing loss is null."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = {}
    for f in dataclasses.fields(losses):
        values = getattr(losses, f.name)
        columns["id" if f.name == "ids" else f.name] = pa.array(values, from_pandas=True)
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns), buffer)
    write_atomic(path, buffer.getvalue())


def load(artifact: Artifact, ids: Sequence[str] | None = None) -> Losses:
    """The payload of a losses artifact; ``ids``, when given, must be its id keys in order (``BadMeasurement``)."""
    import pyarrow.parquet as pq

    table = pq.read_table(artifact.file("losses.parquet"))
    found = table["id"].to_pylist()
    if ids is not None and found != list(ids):
        raise BadMeasurement(
            f"{artifact.path} holds {len(found)} records, the pool {len(ids)}; they must be the same "
            f"ids in the same order. Delete that folder and run the same command again"
        )
    arrays = {f.name: table[f.name].to_numpy() if f.name.startswith(("nll", "tokens")) else table[f.name].to_pylist()
              for f in dataclasses.fields(Losses) if f.name != "ids"}  # fmt: skip
    return Losses(found, **arrays)
