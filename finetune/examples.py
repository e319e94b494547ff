"""A subset becomes token ids and labels: the prompt carries no loss, the response and its end do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from adg import prompts
from adg.errors import BadMeasurement
from adg.pools import records
from finetune.config import FinetuneConfig


@dataclass(frozen=True)
class Examples:
    """Tokenised rows in canonical id order, and the rows that had no response left."""

    rows: list[dict[str, list[int]]]
    left_out: list[dict[str, Any]]

    @property
    def tokens(self) -> int:
        return sum(len(row["input_ids"]) for row in self.rows)

    @property
    def loss_tokens(self) -> int:
        """Tokens that carry loss; the first of a sequence is never predicted."""
        return sum(label != prompts.IGNORED for row in self.rows for label in row["labels"][1:])


def tokenise(tokenizer: Any, subset: list[Any], cfg: FinetuneConfig) -> Examples:
    """``input_ids`` and ``labels`` of every row; rows cut so short that no response is left carry no loss in any
    recipe and are left out with their id."""
    rows, left_out = [], []
    for record in sorted(subset, key=lambda r: records.order(r.id)):
        prompt = prompts.encode_prompt(tokenizer, prompts.render(record.instruction, record.input))
        if len(prompt) >= cfg.max_length:
            left_out.append(
                {
                    "id": record.key,
                    "reason": f"its prompt has {len(prompt)} tokens, no response token is left within {cfg.max_length}",
                }
            )
            continue
        example = prompts.training_example(tokenizer, record, cfg.max_length)
        rows.append(example if cfg.loss_on == "response" else {**example, "labels": list(example["input_ids"])})
    return Examples(rows, left_out)


def check_rows(examples: Examples, total: int, cfg: FinetuneConfig, max_failed: int) -> None:
    first = ", ".join(row["id"] for row in examples.left_out[:5])
    if cfg.no_response == "refuse" and len(examples.left_out) > max_failed:
        raise BadMeasurement(
            f"{len(examples.left_out)} of {total} training rows have no response token within "
            f"{cfg.max_length} tokens (ids {first}); raise finetune.max_length, or accept their loss "
            f"with finetune.no_response=drop"
        )
    if not examples.rows:
        raise BadMeasurement(
            f"none of the {total} training rows has a response token within {cfg.max_length} tokens; "
            f"raise finetune.max_length"
        )
