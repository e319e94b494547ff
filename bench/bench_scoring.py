"""Scoring speed: ``adg.embedding.encoder`` against one answer at a time, on the same records, answers and machine.

The reference does what the released code does: each text alone through the whole model with its head, all hidden
states returned, every token decoded for its weight. Both give the same Gram matrices; the largest difference is
printed beside the ratio.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backbone", default="smollm2_135m", help="an embedded backbone")
    parser.add_argument("--model", type=Path, help="a model folder instead, as written by save_pretrained")
    parser.add_argument(
        "--pool", type=Path, help="rows with instruction and input (parquet or JSON Lines); default: the embedded pools"
    )
    parser.add_argument("--answers", type=Path, help="sampled answers are kept in this file and used again")
    parser.add_argument("--preset", default="paper", choices=("paper", "released"))
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16", "float16"))
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    parser.add_argument("--records", type=int, default=16)
    parser.add_argument("--samples", type=int, nargs="+", default=[5, 10], help="answers a record")
    parser.add_argument("--new-tokens", type=int, nargs="+", default=[16, 64], help="longest answer")
    parser.add_argument("--tokens-per-batch", type=int, default=4096)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--plain", action="store_true", help="time the path without shared prefixes as well")
    args = parser.parse_args()

    import numpy as np
    import torch

    from adg import geometry
    from adg.artifacts import provenance
    from adg.artifacts.store import Store
    from adg.backbones import loading
    from adg.backbones import stage as backbone_stage
    from adg.backbones.config import BackboneConfig
    from adg.embedding.config import EmbeddingConfig
    from adg.embedding.encoder import Encoder
    from adg.execution import ExecConfig

    device = loading.device(ExecConfig(device=args.device))
    cfg = EmbeddingConfig(preset=args.preset)
    with tempfile.TemporaryDirectory() as folder:
        source = {"path": str(args.model)} if args.model else {"builder": args.backbone}
        backbone = Store(folder, ExecConfig()).ensure(
            backbone_stage.node(BackboneConfig(name="bench", dtype=args.dtype, **source))
        )
        tokenizer = loading.load_tokenizer(backbone)
        whole = loading.load_model(backbone, device)
        items = _items(args, whole, tokenizer)
        encoder = Encoder(loading.load_model(backbone, device, headless=True), tokenizer, cfg, args.tokens_per_batch)
        plain = Encoder(
            loading.load_model(backbone, device, headless=True),
            tokenizer,
            cfg,
            args.tokens_per_batch,
            share_prefix=False,
        )

    def clock() -> np.ndarray:
        """Wall seconds, and CPU seconds of this process: the second hardly feels other work on the machine."""
        return np.array([time.perf_counter(), time.process_time()])

    def ours(used: Encoder, items: list) -> tuple[np.ndarray, np.ndarray, int]:
        started = clock()
        vectors = used.embed(items, len(items[0][1]))
        grams = geometry.gram(vectors.answers[:, :, 0])
        taken = clock() - started
        if vectors.failed:
            raise SystemExit(f"records failed: {vectors.failed}")
        return taken, grams, vectors.counts["tokens"]

    def theirs(items: list) -> tuple[np.ndarray, np.ndarray, int]:
        started = clock()
        grams = np.stack([_reference(whole, tokenizer, cfg, record, answers) for record, answers in items])
        return clock() - started, grams, 0

    def compare(items: list) -> dict[str, Any]:
        runs: dict[str, list[np.ndarray]] = {"reference": [], "ours": [], **({"plain": []} if args.plain else {})}
        grams: dict[str, np.ndarray] = {}
        tokens = 0
        for _ in range(args.repeats):
            taken, grams["reference"], _ = theirs(items)
            runs["reference"].append(taken)
            taken, grams["ours"], tokens = ours(encoder, items)
            runs["ours"].append(taken)
            if args.plain:
                taken, grams["plain"], _ = ours(plain, items)
                runs["plain"].append(taken)
        median, cpu = (
            {name: statistics.median(times[i] for times in all_) for name, all_ in runs.items()} for i in (0, 1)
        )
        return {
            "distinct_tokens": tokens,
            "ratio": {name: round(median["reference"] / seconds, 2) for name, seconds in median.items()},
            "ratio_in_cpu_time": {name: round(cpu["reference"] / seconds, 2) for name, seconds in cpu.items()},
            "seconds": {name: [round(float(times[0]), 2) for times in all_] for name, all_ in runs.items()},
            "cpu_seconds": {name: [round(float(times[1]), 2) for times in all_] for name, all_ in runs.items()},
            "texts_per_second": {name: round(len(items) * (len(items[0][1]) + 1) / t, 1) for name, t in median.items()},
            "largest_gram_difference": {
                name: float(np.abs(values - grams["reference"]).max()) for name, values in grams.items()
            },
            "largest_score_difference": {
                name: float(np.abs(geometry.divergence(values) - geometry.divergence(grams["reference"])).max())
                for name, values in grams.items()
            },
        }

    ours(encoder, items)  # warm-up
    found = {
        f"K={samples}, up to {length} tokens": compare(_cut(items, tokenizer, samples, length))
        for samples in args.samples
        for length in args.new_tokens
    }
    print(
        json.dumps(
            {
                "benchmark": "scoring",
                "preset": args.preset,
                "dtype": args.dtype,
                "records": len(items),
                "tokens_per_batch": args.tokens_per_batch,
                "runs": found,
                "peak_memory_gib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
                "machine": provenance.machine(),
                "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
                "threads": torch.get_num_threads(),
                "versions": {name: provenance.library_versions()[name] for name in ("torch", "transformers")},
            },
            indent=2,
        )
    )


def _cut(items: list, tokenizer: Any, samples: int, length: int) -> list:
    """The first ``samples`` answers of each record, ended after ``length`` tokens."""
    from adg import prompts

    return [
        (record, [tokenizer.decode(prompts.encode(tokenizer, text)[:length]) for text in answers[:samples]])
        for record, answers in items
    ]


def _reference(model: Any, tokenizer: Any, cfg: Any, record: Any, answers: list[str]) -> Any:
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
        kept = json.loads(args.answers.read_text())
        items = [(Record(**entry["record"]), entry["answers"]) for entry in kept][: args.records]
        if any(len(answers) < max(args.samples) for _, answers in items):
            raise SystemExit(f"{args.answers} has fewer than {max(args.samples)} answers a record; delete it")
        return items
    rows = _rows(args.pool)
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
            )
        )
    return items


def _rows(path: Path | None) -> list[dict[str, Any]]:
    if path is not None and path.suffix == ".parquet":
        import pyarrow.parquet as pq

        return pq.read_table(path, columns=["instruction", "input"]).to_pylist()
    files = [path] if path is not None else sorted((ROOT / "adg" / "mini" / "pools").glob("*.jsonl"))
    return [json.loads(line) for file in files for line in file.read_text().splitlines() if line.strip()]


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
