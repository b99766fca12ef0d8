"""Linear maps that train beside the model: from the student's width to the teacher's, to classes, to a common space."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.utils import skip_init


def linear(inputs: int, outputs: int, generator: torch.Generator) -> nn.Linear:
    """A fresh map whose weights (Xavier, uniform) depend on ``generator`` alone; its bias is 0."""
    made: nn.Linear = skip_init(nn.Linear, inputs, outputs)
    nn.init.xavier_uniform_(made.weight, generator=generator)
    nn.init.zeros_(made.bias)
    return made


def to_width(inputs: int, outputs: int, generator: torch.Generator) -> nn.Module:
    """:func:`linear`, or the identity where the two widths are one."""
    return nn.Identity() if inputs == outputs else linear(inputs, outputs, generator)
