"""Text that two sets of texts share: runs of words, whole questions, near duplicates; numpy only, no model.

Identity: every field of ``ContaminationConfig``.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from adg.errors import BadInput
from adg.evaluation import items

TEST, TRAIN = "test", "train"  # kinds of splits: what is scored; what training or few-shot examples may come from
FIELDS = ("question", "answer")
PARTS = ("prompt", "output")
MATCHES = ("ngram", "whole", "near")
LEAST = 8  # runs of words that an item must have of its own to be called a near duplicate
_WORD = re.compile(r"[^\W_]+")
_CJK = re.compile(r"[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]")  # written without blanks: a word each


@dataclass(frozen=True)
class ContaminationConfig:
    """How much text in common is called an overlap."""

    ngram: int = 13  # words in a row
    shortest: int = 5  # words of the shortest question that is looked for as a whole
    shingle: int = 3  # words in a run for near duplicates
    similarity: float = 0.7  # share of an item's runs that a near duplicate holds
    template: int = 10  # items of a task that may share words before these count as the task's form

    def __post_init__(self) -> None:
        for name, lowest in (("ngram", 2), ("shortest", 1), ("shingle", 1), ("template", 1)):
            if getattr(self, name) < lowest:
                raise BadInput(f"contamination.{name} is {getattr(self, name)}; expected at least {lowest}")
        if not 0 < self.similarity <= 1:
            raise BadInput(f"contamination.similarity is {self.similarity}; expected above 0 and at most 1")


def words(text: str) -> list[str]:
    """The words of a text in lower case, without punctuation; a Chinese or Japanese character is a word."""
    if not text.isascii():
        text = _CJK.sub(r" \g<0> ", unicodedata.normalize("NFKC", text))
    return _WORD.findall(text.casefold())


def _mixed(numbers: np.ndarray) -> np.ndarray:
    """A 64-bit hash of each number (n,), by the finaliser of splitmix64 (Steele et al. 2014)."""
    z = numbers.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


@dataclass(frozen=True)
class Texts:
    """Many texts as one array of word numbers. Text d is ``tokens[starts[d] : starts[d + 1]]``; -1 is a word that no
    benchmark has."""

    tokens: np.ndarray  # (n,) int32
    starts: np.ndarray  # (texts + 1,) int64

    @classmethod
    def of(cls, numbers: Sequence[Sequence[int]]) -> Texts:
        lengths = np.fromiter(map(len, numbers), np.int64, len(numbers))
        starts = np.concatenate([[0], np.cumsum(lengths)])
        tokens = np.fromiter((n for text in numbers for n in text), np.int32, int(starts[-1]))
        return cls(tokens, starts)

    @functools.cached_property
    def owner(self) -> np.ndarray:
        """The text of each word (n,)."""
        return np.repeat(np.arange(len(self.starts) - 1), np.diff(self.starts))

    def lengths(self) -> np.ndarray:
        return np.diff(self.starts)

    def runs(self, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Where a run of ``k`` known words of one text begins (m,), and its hash (m,)."""
        size = len(self.tokens) - k + 1
        if size < 1:
            return np.empty(0, np.int64), np.empty(0, np.uint64)
        unknown = np.concatenate([[0], np.cumsum(self.tokens < 0)])
        good = (self.owner[:size] == self.owner[k - 1 :]) & (unknown[k:] == unknown[:size])
        at = np.flatnonzero(good)
        codes = _mixed(self.tokens)
        hashes = np.zeros(len(at), np.uint64)
        for i in range(k):
            hashes = hashes * np.uint64(0x100000001B3) + codes[at + i]
        return at, _mixed(hashes)


@dataclass
class Postings:
    """Runs of ``k`` words of the items by their hash, for looking up those of the records."""

    k: int
    hashes: np.ndarray  # (m,) sorted
    at: np.ndarray  # (m,) where each begins among the items' words

    def __post_init__(self) -> None:
        self.sieve = np.zeros(2**20, bool)  # says quickly that a hash is not there, since most are not
        self.sieve[self.hashes >> np.uint64(44)] = True

    def find(self, record_texts: Texts, texts: Texts) -> tuple[np.ndarray, np.ndarray]:
        """(position in ``record_texts``, position in ``texts``) of every run in common; equal hashes are compared word
        by word, so that no chance equality counts."""
        at, hashes = record_texts.runs(self.k)
        keep = self.sieve[hashes >> np.uint64(44)]
        at, hashes = at[keep], hashes[keep]
        left = np.searchsorted(self.hashes, hashes, "left")
        many = np.searchsorted(self.hashes, hashes, "right") - left
        first = np.repeat(np.cumsum(many) - many, many)
        mine = np.repeat(at, many)
        theirs = self.at[np.repeat(left, many) + np.arange(len(mine)) - first]
        same = np.ones(len(mine), bool)
        for i in range(self.k):
            same &= record_texts.tokens[mine + i] == texts.tokens[theirs + i]
        return mine[same], theirs[same]


