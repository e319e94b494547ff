"""Scoring speed: ``adg.embedding.encoder`` against one answer at a time, on the same records, answers and machine.

The reference does what the released code does: each text alone through the whole model with its head, all hidden
states returned, every token decoded for its weight. Both give the same Gram matrices; the largest difference is
printed beside the ratio.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from bench.shared import environment, model_arguments, open_backbone, race, read_rows, show

Items = list[tuple[Any, list[str]]]  # a record and its answers


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    model_arguments(parser, "instruction and input", records=16)
    parser.add_argument("--answers", type=Path, help="sampled answers are kept in this file and used again")
    parser.add_argument("--preset", default="paper", choices=("paper", "released"))
    parser.add_argument("--samples", type=int, nargs="+", default=[5, 10], help="answers a record")
    parser.add_argument("--new-tokens", type=int, nargs="+", default=[16, 64], help="longest answer")
    parser.add_argument("--plain", action="store_true", help="time the path without shared prefixes as well")
    args = parser.parse_args()

    from adg.backbones import loading
    from adg.embedding.config import EmbeddingConfig
    from adg.embedding.encoder import Encoder
    from adg.execution import ExecConfig

    device = loading.device(ExecConfig(device=args.device))
    cfg = EmbeddingConfig(preset=args.preset)
    with open_backbone(args) as backbone:
        tokenizer = loading.load_tokenizer(backbone)
        whole = loading.load_model(backbone, device)
        headless = {
            name: loading.load_model(backbone, device, headless=True) for name in ("ours", *["plain"][: args.plain])
        }
    encoders = {
        name: Encoder(model, tokenizer, cfg, args.tokens_per_batch, share_prefix=name == "ours")
        for name, model in headless.items()
    }
    items = _items(args, whole, tokenizer)
    _grams(encoders["ours"], items)  # warm-up
    show(
        {
            "benchmark": "scoring",
            "preset": args.preset,
            "dtype": args.dtype,
            "records": len(items),
            "tokens_per_batch": args.tokens_per_batch,
            "runs": {
                f"K={samples}, up to {length} tokens": _compare(
                    whole, tokenizer, cfg, encoders, _cut(items, tokenizer, samples, length), args.repeats
                )
                for samples in args.samples
                for length in args.new_tokens
            },
            **environment(device),
        }
    )


def _grams(encoder: Any, items: Items) -> tuple[Any, int]:
    """Gram matrices (n, K, K) of the first window, and how many distinct tokens were run."""
    from adg import geometry

    vectors = encoder.embed(items, len(items[0][1]))
    if vectors.failed:
        raise SystemExit(f"records failed: {vectors.failed}")
    return geometry.gram(vectors.answers[:, :, 0]), vectors.counts["tokens"]


def _compare(whole: Any, tokenizer: Any, cfg: Any, encoders: dict[str, Any], items: Items, repeats: int) -> Any:
    """Times of the reference and of each encoder on the same items, and how far their results lie apart."""
    import numpy as np

    from adg import geometry

    def one_by_one() -> tuple[Any, int]:
        return np.stack([reference(whole, tokenizer, cfg, record, answers) for record, answers in items]), 0

    def by(encoder: Any) -> Any:
        return lambda: _grams(encoder, items)

    ways = {"reference": one_by_one, **{name: by(encoder) for name, encoder in encoders.items()}}
    results, figures, seconds = race(ways, repeats, [name for name in ways if name != "ours"])
    expected = results["reference"][0]
    texts = len(items) * (len(items[0][1]) + 1)
    return {
        "distinct_tokens": results["ours"][1],
        **figures,
        "texts_per_second": {name: round(texts / median, 1) for name, median in seconds.items()},
        "largest_gram_difference": {
            name: float(np.abs(grams - expected).max()) for name, (grams, _) in results.items()
        },
        "largest_score_difference": {
            name: float(np.abs(geometry.divergence(grams) - geometry.divergence(expected)).max())
            for name, (grams, _) in results.items()
        },
    }


def _cut(items: list, tokenizer: Any, samples: int, length: int) -> list:
    """The first ``samples`` answers of each record, ended after ``length`` tokens."""
    from adg import prompts

    return [
        (record, [tokenizer.decode(prompts.encode(tokenizer, text)[:length]) for text in answers[:samples]])
        for record, answers in items
    ]


def reference(model: Any, tokenizer: Any, cfg: Any, record: Any, answers: list[str]) -> Any:
    """One record's Gram matrix (K, K), one answer after the other; its instruction is run as well."""
    import numpy as np
    import torch

    from adg import prompts
    from adg.embedding.texts import token_weight

    def vector(ids: list[int], start: int) -> np.ndarray:
        with torch.no_grad():
            states = model(torch.tensor([ids], device=model.device), output_hidden_states=True).hidden_states
        window = states[-4:] if cfg.preset == "paper" else states[-4:-1]
        state = torch.stack([layer[0].float() for layer in window]).mean(0)
        weights = torch.tensor([token_weight(tokenizer.decode([i], skip_special_tokens=True)) for i in ids])
        weights[:start] = 0
        if weights.sum() == 0:
            weights[start:] = 1
        weights = weights.to(state.device)[:, None]
        pooled = ((state * weights).sum(0) / weights.sum()).cpu().numpy()
        return pooled / np.linalg.norm(pooled)

    vectors = []
    for answer in answers:
        if cfg.pooling == "answer":
            ids = prompts.encode_prompt(tokenizer, prompts.render(record.instruction, record.input))
            start = len(ids) if answer.strip() else 0
            ids = ids + (prompts.encode(tokenizer, answer)[: cfg.max_tokens] if start else [])
        else:
            start, ids = 0, prompts.encode(tokenizer, f"{record.instruction} {answer}")[: cfg.max_tokens]
        vectors.append(vector(ids, start))
    vector(prompts.encode_prompt(tokenizer, record.instruction.strip(), cfg.instruction_tokens), 0)
    matrix = np.stack(vectors).astype(np.float64)
    return matrix @ matrix.T


