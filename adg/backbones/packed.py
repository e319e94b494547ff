"""Many texts in one forward pass, without padding, and what they begin with alike once.

The tokens of all texts stand in one row. Every layer but attention looks at one token at a time and needs to know no
more; attention is ours, put in by transformers' own interface for it, and alone knows which token sees which. The same
numbers as one text at a time, up to rounding; where an architecture does not take part, ``PackedModel.check`` says so.
"""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import torch

    Pair = tuple[torch.Tensor, torch.Tensor]  # keys and values
    Places = tuple[torch.Tensor, torch.Tensor, torch.Tensor]  # rows, where their tokens stand, what comes later

NAME = "adg_packed"  # of our attention, as transformers knows it
TOLERANCE = {"float32": 1e-3, "float64": 1e-6}  # of a logit, against the model's own attention; else COARSE
COARSE = 0.1  # mean difference of a logit in half precision, in standard deviations of the logits
DEPENDENT_ROPE = ("dynamic", "longrope")  # positions are turned by what else is in the batch


class CannotPack(Exception):
    """Why a model's texts must be run in padded batches."""


@dataclass(frozen=True)
class Beginning:
    """Tokens that texts begin with, as they were run: keys and values (heads, tokens, d) of each layer."""

    ids: tuple[int, ...]
    layers: dict[int, Pair] = field(repr=False)

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class Tree:
    """Tokens that follow a beginning: a stem, and branches that each continue the stem and do not see each other."""

    stem: Sequence[int]
    branches: Sequence[Sequence[int]] = ()
    beginning: Beginning | None = None

    @property
    def ids(self) -> list[int]:
        return [*self.stem, *(token for branch in self.branches for token in branch)]

    def __len__(self) -> int:
        return len(self.stem) + sum(map(len, self.branches))

    @property
    def before(self) -> int:
        return len(self.beginning) if self.beginning else 0

    def positions(self) -> list[int]:
        first, after = self.before, self.before + len(self.stem)
        return [*range(first, after), *(after + i for branch in self.branches for i in range(len(branch)))]

    def mask(self, device: Any) -> torch.Tensor | None:
        """(tokens, beginning + tokens), true where a token sees another; None for plain causal attention."""
        import torch

        if not self.before and not self.branches:
            return None
        size = len(self)
        own = torch.ones(size, size, dtype=torch.bool, device=device).tril()
        first = len(self.stem)
        for branch in self.branches:
            own[first : first + len(branch), len(self.stem) : first] = False
            first += len(branch)
        return torch.cat([own.new_ones(size, self.before), own], dim=1)


class _Pass(Protocol):
    """What attention does in one forward pass: queries (heads, tokens, d), keys and values of the tokens."""

    def attend(
        self, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float
    ) -> torch.Tensor: ...


_running: contextvars.ContextVar[_Pass] = contextvars.ContextVar("_running")


class Group:
    """Texts that go on from one beginning, token by token: keys and values of their own tokens side by side."""

    def __init__(self, beginning: Beginning | None) -> None:
        self.beginning, self.lengths, self.room = beginning, list[int](), 0
        self._layers: dict[int, Pair] = {}
        self._places: Places | None = None  # of the new tokens, the same in every layer of a step

    def __len__(self) -> int:
        return len(self.lengths)

    def add(self, tokens: int, room: int) -> int:
        """A text whose first ``tokens`` will be run, and that will have ``room`` in all; returns its row."""
        self.lengths.append(tokens)
        self.room = max(self.room, room)
        return len(self) - 1

    def put(self, layer: int, row: int, key: torch.Tensor, value: torch.Tensor) -> None:
        """Keep what a text's first tokens, (heads, tokens, d), left."""
        if layer not in self._layers:
            shape = (len(self), key.shape[0], self.room)
            self._layers[layer] = (key.new_zeros(*shape, key.shape[2]), value.new_zeros(*shape, value.shape[2]))
        for kept, new in zip(self._layers[layer], (key, value), strict=True):
            kept[row, :, : new.shape[1]] = new

    def attend(
        self, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float
    ) -> torch.Tensor:
        """One new token of each text, (heads, texts, d): kept, then seen with all before it."""
        import torch

        rows, width = len(self), max(self.lengths) + 1
        if self._places is None:
            at = torch.tensor(self.lengths, device=key.device)
            later = torch.arange(width, device=key.device) > at[:, None]
            self._places = torch.arange(rows, device=key.device), at, later[:, None, None]
        row, at, later = self._places
        own = []
        for kept, new in zip(self._layers[layer], (key, value), strict=True):
            kept[row, :, at] = new.transpose(0, 1)
            own.append(kept[:rows, :, :width])
        heads, _, size = key.shape
        query = query.reshape(heads, -1, rows, size)  # (heads of keys, queries of each, texts, d)
        scores = (query.permute(2, 0, 1, 3) @ own[0].transpose(-1, -2)).masked_fill_(later, float("-inf"))
        before = 0
        if self.beginning:
            before = len(self.beginning)
            shared = query.flatten(1, 2) @ self.beginning.layers[layer][0].transpose(-1, -2)
            scores = torch.cat([shared.unflatten(1, (-1, rows)).permute(2, 0, 1, 3), scores], dim=-1)
        weights = (scores.float() * scale).softmax(-1).to(value.dtype)
        out = (weights[..., before:] @ own[1]).permute(1, 2, 0, 3)
        if self.beginning:
            seen = weights[..., :before].permute(1, 2, 0, 3).flatten(1, 2) @ self.beginning.layers[layer][1]
            out = out + seen.unflatten(1, (-1, rows))
        return out.flatten(0, 1)

    def go_on(self) -> None:
        """Each text has the token more that a step has run."""
        self.lengths, self._places = [length + 1 for length in self.lengths], None

    def drop(self, ended: Sequence[int]) -> list[int]:
        """Forget texts; returns which of the old rows the rows that are left were."""
        import torch

        gone = set(ended)
        left = len(self) - len(gone)
        holes = [row for row in sorted(gone) if row < left]
        moved = [row for row in range(left, len(self)) if row not in gone]
        order = list(range(left))
        for hole, row in zip(holes, moved, strict=True):
            order[hole] = row
        with torch.inference_mode():
            for kept in (kept for pair in self._layers.values() for kept in pair if holes):
                kept[holes] = kept[moved]
        self.lengths, self._places = [self.lengths[row] for row in order], None
        return order


