"""What is added to attention scores so that a token does not see others: pads, the other segment; and a bias."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from bertpress.encoder.overwrite import traced

MASKED = torch.finfo(torch.bfloat16).min  # finite in float32 and bfloat16: a row of pads alone stays a number


class Masks(NamedTuple):
    """What layers need to know of who may see whom.

    Attributes:
        tokens: (batch, tokens), 1 for tokens and 0 for pads, for what pools; None: no pads.  Where tokens left, how
            many each stands for.
        mask: the same, additive: see :func:`additive_mask`.
        own: additive, of the layers in which each token sees its own segment alone.
    """

    tokens: Tensor | None
    mask: Tensor | None
    own: Tensor | None


def places_of(hidden: Tensor, tokens: Tensor | None) -> Tensor:
    """Where tokens stand, (1, tokens), int64: 0, 1, 2, and so on.

    Counted over the mask, whose entries are never negative, where there is one: of numbers that do not come from an
    input OpenVINO 2026 makes constants in a graph of one length, and a relative bias of constant distances is lost.

    Args:
        hidden: (batch, tokens, hidden).
        tokens: their mask, (batch, tokens).
    """
    if tokens is None:
        return torch.arange(hidden.shape[1], device=hidden.device)[None]
    return (tokens[:1] >= 0).long().cumsum(1) - 1


def masks_of(tokens: Tensor, dtype: torch.dtype) -> Masks:
    """Of rows in which every token sees every other, or which have one segment each."""
    mask = additive_mask(tokens, dtype)
    return Masks(tokens, mask, mask)


def additive_mask(attention_mask: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """(batch, tokens) of 1 and 0 to an additive (batch, 1, 1, tokens); None where it would change nothing."""
    if attention_mask is None:
        return None
    if not traced() and attention_mask.device.type == "cpu" and bool(attention_mask.all()):
        return None  # fused attention is faster so; on a GPU the look would cost a synchronisation
    return (1.0 - attention_mask[:, None, None, :].to(dtype)) * MASKED


def logarithm(mask: Tensor) -> Tensor:
    """What a multiplicative mask in [0, 1] adds to scores; masked where it is 0, with a gradient of 0 there."""
    return torch.where(mask > 0, mask.clamp(min=torch.finfo(mask.dtype).tiny).log(), MASKED)


def own_segment(mask: Tensor | None, segment_ids: Tensor, dtype: torch.dtype) -> Tensor:
    """An additive mask (batch, 1, tokens, tokens) under which each token sees those of its own segment alone.

    Args:
        mask: additive, of pads, (batch, 1, 1, tokens) or None.
        segment_ids: (batch, tokens).
        dtype: of the result.
    """
    other = (segment_ids[:, None, :, None] != segment_ids[:, None, None, :]).to(dtype) * MASKED
    return other if mask is None else torch.minimum(other, mask)  # a sum of both would be no number


def with_bias(mask: Tensor | None, bias: Tensor, heads: tuple[int, ...]) -> Tensor:
    """A bias (rows, all heads, tokens, tokens) of the heads that are left, with the mask on it."""
    own = bias if len(heads) == bias.shape[1] else bias[:, list(heads)]
    return own if mask is None else own + mask