def _items(args: argparse.Namespace, model: Any, tokenizer: Any) -> list[tuple[Any, list[str]]]:
    """Evenly spaced records with the most and longest answers asked for, sampled now or read from ``--answers``."""
    from adg.pools.records import Record

    if args.answers and args.answers.is_file():
        kept = json.loads(args.answers.read_text(encoding="utf-8"))
        items = [(Record(**entry["record"]), entry["answers"]) for entry in kept][: args.records]
        if any(len(answers) < max(args.samples) for _, answers in items):
            raise SystemExit(f"{args.answers} has fewer than {max(args.samples)} answers a record; delete it")
        return items
    rows = read_rows(args.pool, ("instruction", "input"))
    step = max(1, len(rows) // args.records)
    chosen = [Record(i, row["instruction"], row.get("input") or "", "") for i, row in enumerate(rows[::step])]
    chosen = chosen[: args.records]
    items = list(zip(chosen, _sample(args, model, tokenizer, chosen), strict=True))
    if args.answers:
        args.answers.write_text(
            json.dumps(
                [
                    {"record": {"id": r.id, "instruction": r.instruction, "input": r.input}, "answers": answers}
                    for r, answers in items
                ],
                ensure_ascii=False,
            ),
            encoding="utf-8",
        )
    return items


def _sample(args: argparse.Namespace, model: Any, tokenizer: Any, chosen: list[Any]) -> list[list[str]]:
    """Answers at the paper's sampling settings, 16 records at once."""
    import torch

    from adg import prompts, seeds

    answers: list[list[str]] = []
    for start in range(0, len(chosen), 16):
        part = chosen[start : start + 16]
        rows = [prompts.encode_prompt(tokenizer, prompts.render(r.instruction, r.input)) for r in part]
        width = max(map(len, rows))
        ids = torch.tensor([[tokenizer.pad_token_id] * (width - len(row)) + row for row in rows], device=model.device)
        mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows], device=model.device)
        devices = [model.device] if model.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices), torch.inference_mode():
            torch.manual_seed(seeds.child(0, "bench", start))
            output = model.generate(
                ids,
                attention_mask=mask,
                do_sample=True,
                temperature=1.4,
                top_p=0.9,
                top_k=0,
                max_new_tokens=max(args.new_tokens),
                num_return_sequences=max(args.samples),
                pad_token_id=tokenizer.pad_token_id,
                eos_token_id=tokenizer.eos_token_id,
            )
        texts = [text.strip() for text in tokenizer.batch_decode(output[:, width:], skip_special_tokens=True)]
        answers += [texts[i : i + max(args.samples)] for i in range(0, len(texts), max(args.samples))]
    return answers


if __name__ == "__main__":
    main()
