"""The steps of the check, each through the stage that a study uses; one is run by each process of this module.

    python -m bench.gpu_check.steps training --out runs/gpu-check

A process a step, so that one which crashes, hangs or takes all memory costs the others nothing, and its peak of memory
is its own. It writes ``<out>/steps/<name>.json``.
"""

from __future__ import annotations

import importlib
import resource
import shutil
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from adg import extras
from adg.artifacts.artifact import Artifact
from adg.artifacts.files import write_json
from adg.backbones import loading
from adg.errors import BadMeasurement, HarnessError
from adg.evaluation import samples
from adg.evaluation.results import NOT_RUN
from adg.redaction import without_secrets
from bench.gpu_check import checked_answers, compare
from bench.gpu_check.graph import Graph, graph
from bench.gpu_check.options import Options, options

COMPARED = 24  # answers whose log-likelihoods are computed again
RECORDS = 3  # whose Gram matrices are
LARGE = 2e9  # parameters from which float64 would need more memory than a machine has: float32, of one record
WHOLE_SHAPE = 24 << 30  # bytes of GPU memory from which bench.gpu's model of 8B parameters fits


@dataclass(frozen=True)
class StepFinding:
    """What a step found: words, a rate with its unit, the precision that it ran in. ``wrong``: why it is no success."""

    said: str
    rate: str = ""
    dtype: str = ""
    wrong: str = ""


@dataclass(frozen=True)
class Check:
    """What a step works with."""

    graph: Graph
    tiny: bool

    @property
    def device(self) -> str:
        return loading.device(self.graph.config.exec)

    def build(self, name: str) -> Artifact:
        """An artifact made now, though it be there from an earlier call; what it needs is taken as it is."""
        node, store = self.graph.nodes[name], self.graph.store
        for path in (store.path(node), store.partial(node)):
            shutil.rmtree(path, ignore_errors=True)
        return store.ensure(node)

    def needed(self, name: str, step: str) -> Artifact:
        """An artifact of an earlier step. Raises ``BadMeasurement`` where that made none."""
        found = self.graph.store.find(self.graph.nodes[name])
        if found is None:
            raise BadMeasurement(f"it needs what the step {step} makes, and there is none; see there")
        return found


def machine(check: Check) -> StepFinding:
    """That torch sees the device and multiplies right on it, that vLLM can be imported, and how fast it multiplies."""
    import torch

    from bench import gpu

    vllm = importlib.import_module("vllm")
    dtype = check.graph.config.backbone.dtype
    wanted = getattr(torch, dtype if dtype in compare.TOLERANCES else "float32")
    if check.device == "cuda" and wanted is torch.bfloat16 and not torch.cuda.is_bf16_supported(False):  # not emulated
        raise BadMeasurement(f"{torch.cuda.get_device_name()} has no bfloat16; add backbone.dtype=float32")
    draw = torch.Generator().manual_seed(0)
    a, b = (torch.randn(512, 512, generator=draw, dtype=torch.float64) for _ in range(2))
    product = (a.to(check.device, wanted) @ b.to(check.device, wanted)).cpu().double()
    apart = float((product - a @ b).abs().max() / (a @ b).abs().max())
    most = 8 * torch.finfo(wanted).eps
    rate = gpu.peak(check.device, wanted, 512 if check.tiny else 8192)
    said = f"torch {torch.__version__}, vLLM {vllm.__version__}"
    if check.device == "cuda":
        own = torch.cuda.get_device_properties(0)
        said = f"{own.name}, {own.total_memory / 2**30:.0f} GiB, CUDA {torch.version.cuda}, {said}"
    wrong = f"a product of matrices is {apart:.2g} off, at most {most:.2g} is rounding" if apart > most else ""
    return StepFinding(said, f"{rate / 1e12:.3g} TFLOP/s", str(wanted).removeprefix("torch."), wrong)


def model(check: Check) -> StepFinding:
    """The pool and the backbone, as files."""
    pool, backbone = (check.build(name) for name in ("pool", "backbone"))
    dtype = loading.dtype_of(backbone)
    return StepFinding(f"{backbone.manifest['label']}, {pool.info['rows_out']} records", dtype=dtype)


