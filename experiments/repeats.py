"""Which cells of a sweep are run at several root seeds: ``seeds=3`` repeats those of ``profile.repeated``.

A repeated cell is the same line of overrides with another ``seed``, from which sampling, clustering, the random draw
and training derive theirs. Nothing here bears identity.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from adg.errors import BadInput, nearest
from baselines import selector_types

AS_ONE = ("seeds", "profile.repeated")  # a list of theirs is one value, not a sweep
READS = ("seed", "seeds", "profile", "experiment")  # the sections that are looked at here


def root_seeds(seed: int, seeds: Any) -> list[int]:
    """The root seeds that ``seeds`` stands for: so many from ``seed`` on, or the ones it lists.

    Raises ``BadInput`` for anything but a whole number from 1 on or a list of different whole numbers.
    """
    if _whole(seeds) and seeds >= 1:
        return [seed + place for place in range(seeds)]
    if isinstance(seeds, (list, tuple)) and seeds and all(map(_whole, seeds)) and len(set(seeds)) == len(seeds):
        return list(seeds)
    raise BadInput(
        f"seeds is {seeds!r}; expected how many from the root seed on (seeds=3), or different whole numbers "
        f"(seeds=[42,43])"
    )


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def selectors(repeated: str) -> list[str]:
    """The selectors that ``profile.repeated`` names. Raises ``BadInput`` for one that is not there or comes twice."""
    names = [name.strip() for name in str(repeated).split(",") if name.strip()]
    known = sorted(selector_types())
    for place, name in enumerate(names):
        if name not in known:
            raise BadInput(f"profile.repeated names {name!r}{nearest(name, known)}; known: {', '.join(known)}")
        if not selector_types()[name].trains:
            raise BadInput(f"profile.repeated names {name}, which draws and trains nothing: all seeds give the same")
        if name in names[:place]:
            raise BadInput(f"profile.repeated names {name} twice: {repeated}")
    return names


def repeat(lines: Sequence[Sequence[str]], composed: Any) -> list[list[str]]:
    """The override lists of a sweep, those of repeated selectors once more for each further seed.

    ``composed`` is the config of the sweep with Hydra's own part. All lines come at the first seed, then the repeated
    ones at the second, and so on. A sweep over other seeds than the root (``sampling.seed``) is left as it is, and one
    that trains nothing.
    Raises ``BadInput`` where ``seed`` is swept besides, and as :func:`root_seeds` and :func:`selectors` do.
    """
    from omegaconf import OmegaConf

    swept = [dict(override.split("=", 1) for override in line if "=" in override) for line in lines]
    varied = {key for line in swept for key, value in line.items() if value != swept[0].get(key)}
    for key in AS_ONE:
        if key in varied:
            raise BadInput(f"{key} is one value and no sweep; write {_example(key)} (quoted for the shell)")
    seeds = composed.seeds
    seeds = OmegaConf.to_container(seeds) if OmegaConf.is_config(seeds) else seeds
    chosen = selectors(composed.profile.repeated)
    if not _whole(composed.seed) or root_seeds(composed.seed, seeds) == [composed.seed]:
        return [list(line) for line in lines]
    named = [key for key in (*varied, *(composed.hydra.sweeper.params or ())) if key.endswith((".seed", "_seed"))]
    if composed.experiment.untrained or named:
        return [list(line) for line in lines]
    if "seed" in varied:
        raise BadInput(f"seed is swept, and seeds={seeds} repeats cells at further seeds; leave one of them out")
    first, *further = root_seeds(composed.seed, seeds)
    if first != composed.seed and any("seed" in line for line in swept):
        raise BadInput(f"seed={composed.seed} is not the first of seeds={seeds}; leave one of them out")
    usual = composed.hydra.runtime.choices.selector
    repeated = [line for line, of in zip(lines, swept, strict=True) if of.get("selector", usual) in chosen]
    begun = [list(line) if first == composed.seed else _at(line, first) for line in lines]
    return begun + [_at(line, seed) for seed in further for line in repeated]


def _at(line: Sequence[str], seed: int) -> list[str]:
    return [override for override in line if not override.startswith("seed=")] + [f"seed={seed}"]


def _example(key: str) -> str:
    return "seeds=[42,43]" if key == "seeds" else "profile.repeated='adg,random'"


@contextmanager
def sweeping(lines: Sequence[Sequence[str]]) -> Iterator[None]:
    """Within it Hydra's multirun launches the cells of these override lists, in place of all combinations.

    They were composed before; that Hydra composes each twice itself, once to see whether it can, is left out.
    """
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper

    def these(overrides: Any, max_batch_size: int | None) -> list[list[list[str]]]:
        return list(BasicSweeper.split_overrides_to_chunks([list(line) for line in lines], max_batch_size))

    combinations, validate = BasicSweeper.split_arguments, BasicSweeper.validate_batch_is_legal
    BasicSweeper.split_arguments = staticmethod(these)  # type: ignore[method-assign]
    BasicSweeper.validate_batch_is_legal = lambda sweeper, batch: None  # type: ignore[method-assign]
    try:
        yield
    finally:
        BasicSweeper.split_arguments = staticmethod(combinations)  # type: ignore[method-assign]
        BasicSweeper.validate_batch_is_legal = validate  # type: ignore[method-assign]
