"""Tokens that leave between a layer's attention and its feed-forward network.

Whoever is left moves together, in the order of the text, and the first token always stays.  Texts of a batch may keep
different numbers: rows are as long as the longest needs, and the places behind the others are filled with copies of
the first token that nothing looks at, so that observers see nothing but tokens there.

Source: Goyal et al. 2020, arXiv:2001.08950, section 3.2; Kim et al. 2022, arXiv:2107.00910, section 3.2; merging: Bolya
et al. 2023, arXiv:2210.09461, section 3.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from bertpress.encoder.attention_masks import Masks, additive_mask, logarithm, places_of
from bertpress.encoder.token_specs import AnyLeave, MergeSpec, ThresholdSpec, TopSpec

PAD, FIRST = -1e9, 1e9
"""Scores of what goes before any token, and of what stays in any case."""


@dataclass
class Present:
    """The tokens that are there at some point of a pass; layers that let some go change it.

    Attributes:
        weights: (batch, tokens), how many tokens of the text each stands for; 0: a pad, or one that left.
        places: (batch or 1, tokens), int64, where in the text they stand.
        lengths: (batch, 1), tokens of each text before any left; float, at least 1.
        width: places of a row before any token left; at least the largest of ``lengths``.
        masks: for the layers above, and for what pools.
    """

    weights: Tensor
    places: Tensor
    lengths: Tensor
    width: Any
    masks: Masks

    @classmethod
    def of(cls, hidden: Tensor, masks: Masks) -> Present:
        """All tokens of states (batch, tokens, hidden)."""
        batch, width, _ = hidden.shape
        weights = hidden.new_ones(batch, width) if masks.tokens is None else masks.tokens.to(hidden.dtype)
        return cls(weights, places_of(hidden, masks.tokens), weights.sum(1, keepdim=True).clamp(min=1), width, masks)

    def become(self, weights: Tensor, places: Tensor | None = None, *, whole: bool) -> None:
        """Go on with these tokens.

        Args:
            weights: (batch, tokens).
            places: (batch, tokens); None: as before.
            whole: every weight is 0 or 1, so that no token has more or less of a say than another.
        """
        self.weights, self.places = weights, self.places if places is None else places
        mask = additive_mask(weights, weights.dtype) if whole else logarithm(weights)[:, None, None, :]
        self.masks = Masks(weights, mask, mask)


class Rule(Protocol):
    """What a layer does with its tokens."""

    @property
    def reads(self) -> str:
        """Its name on the tape."""

    def __call__(self, present: Present, read: Tensor, states: Sequence[Tensor]) -> list[Tensor]:
        """Change ``present``, and states (batch, tokens, size) with it.

        Args:
            present: the tokens that came.
            read: what the rule reads of the layer's attention, such as maps (batch, heads, tokens, tokens).
            states: of these tokens.
        """


def attention_received(maps: Tensor, weights: Tensor, *, others: bool = False) -> Tensor:
    """What each token gets of the attention, summed over heads and real queries.

    Args:
        maps: (batch, heads, queries, keys).
        weights: (batch, queries), of each query; 0 for pads.
        others: what a token gets of itself does not count.

    Returns:
        (batch, keys).
    """
    total = maps.sum(1)
    if others:
        places = torch.arange(maps.shape[-1], device=maps.device)
        total = total.masked_fill(places[:, None] == places, 0.0)
    return (weights[:, None] @ total)[:, 0]


def standing(scores: Tensor, weights: Tensor) -> Tensor:
    """Scores (batch, tokens) with the first token above all others, and pads, of weight 0, below."""
    first = torch.arange(scores.shape[1], device=scores.device) == 0
    return scores.masked_fill(weights == 0, PAD).masked_fill(first, FIRST)


def foremost(scores: Tensor, weights: Tensor, counts: Tensor, bound: Any = None) -> Tensor:
    """The tokens of largest score in each row, in the order in which they came; the first token, and no pad, is in.

    Args:
        scores: (batch, tokens).
        weights: (batch, tokens), 0 for pads.
        counts: (batch, 1), how many of each row, at least 1; float.
        bound: as for :func:`most`.

    Returns:
        (batch, most of a row), int64; behind those of a row the number of tokens.
    """
    tokens = scores.shape[1]
    width = most(counts, tokens, bound)
    order = standing(scores, weights).topk(width, dim=-1).indices
    inside = torch.arange(width, device=scores.device) < counts
    return torch.where(inside, order, tokens).topk(width, dim=-1, largest=False).values


def staying(kept: Tensor) -> Tensor:
    """The tokens that are kept, in their order: (batch, tokens), bool, to what :func:`foremost` gives."""
    tokens = kept.shape[1]
    places = torch.where(kept, torch.arange(tokens, device=kept.device), tokens)
    return places.topk(most(kept.sum(1), tokens), dim=-1, largest=False).values


def most(counts: Tensor, tokens: Any, bound: Any = None) -> Any:
    """The largest count, at most ``tokens``, as a number, or as what stands for it while a graph is written down.

    Args:
        counts: (batch, 1).
        tokens: of a row.
        bound: on the counts, reached by a row without pads, from the tensors' sizes alone; a graph that is made for one
            length then has fixed sizes throughout.  ``torch.export`` cannot prove it to be at most ``tokens``, and
            goes by the counts.
    """
    if torch.compiler.is_compiling():
        found: Any = counts.max().to(torch.int64)
        found = found.item()
        torch._check(found >= 2)  # a graph of several tokens holds for one, which attention would ask about
        torch._check(found <= tokens)
        return found
    found = (counts.max() if bound is None else torch.as_tensor(bound)).to(torch.int64)
    return found if torch._C._get_tracing_state() is not None else int(found)


def taken(x: Tensor, chosen: Tensor) -> Tensor:
    """Rows of ``x`` (batch, tokens, size) at ``chosen`` (batch, kept): (batch, kept, size)."""
    batch, tokens, _ = x.shape
    starts = torch.arange(batch, device=x.device)[:, None] * tokens
    return F.embedding(chosen + starts, x.flatten(0, 1))


def keep(present: Present, chosen: Tensor, states: Sequence[Tensor]) -> list[Tensor]:
    """Go on with ``chosen`` tokens, as :func:`foremost` gives them."""
    kept = chosen < present.weights.shape[1]
    chosen = torch.where(kept, chosen, 0)
    places = present.places.expand(chosen.shape[0], -1).gather(1, chosen)
    present.become(kept.to(present.weights.dtype), places, whole=True)
    return [taken(x, chosen) for x in states]


@dataclass(frozen=True)
class Top:
    """Keep those that get most attention from others."""

    spec: TopSpec
    reads: str = TopSpec.reads

    def __call__(self, present: Present, read: Tensor, states: Sequence[Tensor]) -> list[Tensor]:
        """See :class:`Rule`."""
        scores = attention_received(read, present.weights, others=True)
        counts, bound = (self.spec.left(length, length) for length in (present.lengths, present.width))
        return keep(present, foremost(scores, present.weights, counts, bound), states)


@dataclass(frozen=True)
class Threshold:
    """Keep those whose mean attention, over heads and queries, is high enough."""

    spec: ThresholdSpec
    reads: str = ThresholdSpec.reads

    def __call__(self, present: Present, read: Tensor, states: Sequence[Tensor]) -> list[Tensor]:
        """See :class:`Rule`."""
        first = torch.arange(read.shape[-1], device=read.device) == 0
        kept = ((mean_attention(read, present.weights) >= self.spec.threshold) & (present.weights > 0)) | first
        return keep(present, staying(kept), states)


def mean_attention(maps: Tensor, weights: Tensor) -> Tensor:
    """What each token gets of a query's attention, averaged over heads and real queries; (batch, keys).

    Args:
        maps: (batch, heads, queries, keys).
        weights: (batch, queries), of each query; 0 for pads.
    """
    return attention_received(maps, weights) / (maps.shape[1] * weights.sum(1, keepdim=True).clamp(min=1e-9))


def partners(keys: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """For each second token, but for the first, the most similar of the others.

    Args:
        keys: (batch, heads, tokens, size); similar is, after their mean over the heads, a large cosine.
        weights: (batch, tokens), 0 for pads.

    Returns:
        Similarity, :data:`PAD` for whoever has no partner, and the partner's place, (batch, tokens) each.
    """
    x = F.normalize(keys.mean(1), dim=-1)
    places, real = torch.arange(x.shape[1], device=x.device), weights > 0
    even = places % 2 == 0
    gives, takes = real & even & (places > 0), real & ~even
    found = (x @ x.transpose(1, 2)).masked_fill(~(gives[:, :, None] & takes[:, None]), PAD).max(-1)
    return found.values, found.indices


@dataclass(frozen=True)
class Merge:
    """Average the most similar pairs, each token counting as many times as it has tokens in it."""

    spec: MergeSpec
    reads: str = MergeSpec.reads

    def __call__(self, present: Present, read: Tensor, states: Sequence[Tensor]) -> list[Tensor]:
        """See :class:`Rule`."""
        weights, tokens = present.weights, present.weights.shape[1]
        similarity, partner = partners(read, weights)
        there = (weights > 0).to(weights.dtype).sum(1, keepdim=True).clamp(min=1)
        counts, bound = self.spec.left(present.lengths, there), self.spec.left(present.width, tokens)
        chosen = foremost(-similarity, weights, counts, bound)
        into = chosen[:, :, None]
        stays = into == torch.arange(tokens, device=chosen.device)
        joins = (into == partner[:, None]) & ~stays.any(1, keepdim=True)
        parts = (stays | joins).to(weights.dtype) * weights[:, None]  # (batch, kept, tokens)
        sizes = parts.sum(-1)
        places = present.places.expand(chosen.shape[0], -1).gather(1, chosen.clamp(max=tokens - 1))
        present.become(sizes, places, whole=False)
        return [parts @ x / sizes.clamp(min=1)[:, :, None] for x in states]


def make_rule(spec: AnyLeave | None) -> Rule | None:
    """What a layer does by its spec."""
    if isinstance(spec, TopSpec):
        return Top(spec)
    if isinstance(spec, ThresholdSpec):
        return Threshold(spec)
    return None if spec is None else Merge(spec)
