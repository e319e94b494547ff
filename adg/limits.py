"""The range of a number among the options: refused when a config is made, with the option, its value and the range."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from adg.errors import BadInput


@dataclass(frozen=True)
class Limit:
    """``holds`` says whether a finite number is right, ``words`` what is; ``whole`` numbers may be asked for."""

    words: str
    holds: Callable[[Any], bool]
    whole: bool = False

    def fits(self, value: Any) -> bool:
        kinds = (int,) if self.whole else (int, float)
        right = isinstance(value, kinds) and not isinstance(value, bool) and math.isfinite(value)
        return right and self.holds(value)


def at_least(low: int) -> Limit:
    return Limit(f"a whole number, {low} or more", lambda value: value >= low, whole=True)


WHOLE = Limit("a whole number", lambda value: True, whole=True)
POSITIVE = Limit("a number above 0", lambda value: value > 0)
NOT_NEGATIVE = Limit("a number, 0 or more", lambda value: value >= 0)
BELOW_ONE = Limit("a share, 0 or more and below 1", lambda value: 0 <= value < 1)
ABOVE_ZERO = Limit("a share, above 0 and at most 1", lambda value: 0 < value <= 1)


def check(group: str, config: Any, limits: Mapping[str, Limit], optional: tuple[str, ...] = ()) -> None:
    """Raise ``BadInput`` for the first of ``limits`` that a field breaks; ``optional`` ones may be None."""
    for name, limit in limits.items():
        value = getattr(config, name)
        if value is None and name in optional:
            continue
        if not limit.fits(value):
            null = ", or null" if name in optional else ""
            raise BadInput(f"{group}.{name} is {value!r}; expected {limit.words}{null}")
