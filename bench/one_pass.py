"""ADG end to end, instructions to Gram matrices: one pass and two against the released code's way, in the same run.

The reference does what the released code does, written anew: one prompt at a time, its K answers by transformers'
``generate()``, then each answer alone through the whole model with all hidden states returned, every token decoded for
its weight (``bench.scoring.reference``). Loading is timed nowhere. Draws differ between the ways, so tokens are printed
beside seconds. Parity of one pass with two is measured on the very same answers, where an answer's text is encoded to
the tokens that were sampled.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from bench.scoring import reference
from bench.shared import environment, model_arguments, open_backbone, race, read_rows, show


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    model_arguments(parser, "instruction and input", records=16)
    parser.add_argument("--samples", type=int, default=5, help="answers a record")
    parser.add_argument("--new-tokens", type=int, default=48, help="longest answer")
    parser.add_argument("--batch-size", type=int, default=16, help="prompts sampled at once")
    parser.add_argument("--only", nargs="+", choices=("reference", "two_passes", "ours"), help="ways that are run")
    args = parser.parse_args()

    from adg import prompts
    from adg.answers.config import Answers, EngineConfig, SamplingConfig
    from adg.answers.transformers_engine import TransformersEngine
    from adg.backbones import loading
    from adg.backbones.on_cpu import share_keys
    from adg.embedding.config import EmbeddingConfig
    from adg.embedding.encoder import Encoder
    from adg.embedding.one_pass import AnswerPooling, AnswerStates
    from adg.execution import ExecConfig
    from adg.pools.records import Record

    exec_, cfg = ExecConfig(device=args.device), EmbeddingConfig()
    sampling = SamplingConfig(n=args.samples, max_new_tokens=args.new_tokens)
    rows = read_rows(args.pool, ("instruction", "input"))
    chosen = rows[:: max(1, len(rows) // args.records)][: args.records]
    pool = [Record(i, row["instruction"], row.get("input") or "", "") for i, row in enumerate(chosen)]
    with open_backbone(args) as backbone:
        tokenizer, device = loading.load_tokenizer(backbone), loading.device(exec_)
        engine = TransformersEngine(backbone, tokenizer, Answers(sampling, EngineConfig(), ""), exec_, 0)
        headless = loading.load_model(backbone, device, headless=True)
        share_keys(headless)
        encoder = Encoder(headless, tokenizer, cfg, args.tokens_per_batch)
        whole = loading.load_model(backbone, device)
    states = AnswerStates(
        engine.model, tokenizer, AnswerPooling(cfg.declared, cfg.token_weights, cfg.max_tokens, cfg.empty_answer)
    )
    asked = {r.key: prompts.encode_prompt(tokenizer, prompts.render(r.instruction, r.input)) for r in pool}
    way = Ways(engine, encoder, states, whole, tokenizer, cfg, sampling, pool, asked, args.batch_size)
    ways: dict[str, Callable[[], Any]] = {"ours": way.one_pass, "two_passes": way.two_passes, "reference": way.released}
    ways = {name: made for name, made in ways.items() if name in (args.only or ways)}
    way.one_pass(list(asked)[:2])  # warm-up
    results, figures, seconds = race(ways, args.repeats, [name for name in ways if name != "ours"], next(iter(ways)))
    show(
        {
            "benchmark": "one_pass",
            "dtype": args.dtype,
            "records": len(pool),
            "answers": len(pool) * args.samples,
            "longest_answer": args.new_tokens,
            **figures,
            "tokens": {name: tokens for name, (_, tokens) in results.items()},
            "seconds_per_1000_tokens": {
                name: round(1000 * median / results[name][1], 2) for name, median in seconds.items()
            },
            "parity": way.parity(),
            **environment(device),
        }
    )


@dataclass
class Ways:
    """The same instructions made into Gram matrices (n, K, K) in three ways; each also says how many tokens it drew."""

    engine: Any  # samples
    encoder: Any  # runs texts, and the instructions of all but the reference
    states: Any  # looks on in one pass
    whole: Any  # the reference's model
    tokenizer: Any
    cfg: Any  # of the embedding
    sampling: Any
    pool: list[Any]
    asked: dict[str, list[int]]  # record key -> its prompt
    size: int  # prompts sampled at once
    kept: list[Any] = field(default_factory=list)  # answers and vectors of the last one pass, by batch

    def _batches(self, keys: list[str]) -> list[dict[str, list[int]]]:
        keys = sorted(keys, key=lambda key: len(self.asked[key]))
        return [
            {key: self.asked[key] for key in keys[start : start + self.size]}
            for start in range(0, len(keys), self.size)
        ]

    def _sample(self, batch: dict[str, list[int]], seed: int) -> tuple[dict[str, Any], dict[str, list[str]]]:
        """The answers of a batch, and their texts."""
        drawn = dict(zip(batch, self.engine.sample(list(batch.values()), self.sampling, seed), strict=True))
        texts = {
            key: [self.tokenizer.decode(one.ids, skip_special_tokens=True).strip() for one in answers]
            for key, answers in drawn.items()
        }
        return drawn, texts

    def one_pass(self, keys: list[str] | None = None) -> tuple[Any, int]:
        """Windows of the answers as they are sampled, then the instructions."""
        from adg import geometry
        from adg.embedding.one_pass import COUNTS

        self.engine.reader = self.states
        grams: dict[str, Any] = {}
        tokens = 0
        self.kept = []
        for seed, batch in enumerate(self._batches(keys or list(self.asked))):
            drawn, texts = self._sample(batch, seed)
            failed: dict[str, str] = {}
            made = self.states.vectors(batch, drawn, texts, dict.fromkeys(COUNTS, 0), failed)
            if failed:
                raise SystemExit(f"records failed: {failed}")
            grams |= {key: geometry.gram(windows[0][None])[0] for key, windows in made.items()}
            tokens += sum(len(one.ids) for answers in drawn.values() for one in answers)
            self.kept.append((drawn, made))
        self.encoder.embed([(record, []) for record in self.pool if record.key in grams], 0)
        return [grams[key] for key in keys or self.asked], tokens

    def two_passes(self) -> tuple[Any, int]:
        """Texts sampled, then run again."""
        from adg import geometry

        self.engine.reader, tokens = None, 0
        texts: dict[str, list[str]] = {}
        for seed, batch in enumerate(self._batches(list(self.asked))):
            drawn, own = self._sample(batch, seed)
            texts |= own
            tokens += sum(len(one.ids) for answers in drawn.values() for one in answers)
        vectors = self.encoder.embed([(record, texts[record.key]) for record in self.pool], self.sampling.n)
        return geometry.gram(vectors.answers[:, :, 0]), tokens

    def released(self) -> tuple[Any, int]:
        """One prompt at a time, then one text at a time."""
        import torch

        from adg.seeds import preserved_generators

        grams, tokens = [], 0
        for number, record in enumerate(self.pool):
            ids = torch.tensor([self.asked[record.key]], device=self.whole.device)
            with preserved_generators(), torch.no_grad():
                torch.manual_seed(number)
                out = self.whole.generate(
                    ids,
                    attention_mask=torch.ones_like(ids),
                    do_sample=True,
                    temperature=self.sampling.temperature,
                    top_p=self.sampling.top_p,
                    top_k=self.sampling.top_k,
                    max_new_tokens=self.sampling.max_new_tokens,
                    num_return_sequences=self.sampling.n,
                    pad_token_id=self.tokenizer.pad_token_id,
                    eos_token_id=self.engine.stop,
                )[:, ids.shape[1] :]
            ended = torch.isin(out, torch.tensor(self.engine.stop, device=out.device))
            tokens += int(((ended.cumsum(1) - ended.int()) == 0).sum())
            answers = [text.strip() for text in self.tokenizer.batch_decode(out, skip_special_tokens=True)]
            grams.append(reference(self.whole, self.tokenizer, self.cfg, record, answers))
        return grams, tokens

    def parity(self) -> dict[str, Any]:
        """One pass against two on the answers of the last one pass, their texts as they were sampled: the largest
        difference of a Gram matrix's entries between answers that are encoded to the sampled tokens, and how many these
        are; fewer where the blanks around a text are stripped, as sampling does by default."""
        from adg import geometry, prompts

        if len(self.kept) != len(self._batches(list(self.asked))):
            self.one_pass()
        largest, same, stripped, pairs = 0.0, 0, 0, 0
        by_key = {record.key: record for record in self.pool}
        for drawn, made in self.kept:
            texts: dict[str, list[str]] = {}
            fits: dict[str, Any] = {}
            for key, answers in drawn.items():
                ids = [one.ids[:-1] if one.ids[-1] in self.engine.stop else one.ids for one in answers]
                texts[key] = self.tokenizer.batch_decode(ids, skip_special_tokens=True)
                both = list(zip(texts[key], ids, strict=True))
                fits[key] = np.array([prompts.encode(self.tokenizer, text) == own for text, own in both])
                stripped += sum(prompts.encode(self.tokenizer, text.strip()) == own for text, own in both)
            expected = self.encoder.embed([(by_key[key], texts[key]) for key in drawn], self.sampling.n)
            for row, key in enumerate(expected.keys):
                compared = np.outer(fits[key], fits[key])
                found = geometry.gram(made[key][0][None])[0]
                wanted = geometry.gram(expected.answers[row : row + 1, :, 0])[0]
                largest = max(largest, float(np.abs(found - wanted)[compared].max(initial=0)))
                same, pairs = same + int(fits[key].sum()), pairs + int(compared.sum())
        return {
            "answers": len(self.pool) * self.sampling.n,
            "encoded_to_the_same_tokens": same,
            "the_same_when_stripped": stripped,
            "gram_entries_compared": pairs,
            "largest_gram_difference": largest if pairs else None,
        }


if __name__ == "__main__":
    main()
