"""What may be set for the embedding of answers and for the bins.

Identity: every field but those marked otherwise, and the hash of the prompt template.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from adg import limits
from adg.artifacts.artifact import UNLESS_DEFAULT
from adg.embedding.windows import parse_window
from adg.errors import BadInput, nearest
from adg.execution import DTYPES
from adg.limits import Limit, at_least
from adg.options import aside

# What the presets set; every other field means the same in both (paper.md: "differ exactly here").
PRESETS: dict[str, dict[str, Any]] = {
    "paper": {
        "pooling": "answer",
        "windows": ("last4",),
        "use_input": True,
        "instruction_special_weights": False,
    },
    "released": {
        "pooling": "all",
        "windows": ("released",),
        "use_input": False,
        "instruction_special_weights": True,
    },
}
POOLINGS = ("answer", "all")
SOURCES = ("encoder", "sampling")
EMPTY = ("prompt_vector", "zero", "fail")


@dataclass(frozen=True)
class BinsConfig:
    """Settings of the clustering (paper and released code agree on all of them)."""

    clusters: int = 1000  # at most floor(N / 5) are made; the number is recorded
    seed: int = 42
    n_init: int = 3
    max_iter: int = 100

    def __post_init__(self) -> None:
        limits.check("embedding.bins", self, dict.fromkeys(("clusters", "n_init", "max_iter"), at_least(1)))
        limits.check("embedding.bins", self, {"seed": Limit("0 to 2**32 - 1", lambda seed: 0 <= seed < 2**32, True)})


@dataclass(frozen=True)
class EmbeddingConfig:
    """How an answer becomes a vector. Fields left at None take the preset's value.

    ``pooling="answer"``: the Alpaca prompt and the answer are run, the answer's tokens are pooled (paper).
    ``pooling="all"``: the text is instruction + " " + answer without special tokens, every token pooled (released).
    ``windows``: the layer windows kept, see ``resolve_windows``; ADG scores with the first unless told otherwise,
    and the instruction's vector is that of the first.
    ``max_tokens``: first tokens kept of the whole text (``all``) or of the answer (``answer``; the prompt stays
    whole).
    ``empty_answer``: an answer of blanks gets "prompt_vector", the vector of the text without it (the prompt's
    tokens are pooled; released LLaMA script), "zero", a vector of zeros (released Qwen script), or counts as "fail".
    ``instruction_tokens``, ``instruction_special_tokens`` and ``instruction_special_weights`` belong to the vector for
    the bins, which is made from the stripped instruction alone (released ``embed.py``: 512 with special tokens, of
    which a BOS weighs 1 as any word does; its fallback: 1024 without). With the paper's preset they weigh 0, as in all
    other texts: a BOS stands before every instruction and says nothing about any, but its state is large, and pooled
    with a word's weight it makes all instructions alike.
    ``source="encoder"``: the answers' texts are encoded and run again, as the released code does. ``"sampling"``: the
    states that sampling computes anyway are pooled as they come, which saves that pass (``one_pass``); the tokens are
    then the sampled ones, where a text need not be encoded to the same again.
    """

    preset: str = aside("paper")
    pooling: str | None = None  # answer | all
    windows: tuple[str, ...] | None = None
    use_input: bool | None = None
    token_weights: bool = True  # blanks and punctuation 0, numbers 1.3, else 1; false: all equal
    max_tokens: int = 1024
    empty_answer: str = "prompt_vector"  # prompt_vector | zero | fail
    instruction_tokens: int = 512
    instruction_special_tokens: bool = True
    instruction_special_weights: bool | None = field(
        default=None, metadata={"identity": UNLESS_DEFAULT, "default": False}
    )  # special tokens weigh as their text does, or 0
    dtype: str = "auto"  # auto: the backbone's own (released: float16 autocast)
    source: str = field(default="encoder", metadata={"identity": UNLESS_DEFAULT})  # encoder | sampling
    bins: BinsConfig = field(default_factory=BinsConfig, metadata={"identity": False, "counts": "in the bins"})

    def __post_init__(self) -> None:
        _choice("preset", self.preset, tuple(PRESETS))
        for name, value in PRESETS[self.preset].items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)
        object.__setattr__(self, "windows", tuple(str(window) for window in self.windows or ()))
        _choice("pooling", self.pooling, POOLINGS)
        _choice("source", self.source, SOURCES)
        if self.source == "sampling" and self.pooling != "answer":
            raise BadInput(
                f"embedding.source=sampling pools the tokens of answers, embedding.pooling={self.pooling} those of a "
                f"text that is never sampled; set embedding.pooling=answer or embedding.source=encoder"
            )
        _choice("empty_answer", self.empty_answer, EMPTY)
        _choice("dtype", self.dtype, ("auto", *DTYPES))
        limits.check("embedding", self, dict.fromkeys(("max_tokens", "instruction_tokens"), at_least(1)))
        if not self.declared or len(set(self.declared)) != len(self.declared):
            raise BadInput(f"embedding.windows is {list(self.declared)!r}; expected one or more names, each once")
        for window in self.declared:
            parse_window(window)

    @property
    def name(self) -> str:
        """The preset's name, or "custom" where a field that it sets was changed."""
        same = all(getattr(self, name) == value for name, value in PRESETS[self.preset].items())
        return self.preset if same else "custom"

    @property
    def declared(self) -> tuple[str, ...]:
        """The declared layer windows, in order."""
        assert self.windows is not None  # set above
        return self.windows


@dataclass(frozen=True)
class GramsIdentity:
    """What makes two grams artifacts of the same answers the same."""

    embedding: EmbeddingConfig
    template: str  # hash of the prompt templates


def _choice(name: str, value: Any, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise BadInput(
            f"embedding.{name} is {value!r}{nearest(str(value), list(allowed))}; expected one of {', '.join(allowed)}"
        )
