"""Which rows of a pool are held out: never selectable, kept to measure the loss of their answers (``pool.heldout``).

Nothing but a held-out answer's own text may tell a model of it, so a row whose instruction and input stand in another
valid row of the source too (case and white space aside) is never drawn, whichever of the two would be selectable. Rows
that only resemble each other, or share an answer, are told apart. Rows without an answer have no loss: they are not
drawn.

With ``pool.rows`` the sample is the one that it is without held-out rows, and these come from the rest of the source;
else they are taken out of the pool.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence

from adg import seeds
from adg.errors import BadInput
from adg.pools.config import PoolConfig
from adg.pools.records import Record


def draw(valid: Sequence[Record], sampled: Collection[int] | None, cfg: PoolConfig) -> set[int]:
    """Positions in ``valid`` (canonical order) of the ``cfg.heldout`` rows that are held out, drawn by ``cfg.seed``.

    ``sampled`` holds the positions of the sample that ``cfg.rows`` names, None without one. Raises ``BadInput`` where
    too few rows may be drawn, or none would be left to select from.
    """
    prompts = [_prompt(record) for record in valid]
    occurs = Counter(prompts)
    free = [i for i in range(len(valid)) if sampled is None or i not in sampled]
    fit = [i for i in free if occurs[prompts[i]] == 1 and valid[i].output.strip()]
    most = min(len(fit), len(valid) - 1) if sampled is None else len(fit)
    if cfg.heldout > most:
        beside = "" if sampled is None else f", {len(free):,} of them beside the pool.rows={cfg.rows} of the sample"
        less = "" if sampled is None else " or a smaller pool.rows"
        raise BadInput(
            f"pool '{cfg.name}' has {len(valid):,} usable rows{beside}; {most:,} may be held out (with an answer, an "
            f"instruction that no other row repeats{', and a row left to select' if sampled is None else ''}), but "
            f"pool.heldout={cfg.heldout} were asked for; set pool.heldout={most} or less{less}"
        )
    order = seeds.generator(cfg.seed, "pool", "heldout").permutation(len(fit))
    return {fit[i] for i in order[: cfg.heldout].tolist()}


def _prompt(record: Record) -> tuple[str, ...]:
    """What makes two rows the same question."""
    return tuple(" ".join(text.split()).casefold() for text in (record.instruction, record.input))
