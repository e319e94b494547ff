"""The held-out loss: how well a model, with or without an adapter, predicts the answers of rows that no selector saw.

For each row that ``pool.heldout`` holds out, the mean negative log-likelihood (natural log, nats per token) of the
answer and its end of text after the prompt, on the very tokens and mask of training (``prompts.training_example``), cut
where training cuts. It moves with effects that are far too small for a benchmark's right and wrong. Rows whose prompt
leaves no token of the answer are left out and counted, as training leaves them out.

Identity: the greatest length and the template of training, the pool, the backbone and the adapter. Batches change
rounding at most.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from adg import prompts
from adg.artifacts.artifact import Artifact, Job, Node, Stage
from adg.artifacts.files import write_atomic
from adg.artifacts.shards import Shard, Shards, parquet
from adg.backbones import adapters, loading
from adg.batching import batches
from adg.errors import BadInput, BadMeasurement
from adg.pools import records
from adg.pools.records import Record
from adg.progress import progress

STAGE = Stage(
    "heldout", 2, "adg.evaluation.heldout:build", place=105, gpus="tensor_parallel", work="held-out rows to read"
)
LOGIT_BYTES = {"cpu": 2**27, "cuda": 2**31}  # of a batch's float32 logits at most; on a CPU larger ones are slower
SHOWN = 5  # ids in a message


@dataclass(frozen=True)
class HeldOutConfig:
    """What makes two measurements of one model on one pool the same."""

    max_length: int  # tokens of prompt and answer together, as in training
    template: str  # hash of the prompt template


@dataclass(frozen=True)
class HeldOutLosses:
    """The losses of n rows in canonical id order."""

    ids: list[str]  # id keys, see adg.pools.records
    loss: np.ndarray  # (n,) float64, nats per token, mean over the row's own tokens
    tokens: np.ndarray  # (n,) int64, tokens that have a loss: the answer's, and its end where it is not cut off
    truncated: np.ndarray  # (n,) bool, whether the answer was cut at ``max_length``

    @property
    def by_row(self) -> float:
        """Mean over rows, each with the same weight."""
        return float(self.loss.mean())

    @property
    def by_token(self) -> float:
        """Mean over all tokens, so that long answers weigh more; what training minimises."""
        return float((self.loss * self.tokens).sum() / self.tokens.sum())


def node(pool: Node, backbone: Node, adapter: Node | None, max_length: int) -> Node:
    """The loss of ``pool``'s held-out rows under ``backbone`` with ``adapter`` (None: as it is).

    Raises ``BadInput`` when the adapter was made for another backbone.
    """
    inputs = {"pool": pool, "backbone": backbone}
    if adapter is not None:
        made_for = adapter.inputs.get("backbone")
        adapters.refuse_other_backbone(
            made_for.fingerprint if made_for else None, backbone.fingerprint, adapter.folder, backbone.folder
        )
        inputs["adapter"] = adapter
    label = f"{backbone.label}+{pool.label}" if adapter is None else adapter.label
    return Node(STAGE, label, HeldOutConfig(max_length, prompts.HASH), inputs)


def build(job: Job) -> dict[str, Any]:
    """Payload ``losses.parquet``: a row for each held-out row that has a loss; see ``HeldOutLosses``.

    Raises ``BadMeasurement`` where a loss is not finite, and ``BadInput`` where no row is held out or has a loss.
    """
    cfg: HeldOutConfig = job.config
    pool, backbone = job.inputs["pool"], job.inputs["backbone"]
    held = records.load_held_out(pool)
    if not held:
        raise BadInput(f"{pool.path} holds no rows out; set pool.heldout=<number of rows>, or measure no held-out loss")
    tokenizer = loading.load_tokenizer(backbone)
    examples, left_out = _examples(tokenizer, held, cfg.max_length)
    longest = max(len(example["input_ids"]) for example in examples.values())
    positions = loading.positions(backbone)
    if positions is not None and longest > positions:
        raise BadInput(
            f"a held-out row has {longest} tokens, {backbone.path.name} has {positions} positions; set "
            f"finetune.max_length={positions} or less"
        )
    losses = measure(job, examples, tokenizer)
    save(job, losses)
    return {
        "rows_in": len(held),
        "rows_out": len(losses.ids),
        "left_out": len(left_out),
        "left_out_ids": left_out[:SHOWN],
        "failed": [],
        "truncated": int(losses.truncated.sum()),
        "tokens": int(losses.tokens.sum()),
        "loss_by_row": losses.by_row,
        "loss_by_token": losses.by_token,
        "max_length": cfg.max_length,
        "dtype": loading.dtype_of(backbone),
    }


def _examples(
    tokenizer: Any, held: Sequence[Record], max_length: int
) -> tuple[dict[str, dict[str, list[int]]], list[str]]:
    """Training examples by id key, and the keys of rows that have no token of an answer within ``max_length``."""
    examples, left_out = {}, []
    for record in held:
        prompt = prompts.encode_prompt(tokenizer, prompts.render(record.instruction, record.input))
        if len(prompt) < max_length:
            examples[record.key] = prompts.training_example(tokenizer, record, max_length)
        else:
            left_out.append(record.key)
    if not examples:
        raise BadInput(
            f"none of the {len(held)} held-out rows has an answer token within {max_length} tokens (ids "
            f"{', '.join(left_out[:SHOWN])}); raise finetune.max_length"
        )
    return examples, left_out


def measure(job: Job, examples: Mapping[str, Mapping[str, list[int]]], tokenizer: Any) -> HeldOutLosses:
    """The losses of ``examples`` under the job's model, longest texts first; finished batches are found again."""
    keys, device = list(examples), loading.device(job.exec)
    shards = Shards(job.work, "losses")
    known = {key: total for shard in shards.every() for key, total in shard.facts["losses"].items()}
    model: Any = None
    words = loading.read_config(job.inputs["backbone"]).get("vocab_size") or len(tokenizer)
    room = min(job.exec.tokens_per_batch, LOGIT_BYTES[device] // (4 * int(words)))
    lengths = [len(examples[key]["input_ids"]) for key in keys]
    with progress(sum(lengths), "held-out loss", unit="tokens") as bar:
        for batch in batches(range(len(keys)), lambda i: lengths[i], room):
            todo = [keys[i] for i in batch if keys[i] not in known]
            if todo:
                model = model or _model(job, device)
                values = dict(zip(todo, _sums(model, [examples[key] for key in todo]), strict=True))
                wrong = [key for key, value in values.items() if not np.isfinite(value)]
                if wrong:
                    raise BadMeasurement(
                        f"{len(wrong)} held-out rows have a loss that is not a finite number (ids "
                        f"{', '.join(wrong[:SHOWN])}); look at the training curve and at the dtype"
                    )
                shards.save(todo, Shard({"losses": values}))
                known |= values
            bar.update(sum(lengths[i] for i in batch))
    tokens = np.array([sum(label != prompts.IGNORED for label in examples[key]["labels"][1:]) for key in keys])
    ends = np.array([examples[key]["input_ids"][-1] == tokenizer.eos_token_id for key in keys])
    return HeldOutLosses(keys, np.array([known[key] for key in keys]) / tokens, tokens, ~ends)


def _model(job: Job, device: str) -> Any:
    adapter = job.inputs.get("adapter")
    return adapters.load_trained(job.inputs["backbone"], adapter, device, gpus=job.exec.tensor_parallel)


def _sums(model: Any, examples: Sequence[Mapping[str, list[int]]]) -> list[float]:
    """The summed loss of each example's labels, run together; padding stands on the right, where nothing sees it."""
    import torch

    width = max(len(example["input_ids"]) for example in examples)

    def padded(name: str, fill: int) -> Any:
        rows = [example[name] + [fill] * (width - len(example[name])) for example in examples]
        return torch.tensor(rows, device=model.device)

    ids, labels = padded("input_ids", 0), padded("labels", prompts.IGNORED)
    lengths = torch.tensor([[len(example["input_ids"])] for example in examples], device=ids.device)
    seen = (torch.arange(width, device=ids.device)[None] < lengths).long()
    with torch.inference_mode():
        logits = model(input_ids=ids, attention_mask=seen, use_cache=False).logits[:, :-1]
        targets = labels[:, 1:].to(logits.device)
        # the others would cost as much; and over words that do not lie side by side torch sums with an error of 1e-4
        chosen = targets != prompts.IGNORED
        losses = torch.nn.functional.cross_entropy(logits[chosen].float(), targets[chosen], reduction="none")
        return [float(part.double().sum()) for part in losses.cpu().split(chosen.sum(1).tolist())]


def save(job: Job, losses: HeldOutLosses) -> None:
    import pyarrow as pa

    columns = {"id": losses.ids, "loss": losses.loss, "tokens": losses.tokens, "truncated": losses.truncated}
    write_atomic(job.folder / "losses.parquet", parquet(pa.table(columns)))


def load(artifact: Artifact) -> HeldOutLosses:
    """The payload of a heldout artifact."""
    import pyarrow.parquet as pq

    table = pq.read_table(artifact.file("losses.parquet"))
    loss, tokens, truncated = (table[name].to_numpy() for name in ("loss", "tokens", "truncated"))
    return HeldOutLosses(table["id"].to_pylist(), loss, tokens, truncated)
