"""lm-eval's model for transformers, with what requests share run once: the same scores and texts, sooner.

The choices of an item share its context, the items of a task the examples that they begin with. Both are found among
token ids, never among texts, and run once (``adg/backbones/packed.py``); nothing is padded, and a text that has ended
leaves the batch. What is not greedy decoding, and architectures that do not take part, go lm-eval's own way.
"""

from __future__ import annotations

import functools
import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from adg.backbones.packed import Beginning, CannotPack, Group, PackedModel, Tree
from adg.batching import batch_tokens
from adg.progress import notice, progress

MIN_SHARED = 16  # tokens that contexts must begin with alike before a separate pass over them pays
SPREAD = 1.5  # how many times as long as the shortest a text of one group may be

_packs: set[tuple[Any, ...]] = set()  # architectures whose texts can be packed, as was seen

Batch = list[tuple[int, Beginning | None]]  # texts by their number, each with what it begins with


@dataclass(frozen=True)
class Shared:
    """Contexts, by number, that begin with the same ``length`` tokens; 0 for one that is alone."""

    length: int
    members: list[int]


def shared_beginnings(contexts: Sequence[Sequence[int]], least: int = MIN_SHARED) -> list[Shared]:
    """Every context in one group, so that running the groups' beginnings once saves tokens.

    A beginning leaves at least one token of each of its contexts. In sorted order, contexts that begin alike stand side
    by side, and runs of them lie inside each other; from the longest beginnings to the shorter ones, those groups of a
    run join that save no less by it.
    """
    order = sorted(range(len(contexts)), key=lambda i: list(contexts[i]))
    common = [_common(contexts[a], contexts[b]) for a, b in itertools.pairwise(order)]
    unfinished: list[tuple[int, list[Shared]]] = []  # runs that contexts to come belong to, outer ones first
    run: list[Shared] = []
    for place, context in enumerate(order):
        run, ahead = [Shared(0, [context])], common[place] if place < len(common) else -1
        while unfinished and unfinished[-1][0] > ahead:
            length, inner = unfinished.pop()
            run = _joined(length, inner + run) if length >= least else inner + run
        if unfinished and unfinished[-1][0] == ahead:
            unfinished[-1][1].extend(run)
        elif ahead >= 0:
            unfinished.append((ahead, run))
    return run


def _joined(length: int, groups: Sequence[Shared]) -> list[Shared]:
    """Groups whose contexts all begin with the same ``length`` tokens: those in one that save no less by it."""

    def saved(group: Shared) -> int:
        return group.length * (len(group.members) - 1)

    join = [group for group in groups if length * len(group.members) >= saved(group)]
    members = [i for group in join for i in group.members]
    if length * (len(members) - 1) <= sum(map(saved, join)):
        return list(groups)
    return [Shared(length, members), *(group for group in groups if length * len(group.members) < saved(group))]


def _common(one: Sequence[int], other: Sequence[int]) -> int:
    """Tokens at which two contexts begin alike, one less than the shorter has at most."""
    size = min(len(one), len(other)) - 1
    if one[:size] == other[:size]:
        return size
    return int(np.argmin(np.equal(one[:size], other[:size])))


@dataclass(frozen=True)
class Item:
    """A context and what is scored after it: the continuations but for their last token, and whose they are."""

    context: tuple[int, ...]
    continuations: dict[tuple[int, ...], list[int]] = field(default_factory=dict)  # -> numbers of requests

    @property
    def tokens(self) -> int:
        return len(self.context) + sum(map(len, self.continuations))

    def tree(self, beginning: Beginning | None) -> Tree:
        stem = self.context[len(beginning) if beginning else 0 :]
        return Tree(stem, [tokens for tokens in self.continuations if tokens], beginning)

    def places(self, stem: int) -> Iterator[tuple[list[int], list[int]]]:
        """For each continuation: the tokens of a tree with this ``stem`` after which its tokens stand, whose it is."""
        first = stem
        for tokens, requests in self.continuations.items():
            yield [stem - 1, *range(first, first + len(tokens))], requests
            first += len(tokens)


