"""What attention does where not every token looks at every other: one module for each pattern of the blueprint."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bertpress.encoder.attention_masks import MASKED, logarithm
from bertpress.encoder.band import banded_attention, distances, distances_in_band, soft_span, within
from bertpress.encoder.blueprint import AttentionSpec
from bertpress.encoder.linformer import Compression, linformer_attention
from bertpress.encoder.lsh import hashed, lsh_attention
from bertpress.encoder.overwrite import traced
from bertpress.encoder.pattern_specs import LinformerSpec, LocalSpec, LshSpec, SpanSpec, TopKSpec


def largest_scores(scores: Tensor, k: int) -> Tensor:
    """Zhao et al. 2019, equations 2 and 3: scores below the k-th largest of their row are masked; ties with it stay.

    Args:
        scores: (..., queries, keys).
        k: at least 1; as many as there are keys, or more, keeps all.
    """
    # a tracer would take the number of keys for a constant, so that there must be k of them at any length
    enough = F.pad(scores, (0, k), value=MASKED) if traced() else scores
    bound = enough.topk(min(k, enough.shape[-1]), dim=-1).values[..., -1:]
    return scores.masked_fill(scores < bound, MASKED)


class Read(NamedTuple):
    """What a layer's heads read.

    Attributes:
        query: (batch, heads, tokens, size).
        key: the same.
        value: (batch, heads, tokens, value_size).
        mask: additive, broadcastable to (batch, heads, tokens, tokens); None where nothing is masked.
        scale: factor on the scores.
        dropout: of the maps.
        maps: what maps go through (a quantizer) where they are formed.
    """

    query: Tensor
    key: Tensor
    value: Tensor
    mask: Tensor | None
    scale: float
    dropout: float = 0.0
    maps: Callable[[Tensor], Tensor] = lambda maps: maps

    def weigh(self, found: Tensor) -> Tensor:
        """Maps as they weigh values."""
        return F.dropout(self.maps(found), self.dropout)


class Pattern(nn.Module):
    """Averages values over the keys that a query looks at."""

    def forward(self, read: Read) -> Tensor:
        """What each head gathers: (batch, heads, tokens, value_size)."""
        raise NotImplementedError

    def limited(self, scores: Tensor) -> Tensor:
        """Scores of all pairs, those that the pattern leaves out masked; of patterns that have maps."""
        raise NotImplementedError


class Band(Pattern):
    """Within a band; where that saves nothing, and while nobody knows how wide it is, all pairs are computed."""

    spec: LocalSpec | SpanSpec

    def limits(self, distance: Tensor) -> Tensor:
        """Additive, for distances (queries, keys): (queries, keys) or (heads, queries, keys)."""
        raise NotImplementedError

    def all_limits(self, scores: Tensor) -> Tensor:
        """The same for all pairs of the tokens in ``scores``."""
        return self.limits(distances(scores.shape[-2], scores))

    def limited(self, scores: Tensor) -> Tensor:
        """See :class:`Pattern`."""
        return (scores + self.all_limits(scores)).clamp(min=MASKED)

    def forward(self, read: Read) -> Tensor:
        """See :class:`Pattern`."""
        spec, tokens, mask = self.spec, read.query.shape[2], read.mask
        if spec.reaches() is None or not (traced() or spec.narrow(tokens)):
            limits = self.all_limits(read.query)
            limits = limits if mask is None else (limits + mask).clamp(min=MASKED)
            return F.scaled_dot_product_attention(
                read.query, read.key, read.value, limits.to(read.query.dtype), read.dropout, scale=read.scale
            )
        return banded_attention(
            read.query,
            read.key,
            read.value,
            mask,
            limits=self.limits(distances_in_band(spec.block, spec.neighbours, read.query)),
            block=spec.block,
            neighbours=spec.neighbours,
            first=spec.first,
            scale=read.scale,
            dropout=read.dropout,
        )


class Local(Band):
    """Up to a distance; the first token looks at all and is looked at by all."""

    spec: LocalSpec

    def __init__(self, spec: LocalSpec) -> None:
        super().__init__()
        self.spec = spec

    def limits(self, distance: Tensor) -> Tensor:
        """See :class:`Band`."""
        return within(distance, self.spec.window)

    def all_limits(self, scores: Tensor) -> Tensor:
        """See :class:`Band`."""
        return F.pad(super().all_limits(scores)[1:, 1:], (1, 0, 1, 0))


class Span(Band):
    """Each head as far as its span, and down a ramp.

    Attributes:
        span: (heads,), positions.
    """

    spec: SpanSpec
    span: Tensor

    def __init__(self, spec: SpanSpec, heads: int) -> None:
        super().__init__()
        self.spec = spec
        self.register_buffer("span", torch.zeros(heads))

    def limits(self, distance: Tensor) -> Tensor:
        """See :class:`Band`."""
        return logarithm(soft_span(distance, self.span, self.spec.ramp))


class TopK(Pattern):
    """The keys of largest score; all scores are computed."""

    def __init__(self, spec: TopKSpec) -> None:
        super().__init__()
        self.spec = spec

    def limited(self, scores: Tensor) -> Tensor:
        """See :class:`Pattern`."""
        return largest_scores(scores, self.spec.k)

    def forward(self, read: Read) -> Tensor:
        """See :class:`Pattern`."""
        scores = read.query @ read.key.transpose(-1, -2) * read.scale
        scores = self.limited(scores if read.mask is None else scores + read.mask)
        return F.dropout(scores.softmax(-1), read.dropout) @ read.value


class Linformer(Pattern):
    """Over compressed keys and values."""

    def __init__(self, spec: LinformerSpec, heads: int) -> None:
        super().__init__()
        self.compression = None if spec.sharing == "layers" else Compression(spec, heads)
        self.lent: tuple[Compression, ...] = ()  # a tuple, since a module would be registered, and stored, once a layer

    def forward(self, read: Read) -> Tensor:
        """See :class:`Pattern`."""
        compression = self.compression or self.lent[0]
        values = compression.key if compression.value is None else compression.value
        return linformer_attention(
            read.query,
            read.key,
            read.value,
            read.mask,
            compress_keys=compression.key,
            compress_values=values,
            scale=read.scale,
            weigh=read.weigh,
        )


class Lsh(Pattern):
    """Among tokens that hash alike.

    Attributes:
        rotations: (rounds, size, buckets / 2), drawn by the seed of the blueprint.
    """

    rotations: Tensor

    def __init__(self, spec: LshSpec, size: int) -> None:
        super().__init__()
        self.spec = spec
        generator = torch.Generator().manual_seed(spec.seed)
        shape = (spec.rounds, size, spec.buckets // 2)
        self.register_buffer("rotations", torch.randn(shape, generator=generator, device="cpu"))

    def forward(self, read: Read) -> Tensor:
        """See :class:`Pattern`."""
        with torch.no_grad():
            buckets = hashed(read.query, self.rotations.to(read.query.dtype))
        if read.mask is not None:  # behind all tokens, so that they shift no chunk
            buckets = torch.where(read.mask == 0, buckets, self.spec.buckets)
        return lsh_attention(
            read.query,
            read.key,
            read.value,
            buckets,
            chunk=self.spec.chunk,
            scale=read.scale,
            weigh=read.weigh,
        )


def make_pattern(spec: AttentionSpec) -> Pattern | None:
    """The module of a layer's pattern; None for full attention."""
    pattern, heads = spec.pattern, len(spec.heads)
    if isinstance(pattern, LocalSpec):
        return Local(pattern)
    if isinstance(pattern, SpanSpec):
        return Span(pattern, heads)
    if isinstance(pattern, TopKSpec):
        return TopK(pattern)
    if isinstance(pattern, LinformerSpec):
        return Linformer(pattern, heads)
    return None if pattern is None else Lsh(pattern, spec.head_size)


def lend(compression: Compression | None, layers: nn.Module) -> None:
    """Let the layers that own no compression use this one."""
    for module in layers.modules():
        if compression is not None and isinstance(module, Linformer) and module.compression is None:
            module.lent = (compression,)
