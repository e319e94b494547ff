"""The one scorer of response losses: how a record becomes two texts, and their mean loss under a language model.

IFD, SuperFiltering and perplexity are ratios and powers of the same two numbers: the mean negative log-likelihood
(natural log) of a response after its prompt, and alone. They are an artifact of their own, shared by all of them.
Selectors that need more of the model (a loss for each token, a rating, the prompt's vector) build their own artifact
on the same scorer: ``by_scorer`` names it, ``Reader`` opens what it reads, ``shards`` makes it resumable.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import io
import json
import re
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from adg import models, prompts, records
from adg.embedding import batches
from adg.errors import BadInput, BadMeasurement, NotRunnable, nearest
from adg.execution import ExecConfig
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
ENGINES = ("hf", "vllm")
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
        "ASSISTANT:",
        6,
    ),
    "none": Prompt("{instruction}\n", "{instruction}\n{input}\n", "", 1),
}


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
    engine: str = "hf"  # hf | vllm: what runs the model; the losses agree up to rounding

    def __post_init__(self) -> None:
        if self.engine not in ENGINES:
            raise BadInput(f"scorer_engine is {self.engine!r}; expected one of {', '.join(ENGINES)}")
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
    scorer_engine: str = "hf"  # hf | vllm

    def note(self, name: str, backbone: Node, official: str) -> str:
        """What a table must say where an embedded backbone scores in place of the ``official`` model, else ""."""
        if backbone.config.source != "embedded" or self.scorer not in ("auto", "backbone") or self.scorer_path:
            return ""
        return f"{name}: the embedded backbone gives the losses, in place of {official}"


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
    """What ``Selector.extra`` returns: the artifact "losses", and "scorer" where that is a model of its own."""
    return by_scorer(STAGE, pool, backbone, _identity(cfg), options)


def by_scorer(stage: Stage, pool: Node, backbone: Node, identity: Identity, options: ScorerOptions) -> dict[str, Node]:
    """The artifact that ``stage`` makes of ``pool`` with the model that ``options`` name, under the stage's name.

    Needs no network. A hub scorer without a pinned revision can be planned; building it is refused.
    """
    chosen, prompt = options.scorer, identity.losses.prompt
    losses = dataclasses.replace(identity.losses, engine=options.scorer_engine)

    def made(name: str, model: Node | None, **changes: Any) -> Node:
        inputs = {"pool": pool} if model is None else {"pool": pool, "model": model}
        return Node(stage, f"{pool.label}+{name}+{prompt}", dataclasses.replace(identity, **changes), inputs)

    if chosen == "auto":
        chosen = "backbone" if backbone.config.source == "embedded" else "gpt2"
    if chosen == "backbone" and options.scorer_path is None:
        losses = dataclasses.replace(losses, dtype=options.scorer_dtype)
        return {stage.name: made(backbone.label, backbone, losses=losses)}
    name = "scorer" if chosen == "backbone" else chosen
    if options.scorer_path is None and options.scorer_revision in ("???", "", None):
        return {stage.name: made(name, None, losses=losses, unpinned=chosen)}
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
    return {"scorer": scorer, stage.name: made(scorer.label, scorer, losses=losses)}


def _identity(cfg: LossesConfig) -> Identity:
    return Identity(cfg, templates(cfg.prompt))


def templates(prompt: str) -> str:
    """Hash of the texts of a prompt, part of what identifies an artifact made with it."""
    return sha256_text(canonical(PROMPTS[prompt]))


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

    @property
    def width(self) -> int:
        """Width of the input embeddings."""
        return int(self._model.get_input_embeddings().weight.shape[1])

    def score(self, texts: Sequence[Text]) -> np.ndarray:
        """Mean NLL of every text's response, (n,) float64; NaN where the model gave no finite number."""
        result = np.full(len(texts), np.nan)
        for batch in batches(range(len(texts)), lambda i: len(texts[i].ids), self.tokens_per_batch):
            result[batch] = self.batch([texts[i] for i in batch])
        return result

    def batch(self, texts: Sequence[Text]) -> np.ndarray:
        """The same for texts that are run together."""
        return _means(*self._token_losses(texts))

    def tokens(self, texts: Sequence[Text], shifts: Sequence[np.ndarray] | None = None) -> list[np.ndarray]:
        """NLL of every token that has a loss, for texts that are run together: (text.tokens,) float64 each.

        ``shifts``, (T, d) float32 each, are added to the texts' input embeddings. A value is not finite where the
        model gave no number.
        """
        losses, counts = self._token_losses(texts, shifts)
        return np.split(losses, np.cumsum(counts)[:-1])

    def following(self, texts: Sequence[Text], words: Sequence[int]) -> np.ndarray:
        """Log-probabilities of the tokens ``words`` (w,) right after each text, (n, w) float64, run together."""
        import torch

        last = torch.tensor([len(text.ids) - 1 for text in texts])
        with torch.inference_mode():
            states = self._states(self._padded(texts))[torch.arange(len(texts)), last]
            found = [
                torch.log_softmax(self._float(self._head(states[first : first + self._block])), dim=-1)[:, list(words)]
                for first in range(0, len(states), self._block)
            ]
            return torch.cat(found).double().cpu().numpy()

    def vectors(self, texts: Sequence[Text]) -> tuple[np.ndarray, np.ndarray]:
        """Mean of the last hidden states over all tokens of each text, (n, d) float64, and its mean NLL, (n,)."""
        import torch

        with torch.inference_mode():
            ids = self._padded(texts)
            states = self._states(ids)
            means = [states[i, : len(text.ids)].double().mean(0).cpu().numpy() for i, text in enumerate(texts)]
            losses, counts = self._at(texts, ids, states)
        return np.stack(means), _means(losses, counts)

    def _token_losses(
        self, texts: Sequence[Text], shifts: Sequence[np.ndarray] | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Losses of all texts in one row, float64, and how many belong to each text."""
        import torch

        with torch.inference_mode():
            ids = self._padded(texts)
            return self._at(texts, ids, self._states(ids, shifts))

    def _at(self, texts: Sequence[Text], ids: torch.Tensor, states: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
        """The same from the texts' hidden ``states`` (B, T, d)."""
        import torch

        counts = np.array([text.tokens for text in texts])
        rows = torch.from_numpy(np.repeat(np.arange(len(texts)), counts))
        columns = torch.from_numpy(np.concatenate([np.arange(text.start, len(text.ids)) for text in texts]))
        return self._losses(states[rows, columns - 1], ids[rows, columns]), counts

    def _padded(self, texts: Sequence[Text]) -> torch.Tensor:
        """Token ids (B, T) on the model's device; refuses texts that it has no positions for."""
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
        ids = torch.from_numpy(tokens).to(self._model.device)
        self._check_head(ids[:1, :8])
        return ids

    def _states(self, ids: torch.Tensor, shifts: Sequence[np.ndarray] | None = None) -> torch.Tensor:
        """Last hidden states (B, T, d)."""
        import torch

        inputs = {"input_ids": ids}
        if shifts is not None:
            embedded = self._model.get_input_embeddings()(ids)
            for i, shift in enumerate(shifts):
                embedded[i, : len(shift)] += torch.from_numpy(shift).to(embedded)
            inputs = {"inputs_embeds": embedded}
        positions = torch.arange(ids.shape[1], device=ids.device)[None]
        return self._base(**inputs, position_ids=positions, use_cache=False).last_hidden_state

    def _losses(self, states: torch.Tensor, targets: torch.Tensor) -> np.ndarray:
        """NLL of ``targets`` (P,) after ``states`` (P, d), float64; log-softmax in float32, block by block."""
        import torch

        found = []
        for first in range(0, len(states), self._block):
            logits = self._float(self._head(states[first : first + self._block]))
            loss = torch.nn.functional.cross_entropy(logits, targets[first : first + self._block], reduction="none")
            found.append(loss.double().cpu().numpy())
        return np.concatenate(found)

    @staticmethod
    def _float(logits: torch.Tensor) -> torch.Tensor:
        import torch

        return logits if logits.dtype == torch.float64 else logits.float()

    def close(self) -> None:
        """Nothing to give back; engines of their own have something."""

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


def _means(losses: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Mean of every text's ``losses``, which stand in one row; NaN where one of them is not finite."""
    sums = np.add.reduceat(losses, np.concatenate([[0], np.cumsum(counts)[:-1]]))
    return np.where(np.isfinite(sums), sums / counts, np.nan)


class VllmScorer:
    """The same mean losses from vLLM's log-probabilities of the tokens it is given.

    Equal to ``Scorer``'s within 1e-5 in float32 on a CPU (measured: 2e-6); in bfloat16 the two differ as any two orders
    of the same sums do.
    """

    def __init__(self, model: Artifact, dtype: str, exec_: ExecConfig, max_tokens: int) -> None:
        from adg.generation import Vllm

        self.dtype = dtype
        # vLLM insists on room for one new token
        self._longest = min(max_tokens, (models.positions(model) or 1 << 30) - 1)
        self._engine = Vllm(
            model,
            dtype,
            exec_,
            self._longest + 1,
            enable_prefix_caching=False,
            enforce_eager=True,
            max_num_batched_tokens=max(2048, self._longest + 1),
        )

    def batch(self, texts: Sequence[Text]) -> np.ndarray:
        """Mean NLL of every text's response, (n,) float64; NaN where the model gave no finite number."""
        width = max(len(text.ids) for text in texts)
        if width > self._longest:
            raise BadInput(
                f"a text has {width} tokens but vLLM takes {self._longest} of this model; set "
                f"selector.max_tokens={self._longest} or less, or selector.scorer_engine=hf"
            )
        found = self._engine.log_probabilities([text.ids.tolist() for text in texts])
        losses = [-line[text.start :] for text, line in zip(texts, found, strict=True)]
        return _means(np.concatenate(losses), np.array([text.tokens for text in texts]))

    def close(self) -> None:
        """Give memory back."""
        self._engine.close()


def batch_tokens(tokens_per_batch: int, device: str) -> int:
    """Padded tokens of a batch on ``device``, for ``exec.tokens_per_batch``."""
    return min(tokens_per_batch, CPU_TOKENS) if device == "cpu" else tokens_per_batch


def measure(
    pool: Sequence[Record],
    layout: Layout,
    scorer: Callable[[], Scorer | VllmScorer],
    work: Path,
    tokens_per_batch: int = 4096,
    max_failed: int = 0,
) -> Losses:
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
    runner: Scorer | VllmScorer | None = None
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


def shards(
    names: Sequence[str],
    size: Callable[[int], int],
    run: Callable[[list[int]], dict[str, np.ndarray]],
    work: Path,
    tokens_per_batch: int,
    description: str,
) -> Iterator[tuple[list[int], dict[str, np.ndarray]]]:
    """Batches of similar ``size`` in tokens, longest first, and the arrays that ``run`` makes of each.

    ``names`` are distinct and say what is run. A batch whose values are all finite is saved in ``work`` and found
    there by a later call.
    """
    with progress(sum(map(size, range(len(names)))), description, unit="tokens") as bar:
        for batch in batches(range(len(names)), size, tokens_per_batch):
            path = work / f"shard-{sha256_text(canonical([names[i] for i in batch]))[:32]}.npz"
            arrays = _saved_arrays(path)
            if arrays is None:
                arrays = run(batch)
                if all(np.isfinite(values).all() for values in arrays.values()):
                    sink = io.BytesIO()
                    np.savez(sink, **arrays)  # type: ignore[arg-type]
                    write_atomic(path, sink.getvalue())
            yield batch, arrays
            bar.update(sum(map(size, batch)))


def _saved_arrays(path: Path) -> dict[str, np.ndarray] | None:
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except FileNotFoundError:
        return None
    except (ValueError, EOFError, zipfile.BadZipFile):  # damaged on disk: that batch is run again
        path.unlink()
        return None


def check_failed(keys: Sequence[str], reader: Reader, option: str = "selector.scorer_dtype") -> None:
    """Raise ``BadMeasurement`` when more records than ``exec.max_failed`` gave a value that is not finite; ``option``
    sets the dtype."""
    if len(keys) > reader.max_failed:
        raise BadMeasurement(
            f"{len(keys)} records gave NaN or infinity in {reader.dtype}, exec.max_failed allows "
            f"{reader.max_failed}; their ids: {', '.join(keys[:REPORTED])}. Try {option}=float32, drop "
            f"them from the pool, or allow failures with exec.max_failed=<n>"
        )


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


class Reader:
    """What a stage that reads a pool with a scorer works with; its model is loaded when it is first asked for.

    Use as a context manager. Raises ``NotRunnable`` where the scorer's revision is not known.
    """

    def __init__(self, job: Job, cfg: LossesConfig, unpinned: str | None = None) -> None:
        if unpinned is not None:
            raise NotRunnable(
                f"needs a pinned revision of {unpinned}: set selector.scorer_revision=<commit>, or "
                f"selector.scorer_path=<folder> of its weights, or selector.scorer=backbone"
            )
        self._model, self._exec, self._cfg = job.inputs["model"], job.exec, cfg
        self._open: list[Scorer | VllmScorer] = []
        self.device = models.device(job.exec)
        self.dtype = models.dtype_of(self._model) if cfg.dtype == "auto" else cfg.dtype
        self.max_failed = job.exec.max_failed
        self.pool = records.load(job.inputs["pool"])
        self.tokenizer = models.load_tokenizer(self._model)
        self.layout = Layout(cfg, self.tokenizer)
        self.tokens_per_batch = (
            job.exec.tokens_per_batch if cfg.engine == "vllm" else batch_tokens(job.exec.tokens_per_batch, self.device)
        )

    def scorer(self) -> Scorer:
        """The model behind transformers."""
        if not self._open:
            self._open.append(Scorer(models.load_model(self._model, self.device, self.dtype), self.tokens_per_batch))
        (found,) = self._open
        assert isinstance(found, Scorer)
        return found

    def means(self) -> Scorer | VllmScorer:
        """The model behind the engine of the config, for mean losses."""
        if self._cfg.engine == "hf":
            return self.scorer()
        if not self._open:
            self._open.append(VllmScorer(self._model, self.dtype, self._exec, self._cfg.max_tokens))
        return self._open[0]

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *_: object) -> None:
        for engine in self._open:
            engine.close()


def build(job: Job) -> dict[str, Any]:
    """Stage "losses": payload ``losses.parquet``, a row for every record of the pool; see ``Losses``."""
    cfg: LossesConfig = job.config.losses
    with Reader(job, cfg, job.config.unpinned) as reader:
        layout, pool = reader.layout, reader.pool
        losses = measure(pool, layout, reader.means, job.work, reader.tokens_per_batch, reader.max_failed)
    save(job.folder / "losses.parquet", losses)
    invalid = losses.invalid()
    failed = [losses.ids[row] for row, reason in invalid.items() if reason == FAILED]
    return {
        "rows_in": len(pool),
        "rows_out": len(pool) - len(invalid),
        "invalid": counted(invalid.values()),
        "failed": [[key, FAILED] for key in failed[:REPORTED]],
        "failed_count": len(failed),
        "scorer": job.node.inputs["model"].label,
        "dtype": reader.dtype,
        "engine": cfg.engine,
        "prompt": cfg.prompt,
        "max_tokens": cfg.max_tokens,
        "slack": layout.slack,
        "head_tokens": layout.head_tokens,
        "tokens_conditioned": int(losses.tokens_conditioned.sum()),
        "tokens_alone": int(losses.tokens_alone.sum()),
    }


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
    arrays = {
        f.name: table[f.name].to_numpy() if f.name.startswith(("nll", "tokens")) else table[f.name].to_pylist()
        for f in dataclasses.fields(Losses)
        if f.name != "ids"
    }
    return Losses(found, **arrays)