class _Fill:
    """The pass over trees: each sees its beginning, and of its own tokens what its mask says."""

    def __init__(self, trees: Sequence[Tree], device: Any, slots: Sequence[tuple[Group, int]] | None = None) -> None:
        self.trees, self.slots = trees, slots
        self.masks = [tree.mask(device) for tree in trees]
        self.kept: list[dict[int, Pair]] | None = None

    def attend(
        self, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float
    ) -> torch.Tensor:
        import torch

        out, last = torch.empty_like(query), 0
        for number, (tree, mask) in enumerate(zip(self.trees, self.masks, strict=True)):
            first, last = last, last + len(tree)
            pair = key[:, first:last], value[:, first:last]
            if self.slots is not None:
                group, row = self.slots[number]
                group.put(layer, row, *pair)
            if self.kept is not None:
                self.kept[number][layer] = (pair[0].clone(), pair[1].clone())
            if tree.beginning:
                before = tree.beginning.layers[layer]
                pair = torch.cat([before[0], pair[0]], dim=1), torch.cat([before[1], pair[1]], dim=1)
            out[:, first:last] = _attention(query[:, first:last], *pair, mask, scale)
        return out


class _Step:
    """The pass over one new token of each text of some groups."""

    def __init__(self, groups: Sequence[Group]) -> None:
        self.groups = groups

    def attend(
        self, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float
    ) -> torch.Tensor:
        import torch

        sizes = [len(group) for group in self.groups]
        parts = zip(self.groups, *(states.split(sizes, dim=1) for states in (query, key, value)), strict=True)
        return torch.cat([group.attend(layer, q, k, v, scale) for group, q, k, v in parts], dim=1)


def _attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None, scale: float
) -> torch.Tensor:
    import torch

    each = query.shape[0] // key.shape[0]
    if each > 1 and mask is not None and query.is_cuda:  # its fast kernels take no mask with fewer heads of keys
        key, value = key.repeat_interleave(each, 0), value.repeat_interleave(each, 0)
    return torch.nn.functional.scaled_dot_product_attention(
        query[None],
        key[None],
        value[None],
        attn_mask=None if mask is None else mask.to(query.device),
        is_causal=mask is None and query.shape[1] > 1,
        scale=scale,
        enable_gqa=key.shape[0] != query.shape[0],
    )[0]


def _attend(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: Any,
    scaling: float | None = None,
    **more: Any,
) -> tuple[torch.Tensor, None]:
    """What transformers calls: queries (1, heads, tokens, d), keys and values; returns (1, tokens, heads, d)."""
    if more.get("sliding_window") or any(more.get(name) is not None for name in ("softcap", "s_aux", "position_bias")):
        raise CannotPack("its attention is more than a softmax over all tokens before")
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    out = _running.get().attend(module.layer_idx, query[0], key[0], value[0], scale)
    return out.transpose(0, 1).contiguous()[None], None


