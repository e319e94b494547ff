"""What may be set for types of task. Identity: all of it, and the words of the prompt (``labels.py``)."""

from __future__ import annotations

from dataclasses import dataclass

from adg import limits
from adg.errors import BadInput
from adg.execution import DTYPES
from adg.limits import at_least


@dataclass(frozen=True)
class TaskTypesConfig:
    """How an instruction's type is read from the backbone.

    ``calibrated``: from the log-probability of each name is taken what the name has where nothing is asked
    (``labels.CONTENT_FREE``), so that a name that is likely anyway does not win.
    """

    calibrated: bool = True
    max_tokens: int = 256  # of an instruction that are read; the rest is cut off on the right
    dtype: str = "auto"  # of the weights; auto: the backbone's own

    def __post_init__(self) -> None:
        limits.check("task_types", self, {"max_tokens": at_least(1)})
        if self.dtype not in ("auto", *DTYPES):
            raise BadInput(f"task_types.dtype is {self.dtype!r}; expected auto or one of {', '.join(DTYPES)}")