@dataclass
class Unanswered:
    """A text to go on with until a stop string, a stop token or the last of ``tokens``; ``answer`` is what came."""

    ids: list[int]
    until: list[str]
    window: int  # last tokens of the answer among which a stop string that just ended stands
    tokens: int
    answer: list[int] = field(default_factory=list)


class SharedRuns:
    """Scores and greedy answers of a model, what texts share run once.

    ``rows`` texts of the longest kind at once, as many as lm-eval would hold in memory.
    """

    def __init__(self, model: Any, rows: int) -> None:
        self.packed, self.rows = PackedModel(model), rows
        self._pass = batch_tokens(1 << 30, model.device.type)

    def score(self, items: Sequence[Item]) -> Iterator[tuple[int, Any]]:
        """(number of a request, logits (n, vocabulary) that its continuation's n tokens are scored by)."""
        room = min(self._pass, self.rows * max((item.tokens for item in items), default=0))
        contexts = [item.context for item in items]
        for batch in self._batches(contexts, [item.tokens for item in items], room):
            trees = [items[i].tree(beginning) for i, beginning in batch]
            places = [list(items[i].places(len(tree.stem))) for (i, _), tree in zip(batch, trees, strict=True)]
            wanted = [[place for chosen, _ in item for place in chosen] for item in places]
            for logits, item in zip(self.packed.logits(trees, wanted), places, strict=True):
                parts = logits.split([len(chosen) for chosen, _ in item])
                for part, (_, requests) in zip(parts, item, strict=True):
                    yield from ((request, part) for request in requests)

    def answer(
        self, prompts: Sequence[Unanswered], stop: set[int], decode: Callable[[list[int]], str]
    ) -> Iterator[int]:
        """Fill in the ``answer`` of each prompt; yields its number when it has ended."""
        sizes = [len(prompt.ids) + prompt.tokens for prompt in prompts]
        for batch in self._batches([prompt.ids for prompt in prompts], sizes, self.rows * max(sizes, default=0)):
            groups, rows = self._start(prompts, batch)
            while True:
                kept, ahead = [], []
                for group, members in zip(groups, rows, strict=True):
                    over = [_ended(prompts[i], stop, decode) for i in members]
                    yield from (i for i, ended in zip(members, over, strict=True) if ended)
                    order = group.drop([row for row, ended in enumerate(over) if ended])
                    if order:
                        kept.append(group)
                        ahead.append([members[row] for row in order])
                groups, rows = kept, ahead
                if not groups:
                    break
                ahead_of = [i for members in rows for i in members]
                logits = self.packed.step(groups, [prompts[i].answer[-1] for i in ahead_of])
                for i, token in zip(ahead_of, logits.argmax(-1).tolist(), strict=True):
                    prompts[i].answer.append(token)

    def _start(self, prompts: Sequence[Unanswered], batch: Batch) -> tuple[list[Group], list[list[int]]]:
        """Groups of texts that begin alike and are about as long, which of the prompts their rows are; each has its
        first token."""
        groups, rows = list[Group](), list[list[int]]()
        first = {id(beginning): place for place, (_, beginning) in reversed(list(enumerate(batch)))}
        for i, beginning in sorted(batch, key=lambda entry: (first[id(entry[1])], len(prompts[entry[0]].ids))):
            own = len(prompts[i].ids) - (len(beginning) if beginning else 0)
            if not groups or groups[-1].beginning is not beginning or own > SPREAD * groups[-1].lengths[0] + MIN_SHARED:
                groups.append(Group(beginning))
                rows.append([])
            groups[-1].add(own, own + prompts[i].tokens)
            rows[-1].append(i)
        waiting = [
            (i, group, row) for group, members in zip(groups, rows, strict=True) for row, i in enumerate(members)
        ]
        while waiting:
            part, total = list[tuple[int, Group, int]](), 0
            while waiting and (not part or total + waiting[0][1].lengths[waiting[0][2]] <= self._pass):
                part.append(waiting.pop(0))
                total += part[-1][1].lengths[part[-1][2]]
            trees = [
                Tree(prompts[i].ids[len(group.beginning) if group.beginning else 0 :], (), group.beginning)
                for i, group, _ in part
            ]
            logits = self.packed.start(trees, [(group, row) for _, group, row in part])
            for (i, _, _), token in zip(part, logits.argmax(-1).tolist(), strict=True):
                prompts[i].answer.append(token)
        return groups, rows

    def _batches(self, contexts: Sequence[Sequence[int]], sizes: Sequence[int], room: int) -> Iterator[Batch]:
        """Texts in batches of ``room`` tokens, longest first; a shared beginning, run once, counts in its first."""
        groups = sorted(shared_beginnings(contexts), key=lambda group: -max(sizes[i] for i in group.members))
        known: dict[int, Beginning] = {}
        waiting: list[tuple[int, int]] = []  # texts, numbers of their groups
        total = 0

        def ready() -> Batch:
            new = [number for number in dict.fromkeys(n for _, n in waiting) if number not in known]
            new = [number for number in new if groups[number].length]
            if new:
                heads = [contexts[groups[number].members[0]][: groups[number].length] for number in new]
                known.update(zip(new, self.packed.begin(heads), strict=True))
            batch: Batch = [(i, known.get(number)) for i, number in waiting]
            for number in [number for number in known if number < waiting[-1][1]]:
                del known[number]
            waiting.clear()
            return batch

        for number, group in enumerate(groups):
            for i in sorted(group.members, key=lambda i: -sizes[i]):
                need = sizes[i] - group.length * (i != group.members[0])
                if waiting and total + need > room:
                    yield ready()
                    total = 0
                waiting.append((i, number))
                total += need
        if waiting:
            yield ready()