class Index:
    """All benchmark items, ready to be compared with records. Text 2i is the question of item i, 2i + 1 its answer."""

    def __init__(self, splits: Mapping[str, Sequence[items.Split]], options: ContaminationConfig) -> None:
        self.options = options
        self.names: list[tuple[str, str, str, str, int]] = []  # (task, kind, config, split, row) of an item
        self.vocabulary: dict[str, int] = {}
        self.spelling: list[str] = []
        numbers: list[list[int]] = []
        tasks: list[int] = []
        kinds: list[bool] = []
        for number, (task, parts) in enumerate(splits.items()):
            for split in parts:
                for row, texts in enumerate(split.items):
                    self.names.append((task, TEST if split.test else TRAIN, split.config, split.name, row))
                    tasks.append(number)
                    kinds.append(split.test)
                    numbers += [self._numbers(text) for text in texts]
        self.spelling = list(self.vocabulary)
        self.texts = Texts.of(numbers)
        self.task = np.array(tasks, np.int64)
        self.kind = 2 * self.task + np.array(kinds, np.int64)  # a task's kind of splits
        self.checked = np.zeros(len(self.names), bool)
        self.long = self._postings(options.ngram, whole=False)
        self.short = [self._postings(k, whole=True) for k in range(options.shortest, options.ngram)]
        self.near, self.own = self._shingles()

    def _numbers(self, text: str) -> list[int]:
        known = self.vocabulary
        return [known.setdefault(word, len(known)) for word in words(text)]

    def _own(self, at: np.ndarray, hashes: np.ndarray, limit: int, among: np.ndarray) -> np.ndarray:
        """Indices of the runs that at most ``limit`` items have of those alike in ``among`` (items,), by hash."""
        item = self.texts.owner[at] // 2
        order = np.lexsort((item, among[item], hashes))
        item, hashes = item[order], hashes[order]
        alike = among[item]
        new_group = np.ones(len(order), bool)  # a group is a hash in a task, or in its test or training splits
        new_group[1:] = (hashes[1:] != hashes[:-1]) | (alike[1:] != alike[:-1])
        new_item = new_group.copy()
        new_item[1:] |= item[1:] != item[:-1]
        group = np.cumsum(new_group) - 1
        shared = np.bincount(group, weights=new_item) if len(group) else np.empty(0)
        return order[shared[group] <= limit]

    def _postings(self, k: int, whole: bool) -> Postings:
        """Runs of ``k`` words; ``whole``: questions that have just that many."""
        at, hashes = self.texts.runs(k)
        owner = self.texts.owner[at] if len(at) else np.empty(0, np.int64)
        if whole:
            keep = (owner % 2 == 0) & (self.texts.lengths()[owner] == k)
            at, hashes, owner = at[keep], hashes[keep], owner[keep]
        own = self._own(at, hashes, 1, self.kind) if whole else self._own(at, hashes, self.options.template, self.task)
        self.checked[owner[own] // 2] = True
        return Postings(k, hashes[own], at[own])

    def _shingles(self) -> tuple[Postings, np.ndarray]:
        """Each distinct run of ``shingle`` words once a text, and how many a text has (texts,); only of texts of at
        least ``ngram`` words that have enough of them."""
        at, hashes = self.texts.runs(self.options.shingle)
        owner = self.texts.owner[at] if len(at) else np.empty(0, np.int64)
        keep = self.texts.lengths()[owner] >= self.options.ngram
        at, hashes, owner = at[keep], hashes[keep], owner[keep]
        own = self._own(at, hashes, self.options.template, self.task)
        at, hashes, owner = at[own], hashes[own], owner[own]
        order = np.lexsort((owner, hashes))
        at, hashes, owner = at[order], hashes[order], owner[order]
        first = np.ones(len(at), bool)
        first[1:] = (hashes[1:] != hashes[:-1]) | (owner[1:] != owner[:-1])
        at, hashes, owner = at[first], hashes[first], owner[first]
        many = np.bincount(owner, minlength=len(self.texts.starts) - 1)
        keep = many[owner] >= LEAST
        return Postings(self.options.shingle, hashes[keep], at[keep]), many

    def counts(self) -> dict[str, dict[str, dict[str, int]]]:
        """Task -> kind of split -> how many items there are, and how many of them could be checked."""
        counted: dict[str, dict[str, dict[str, int]]] = {}
        for (task, kind, *_), checked in zip(self.names, self.checked.tolist(), strict=True):
            entry = counted.setdefault(task, {}).setdefault(kind, {"items": 0, "checked": 0})
            entry["items"] += 1
            entry["checked"] += checked
        return counted

    def compare(self, records: Sequence[tuple[str, str, str]]) -> list[dict[str, Any]]:
        """One row for each (record, item, field of the item) with text in common. ``records``: (id, prompt, output)."""
        get = self.vocabulary.get
        record_texts = Texts.of([[get(word, -1) for word in words(text)] for _, *texts in records for text in texts])
        best: dict[tuple[int, int], tuple[int, int, int, str, float | None]] = {}
        # (record, text of an item) -> (words in common, text of the record, where they begin, match, similarity)

        def add(pairs: Iterator[tuple[int, int, int, int]], match: str, similarity: Mapping[Any, float]) -> None:
            for text, other, at, size in pairs:
                key = (text // 2, other)
                known = best.get(key)
                if known is None or (match == known[3] and size > known[0]):
                    best[key] = (size, text, at, match, similarity.get((text, other)))

        for postings, match in ((self.long, "ngram"), *((short, "whole") for short in self.short)):
            add(self._runs(record_texts, postings.k, *postings.find(record_texts, self.texts)), match, {})
        mine, theirs = self.near.find(record_texts, self.texts)
        similar = self._contained(record_texts, mine, theirs)
        pairs = record_texts.owner[mine] * len(self.texts.starts) + self.texts.owner[theirs]
        wanted = np.isin(pairs, np.array([t * len(self.texts.starts) + o for t, o in similar], np.int64))
        add(self._runs(record_texts, self.near.k, mine[wanted], theirs[wanted]), "near", similar)
        rows = []
        for (record, other), (size, text, at, match, similarity) in sorted(best.items()):
            task, kind, config, split, row = self.names[other // 2]
            span = " ".join(self.spelling[n] for n in record_texts.tokens[at : at + size].tolist())
            rows.append(
                {
                    "id": records[record][0],
                    "part": PARTS[text % 2],
                    "task": task,
                    "kind": kind,
                    "config": config,
                    "split": split,
                    "item": row,
                    "field": FIELDS[other % 2],
                    "match": match,
                    "words": size,
                    "similarity": similarity,
                    "span": span,
                }
            )
        return rows

    def _runs(
        self, record_texts: Texts, k: int, mine: np.ndarray, theirs: np.ndarray
    ) -> Iterator[tuple[int, int, int, int]]:
        """(text of a record, text of an item, where they begin in ``record_texts``, words) of the longest words in a
        row that the two have in common, for every pair of texts with a common run of ``k``."""
        if not len(mine):
            return
        text, other = record_texts.owner[mine], self.texts.owner[theirs]
        order = np.lexsort((mine, mine - theirs, other, text))
        text, other, mine, theirs = text[order], other[order], mine[order], theirs[order]
        start = np.ones(len(mine), bool)
        start[1:] = (
            (text[1:] != text[:-1])
            | (other[1:] != other[:-1])
            | (mine[1:] != mine[:-1] + 1)
            | (theirs[1:] != theirs[:-1] + 1)
        )
        begin = np.flatnonzero(start)
        size = np.diff(np.append(begin, len(mine))) + k - 1
        text, other, mine, theirs = text[begin], other[begin], mine[begin], theirs[begin]
        longest = np.lexsort((mine, -size, other, text))
        first = np.ones(len(longest), bool)
        first[1:] = (text[longest][1:] != text[longest][:-1]) | (other[longest][1:] != other[longest][:-1])
        for i in longest[first].tolist():
            at, words_ = self._grown(
                record_texts, int(text[i]), int(other[i]), int(mine[i]), int(theirs[i]), int(size[i])
            )
            yield int(text[i]), int(other[i]), at, words_

    def _grown(self, record_texts: Texts, text: int, other: int, mine: int, theirs: int, size: int) -> tuple[int, int]:
        """A common run with the common words around it, which alone would be no evidence: (where it begins, words)."""
        a, b = record_texts.tokens, self.texts.tokens
        room = min(mine - record_texts.starts[text], theirs - self.texts.starts[other])
        before = 0
        while before < room and a[mine - before - 1] == b[theirs - before - 1]:
            before += 1
        room = min(record_texts.starts[text + 1] - mine, self.texts.starts[other + 1] - theirs)
        while size < room and a[mine + size] == b[theirs + size]:
            size += 1
        return mine - before, size + before

    def _contained(self, record_texts: Texts, mine: np.ndarray, theirs: np.ndarray) -> dict[tuple[int, int], float]:
        """(text of a record, text of an item) -> share of the item's own runs that the record's text holds, where
        that is at least ``similarity``. ``theirs`` names each distinct run of an item once."""
        triples = np.unique(np.stack([record_texts.owner[mine], self.texts.owner[theirs], theirs], axis=1), axis=0)
        if not len(triples):
            return {}
        new = np.ones(len(triples), bool)
        new[1:] = (triples[1:, :2] != triples[:-1, :2]).any(axis=1)
        begin = np.flatnonzero(new)
        share = np.diff(np.append(begin, len(triples))) / self.own[triples[begin, 1]]
        return {
            (int(text), int(other)): float(value)
            for (text, other, _), value in zip(triples[begin], share, strict=True)
            if value >= self.options.similarity
        }
