"""Gates that are drawn between 0 and 1 and often lie at one of the ends, so that closing them can be learnt.

Source: Louizos, Welling & Kingma 2018, arXiv:1712.01312, section 2.2, with the constants of CoFi, Xia, Zhong & Chen
2022, arXiv:2204.00408, section 3.2, and, for gates that are no longer drawn, of its authors' code.
"""

from __future__ import annotations

import math

from torch import Tensor

TEMPERATURE, LOW, HIGH = 2 / 3, -0.1, 1.1
SHARPNESS = 0.8  # brings a gate that is not drawn near to the mean of one that is


def drawn(logits: Tensor, noise: Tensor) -> Tensor:
    """Gates of these logits, in [0, 1], for uniform noise of the same shape."""
    concrete = ((noise.log() - (-noise).log1p() + logits) / TEMPERATURE).sigmoid()
    return (concrete * (HIGH - LOW) + LOW).clamp(0, 1)


def open_probability(logits: Tensor) -> Tensor:
    """``P(z > 0)`` of gates that are drawn."""
    return (logits - TEMPERATURE * math.log(-LOW / HIGH)).sigmoid()


def settled(logits: Tensor, count: int) -> Tensor:
    """Gates that are not drawn: the ``count`` largest are open, the others 0; of equals the first are open."""
    gates = (logits * (SHARPNESS / TEMPERATURE)).sigmoid()
    gates[logits.argsort(descending=True, stable=True)[count:]] = 0
    return gates
