"""Sampling with transformers: prompts and their keys and values once for K answers, tokens drawn by a seed per batch.

Nothing here is configured but by ``SamplingConfig``; micro-batches and devices (``exec``) are no part of identity.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from adg.answers.config import Answer, Answers, NotFinite, SamplingConfig, StateReader
from adg.artifacts.artifact import Artifact
from adg.backbones import loading
from adg.backbones.on_cpu import lay_by_column, share_keys
from adg.execution import ExecConfig

if TYPE_CHECKING:
    import torch


class TransformersEngine:
    """transformers: each prompt is read once for its K answers, and answers that ended make room."""

    COMPACT = 0.125  # share of ended rows above which they are taken out of the batch

    def __init__(self, backbone: Artifact, tokenizer: Any, cfg: Answers, exec_: ExecConfig, longest: int) -> None:
        device = loading.device(exec_)
        model = loading.load_model(backbone, device, cfg.engine.dtype)
        lay_by_column(model)
        self._begin(model, device, loading.stop_ids(backbone, tokenizer), tokenizer.pad_token_id)

    @classmethod
    def of(cls, model: Any, tokenizer: Any) -> TransformersEngine:
        """With a model that is loaded already, its head included; the numbers that it computes stay as they are."""
        named = getattr(model.generation_config, "eos_token_id", None)
        ends = {tokenizer.eos_token_id, *(named if isinstance(named, list) else [named])} - {None}
        engine = cls.__new__(cls)
        pad = tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
        engine._begin(model, str(model.device), sorted(ends), pad)
        return engine

    def _begin(self, model: Any, device: str, stop: list[int], pad: int) -> None:
        self.model, self.device, self.stop, self.pad = model, device, stop, pad
        share_keys(model)
        self.reader: StateReader | None = None  # of the states that the model computes while it samples

    def sample(self, prompts: Sequence[list[int]], cfg: SamplingConfig, seed: int) -> list[list[Answer]]:
        import torch

        generator = torch.Generator(self.device).manual_seed(seed)
        with torch.inference_mode():
            return self._sample(prompts, cfg, generator)

    def _sample(self, prompts: Sequence[list[int]], cfg: SamplingConfig, generator: torch.Generator) -> Any:
        import torch

        width = max(map(len, prompts))
        ids = torch.tensor([[self.pad] * (width - len(p)) + p for p in prompts], device=self.device)
        mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=self.device)
        if self.reader is not None:
            self.reader.read_prompts(ids, mask, cfg.n)
        out = self.model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=(mask.cumsum(-1) - 1).clamp(min=0),
            use_cache=True,
            logits_to_keep=1,
        )
        cache = out.past_key_values
        cache.batch_repeat_interleave(cfg.n)
        mask = mask.repeat_interleave(cfg.n, 0)
        logits = out.logits[:, -1].float().repeat_interleave(cfg.n, 0)

        stop = torch.tensor(self.stop, device=self.device)
        rows = torch.arange(len(mask), device=self.device)  # which answer each row of the batch is
        alive = torch.ones(len(mask), dtype=torch.bool, device=self.device)
        tokens = torch.full((len(mask), cfg.max_new_tokens), self.pad, device=self.device)
        lengths = torch.full((len(mask),), cfg.max_new_tokens, device=self.device)
        ended = torch.zeros(len(mask), dtype=torch.bool, device=self.device)
        likelihood = torch.zeros(len(mask), dtype=torch.float64, device=self.device)
        for step in range(cfg.max_new_tokens):
            try:
                drawn = draw(logits, cfg.temperature, cfg.top_p, cfg.top_k, generator)
            except NotFinite as error:
                raise NotFinite(sorted({int(rows[row]) // cfg.n for row in error.rows})) from error
            tokens[rows, step] = drawn
            if cfg.logprobs:
                own = logits.gather(1, drawn[:, None])[:, 0] - logits.logsumexp(-1)
                likelihood[rows] += torch.where(alive, own, 0.0).double()
            over = alive & torch.isin(drawn, stop)
            lengths[rows[over]] = step + 1
            ended[rows[over]] = True
            counted = alive & self.reader.counts(drawn) if self.reader else torch.zeros_like(alive)
            alive = alive & ~over
            last = step + 1 == cfg.max_new_tokens or not bool(alive.any())
            wanted = counted if last else alive | counted
            left = int(wanted.sum())
            if left == 0:
                break
            if last or len(wanted) - left > self.COMPACT * len(wanted):
                keep = wanted.nonzero().squeeze(1)
                cache.batch_select_indices(keep)
                rows, mask, drawn, alive, counted = (part[keep] for part in (rows, mask, drawn, alive, counted))
            if self.reader is not None:
                self.reader.read_tokens(rows, drawn, counted)
            positions = mask.sum(-1, keepdim=True)
            mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
            out = self.model(
                input_ids=drawn[:, None],
                attention_mask=mask,
                position_ids=positions,
                past_key_values=cache,
                use_cache=True,
            )
            if last:
                break
            logits = out.logits[:, -1].float()
        sums = likelihood.tolist() if cfg.logprobs else [None] * len(tokens)
        answers = [
            Answer(line[:length], "stop" if stopped else "length", logprob)
            for line, length, stopped, logprob in zip(
                tokens.tolist(), lengths.tolist(), ended.tolist(), sums, strict=True
            )
        ]
        return [answers[start : start + cfg.n] for start in range(0, len(answers), cfg.n)]

    def close(self) -> None:
        import gc

        import torch

        del self.model
        gc.collect()
        if self.device == "cuda":
            torch.cuda.empty_cache()


def draw(
    logits: torch.Tensor, temperature: float, top_p: float, top_k: int, generator: torch.Generator
) -> torch.Tensor:
    """One token per row of ``logits`` (rows, vocabulary) -> (rows,): temperature, then top-k, then top-p.

    Top-p keeps a token when less than ``top_p`` of the mass is on more probable ones, as both libraries do, but
    nothing is sorted (sorting 80 rows of 49,152 costs as much as the model): a token is drawn from the whole
    distribution and, if refused, drawn again among the more probable ones only, which is the same distribution.
    Tokens tied at a limit are all kept. Raises ``NotFinite`` naming rows.
    """
    import torch

    bad = (~torch.isfinite(logits.sum(-1))).nonzero().flatten().tolist()
    if bad:
        raise NotFinite(bad)
    if temperature == 0:
        return logits.argmax(-1)
    logits = logits / temperature
    if 0 < top_k < logits.shape[-1]:
        logits = logits.masked_fill(logits < logits.topk(top_k).values[:, -1:], float("-inf"))
    probabilities = logits.softmax(-1)
    drawn = torch.empty(len(logits), dtype=torch.long, device=logits.device)
    waiting = torch.arange(len(logits), device=logits.device)
    weights = probabilities
    while len(waiting):
        mass = weights.cumsum(-1)
        point = torch.rand(len(waiting), 1, generator=generator, device=logits.device) * mass[:, -1:]
        token = torch.searchsorted(mass, point, right=True).clamp_(max=logits.shape[-1] - 1)
        probability = weights.gather(1, token)
        above = (probabilities * (probabilities > probability)).sum(-1)
        kept = (probability[:, 0] > 0) & ((above < top_p) if top_p < 1 else True)
        drawn[waiting[kept]] = token[kept, 0]
        refused = ~kept
        waiting, probabilities, probability = waiting[refused], probabilities[refused], probability[refused]
        weights = weights[refused] * (probabilities > probability)
    return drawn
