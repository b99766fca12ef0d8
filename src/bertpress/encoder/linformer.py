"""Attention over keys and values that are compressed along the tokens (Linformer)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from bertpress.encoder.attention_masks import logarithm
from bertpress.encoder.blueprint import LayerSpec
from bertpress.encoder.pattern_specs import LinformerSpec


def segments(size: int, length: int) -> Tensor:
    """(size, length): row r is the mean over the r-th of ``size`` segments as equal as can be; the identity at most."""
    row = torch.arange(length) * size // length
    member = (row == torch.arange(size)[:, None]).float()
    return member / member.sum(1, keepdim=True).clamp(min=1)


def linformer_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    *,
    compress_keys: Tensor,
    compress_values: Tensor,
    scale: float,
    weigh: Callable[[Tensor], Tensor] = lambda maps: maps,
) -> Tensor:
    """Wang et al. 2020, equation 7, ``softmax(Q (E K)^T scale) (F V)``, for inputs of any length and with pads.

    A shorter input meets the first columns of E and F, and pads are zeros.  What is left of a key then counts by the
    share of its row of E, in absolute values, that lies on tokens: a row that sees none would bring a score of 0.

    Args:
        query: (batch, heads, tokens, size).
        key: the same.
        value: (batch, heads, tokens, value_size).
        mask: additive, (batch, 1, 1, tokens); None where nothing is masked.
        compress_keys: (heads, k, length) or (1, k, length), E.
        compress_values: the same, F.
        scale: factor on the scores.
        weigh: what maps go through before they average the values.

    Returns:
        (batch, heads, tokens, value_size).
    """
    tokens = key.shape[2]
    ends = [each[..., :tokens] for each in (compress_keys, compress_values)]
    real = key.new_ones(1, 1, 1, tokens) if mask is None else (mask == 0).to(key.dtype)
    keys, values = (end @ (x * real.transpose(2, 3)) for end, x in zip(ends, (key, value), strict=True))
    whole = compress_keys.abs().sum(-1).clamp(min=torch.finfo(torch.float32).tiny)
    seen = (ends[0].abs() * real).sum(-1) / whole
    scores = query @ keys.transpose(-1, -2) * scale + logarithm(seen).unsqueeze(-2)
    return weigh(scores.softmax(-1)) @ values


class Compression(nn.Module):
    """Linformer's E and F.

    Attributes:
        key: (heads or 1, size, length), E.
        value: the same, F; None: values are compressed as keys are.
    """

    def __init__(self, spec: LinformerSpec, heads: int) -> None:
        super().__init__()
        keys, values = spec.matrices(heads)
        start = segments(spec.size, spec.length)
        self.key = nn.Parameter(start.repeat(keys, 1, 1))
        self.value = nn.Parameter(start.repeat(values, 1, 1)) if values else None


def shared_compression(layers: tuple[LayerSpec, ...]) -> Compression | None:
    """What all layers compress keys and values with; None where none does so with others."""
    for layer in layers:
        pattern = layer.attention.pattern
        if layer.attention.heads and isinstance(pattern, LinformerSpec) and pattern.sharing == "layers":
            return Compression(pattern, 1)
    return None
