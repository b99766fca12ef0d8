"""What is added to scores that are left out."""

import torch
from torch import Tensor

from bertpress.encoder.overwrite import traced

MASKED = torch.finfo(torch.bfloat16).min  # finite in float32 and bfloat16: a row of pads alone stays a number


def logarithm(mask: Tensor) -> Tensor:
    """What a multiplicative mask in [0, 1] adds to scores; masked where it is 0, with a gradient of 0 there."""
    return torch.where(mask > 0, mask.clamp(min=torch.finfo(mask.dtype).tiny).log(), MASKED)


def additive_mask(attention_mask: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """(batch, tokens) of 1 and 0 to an additive (batch, 1, 1, tokens); None where it would change nothing."""
    if attention_mask is None:
        return None
    if not traced() and attention_mask.device.type == "cpu" and bool(attention_mask.all()):
        return None  # fused attention is faster so; on a GPU the look would cost a synchronisation
    return (1.0 - attention_mask[:, None, None, :].to(dtype)) * MASKED
