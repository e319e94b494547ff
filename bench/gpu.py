"""Scoring and sampling speed on a GPU, with a randomly initialised model of LLaMA-3-8B's shape: nothing is downloaded.

Needs torch and transformers alone; vLLM samples where it is installed. Scoring is compared with one answer at a time
(``bench.scoring``'s reference) and with the matrix products that this GPU reaches. The result is written to
``--out`` for the estimate of ``make plan PROFILE=paper``. ``--tiny`` tries the script on a small model, also on a CPU;
its figures say nothing and are not written.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.shared import read_rows, show

SHAPE = {
    "vocab_size": 128_256,
    "hidden_size": 4096,
    "intermediate_size": 14_336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "max_position_embeddings": 8192,
    "rope_theta": 500_000.0,
}
SHAPES = {
    "llama3_8b": SHAPE,
    "llama3_1b": {**SHAPE, "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16},
}
TINY = {
    "vocab_size": 2048,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 5,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 2048,
}
NO_GPU = """torch sees no GPU, so there is nothing to measure here.
This benchmark wants an NVIDIA GPU with 24 GB or more and the CUDA build of torch (python -c "import torch;
print(torch.version.cuda)" should name a version). To try the script on a small model: make bench-gpu ARGS=--tiny"""


def arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    """The options of a command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tiny", action="store_true", help="a small model, on whatever device is there")
    parser.add_argument("--shape", default="llama3_8b", choices=sorted(SHAPES), help="of the model (llama3_8b)")
    parser.add_argument("--records", type=int, default=None, help="records scored (128; tiny: 6)")
    parser.add_argument("--reference-records", type=int, default=None, help="of these, one answer at a time (16; 3)")
    parser.add_argument("--samples", type=int, default=5)
    parser.add_argument("--answer-tokens", type=int, default=None, help="tokens of an answer (256; tiny: 24)")
    parser.add_argument("--tokens-per-batch", type=int, default=65_536)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--engine", default="auto", choices=("auto", "hf", "vllm", "none"))
    parser.add_argument("--out", type=Path, default=Path("runs/bench/gpu.json"))
    args = parser.parse_args(words)
    args.records = args.records or (6 if args.tiny else 128)
    args.reference_records = args.reference_records or (3 if args.tiny else 16)
    args.answer_tokens = args.answer_tokens or (24 if args.tiny else 256)
    return args


def main() -> int:
    args = arguments()

    import torch

    if not torch.cuda.is_available() and not args.tiny:
        print(NO_GPU)
        return 1
    result = measure(args)
    show(result)
    if not args.tiny:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
        print(f"written to {args.out}")
    return 0


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """The figures, with where and with what they were measured."""
    import torch
    import transformers

    from adg.artifacts import provenance

    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    tokenizer, items = _texts(args)
    model = _model(TINY if args.tiny else SHAPES[args.shape], device, dtype, tokenizer)
    rate = peak(device, dtype, 512 if args.tiny else 8192)
    result: dict[str, Any] = {
        "benchmark": "gpu",
        "shape": "tiny" if args.tiny else args.shape,
        "dtype": str(dtype).removeprefix("torch."),
        "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
        "matrix_product_tflops": round(rate / 1e12, 3),
        "answers": args.samples,
        "answer_tokens": args.answer_tokens,
        "scoring": _scoring(args, model, tokenizer, items, rate),
    }
    result["sampling"] = _sampling(args, model, tokenizer, items)
    if device == "cuda":
        result["peak_gpu_memory_gib"] = round(torch.cuda.max_memory_allocated() / 2**30, 2)
    result |= {
        "machine": provenance.machine(),
        "versions": {"torch": torch.__version__, "cuda": torch.version.cuda, "transformers": transformers.__version__},
    }
    return result


def _model(shape: dict[str, Any], device: str, dtype: Any, tokenizer: Any) -> Any:
    """A model of ``shape`` with random weights, made on ``device`` in ``dtype``."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        **shape,
        rms_norm_eps=1e-5,
        tie_word_embeddings=False,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        devices = range(torch.cuda.device_count())
        with torch.random.fork_rng(devices=devices), torch.device(device):
            torch.manual_seed(0)
            return LlamaForCausalLM(config).eval()
    finally:
        torch.set_default_dtype(before)


def _texts(args: argparse.Namespace) -> tuple[Any, list[tuple[Any, list[str]]]]:
    """A small tokenizer trained on the embedded pools, and records with answers of ``--answer-tokens`` tokens each."""
    from tokenizers import Tokenizer, decoders, pre_tokenizers, processors
    from tokenizers.models import BPE
    from tokenizers.trainers import BpeTrainer
    from transformers import PreTrainedTokenizerFast

    from adg import prompts, seeds
    from adg.pools.records import Record

    rows = read_rows(None, ())
    core = Tokenizer(BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    core.train_from_iterator(
        (str(row[name]) for row in rows for name in ("instruction", "output")),
        BpeTrainer(
            vocab_size=2048,
            special_tokens=["<s>", "</s>", "<pad>"],
            show_progress=False,
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        ),
    )
    core.post_processor = processors.TemplateProcessing(single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", 0)])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<s>", eos_token="</s>", pad_token="<pad>")
    draw = seeds.generator(0, "bench", "gpu")
    words = " ".join(str(row["output"]) for row in rows).split()
    items = []
    for i in range(args.records):
        row = rows[(i * 37) % len(rows)]
        answers = []
        for _ in range(args.samples):
            text = " ".join(words[int(j)] for j in draw.integers(len(words), size=args.answer_tokens))
            answers.append(tokenizer.decode(prompts.encode(tokenizer, text)[: args.answer_tokens]))
        items.append((Record(i, str(row["instruction"])), answers))
    return tokenizer, items


def peak(device: str, dtype: Any, side: int) -> float:
    """Floating-point operations a second of large square matrix products, the best of ten."""
    import torch

    draw = torch.Generator(device).manual_seed(0)
    a, b = (torch.randn(side, side, device=device, dtype=dtype, generator=draw) for _ in range(2))
    times = []
    for _ in range(10):
        started = _now()
        for _ in range(4):
            a @ b
        times.append((_now() - started) / 4)
    return 2 * side**3 / min(times)


def _scoring(
    args: argparse.Namespace, model: Any, tokenizer: Any, items: list[tuple[Any, list[str]]], fastest: float
) -> dict[str, Any]:
    """Answers and tokens a second of ``Encoder``, and of one answer at a time."""
    import numpy as np

    from adg import geometry
    from adg.embedding.config import EmbeddingConfig
    from adg.embedding.encoder import Encoder
    from bench.scoring import reference

    cfg = EmbeddingConfig()
    few = items[: args.reference_records]
    slow_seconds = []
    for _ in range(args.repeats + 1):
        started = _now()
        plain = np.stack([reference(model, tokenizer, cfg, record, answers) for record, answers in few])
        slow_seconds.append(_now() - started)
    run = 0

    def count(module: Any, inputs: Any, output: Any) -> None:
        nonlocal run
        run += inputs[0].numel()

    encoder = Encoder(model, tokenizer, cfg, args.tokens_per_batch)
    handle = model.base_model.embed_tokens.register_forward_hook(count)
    seconds = []
    for _ in range(args.repeats + 1):
        run, started = 0, _now()
        vectors = encoder.embed(items, args.samples)
        grams = geometry.gram(vectors.answers[:, :, 0])
        seconds.append(_now() - started)
    handle.remove()
    del slow_seconds[0], seconds[0]  # the first of each warms up
    if vectors.failed:
        raise SystemExit(f"records failed, first {vectors.failed[0]}")
    parameters = sum(p.numel() for layer in model.base_model.layers for p in layer.parameters() if p.dim() > 1)
    median, slow = statistics.median(seconds), statistics.median(slow_seconds)
    texts, per_answer = args.samples + 1, slow / (len(few) * args.samples)
    return {
        "records": len(items),
        "texts_a_record": texts,
        "seconds": [round(s, 3) for s in seconds],
        "answers_per_second": round(len(items) * args.samples / median, 2),
        "tokens_per_second": round(vectors.counts["tokens"] / median, 1),
        "tokens_run_per_second": round(run / median, 1),
        "share_of_peak": round(2 * parameters * run / median / fastest, 3),
        "reference_seconds": [round(s, 3) for s in slow_seconds],
        "reference_records": len(few),
        "reference_answers_per_second": round(1 / per_answer, 2),
        "ratio": round(per_answer / (median / (len(items) * args.samples)), 2),
        "largest_gram_difference": float(np.abs(grams[: len(few)] - plain).max()),
    }


def _sampling(args: argparse.Namespace, model: Any, tokenizer: Any, items: list[tuple[Any, list[str]]]) -> Any:
    """Tokens a second at the paper's settings, or why there is no figure."""
    import torch

    from adg import prompts

    name = args.engine
    if name == "auto":
        name = "vllm" if torch.cuda.is_available() and importlib.util.find_spec("vllm") else "hf"
    if name == "none":
        return "not measured: --engine none"
    rows = [prompts.encode_prompt(tokenizer, prompts.render(record.instruction)) for record, _ in items]
    sample = {"hf": _with_transformers, "vllm": _with_vllm}[name]
    seconds, tokens = sample(args, model, tokenizer, rows)
    return {
        "engine": name,
        "prompts": len(rows),
        "tokens": tokens,
        "seconds": round(seconds, 3),
        "tokens_per_second": round(tokens / seconds, 1),
    }


def _with_transformers(
    args: argparse.Namespace, model: Any, tokenizer: Any, rows: list[list[int]]
) -> tuple[float, int]:
    from adg.answers.config import SamplingConfig
    from adg.answers.transformers_engine import TransformersEngine

    engine = TransformersEngine.__new__(TransformersEngine)  # a model in memory instead of an artifact on disk
    engine.device, engine.model, engine.stop, engine.pad = str(model.device.type), model, [-1], tokenizer.pad_token_id
    engine.reader = None
    cfg = SamplingConfig(n=args.samples, max_new_tokens=args.answer_tokens)
    engine.sample(rows[:2], SamplingConfig(n=args.samples, max_new_tokens=2), 0)  # warm-up
    started, tokens = _now(), 0
    for i in range(0, len(rows), 16):
        tokens += sum(len(one.ids) for drawn in engine.sample(rows[i : i + 16], cfg, i) for one in drawn)
    return _now() - started, tokens


def _with_vllm(args: argparse.Namespace, model: Any, tokenizer: Any, rows: list[list[int]]) -> tuple[float, int]:
    """vLLM with random weights of the same shape; the model above gives its memory back first."""
    import gc

    import torch
    from vllm import LLM, SamplingParams

    with tempfile.TemporaryDirectory() as folder:
        model.config.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        dtype = str(model.dtype).removeprefix("torch.")
        model.to("meta")
        gc.collect()
        torch.cuda.empty_cache()
        llm = LLM(model=folder, load_format="dummy", dtype=dtype, seed=0, max_model_len=2048, disable_log_stats=True)
        params = SamplingParams(
            n=args.samples,
            temperature=1.4,
            top_p=0.9,
            top_k=0,
            max_tokens=args.answer_tokens,
            ignore_eos=True,
            detokenize=False,
        )
        inputs = [{"prompt_token_ids": ids} for ids in rows]
        llm.generate(inputs[:2], params, use_tqdm=False)  # warm-up
        started = _now()
        done = llm.generate(inputs, params, use_tqdm=False)
        seconds = _now() - started
    return seconds, sum(len(one.token_ids) for output in done for one in output.outputs)


def _now() -> float:
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


if __name__ == "__main__":
    sys.exit(main())