def _ended(prompt: Unanswered, stop: set[int], decode: Callable[[list[int]], str]) -> bool:
    if prompt.answer[-1] in stop or len(prompt.answer) >= prompt.tokens:
        return True
    text = decode(prompt.answer[-prompt.window :])
    return any(term in text for term in prompt.until)


def items_of(pairs: Sequence[tuple[Sequence[int], Sequence[int]]], longest: int) -> list[Item]:
    """Contexts with what follows them, from (context, continuation) of each request, cut from the left as lm-eval
    cuts them: ``longest`` tokens, the last of the continuation not counted."""
    items: dict[tuple[int, ...], Item] = {}
    for number, (context, continuation) in enumerate(pairs):
        tokens = tuple([*context, *continuation][-(longest + 1) :])
        start = tokens[: len(tokens) - len(continuation)]
        item = items.setdefault(start, Item(start))
        item.continuations.setdefault(tokens[len(start) : -1], []).append(number)
    return list(items.values())


def make_lm(model: Any, tokenizer: Any, stop: Sequence[int], probe: Sequence[int], **settings: Any) -> Any:
    """lm-eval's ``HFLM`` around ``model``, sharing what it can; lm-eval's own, which is said, where it cannot.

    ``probe`` are token ids that the model is tried on, once a process for models of one architecture.
    """
    from lm_eval.models.huggingface import HFLM

    kind = (type(model), model.config.to_json_string(), model.dtype, model.device)
    try:
        if kind not in _packs:
            PackedModel(model).check(probe)
            _packs.add(kind)
    except CannotPack as error:
        notice(f"contexts are not shared, every request is run on its own: {error}")
        return HFLM(pretrained=model, tokenizer=tokenizer, **settings)
    return _shared_lm()(stop, pretrained=model, tokenizer=tokenizer, **settings)


