"""A known fault put into a pool: some of its rows answer another row's instruction (``pool.corrupt``).

What measures the worth of data must tell such rows from the others; the control of a study is built on them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from adg import seeds
from adg.errors import BadInput
from adg.pools.records import Record

FEWEST = 2  # rows that can exchange their outputs


def exchanged(records: Sequence[Record], share: float, seed: int) -> tuple[list[Record], dict[int, int]]:
    """``records`` with the outputs of that share of them exchanged, and for each such row the row whose output it has.

    Which rows and which outputs depends on the seed and the records' order alone. None of these rows keeps its output
    or gets one that reads the same. Raises ``BadInput`` where there is no such exchange: the share is fewer than two
    rows, or more than half of the drawn rows have the same output.
    """
    count = round(share * len(records))
    if count < FEWEST:
        raise BadInput(
            f"pool.corrupt={share:g} of {len(records)} rows is {count}; outputs are exchanged among {FEWEST} rows or "
            f"more, so set pool.corrupt={FEWEST / len(records):.2g} or more, or 0 for none"
            if len(records) >= FEWEST
            else f"pool.corrupt={share:g}, but the pool holds {len(records)} row: there is no other output to exchange"
        )
    draw = seeds.generator(seed, "pool", "corrupt")
    rows = draw.permutation(len(records))[:count]
    texts = [records[row].output.strip() for row in rows]
    alike = Counter(texts)
    common, most = alike.most_common(1)[0]
    if 2 * most > count:
        raise BadInput(
            f"pool.corrupt={share:g} draws {count} rows of which {most} have the same output ({common[:60]!r}); no "
            f"exchange gives each another text. Set another pool.seed or pool.corrupt, or pool.empty_output=drop"
        )
    # equal texts in a row, each group and each row of it at a random place: a shift by the largest group passes it
    place = {text: int(at) for text, at in zip(alike, draw.permutation(len(alike)), strict=True)}
    ordered = rows[np.argsort([place[text] for text in texts], kind="stable")]
    source = dict(zip(ordered.tolist(), np.roll(ordered, most).tolist(), strict=True))
    changed = [
        replace(record, output=records[source[i]].output) if i in source else record for i, record in enumerate(records)
    ]
    return changed, dict(sorted(source.items()))
