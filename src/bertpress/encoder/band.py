"""Attention within a band: blocks of queries against neighbouring blocks of keys, without a loop over tokens."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from bertpress.encoder.attention_masks import MASKED


def distances(tokens: int, like: Tensor) -> Tensor:
    """(tokens, tokens): how far every key lies from every query, in positions."""
    places = torch.arange(tokens, device=like.device)
    return (places[:, None] - places[None, :]).abs()


def distances_in_band(block: int, neighbours: int, like: Tensor) -> Tensor:
    """(block, keys): the same for the queries of any block and the keys of its neighbourhood."""
    queries = torch.arange(block, device=like.device)
    keys = torch.arange(-neighbours * block, (neighbours + 1) * block, device=like.device)
    return (queries[:, None] - keys[None, :]).abs()


def within(distance: Tensor, window: int) -> Tensor:
    """Additive: 0 up to ``window`` positions away, masked beyond."""
    return torch.where(distance <= window, 0.0, MASKED)


def soft_span(distance: Tensor, span: Tensor, ramp: int) -> Tensor:
    """Sukhbaatar et al. 2019, equation 3: 1 within each head's span, 0 from ``ramp`` positions beyond it on.

    Args:
        distance: (queries, keys).
        span: (heads,).
        ramp: positions.

    Returns:
        (heads, queries, keys) in [0, 1].
    """
    return ((ramp + span[:, None, None] - distance) / ramp).clamp(0, 1)


def neighbourhoods(x: Tensor, block: int, neighbours: int = 0, fill: float = 0.0) -> Tensor:
    """Cut tokens into blocks, each with its neighbours on both sides.

    Args:
        x: (batch, heads, tokens, width).
        block: tokens in each; the last block is filled up.
        neighbours: blocks on either side.
        fill: stands beyond both ends.

    Returns:
        (batch * blocks, heads, (2 * neighbours + 1) * block, width).
    """
    blocks, beyond = (x.shape[2] + block - 1) // block, neighbours * block
    padded = F.pad(x, (0, 0, beyond, beyond + block - 1), value=fill)
    parts = padded[:, :, : (blocks + 2 * neighbours) * block].unflatten(2, (-1, block))
    if neighbours:
        last = 2 * neighbours
        parts = torch.cat([parts[:, :, i : i - last or None] for i in range(last + 1)], dim=3)
    return parts.transpose(1, 2).flatten(0, 1)  # type: ignore[no-any-return]


def banded_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    *,
    limits: Tensor,
    block: int,
    neighbours: int,
    first: bool,
    scale: float,
    dropout: float = 0.0,
) -> Tensor:
    """What dense attention gives whose keys outside of the band are masked.

    Args:
        query: (batch, heads, tokens, size).
        key: the same.
        value: (batch, heads, tokens, value_size).
        mask: additive, (batch, 1, 1, tokens); None where nothing is masked.
        limits: additive, (block, keys) or (heads, block, keys), as :func:`distances_in_band` lays them out.
        block: queries that share their keys.
        neighbours: blocks of keys on either side of them.
        first: the first token looks at all, and is looked at by all.
        scale: factor on the scores.
        dropout: of the maps.

    Returns:
        (batch, heads, tokens, value_size).
    """
    batch, _, tokens, _ = query.shape
    seen = query.new_zeros(batch, 1, tokens, 1) if mask is None else mask.transpose(2, 3)
    if first:  # a column of its own stands for it
        seen = torch.cat([torch.full_like(seen[:, :, :1], MASKED), seen[:, :, 1:]], dim=2)
    near = neighbourhoods(seen, block, neighbours, MASKED).transpose(2, 3)
    limits = (limits.to(near.dtype) + near).clamp(min=MASKED)  # two masks must not add up to -inf: rows of pads alone
    keys, values = neighbourhoods(key, block, neighbours), neighbourhoods(value, block, neighbours)
    if first:
        limits = F.pad(limits, (1, 0))
        keys, values = (_with_first(x, whole) for x, whole in ((keys, key), (values, value)))
    out = F.scaled_dot_product_attention(neighbourhoods(query, block), keys, values, limits, dropout, scale=scale)
    out = out.unflatten(0, (batch, -1)).transpose(1, 2).flatten(2, 3)[:, :, :tokens]
    if not first:
        return out  # type: ignore[no-any-return]
    row = F.scaled_dot_product_attention(query[:, :, :1], key, value, mask, dropout, scale=scale)
    return torch.cat([row, out[:, :, 1:]], dim=2)


def _with_first(near: Tensor, whole: Tensor) -> Tensor:
    """Each neighbourhood with the first token before it."""
    blocks = near.unflatten(0, (whole.shape[0], -1))
    token = whole[:, None, :, :1].expand(-1, blocks.shape[1], -1, -1, -1)
    return torch.cat([token, blocks], dim=3).flatten(0, 1)