@functools.cache
def _shared_lm() -> Any:
    """The class; made when it is first wanted, since lm-eval takes long to import."""
    import torch
    from lm_eval.models import utils
    from lm_eval.models.huggingface import HFLM

    class SharedContextLM(HFLM):  # type: ignore[misc]
        """Scores and greedy texts as ``HFLM``'s."""

        def __init__(self, stop: Sequence[int], **settings: Any) -> None:
            super().__init__(**settings)
            self.stop, self.runs = set(stop), SharedRuns(self.model, self.batch_size)
            self.known: dict[str, str] = {}
            self._windows: dict[tuple[str, ...], int] = {}

        def _loglikelihood_tokens(self, requests: Any, *args: Any, **kwargs: Any) -> list[tuple[float, bool]]:
            for _, context, continuation in requests:
                assert context and continuation and len(continuation) <= self.max_length, "as lm-eval asserts"
            found: dict[int, tuple[float, bool]] = {}
            items = items_of([(context, continuation) for _, context, continuation in requests], self.max_length)
            with progress(len(requests), "log-likelihoods", "requests") as bar:
                for number, logits in self.runs.score(items):
                    name, _, continuation = requests[number]
                    tokens = torch.tensor(continuation, device=logits.device)
                    log_p = torch.nn.functional.log_softmax(logits, dim=-1, dtype=self.softmax_dtype)
                    total = float(log_p.gather(1, tokens[:, None]).sum())
                    found[number] = (total, bool((logits.argmax(-1) == tokens).all()))
                    if name is not None:
                        self.cache_hook.add_partial("loglikelihood", name, found[number])
                    bar.update(1)
            return [found[number] for number in range(len(requests))]

        def generate_until(self, requests: Any, disable_tqdm: bool = False) -> list[str]:
            if any(_key(request) not in self.known for request in requests):
                prompts = [self._prompt(*request.args) for request in requests]
                greedy = [prompt for prompt in prompts if prompt is not None]
                if len(greedy) < len(requests):
                    return super().generate_until(requests, disable_tqdm)
                self._answer(requests, greedy)
            return [self.known[_key(request)] for request in requests]

        def _answer(self, requests: Any, prompts: Sequence[Unanswered]) -> None:
            with progress(len(requests), "answers", "requests") as bar:
                for number in self.runs.answer(prompts, self.stop, self.tokenizer.decode):
                    text = utils.postprocess_generated_text(
                        self.tok_decode(prompts[number].answer), prompts[number].until, None
                    )
                    self.known[_key(requests[number])] = text
                    self.cache_hook.add_partial("generate_until", requests[number].args, text)
                    bar.update(1)

        def _prompt(self, context: str, gen_kwargs: dict[str, Any]) -> Unanswered | None:
            """What is asked for, or None where it is more than greedy decoding."""
            kwargs = utils.normalize_gen_kwargs(gen_kwargs, self.max_gen_toks)
            eos = self.tok_decode(self.eot_token_id, skip_special_tokens=False)
            until, tokens = utils.handle_stop_sequences(kwargs.pop("until"), eos), kwargs.pop("max_gen_toks")
            if kwargs.pop("do_sample", False) or kwargs.pop("temperature", 0.0) or kwargs:
                return None
            room = self.max_length - tokens
            assert room > 0, f"{tokens} new tokens are asked for, the model has {self.max_length} positions"
            return Unanswered(self._encoded(context)[-room:], until, self._window(tuple(until)), tokens)

        def _encoded(self, context: str) -> list[int]:
            """As ``tok_batch_encode`` does a prompt that is alone."""
            ids, _ = self.tok_batch_encode([context], truncation=self.truncation)
            return ids[0].tolist()

        def _window(self, until: tuple[str, ...]) -> int:
            """As many tokens as lm-eval looks back to find a stop string."""
            if until not in self._windows:
                lengths = (len(self.tokenizer.encode(term, add_special_tokens=False)) for term in until)
                self._windows[until] = 2 + max(lengths)
            return self._windows[until]

    return SharedContextLM


def _key(request: Any) -> str:
    return json.dumps(request.args, sort_keys=True, default=str)