def sampling(engine: str) -> Callable[[Check], StepFinding]:
    """The stage of answers with an engine."""

    def run(check: Check) -> StepFinding:
        check.needed("backbone", "model")
        info = check.build(f"answers, {engine}").info
        spent = info["sampling"]
        wrong = ""
        if info["empty"] > info["answers"] / 2:
            wrong = f"{info['empty']} of {info['answers']} answers are empty"
        said = f"{info['answers']} answers to {info['rows_out']} records, {info['tokens']} tokens"
        return StepFinding(said, f"{spent['tokens'] / spent['seconds']:,.0f} tokens/s", info["dtype"], wrong)

    return run


def engines(check: Check) -> StepFinding:
    """What vLLM said of its answers' likelihood, against transformers on the same tokens."""
    import torch

    backbone = check.needed("backbone", "model")
    kept = checked_answers.load(check.needed("answers, vllm", "sampling-vllm"))
    answers = [
        (entry["prompt"], ids, reported)
        for number in range(len(next(iter(kept.values()))["answers"]))
        for entry in kept.values()
        for ids, reported in [(entry["answers"][number], entry["logprobs"][number])]
    ][:COMPARED]
    loaded = loading.load_model(backbone, check.device, check.graph.config.engine.dtype)
    recomputed = []
    with torch.inference_mode():
        for prompt, ids, _ in answers:
            logits = loaded(torch.tensor([prompt + ids], device=check.device)).logits[0, len(prompt) - 1 : -1]
            scores = logits.double().log_softmax(-1)
            recomputed.append(scores.gather(1, torch.tensor(ids, device=check.device)[:, None]).sum().item())
    dtype = str(loaded.dtype).removeprefix("torch.")
    verdict = compare.likelihoods([one[2] for one in answers], recomputed, [len(one[1]) for one in answers], dtype)
    return StepFinding(verdict.said, "", dtype, verdict.wrong)


def grams(check: Check) -> StepFinding:
    """The stage of Gram matrices and ADG's choice by them; a few of them against one answer at a time on the CPU."""
    from adg.answers import stage as answers_stage
    from adg.embedding import stage as embedding_stage
    from adg.pools import records
    from bench.scoring import reference

    backbone = check.needed("backbone", "model")
    texts = answers_stage.load(check.needed("answers, hf", "sampling-hf"))
    artifact = check.build("grams")
    found, spent = embedding_stage.load(artifact), artifact.info["embedding"]
    chosen = check.build("subset").info["rows_out"]
    large = (check.graph.config.backbone.parameters or 0) > LARGE
    loaded = loading.load_model(backbone, "cpu", "float32")
    loaded = loaded if large else loaded.double()
    tokenizer = loading.load_tokenizer(backbone)
    by_key = {record.key: record for record in records.load(check.graph.store.ensure(check.graph.nodes["pool"]))}
    few = found.ids[: 1 if large else RECORDS]
    cfg = check.graph.config.embedding
    expected = np.stack([reference(loaded, tokenizer, cfg, by_key[key], texts[key]) for key in few])
    dtype = artifact.info["dtype"]
    verdict = compare.grams(found.grams[: len(few), 0], expected, dtype, "float32" if large else "float64")
    rate = f"{spent['answers'] / spent['seconds']:,.1f} answers/s"
    return StepFinding(f"{verdict.said}; ADG chose {chosen} of {len(found.ids)}", rate, dtype, verdict.wrong)


def training(check: Check) -> StepFinding:
    """The stage of fine-tuning: LoRA on a random subset."""
    check.needed("backbone", "model")
    info = check.build("adapter").info
    rate = f"{info['tokens_trained'] / info['seconds']:,.0f} tokens/s"
    said = f"{info['steps']} steps, loss {info['first_loss']:.3f} to {info['final_loss']:.3f}"
    return StepFinding(said, rate, info["precision"])


def evaluation(backend: str) -> Callable[[Check], StepFinding]:
    """The stage of evaluation with a backend: the adapter's six benchmarks, or the backbone's where there is none."""

    def run(check: Check) -> StepFinding:
        check.needed("backbone", "model")
        alone = check.graph.store.find(check.graph.nodes["adapter"]) is None
        artifact = check.build(f"evaluation, {backend}" + (", alone" if alone else ""))
        results, seconds = samples.results(artifact), sum(artifact.info["seconds"].values())
        said = ", ".join(
            f"{task} {100 * entry['value']:.0f}"
            for task, entry in results["tasks"].items()
            if entry["value"] is not None
        )
        left: dict[str, list[str]] = {}
        for task, entry in results["tasks"].items():
            if entry["status"] == NOT_RUN:
                left.setdefault(entry["reason"], []).append(task)
        wrong = "; ".join(f"{', '.join(tasks)} not run: {reason}" for reason, tasks in left.items())
        rate = f"{artifact.info['rows_out'] / max(seconds, 1e-9):,.1f} items/s"
        return StepFinding(
            said + (" (without an adapter: none was trained)" if alone else ""), rate, results["dtype"], wrong
        )

    return run


