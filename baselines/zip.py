"""ZIP ("Entropy Law", arXiv 2407.06645; USTC-StarTeam/ZIP, commit f77b0b5): prefer data that compresses badly.

Exact and about as cheap for the last candidate as for the first: a copy of the compressor that has swallowed what
is selected already gives the size of "selected + candidate" without compressing the selected again.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from adg.errors import BadInput
from adg.options import aside
from adg.pools.records import Record
from adg.progress import progress
from adg.prompts import instruction_text
from adg.selection.contract import ScoreTable, Selector, SelectorData

VARIANTS = ("corrected", "released")
KEYS = ("id", "conversations", "source")
SHARE = 25  # candidates that are worth handing to a thread


@dataclass(frozen=True)
class ZipConfig:
    """Stage sizes of the official code, what text stands for a record, and the zlib that measures it.

    ``variant="corrected"`` (ours): candidates that reached the second stage and were not chosen stay available; exact
    budget (the last batch stops early); no repeats; ratios compared exactly; ties to the lowest id; k1, k2 and k3 are
    limited by what is left, so any pool and any budget works (with k2 or fewer records left, the first two stages
    choose nothing and the third ranks all of them).
    ``variant="released"``: the official code where its result is defined. All k2 of a batch are used up although k3
    are chosen, and ratios are compared as float32. Its rounding of the budget up to a multiple of k3 is cut off: the
    chosen are the first ``budget`` of what it returns. Its top-k leaves ties undefined: ours go to the lowest id.
    Where it would take used-up records again (and so repeat some), and where it fails, ``BadInput`` says what to
    change.
    """

    variant: str = "corrected"
    k1: int = 10000  # candidates measured again in each round
    k2: int = 200  # the best of those, compared with one another
    k3: int = 100  # chosen a round
    keys: tuple[str, ...] = KEYS  # of the text form of a record, in this order; every character counts
    source: str = "pool"  # what stands under the key "source"
    zlib: str | None = None  # version of the library, which decides the sizes; None: the one at hand
    workers: int = aside(0)  # threads; 0 = one a core

    def __post_init__(self) -> None:
        if self.variant not in VARIANTS:
            raise BadInput(f"selector.variant is {self.variant!r}; expected one of {', '.join(VARIANTS)}")
        for name in ("k1", "k2", "k3"):
            if getattr(self, name) < 1:
                raise BadInput(f"selector.{name} is {getattr(self, name)}; expected a number above 0")
        if not self.k1 >= self.k2 >= self.k3:
            raise BadInput(
                f"selector.k1, k2 and k3 are {self.k1}, {self.k2} and {self.k3}; expected k1 >= k2 >= k3, because each "
                f"stage chooses among those of the one before"
            )
        object.__setattr__(self, "keys", tuple(self.keys))
        if not self.keys or len(set(self.keys)) < len(self.keys) or not set(self.keys) <= set(KEYS):
            raise BadInput(f"selector.keys is {list(self.keys)}; expected some of {', '.join(KEYS)}, each once")
        if "conversations" not in self.keys:
            raise BadInput("selector.keys lacks 'conversations', which holds the text of a record")
        if self.workers < 0:
            raise BadInput(f"selector.workers is {self.workers}; expected 0 (one a core) or more")
        if self.zlib is None:
            object.__setattr__(self, "zlib", zlib.ZLIB_RUNTIME_VERSION)
        if self.zlib != zlib.ZLIB_RUNTIME_VERSION:
            raise BadInput(
                f"selector.zlib is {self.zlib!r} but this Python runs zlib {zlib.ZLIB_RUNTIME_VERSION}, whose sizes "
                f"may differ; use that library, or selector.zlib=null for the one at hand"
            )


def item_text(record: Record, keys: Sequence[str] = KEYS, source: str = "pool") -> bytes:
    """What is compressed for a record: Python's text form of its ShareGPT dict, in UTF-8."""
    parts: dict[str, Any] = {
        "id": record.id,
        "conversations": [
            {"from": "human", "value": instruction_text(record)},
            {"from": "gpt", "value": record.output},
        ],
        "source": source,
    }
    return repr({key: parts[key] for key in keys}).encode()


class Corpus:
    """A growing list of items and the compression ratio g it would have with one more: bytes / compressed bytes.

    g(S) = len(text) / len(zlib.compress(text, 9)) where text is "[" + ", ".join(items) + "]". The compressed size
    does not depend on how the text is cut into calls, so this equals compressing from scratch.
    """

    def __init__(self) -> None:
        self._state = zlib.compressobj(9)
        self._emitted = len(self._state.compress(b"["))
        self._bytes = 1

    def add(self, item: bytes) -> None:
        """Append an item for good."""
        self._emitted += len(self._state.compress(item + b", "))
        self._bytes += len(item) + 2

    def sizes(self, item: bytes) -> tuple[int, int]:
        """Bytes and compressed bytes of the list with ``item`` at its end; the list stays as it is."""
        copy = self._state.copy()
        return self._bytes + len(item) + 1, self._emitted + len(copy.compress(item + b"]")) + len(copy.flush())

    def ratio(self, item: bytes) -> float:
        """g of the list with ``item`` at its end."""
        raw, compressed = self.sizes(item)
        return raw / compressed


