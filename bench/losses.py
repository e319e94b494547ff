"""Speed of the loss scorer against one text at a time, on the same records, model and machine, in one run.

Two references: ``official`` does what IFD's script does (all logits, the library's loss, then a log-softmax for each
token in a loop), ``library`` is the plainest that can be written (all logits and the library's loss). All give the
same losses; the largest difference is printed beside the ratios. Seconds of the processor stand beside those of the
clock, for machines that do other work meanwhile.
"""

from __future__ import annotations

import argparse
from typing import Any

from bench.shared import environment, model_arguments, open_backbone, race, read_rows, show

LAYOUTS = {"ifd": ("alpaca", 512, None), "superfiltering": ("none", 1024, 1)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    model_arguments(parser, "instruction, input and output", records=32)
    parser.add_argument("--layout", default="ifd", choices=sorted(LAYOUTS))
    args = parser.parse_args()

    import numpy as np

    from adg.backbones import loading
    from adg.batching import batch_tokens
    from adg.execution import ExecConfig
    from adg.pools.records import Record
    from baselines.shared.loss_texts import LossesConfig, LossTexts, Text
    from baselines.shared.scorer import Scorer

    device = loading.device(ExecConfig(device=args.device))
    prompt, limit, slack = LAYOUTS[args.layout]
    with open_backbone(args) as backbone:
        tokenizer, model = loading.load_tokenizer(backbone), loading.load_model(backbone, device)
    rows = read_rows(args.pool, ("instruction", "input", "output"))
    chosen = rows[:: max(1, len(rows) // args.records)][: args.records]
    pool = [Record(i, r["instruction"], r.get("input") or "", r["output"]) for i, r in enumerate(chosen)]
    layout = LossTexts(LossesConfig(prompt, limit, slack), tokenizer)
    texts = [text for record in pool for text in layout.texts(record) if isinstance(text, Text)]
    scorer = Scorer(model, batch_tokens(args.tokens_per_batch, device))
    ways = {
        "official": lambda: np.array([_official(model, text) for text in texts]),
        "library": lambda: np.array([_library(model, text) for text in texts]),
        "ours": lambda: scorer.score(texts),
    }
    references = ("official", "library")
    scorer.score(texts[:2])  # warm-up
    losses, figures, seconds = race(ways, args.repeats, references)
    tokens = sum(len(text.ids) for text in texts)
    show(
        {
            "benchmark": "losses",
            "layout": args.layout,
            "dtype": args.dtype,
            "records": len(pool),
            "texts": len(texts),
            "tokens": tokens,
            "response_tokens": sum(text.tokens for text in texts),
            "tokens_per_batch": scorer.tokens_per_batch,
            **figures,
            "tokens_per_second": {name: round(tokens / median, 1) for name, median in seconds.items()},
            "largest_difference": {name: float(np.abs(losses["ours"] - losses[name]).max()) for name in references},
            **environment(device),
        }
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


if __name__ == "__main__":
    main()
