"""Hidden states through layers: all of an encoder's, or a stretch of them between two exits."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from bertpress.encoder.attention import RelativeBias
from bertpress.encoder.layers import EncoderLayer
from bertpress.encoder.overwrite import traced
from bertpress.encoder.slots import Tape

MASKED = torch.finfo(torch.bfloat16).min  # finite in float32 and bfloat16: a row of pads alone stays a number


def through(
    layers: Iterable[EncoderLayer],
    owners: nn.ModuleList | Mapping[int, nn.Module],
    relative: RelativeBias | None,
    hidden: Tensor,
    attention_mask: Tensor | None,
    mask: Tensor | None,
    tape: Tape,
) -> Tensor:
    """Run some layers of an encoder, (batch, tokens, hidden) to the same shape.

    Args:
        layers: in the order in which they run.
        owners: the layers whose weights they may share, by number.
        relative: the bias of all of them.
        hidden: what enters the first.
        attention_mask: (batch, tokens), 1 and 0, for what pools.
        mask: the same as :func:`additive_mask` gives it.
        tape: takes what was asked for.
    """
    bias = None if relative is None else relative(torch.arange(hidden.shape[1], device=hidden.device))
    before = hidden
    for layer in layers:
        spec = layer.spec
        after = layer(
            hidden,
            mask if bias is None or spec.mixer else _add(_of_heads(bias, spec.attention.heads), mask),
            tape,
            before,
            None if spec.attention_from is None else owners[spec.attention_from],
            None if spec.ffn_from is None else owners[spec.ffn_from],
        )
        before, hidden = hidden, after
        tape.put("hidden_states", hidden)
        if layer.exit is not None and tape.wants("exits"):
            tape.put("exits", layer.exit(hidden, attention_mask, mask))
    return hidden


def additive_mask(attention_mask: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """(batch, tokens) of 1 and 0 to an additive (batch, 1, 1, tokens); None where it would change nothing."""
    if attention_mask is None:
        return None
    if not traced() and attention_mask.device.type == "cpu" and bool(attention_mask.all()):
        return None  # fused attention is faster so; on a GPU the look would cost a synchronisation
    return (1.0 - attention_mask[:, None, None, :].to(dtype)) * MASKED


def _of_heads(bias: Tensor, heads: tuple[int, ...]) -> Tensor:
    return bias if len(heads) == bias.shape[1] else bias[:, list(heads)]


def _add(bias: Tensor, mask: Tensor | None) -> Tensor:
    return bias if mask is None else bias + mask
