"""Speed of the loss scorer against one text at a time, on the same records, model and machine, in one run.

Two references: ``official`` does what IFD's script does (all logits, the library's loss, then a log-softmax for each
token in a loop), ``library`` is the plainest that can be written (all logits and the library's loss). All give the
same losses; the largest difference is printed beside the ratios. Seconds of the processor stand beside those of the
clock, for machines that do other work meanwhile.
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

LAYOUTS = {"ifd": ("alpaca", 512, None), "superfiltering": ("none", 1024, 1)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backbone", default="smollm2_135m", help="an embedded backbone")
    parser.add_argument("--model", type=Path, help="a model folder instead, as written by save_pretrained")
    parser.add_argument(
        "--pool",
        type=Path,
        help="rows with instruction, input and output (parquet or JSON Lines); default: the embedded pools",
    )
    parser.add_argument("--layout", default="ifd", choices=sorted(LAYOUTS))
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16", "float16"))
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    parser.add_argument("--records", type=int, default=32)
    parser.add_argument("--tokens-per-batch", type=int, default=4096)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()

    import numpy as np
    import torch

    from adg.artifacts import provenance
    from adg.artifacts.store import Store
    from adg.backbones import loading
    from adg.backbones import stage as backbone_stage
    from adg.backbones.config import BackboneConfig
    from adg.execution import ExecConfig
    from adg.pools.records import Record
    from baselines.shared.loss_texts import Layout, LossesConfig, Text
    from baselines.shared.scorer import Scorer, batch_tokens

    device = loading.device(ExecConfig(device=args.device))
    prompt, limit, slack = LAYOUTS[args.layout]
    with tempfile.TemporaryDirectory() as folder:
        source = {"path": str(args.model)} if args.model else {"builder": args.backbone}
        backbone = Store(folder, ExecConfig()).ensure(
            backbone_stage.node(BackboneConfig(name="bench", dtype=args.dtype, **source))
        )
        tokenizer, model = loading.load_tokenizer(backbone), loading.load_model(backbone, device)
    rows = _rows(args.pool)
    chosen = rows[:: max(1, len(rows) // args.records)][: args.records]
    pool = [Record(i, r["instruction"], r.get("input") or "", r["output"]) for i, r in enumerate(chosen)]
    layout = Layout(LossesConfig(prompt, limit, slack), tokenizer)
    texts = [text for record in pool for text in layout.texts(record) if isinstance(text, Text)]
    scorer = Scorer(model, batch_tokens(args.tokens_per_batch, device))
    ways = {
        "official": lambda: np.array([_official(model, text) for text in texts]),
        "library": lambda: np.array([_library(model, text) for text in texts]),
        "ours": lambda: scorer.score(texts),
    }
    clock: dict[str, list[float]] = {name: [] for name in ways}
    processor: dict[str, list[float]] = {name: [] for name in ways}
    found: dict[str, Any] = {}
    scorer.score(texts[:2])  # warm-up
    for _ in range(args.repeats):
        for name, way in ways.items():
            started, used = time.perf_counter(), time.process_time()
            found[name] = way()
            clock[name].append(time.perf_counter() - started)
            processor[name].append(time.process_time() - used)
    seconds = {name: statistics.median(times) for name, times in clock.items()}
    used_seconds = {name: statistics.median(times) for name, times in processor.items()}
    print(
        json.dumps(
            {
                "benchmark": "likelihood",
                "layout": args.layout,
                "dtype": args.dtype,
                "records": len(pool),
                "texts": len(texts),
                "tokens": sum(len(text.ids) for text in texts),
                "response_tokens": sum(text.tokens for text in texts),
                "tokens_per_batch": scorer.tokens_per_batch,
                "ratio": {name: round(seconds[name] / seconds["ours"], 2) for name in ("official", "library")},
                "ratio_of_processor_time": {
                    name: round(used_seconds[name] / used_seconds["ours"], 2) for name in ("official", "library")
                },
                "seconds": {name: [round(t, 2) for t in times] for name, times in clock.items()},
                "processor_seconds": {name: [round(t, 2) for t in times] for name, times in processor.items()},
                "tokens_per_second": {
                    name: round(sum(len(text.ids) for text in texts) / value, 1) for name, value in seconds.items()
                },
                "largest_difference": {
                    name: float(np.abs(found["ours"] - found[name]).max()) for name in ("official", "library")
                },
                "peak_memory_gib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
                "machine": provenance.machine(),
                "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
                "threads": torch.get_num_threads(),
                "versions": {name: provenance.library_versions()[name] for name in ("torch", "transformers")},
            },
            indent=2,
        )
    )


def _library(model: Any, text: Any) -> float:
    """Mean loss of one text, by the model's own loss."""
    import torch

    ids = torch.tensor(text.ids.tolist(), device=model.device)[None]
    labels = ids.clone()
    labels[:, : text.start] = -100
    with torch.no_grad():
        return float(model(ids, labels=labels).loss)


def _official(model: Any, text: Any) -> float:
    """The same, and after it a log-softmax over the vocabulary for each token of the text, one after the other."""
    import torch

    ids = torch.tensor(text.ids.tolist(), device=model.device)[None]
    with torch.no_grad():
        logits = model(ids, labels=ids.clone()).logits[0]
        losses = []
        for i in range(1, ids.shape[1]):
            log_probabilities = torch.log_softmax(logits[i - 1].float(), dim=0)
            losses.append(-float(log_probabilities[ids[0, i]]))
    return sum(losses[text.start - 1 :]) / text.tokens


def _rows(path: Path | None) -> list[dict[str, Any]]:
    if path is not None and path.suffix == ".parquet":
        import pyarrow.parquet as pq

        return pq.read_table(path, columns=["instruction", "input", "output"]).to_pylist()
    files = [path] if path is not None else sorted((ROOT / "adg" / "mini" / "pools").glob("*.jsonl"))
    return [json.loads(line) for file in files for line in file.read_text().splitlines() if line.strip()]


if __name__ == "__main__":
    main()