class Measurer:
    """``measure(corpus, rows)``: g of the corpus with each row's item added, (len(rows),) float64.

    In ``workers`` threads (0: one a core): zlib works without the interpreter's lock. Use as a context manager.
    """

    def __init__(self, items: Sequence[bytes], workers: int) -> None:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        self.items = items
        self._threads = workers or cores
        self._pool = ThreadPoolExecutor(self._threads)

    def __enter__(self) -> Measurer:
        return self

    def __exit__(self, *_: Any) -> None:
        self._pool.shutdown(cancel_futures=True)

    def __call__(self, corpus: Corpus, rows: np.ndarray) -> np.ndarray:
        def some(part: np.ndarray) -> list[float]:
            return [corpus.ratio(self.items[row]) for row in part]

        shares = min(4 * self._threads, len(rows) // SHARE)
        if self._threads == 1 or shares < 2:
            return np.array(some(rows))
        return np.array([g for part in self._pool.map(some, np.array_split(rows, shares)) for g in part])


def lowest(values: np.ndarray, count: int) -> np.ndarray:
    """Positions of the ``count`` smallest ``values`` (n,), smallest first, ties to the lowest position."""
    if count < len(values):
        limit = np.partition(values, count - 1)[count - 1]
        inside = np.flatnonzero(values <= limit)
        return inside[np.argsort(values[inside], kind="stable")[:count]]
    return np.argsort(values, kind="stable")


def select(items: Sequence[bytes], first: np.ndarray, budget: int, config: ZipConfig) -> np.ndarray:
    """Rows in the order chosen, exactly ``budget`` of them. ``first`` (n,) holds g([item]) of every item.

    Each round: (1) the k1 items with the smallest ratio known so far, (2) their ratios measured again after all that
    is selected, the k2 smallest kept, (3) k3 of those one at a time, each minimising the ratio of this round's batch
    alone (the batch is compared with itself, not with what was selected before; so in the official code).
    """
    released = config.variant == "released"
    n = len(items)
    if released:
        _check_released(n, budget, config)
    known = np.asarray(first, dtype=np.float32 if released else np.float64).copy()
    free = np.ones(n, dtype=bool)  # may still become a candidate
    selected = Corpus()
    chosen: list[int] = []
    with Measurer(items, config.workers) as measure, progress(budget, "zip", unit="records") as bar:
        while len(chosen) < budget:
            rows = np.flatnonzero(free)
            candidates = rows[lowest(known[rows], config.k1)]
            known[candidates] = measure(selected, candidates)
            short = candidates[_lowest_by_row(known[candidates], candidates, config.k2)]
            batch = _batch(measure, short, min(config.k3, budget - len(chosen)), known.dtype)
            for row in batch:
                selected.add(items[row])
            chosen += batch
            free[short if released else batch] = False
            bar.update(len(batch))
    return np.array(chosen, dtype=np.int64)


def _lowest_by_row(values: np.ndarray, rows: np.ndarray, count: int) -> np.ndarray:
    """Positions of the ``count`` smallest values, ties to the lowest of ``rows``."""
    return np.lexsort((rows, values))[:count]


def _batch(measure: Measurer, rows: np.ndarray, count: int, dtype: Any) -> list[int]:
    """The third stage: ``count`` of ``rows``, one at a time, each giving the batch so far the smallest ratio."""
    corpus, left = Corpus(), np.sort(rows)
    batch: list[int] = []
    while len(batch) < count:
        best = int(np.argmin(measure(corpus, left).astype(dtype)))
        batch.append(int(left[best]))
        corpus.add(measure.items[left[best]])
        left = np.delete(left, best)
    return batch


def _check_released(n: int, budget: int, config: ZipConfig) -> None:
    """Refuse what the official code answers with repeated records or an error."""
    used = config.k2 * (-(-budget // config.k3) - 1)  # set aside before the last round
    if n >= config.k1 + used:
        return
    room = n - used
    change = f"Lower selector.k1 to {room:,} or less"
    if room < config.k2:
        change = f"Bring selector.k2 nearer to selector.k3={config.k3:,}, and lower selector.k1"
    if used:
        change += ", or lower the budget"
    raise BadInput(
        f"zip's released code needs {config.k1 + used:,} records for budget {budget:,} (k1={config.k1:,}, and "
        f"k2={config.k2:,} set aside in each round but the last) and found {n:,}: it would select some twice. "
        f"{change}, or use selector.variant=corrected"
    )


class Zip(Selector):
    """Three-stage greedy selection of the records that make the selected text hardest to compress.

    ``score`` is g([record]), the compression ratio of the record alone (**lower is chosen first**), the state the
    official code starts from; ``raw_bytes`` and ``compressed_bytes`` are its two sides. Empty and one-character
    answers are ordinary records here, and tend to be picked early, as in the official code.
    """

    name = "zip"
    Config = ZipConfig

    def _items(self, data: SelectorData) -> list[bytes]:
        return [item_text(record, self.config.keys, self.config.source) for record in data.records]

    def scores(self, data: SelectorData) -> ScoreTable:
        empty = Corpus()
        sizes = np.array([empty.sizes(item) for item in self._items(data)], dtype=np.int64).reshape(-1, 2)
        return ScoreTable(sizes[:, 0] / sizes[:, 1], {"raw_bytes": sizes[:, 0], "compressed_bytes": sizes[:, 1]})

    def choose(self, data: SelectorData, table: ScoreTable, budget: int) -> np.ndarray:
        return select(self._items(data), table.score, budget, self.config)
