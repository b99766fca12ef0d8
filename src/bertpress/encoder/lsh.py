"""Attention among tokens that hash alike: sorted by bucket, cut into chunks, several rounds merged (Reformer)."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from bertpress.encoder.attention_masks import MASKED

SELF = -1e5
"""What a token's score of itself bears: it looks at itself only if it finds nobody else."""
_NOBODY = -9  # a code that is near to no other


def unit_keys(query: Tensor) -> Tensor:
    """Keys of a shared query and key: of length sqrt(size), so that with a scale of 1 / sqrt(size) they count as 1."""
    return F.normalize(query, dim=-1) * math.sqrt(query.shape[-1])


def hashed(x: Tensor, rotations: Tensor) -> Tensor:
    """Buckets by angle: ``argmax([xR; -xR])``.

    Args:
        x: (batch, heads, tokens, size).
        rotations: (rounds, size, buckets / 2); without columns all tokens fall into bucket 0.

    Returns:
        (batch, heads, rounds, tokens), whole numbers below the number of buckets.
    """
    if not rotations.shape[2]:
        return torch.zeros_like(x[:, :, None, :, 0], dtype=torch.long).expand(-1, -1, rotations.shape[0], -1)
    turned = x.unsqueeze(2) @ rotations
    return torch.cat([turned, -turned], dim=-1).argmax(-1)


def chunked(x: Tensor, chunk: int, fill: float = 0.0) -> Tensor:
    """(batch, heads, rounds, tokens, width) to (batch, heads, rounds, chunks, chunk, width); the last is filled up."""
    chunks = (x.shape[3] + chunk - 1) // chunk
    filled = F.pad(x, (0, 0, 0, chunk - 1), value=fill)[:, :, :, : chunks * chunk]
    return filled.unflatten(3, (-1, chunk))  # type: ignore[no-any-return]


def with_previous(x: Tensor, fill: float = 0.0) -> Tensor:
    """Each chunk behind the one before it: (..., chunks, 2 * chunk, width)."""
    before = F.pad(x, (0, 0, 0, 0, 1, 0), value=fill)[:, :, :, :-1]
    return torch.cat([before, x], dim=-2)


def lsh_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    buckets: Tensor,
    *,
    chunk: int,
    scale: float,
    weigh: Callable[[Tensor], Tensor] = lambda maps: maps,
) -> Tensor:
    """Softmax attention over all pairs that meet in any round: same bucket, same chunk or the one before.

    Args:
        query: (batch, heads, tokens, size).
        key: the same.
        value: (batch, heads, tokens, value_size).
        buckets: (batch, heads, rounds, tokens); what pads have, no token may have, and it must be the largest.
        chunk: tokens in each.
        scale: factor on the scores.
        weigh: what maps go through before they average the values.

    Returns:
        (batch, heads, tokens, value_size).
    """
    rounds, tokens = buckets.shape[2], buckets.shape[3]
    order = (buckets * tokens + torch.arange(tokens, device=query.device)).argsort(-1)
    place = order.argsort(-1)
    # one number for bucket and chunk: two tokens meet where the query's is as large, or larger by one
    code = buckets * (2 * tokens + 2) + place // chunk

    def laid_out(x: Tensor) -> Tensor:
        """(batch, heads, tokens, width) in the order of each round."""
        return _take(x.unsqueeze(2).expand(-1, -1, rounds, -1, -1), order)

    queries = chunked(laid_out(query), chunk)
    keys, values = (with_previous(chunked(laid_out(x), chunk)) for x in (key, value))
    own = chunked(code.gather(-1, order).unsqueeze(-1), chunk, _NOBODY)
    where = chunked(order.unsqueeze(-1), chunk, _NOBODY)
    scores = queries @ keys.transpose(-1, -2) * scale
    scores = scores + (where == with_previous(where, _NOBODY).transpose(-1, -2)) * SELF
    if rounds > 1:
        everywhere = chunked(laid_out(code.transpose(-1, -2)), chunk, _NOBODY)
        met = sum(_meet(everywhere[..., i : i + 1]).to(scores.dtype) for i in range(rounds))
        scores = scores - torch.as_tensor(met).clamp(min=1).log()
    scores = scores.masked_fill(~_meet(own), MASKED)
    found = weigh(scores.softmax(-1)) @ values
    out = _take(found.flatten(3, 4)[:, :, :, :tokens], place)
    if rounds == 1:
        return out.squeeze(2)
    mass = scores.logsumexp(-1).flatten(3, 4)[:, :, :, :tokens].gather(-1, place)
    return (out * mass.softmax(2).unsqueeze(-1)).sum(2)


def _take(x: Tensor, places: Tensor) -> Tensor:
    """(batch, heads, rounds, tokens, width), the tokens in another order."""
    return x.gather(3, places.unsqueeze(-1).expand(-1, -1, -1, -1, x.shape[-1]))


def _meet(code: Tensor) -> Tensor:
    """(..., chunks, chunk, 1) to (..., chunks, chunk, 2 * chunk): which queries and keys meet in the codes' round."""
    ahead = code - with_previous(code, _NOBODY).transpose(-1, -2)
    return (ahead == 0) | (ahead == 1)
