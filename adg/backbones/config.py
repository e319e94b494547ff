"""What may be set for a backbone.

What identifies it is worked out in ``stage.py``: where it comes from, its content and its dtype; never its name.
"""

from __future__ import annotations

from dataclasses import dataclass

from adg.backbones.embedded import BUILDERS
from adg.backbones.precision import FASTEST
from adg.errors import BadInput, nearest
from adg.execution import DTYPES
from adg.options import aside, location


@dataclass(frozen=True)
class BackboneConfig:
    """One backbone: exactly one of ``hub``, ``path`` and ``builder`` says where it comes from."""

    name: str = aside("???")
    title: str = aside("")  # how the plan names it; "" = name
    hub: str | None = None  # hub id, needs a revision
    revision: str | None = None  # commit hash of the hub repository
    path: str | None = location(counts="by the digests of its files")  # folder as written by save_pretrained
    builder: str | None = None  # smollm2_135m | smollm2_qwen2 | tiny_random
    dtype: str = "bfloat16"  # of the weights in memory; fastest: measured when the backbone is built, and recorded
    parameters: float | None = aside(None)  # how many; for the plan's estimate
    kv_bytes: int | None = aside(None)  # of keys and values a token, in memory; for the plan's estimate
    paper: str | None = aside(None)  # key of this backbone in the paper's figures
    trained_on: str | None = aside(None)  # of a published checkpoint: the pool, as the paper's figures name it
    statement: str = aside("")  # what a reader of a table must know about it

    def __post_init__(self) -> None:
        sources = [name for name in ("hub", "path", "builder") if getattr(self, name)]
        if len(sources) != 1:
            raise BadInput(
                f"backbone {self.name!r} has {' and '.join(sources) or 'none'} of hub, path, builder; "
                f"exactly one is expected"
            )
        if self.builder is not None and self.builder not in BUILDERS:
            raise BadInput(
                f"backbone.builder is {self.builder!r}{nearest(self.builder, list(BUILDERS))}; "
                f"expected one of {', '.join(BUILDERS)}"
            )
        if self.dtype not in (FASTEST, *DTYPES):
            raise BadInput(f"backbone.dtype is {self.dtype!r}; expected {FASTEST} or one of {', '.join(DTYPES)}")
