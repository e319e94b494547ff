"""GPU-hours of a study before it runs, from what its models must compute: an estimate, never a measurement.

A forward pass costs two operations a parameter and token, a backward pass through frozen weights as much again, one
that trains all weights twice that; attention over the context is left out (a few percent at these lengths). A GPU
reaches ``EFFICIENCY`` of its peak in long batches. Writing is bound by memory: each step reads the weights and the
keys and values of all sequences at ``EFFICIENCY`` of the bandwidth; in transformers a step also takes ``STEP`` seconds
whatever it computes, and a batch runs ``STRAGGLERS`` times as long as its mean answer. Where stages of this study are
finished on a GPU, their seconds stand in the place of the estimate.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from adg.artifacts.artifact import Node
from adg.artifacts.store import Status
from experiments.cells import Cell, owners
from experiments.config import GPUS, Config, Gpu

EFFICIENCY = 0.4
STEP = 0.025  # seconds, some thirty layers launched one kernel at a time
STRAGGLERS = 2.0
TOGETHER = 256  # sequences that vLLM writes at once
STARTING = {"hf": 60.0, "vllm": 120.0}  # seconds until a model of 7 to 8B is loaded and ready


@dataclass(frozen=True)
class ItemTokens:
    """Tokens of one item, on average over the whole set at the paper's shots: of its context, of what all items of its
    subtask begin with, of each choice, and written. Counted with SmolLM2's tokenizer; written: the solutions' length,
    or for chain of thought that of the examples."""

    context: int
    shared: int = 0
    choices: float = 0.0
    choice: int = 0
    written: int = 0

    @property
    def read(self) -> float:
        """Tokens that are run once each, what items share left out: it costs one item in a hundred."""
        return self.context - self.shared + self.choices * self.choice


ITEMS = {
    "bbh": ItemTokens(965, shared=867, written=120),
    "gsm8k": ItemTokens(1630, written=121),  # draws its examples for each item
    "mmlu": ItemTokens(523, shared=430, choices=4, choice=1),
    "truthfulqa_mc2": ItemTokens(188, shared=173, choices=7.6, choice=11),
    "mbpp": ItemTokens(338, shared=227, written=83),
    "humaneval": ItemTokens(107, written=135),
}


def reading(tokens: float, parameters: float, gpu: Gpu) -> float:
    """Seconds of forward passes over that many tokens."""
    return 2 * parameters * tokens / (EFFICIENCY * gpu.peak)


def writing(
    sequences: float, written: float, context: float, config: Config, gpu: Gpu, backend: str, batch: int
) -> float:
    """Seconds of writing ``written`` tokens after ``context`` tokens, in each of ``sequences``, ``batch`` at once (in
    vLLM ``TOGETHER``)."""
    parameters, kv = config.backbone.parameters or 0.0, config.backbone.kv_bytes or 0
    batch = TOGETHER if backend == "vllm" else batch
    moved = 2 * parameters + batch * (context + written / 2) * kv
    step = max(moved / (EFFICIENCY * gpu.bandwidth), reading(batch, parameters, gpu))
    if backend != "vllm":
        step = STRAGGLERS * max(step, STEP)
    return sequences / batch * written * step


def evaluation(config: Config, gpu: Gpu, backend: str) -> float | None:
    """Seconds of one evaluation of the whole suite; None where a task or the model is not known."""
    total = STARTING[backend]
    for name, task in config.suite.tasks.items():
        item, limit = ITEMS.get(name), config.suite.limit_of(name)
        if item is None or task.items is None or limit is not None or not config.backbone.parameters:
            return None
        total += reading(task.items * item.read, config.backbone.parameters, gpu)
        if item.written:
            total += writing(task.items, item.written, item.context, config, gpu, backend, config.exec.eval_batch_size)
    return total


def training(cell: Cell, gpu: Gpu) -> float | None:
    """Seconds of one fine-tuning."""
    c = cell.config
    rows = (c.pool.rows or c.pool.expected_rows) if cell.selector.whole_pool else c.budget
    if not (rows and c.pool.prompt_tokens and c.pool.response_tokens and c.backbone.parameters):
        return None
    tokens = rows * c.finetune.epochs * min(c.pool.prompt_tokens + c.pool.response_tokens, c.finetune.max_length)
    passes = (2 if c.finetune.method == "lora" else 3) + int(c.finetune.gradient_checkpointing)
    return STARTING["hf"] + passes * reading(tokens, c.backbone.parameters, gpu)


def stage_seconds(node: Node, cell: Cell, gpu: Gpu) -> float | None:
    """Seconds of one artifact on one GPU; 0 where no model runs, None where it cannot be told."""
    c = cell.config
    if not node.stage.gpus:
        return 0.0
    rows, parameters = c.pool.rows or c.pool.expected_rows, c.backbone.parameters
    if node.stage.name == "eval":
        return evaluation(c, gpu, c.suite.backend)
    if node.stage.name == "adapter":
        adapter = cell.nodes.get("adapter")
        return training(cell, gpu) if adapter is not None and adapter.fingerprint == node.fingerprint else None
    if not (rows and parameters and c.pool.prompt_tokens and c.pool.response_tokens):
        return None
    model = cell.nodes["selecting" if "selecting" in cell.nodes else "backbone"]
    if all(parent.fingerprint != model.fingerprint for parent in node.inputs.values()):
        return None  # a model of its own, whose size is not known here
    written, prompt, start = c.sampling.max_new_tokens / 2, c.pool.prompt_tokens, STARTING["hf"]
    if node.stage.name == "answers":
        answers = rows * c.sampling.n
        return (
            STARTING[c.engine.name]
            + reading(rows * prompt, parameters, gpu)
            + writing(answers, written, prompt, c, gpu, c.engine.name, c.engine.batch_size * c.sampling.n)
        )
    if node.stage.name == "grams":
        return start + reading(rows * (c.sampling.n * (prompt + written) + prompt), parameters, gpu)
    if node.stage.name == "losses":
        return start + reading(rows * (prompt + 2 * c.pool.response_tokens), parameters, gpu)
    return None


@dataclass(frozen=True)
class StageHours:
    """GPU-hours that the ``artifacts`` of a stage may take; of ``untold`` more nothing is known. ``measured``: from
    finished ones, else estimated."""

    stage: str
    hours: float
    artifacts: int
    untold: int
    measured: bool


def hours(
    chosen: Sequence[Cell], nodes: Sequence[Node], states: Mapping[str, Status], measured: Mapping[str, Sequence[float]]
) -> list[StageHours]:
    """What is left of the study by stage; [] where no model's size is known. ``measured``: seconds of finished
    artifacts by stage, which go before the estimate."""
    if not any(cell.config.backbone.parameters for cell in chosen):
        return []
    gpu = GPUS[chosen[0].config.profile.gpu]
    owner, todo = owners(chosen), _todo(nodes, states)
    found = []
    for stage in sorted(dict.fromkeys(node.stage for node in todo), key=lambda stage: stage.place):
        of_stage = [node for node in todo if node.stage == stage]
        known = measured.get(stage.name)
        each = [
            sum(known) / len(known) if known else stage_seconds(node, owner[node.fingerprint], gpu) for node in of_stage
        ]
        told = [seconds for seconds in each if seconds is not None]
        found.append(StageHours(stage.name, sum(told) / 3600, len(told), len(each) - len(told), bool(known)))
    return found


def _todo(nodes: Sequence[Node], states: Mapping[str, Status]) -> list[Node]:
    return [node for node in nodes if states[node.fingerprint].state != "done" and node.stage.gpus]


def lines(
    chosen: Sequence[Cell], nodes: Sequence[Node], states: Mapping[str, Status], measured: Mapping[str, Sequence[float]]
) -> list[str]:
    """The same as text, with the evaluations in both backends."""
    found = hours(chosen, nodes, states, measured)
    if not found:
        return []
    gpu = GPUS[chosen[0].config.profile.gpu]
    said = [
        "",
        f"  GPU-hours on one {gpu.title}: an estimate from operations and bytes at {EFFICIENCY:.0%} of its peak, no "
        f"measurement (profile.gpu: {', '.join(GPUS)})",
    ]
    for of in found:
        if of.artifacts:
            said.append(
                f"    {of.stage:<12}{of.hours:>8.1f}   {of.artifacts} x {of.hours / of.artifacts * 60:.0f} min"
                + (", measured here" if of.measured else "")
            )
    untold = [f"{of.untold} {of.stage}" for of in found if of.untold]
    said.append(
        f"    {'the study':<12}{sum(of.hours for of in found):>8.1f}"
        + (f"   without {', '.join(untold)}: no estimate" if untold else "")
    )
    return said + _backends(_todo(nodes, states), owners(chosen), gpu)


def _backends(todo: Sequence[Node], owner: Mapping[str, Cell], gpu: Gpu) -> list[str]:
    """The evaluations in either backend."""
    by_backend: dict[str, float] = {}
    for backend in ("hf", "vllm"):
        each = [evaluation(owner[n.fingerprint].config, gpu, backend) for n in todo if n.stage.name == "eval"]
        told = [seconds for seconds in each if seconds is not None]
        if not told or len(told) < len(each):
            return []
        by_backend[backend] = sum(told) / 3600
    return [
        "    the evaluations: "
        + ", ".join(f"{taken:.1f} with suite.backend={backend}" for backend, taken in by_backend.items())
    ]
