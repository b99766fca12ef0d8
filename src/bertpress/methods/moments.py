"""Second moments of what linear maps read of calibration text."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from bertpress.encoder.observers import observing
from bertpress.methods.base import Model


class Moment:
    """The sum of ``x xᵀ`` over what a linear map reads."""

    def __init__(self) -> None:
        self.sum: Tensor | None = None

    def __call__(self, x: Tensor) -> None:
        """Take in (tokens, inputs)."""
        self.sum = x.t() @ x if self.sum is None else self.sum.addmm_(x.t(), x)


@torch.no_grad()
def input_moments(model: Model, names: Sequence[str], batches: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Sum of ``x xᵀ`` over the real tokens, (inputs, inputs), of every named map that the text reaches.

    Args:
        model: runs whole, in the mode that it is in.
        names: of linear maps; of a factored one the first factor or the whole.
        batches: what it reads.
    """
    moments = {name: Moment() for name in names}
    with observing(model, moments):
        for batch in batches:
            model(**batch)
    return {name: moment.sum for name, moment in moments.items() if moment.sum is not None}