def backends(check: Check) -> StepFinding:
    """Both evaluations, item by item."""
    alone = check.graph.store.find(check.graph.nodes["adapter"]) is None
    one, other = (
        check.needed(f"evaluation, {backend}" + (", alone" if alone else ""), f"evaluation-{backend}")
        for backend in ("hf", "vllm")
    )
    dtype = samples.results(one)["dtype"]
    verdict = compare.backends(one, other, dtype)
    return StepFinding(verdict.said, "", dtype, verdict.wrong)


def scoring(check: Check) -> StepFinding:
    """``bench.gpu``, the measurement of scoring, in few repeats."""
    import torch

    from bench import gpu

    words = ["--engine", "none", "--repeats", "1"]
    if check.tiny:
        words += ["--tiny"]
    else:
        fits = torch.cuda.get_device_properties(0).total_memory >= WHOLE_SHAPE
        words += ["--records", "48", "--reference-records", "4", "--shape", "llama3_8b" if fits else "llama3_1b"]
    result = gpu.measure(gpu.arguments(words))
    found = result["scoring"]
    apart = found["largest_gram_difference"]
    said = (
        f"random weights of the shape {result['shape']}: {found['ratio']:g} times as fast as one answer at a time, "
        f"{found['share_of_peak']:.0%} of the matrix products' rate, within {apart:.2g} of it"
    )
    return StepFinding(said, f"{found['answers_per_second']:,.1f} answers/s", result["dtype"])


@dataclass(frozen=True)
class Step:
    """``seconds``: what it may take on a GPU, where eight minutes are given to all. ``makes``: its artifact, whose
    stage says how many GPUs it takes."""

    title: str
    run: Callable[[Check], StepFinding]
    seconds: float
    makes: str = ""

    def gpus(self, of: Graph) -> int:
        return of.nodes[self.makes].stage.gpus_of(vars(of.config.exec)) if self.makes else 1


STEPS = {
    "machine": Step("torch, vLLM and the device", machine, 60),
    "model": Step("the model's files and the pool", model, 90),
    "sampling-vllm": Step("answers in vLLM", sampling("vllm"), 150, "answers, vllm"),
    "sampling-hf": Step("answers in transformers", sampling("hf"), 60, "answers, hf"),
    "engines": Step("vLLM's likelihoods against transformers'", engines, 60),
    "grams": Step("Gram matrices, against float64 on the CPU", grams, 90, "grams"),
    "training": Step("one LoRA training", training, 90, "adapter"),
    "evaluation-hf": Step("six benchmarks in transformers", evaluation("hf"), 120, "evaluation, hf"),
    "evaluation-vllm": Step("six benchmarks in vLLM", evaluation("vllm"), 150, "evaluation, vllm"),
    "backends": Step("both backends, item by item", backends, 30),
    "scoring": Step("scoring speed", scoring, 120),
}


def peak_memory() -> tuple[float, str]:
    """The most memory that this process had, in GiB: what torch reserved on its GPUs, else what was resident."""
    torch: Any = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized():
        reserved = sum(torch.cuda.max_memory_reserved(i) for i in range(torch.cuda.device_count()))
        return round(reserved / 2**30, 2), "gpu"
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2), "resident"


def run(name: str, given: Options) -> dict[str, Any]:
    """One step in this process: what is written of it. A failure is a reason, never a number."""
    try:
        check = Check(graph(given.overrides, given.tiny, given.out / "artifacts"), given.tiny)
        found = STEPS[name].run(check)
    except Exception as error:
        traceback.print_exc()
        told = extras.missing(error) if isinstance(error, ModuleNotFoundError) else ""
        if not told:
            first = (str(error).strip() or "no message").splitlines()[0]
            told = str(error) if isinstance(error, HarnessError) else f"{type(error).__name__}: {first}"
        found = StepFinding("", wrong=told)
    memory, kind = peak_memory()
    return {**asdict(found), "peak_gib": memory, "peak_of": kind}


def main(words: Sequence[str]) -> None:
    name, given = words[0], options(words[1:])
    write_json(given.out / "steps" / f"{name}.json", without_secrets(run(name, given)))


if __name__ == "__main__":
    from adg import command

    with command.command():
        main(sys.argv[1:])
