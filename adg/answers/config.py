"""What may be set for sampled answers, and what an engine is: settings in, answers out.

Identity: every field but those marked otherwise; settings of vLLM count only where vLLM samples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from adg import limits
from adg.artifacts.artifact import UNLESS_DEFAULT
from adg.errors import BadInput, BadMeasurement, nearest
from adg.execution import DTYPES, ENGINES
from adg.limits import ABOVE_ZERO, NOT_NEGATIVE, WHOLE, at_least
from adg.options import aside

if TYPE_CHECKING:
    import torch


def _vllm(default: Any, identity: bool = True) -> Any:
    return field(default=default, metadata={"vllm": True, "identity": identity})


SAMPLING_LIMITS = {
    **dict.fromkeys(("n", "max_new_tokens"), at_least(1)),
    "temperature": NOT_NEGATIVE,
    "top_p": ABOVE_ZERO,
    "top_k": at_least(0),
    "prompt_tokens": at_least(2),
    "seed": WHOLE,
}
ENGINE_LIMITS = dict.fromkeys(
    ("batch_size", "replicas", "max_num_seqs", "max_num_batched_tokens", "cpu_cache_gb"), at_least(1)
)


@dataclass(frozen=True)
class SamplingConfig:
    """How answers are drawn; every setting is explicit, since the two libraries' defaults differ."""

    preset: str = aside("paper")  # name of these settings
    n: int = 5  # K, answers per record
    temperature: float = 1.4  # 0 is greedy, for n = 1
    top_p: float = 0.9
    top_k: int = 0  # 0 is off; the released code leaves transformers' default of 50 on
    max_new_tokens: int = 256
    prompt_tokens: int | None = None  # prompts are cut on the right to this many; the released code to 80
    use_input: bool = True  # the released code leaves a record's input out
    strip: bool = True  # of white space around an answer
    logprobs: bool = field(default=False, metadata={"identity": UNLESS_DEFAULT})  # kept; the texts are the same
    seed: int = 0

    def __post_init__(self) -> None:
        limits.check("sampling", self, SAMPLING_LIMITS, optional=("prompt_tokens",))
        if self.temperature == 0 and self.n > 1:
            raise BadInput(
                f"sampling.temperature is 0, so the {self.n} answers of a record would be one and the "
                f"same; set sampling.n=1 or a temperature above 0"
            )


@dataclass(frozen=True)
class EngineConfig:
    """What samples. Settings of vLLM only are left out of the identity of ``hf``."""

    name: str = "hf"  # hf | vllm
    dtype: str = "auto"  # auto (the backbone's) | float32 | bfloat16 | float16
    distributed: str = aside("none")  # none | ray: batches spread over actors
    replicas: int = aside(1)  # processes on this machine, each with its own GPUs, that share the batches
    batch_size: int = 16  # prompts that share a seed and a shard
    max_num_seqs: int = _vllm(256)  # answers decoded at once
    max_num_batched_tokens: int = _vllm(8192)  # tokens in one step
    enforce_eager: bool = _vllm(False)  # no compilation: starts sooner, runs slower
    cpu_cache_gb: int = _vllm(4, identity=False)  # memory for keys and values on CPU; on GPU exec.gpu_memory counts

    def __post_init__(self) -> None:
        if self.name not in ENGINES:
            raise BadInput(
                f"engine.name is {self.name!r}{nearest(self.name, ENGINES)}; expected one of {', '.join(ENGINES)}"
            )
        if self.dtype not in ("auto", *DTYPES):
            raise BadInput(f"engine.dtype is {self.dtype!r}; expected one of auto, {', '.join(DTYPES)}")
        limits.check("engine", self, ENGINE_LIMITS)


@dataclass(frozen=True)
class Answers:
    """What makes two sets of answers the same, next to the pool and the backbone."""

    sampling: SamplingConfig
    engine: EngineConfig
    template: str  # digest of the prompt template


@dataclass(frozen=True)
class Answer:
    """One sampled continuation: its token ids, the stop token among them when there was one.

    ``logprob`` is the sum over ``ids`` of each token's natural log-probability after those before it, under the model's
    own distribution: its scores as they are, before temperature, top-k and top-p. None where it was not asked for.
    """

    ids: list[int]
    finish_reason: str  # stop | length
    logprob: float | None = None


class StateReader(Protocol):
    """Looks on while an engine samples, and says which states of sampled tokens it has a use for."""

    def read_prompts(self, ids: torch.Tensor, mask: torch.Tensor, n: int) -> None:
        """The model reads prompts (B, T) next, padded on the left; ``n`` answers to each follow."""
        ...

    def counts(self, tokens: torch.Tensor) -> torch.Tensor:
        """Which of the tokens (R,) just sampled have a part, (R,) bool: the engine reads these though they be last."""
        ...

    def read_tokens(self, answers: torch.Tensor, tokens: torch.Tensor, counted: torch.Tensor) -> None:
        """The model reads tokens (R,) next, those just sampled for ``answers`` (R,), numbered prompt by prompt;
        ``counted`` (R,) bool is false for what follows the end of an answer."""
        ...


class Generator(Protocol):
    """A loaded engine. ``sample`` depends on its arguments alone, not on what was sampled before."""

    def sample(self, prompts: Sequence[list[int]], cfg: SamplingConfig, seed: int) -> list[list[Answer]]:
        """``cfg.n`` answers for each prompt (token ids, ready to use), in the prompts' order.

        Raises ``NotFinite`` when the model returns NaN or infinity.
        """
        ...

    def close(self) -> None:
        """Give memory back."""
        ...


class NotFinite(BadMeasurement):
    """The model's scores for the prompts at ``rows`` are not finite."""

    def __init__(self, rows: Sequence[int]) -> None:
        super().__init__(f"the model returned NaN or infinite scores for the prompts at {list(rows)}")
        self.rows = tuple(rows)
