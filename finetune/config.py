"""What may be set for fine-tuning.

Identity: every field that the kind of training reads. How a step is split over memory and devices is ``exec``'s.
"""

from __future__ import annotations

from dataclasses import dataclass

from adg import errors, limits
from adg.errors import BadInput
from adg.limits import BELOW_ONE, NOT_NEGATIVE, POSITIVE, WHOLE, at_least
from adg.options import aside

LORA_FIELDS = ("lora_rank", "lora_alpha", "lora_dropout", "lora_target")
CHOICES = {
    "method": ("lora", "full"),
    "precision": ("auto", "bf16", "fp32"),
    "loss_on": ("response", "all"),
    "no_response": ("drop", "refuse"),
}
LIMITS = {
    **dict.fromkeys(("lora_rank", "lora_alpha", "epochs", "batch_size", "max_length", "save_steps"), at_least(1)),
    **dict.fromkeys(("lora_dropout", "warmup_ratio", "adam_beta1", "adam_beta2"), BELOW_ONE),
    **dict.fromkeys(("learning_rate", "adam_epsilon", "neftune_alpha"), POSITIVE),
    **dict.fromkeys(("weight_decay", "max_grad_norm"), NOT_NEGATIVE),
    "seed": WHOLE,
}


@dataclass(frozen=True)
class FinetuneConfig:
    """Everything that decides what is learned. How it is split over memory and devices is ``exec``'s.

    The defaults are the LoRA recipe; the released code trains all weights (conf/finetune/full.yaml).
    """

    name: str = aside("lora")
    method: str = "lora"  # lora | full
    lora_rank: int = 64
    lora_alpha: int = 128
    lora_dropout: float = 0.05
    lora_target: str = "all-linear"  # or module names, comma-separated
    epochs: int = 3
    batch_size: int = 64  # examples per optimizer step, whatever the number of devices
    learning_rate: float = 1e-4
    scheduler: str = "cosine"
    warmup_ratio: float = 0.03  # share of all steps
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    optimizer: str = "adamw_torch"
    adam_beta1: float = 0.9
    adam_beta2: float = 0.999
    adam_epsilon: float = 1e-8
    max_length: int = 2048  # tokens of prompt and response together
    precision: str = "auto"  # bf16 | fp32; auto = the backbone's own
    loss_on: str = "response"  # response | all
    packing: bool = False  # one example a sequence; True is refused
    neftune_alpha: float | None = None  # noise on the embeddings; null = none
    no_response: str = "drop"  # rows whose response was cut off entirely: drop (counted) | refuse
    seed: int = 0
    # These two change memory, time and what a kill costs, never the result.
    gradient_checkpointing: bool = aside(True)
    save_steps: int = aside(100)  # optimizer steps between checkpoints

    def __post_init__(self) -> None:
        for name, allowed in CHOICES.items():
            value = getattr(self, name)
            if value not in allowed:
                raise BadInput(
                    f"finetune.{name} is {value!r}{errors.nearest(str(value), list(allowed))}; "
                    f"expected one of {', '.join(allowed)}"
                )
        limits.check("finetune", self, LIMITS, optional=("neftune_alpha",))
        if not all(name.strip() for name in self.lora_target.split(",")):
            raise BadInput(f"finetune.lora_target is {self.lora_target!r}; expected all-linear, or module names, a,b")
        if self.packing:
            raise BadInput(
                "finetune.packing is true; packed rows attend across examples without flash attention and "
                "no recipe of the study packs: set finetune.packing=false"
            )