class PackedModel:
    """A causal language model of transformers, with or without a PEFT adapter, run on packed texts.

    Its own attention is put back after each call. Nothing here takes gradients.
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        self._config = (model.get_base_model() if hasattr(model, "get_base_model") else model).config

    def check(self, ids: Sequence[int]) -> None:
        """Raise ``CannotPack`` unless packed texts made from ``ids`` (six tokens or more) get the logits that the
        model gives one text at a time: beginnings, branches and new tokens."""
        import torch

        layers = set(getattr(self._config, "layer_types", None) or ["full_attention"])
        rope = getattr(self._config, "rope_parameters", None) or {}
        if layers != {"full_attention"} or getattr(self._config, "sliding_window", None):
            raise CannotPack(f"its layers are of the kinds {', '.join(sorted(layers))}, or see a window only")
        if rope.get("rope_type") in DEPENDENT_ROPE:
            raise CannotPack(f"its positions ({rope['rope_type']}) depend on the longest text of a batch")
        head, one, two = list(ids[:2]), list(ids[2:4]), list(ids[4:6])
        try:
            (beginning,) = self.begin([head])
            (found,) = self.logits([Tree(one, [two[:1], two], beginning)], [[1, 2, 3, 4]])
            group = Group(beginning)
            (start,) = self.start([Tree(two, (), beginning)], [(group, group.add(len(two), len(two) + 1))])
            step = self.step([group], one[:1])
        except Exception as error:  # each architecture refuses in its own way what it does not know
            raise CannotPack(f"{type(error).__name__}: {error}") from error
        asked, there = len(beginning.layers), self._config.num_hidden_layers
        if asked != there:  # the others go their own way, with logits that may be close all the same
            raise CannotPack(f"{asked} of its {there} layers leave their attention to others")
        with torch.inference_mode():
            first = self.model(input_ids=self._ids([*head, *one, *two])).logits[0]
            second = self.model(input_ids=self._ids([*head, *two, *one[:1]])).logits[0]
        expected = torch.stack([first[3], first[4], first[4], first[5], second[3], second[4]]).float()
        difference = (torch.stack([*found, start, step[0]]).float() - expected).abs()
        allowed = TOLERANCE.get(str(first.dtype).removeprefix("torch."))
        off = float(difference.mean() / expected.std()) if allowed is None else float(difference.max())
        if not off <= (COARSE if allowed is None else allowed):
            raise CannotPack(f"packed texts get other logits: they are off by {off:.3g}")

    def begin(self, texts: Sequence[Sequence[int]]) -> list[Beginning]:
        """Run what other texts begin with, and keep it."""
        work = _Fill([Tree(ids) for ids in texts], self.model.device)
        work.kept = [{} for _ in texts]
        self._run(work, [0])
        return [Beginning(tuple(ids), kept) for ids, kept in zip(texts, work.kept, strict=True)]

    def logits(self, trees: Sequence[Tree], wanted: Sequence[Sequence[int]]) -> list[torch.Tensor]:
        """Logits (n, vocabulary) after the ``wanted`` tokens of each tree, numbered as in ``Tree.ids``."""
        return list(self._at(_Fill(trees, self.model.device), wanted).split([len(places) for places in wanted]))

    def start(self, trees: Sequence[Tree], slots: Sequence[tuple[Group, int]]) -> torch.Tensor:
        """Run texts, each as a row of a group that it will go on in; logits (n, vocabulary) after each."""
        return self._at(_Fill(trees, self.model.device, slots), [[len(tree) - 1] for tree in trees])

    def step(self, groups: Sequence[Group], tokens: Sequence[int]) -> torch.Tensor:
        """One token more for every text, in the groups' order; logits (n, vocabulary) after each."""
        positions = [(len(group.beginning) if group.beginning else 0) + n for group in groups for n in group.lengths]
        logits = self._forward(_Step(groups), tokens, positions, range(len(tokens)))
        for group in groups:
            group.go_on()
        return logits

    def _at(self, work: _Fill, wanted: Sequence[Sequence[int]]) -> torch.Tensor:
        places, first = [], 0
        for tree, chosen in zip(work.trees, wanted, strict=True):
            places += [first + place for place in chosen]
            first += len(tree)
        return self._run(work, places)

    def _run(self, work: _Fill, places: Sequence[int]) -> torch.Tensor:
        ids = [token for tree in work.trees for token in tree.ids]
        return self._forward(work, ids, [position for tree in work.trees for position in tree.positions()], places)

    def _forward(
        self, work: _Pass, ids: Sequence[int], positions: Sequence[int], places: Sequence[int]
    ) -> torch.Tensor:
        import torch

        token = _running.set(work)
        try:
            with torch.inference_mode(), self._attention():
                return self.model(
                    input_ids=self._ids(ids),
                    position_ids=self._ids(positions),
                    use_cache=False,
                    logits_to_keep=self._ids(places)[0],
                ).logits[0]
        finally:
            _running.reset(token)

    def _ids(self, numbers: Sequence[int]) -> torch.Tensor:
        import torch

        return torch.tensor([list(numbers)], device=self.model.device)

    @contextlib.contextmanager
    def _attention(self) -> Iterator[None]:
        from transformers import AttentionInterface

        AttentionInterface.register(NAME, _attend)
        before = self._config._attn_implementation
        self._config._attn_implementation = NAME
        try:
            yield
        finally:
            self._config._attn_implementation = before
