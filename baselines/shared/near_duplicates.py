"""Near-duplicate texts: exact Jaccard similarity of word bigrams, grouped transitively, the smallest index kept.

SCAR's released step compares every pair and groups them in the order of an unseeded hash, so that its result varies.
Here an inverted index finds every pair that can reach the threshold (none is missed) and a union-find merges them:
deterministic, and fast enough for a whole pool.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Sequence

import numpy as np

_WORD = re.compile(r"\w+|[^\w\s]")


def bigrams(text: str) -> frozenset[str]:
    """The distinct pairs of neighbouring words and punctuation marks, in lower case; empty below two of them.

    The released code splits with NLTK's tokenizer, which needs a data file; contractions are cut differently there.
    """
    words = _WORD.findall(text.lower())
    return frozenset(map(" ".join, itertools.pairwise(words)))


def groups(texts: Sequence[str], threshold: float) -> np.ndarray:
    """For each text the smallest index of its group: texts linked by pairs with Jaccard >= ``threshold`` (0 < t <= 1).

    Texts without a bigram are alone. Only pairs that share a rare bigram are compared, and of those only pairs that
    are not in one group yet.
    """
    parent = list(range(len(texts)))

    def find(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    def join(i: int, j: int) -> None:
        low, high = sorted((find(i), find(j)))
        parent[high] = low

    owner: dict[frozenset[str], int] = {}  # equal sets are one group from the start, and compared once
    for i, text in enumerate(texts):
        grams = bigrams(text)
        if grams:
            join(owner.setdefault(grams, i), i)
    sets = sorted(owner, key=lambda grams: (len(grams), owner[grams]))
    index = _Index(sets, threshold)
    for p, x in enumerate(sets):
        for q in index.candidates(p):
            y = sets[q]
            if find(owner[x]) != find(owner[y]):
                shared = len(x & y)
                if shared / (len(x) + len(y) - shared) >= threshold:
                    join(owner[x], owner[y])
    return np.array([find(i) for i in range(len(texts))], dtype=np.int64)


class _Index:
    """Which earlier sets can reach the threshold with a set: a superset of those that do.

    ``sets`` are non-empty and in ascending order of size. With the bigrams of a set ranked from rare to common, two
    sets x, y can only reach Jaccard t if they share one of the first |x| - ceil(t |x|) + 1 of x and one of y's.
    """

    def __init__(self, sets: Sequence[frozenset[str]], threshold: float) -> None:
        frequency = Counter(gram for grams in sets for gram in grams)
        rank = {gram: r for r, gram in enumerate(sorted(frequency, key=lambda gram: (frequency[gram], gram)))}
        self.t = threshold
        self.sizes = np.array([len(grams) for grams in sets], dtype=np.int64)
        lengths = self.sizes - _ceil(threshold * self.sizes) + 1  # of the prefixes
        self.rest = self.sizes - lengths
        prefixes = [
            np.sort(np.fromiter(map(rank.__getitem__, grams), np.int64, len(grams)))[:length]
            for grams, length in zip(sets, lengths.tolist(), strict=True)
        ]
        self.last = np.array([prefix[-1] for prefix in prefixes], dtype=np.int64)
        self.starts = np.concatenate([[0], np.cumsum(lengths)])
        tokens = np.concatenate(prefixes) if prefixes else np.empty(0, dtype=np.int64)
        holders = np.repeat(np.arange(len(sets)), lengths)
        keys = tokens * len(sets) + holders
        order = np.argsort(keys)
        self.postings = holders[order]  # by bigram, then by set
        # of an entry's posting list, the part before the entry itself whose sets are not too small for it
        smallest = np.searchsorted(self.sizes, _ceil(threshold * self.sizes))
        self.low = np.searchsorted(keys[order], tokens * len(sets) + smallest[holders])
        self.high = np.empty(len(keys), dtype=np.int64)
        self.high[order] = np.arange(len(keys))

    def candidates(self, p: int) -> list[int]:
        """Positions below ``p`` of the sets that may reach the threshold with set ``p``."""
        entries = slice(self.starts[p], self.starts[p + 1])
        low, high = self.low[entries], self.high[entries]
        used = low < high
        parts = [self.postings[a:b] for a, b in zip(low[used].tolist(), high[used].tolist(), strict=True)]
        if not parts:
            return []
        others, shared = np.unique(np.concatenate(parts), return_counts=True)
        # what they share beyond both prefixes lies behind the prefix that ends first
        more = np.where(self.last[p] <= self.last[others], self.rest[p], self.rest[others])
        needed = _ceil(self.t / (1 + self.t) * (self.sizes[p] + self.sizes[others]))
        return others[shared + more >= needed].tolist()


def _ceil(values: np.ndarray) -> np.ndarray:
    """The ceiling, forgiving rounding of the product before it: a bound may be one too low, never too high."""
    return np.ceil(values - 1e-9).astype(np.int64)
