"""A model that is differentiated as it stands: no dropout, and gradients for nothing but what is asked for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def frozen_but(model: nn.Module, weights: Sequence[nn.Parameter] = ()) -> Iterator[None]:
    """Evaluation mode, and gradients for these weights alone: nothing below them enters a graph."""
    training, before = model.training, [(weight, weight.requires_grad) for weight in model.parameters()]
    model.eval()
    try:
        for weight, _ in before:
            weight.requires_grad_(False)
        for weight in weights:
            weight.requires_grad_(True)
        with torch.enable_grad():
            yield
    finally:
        for weight, needed in before:
            weight.requires_grad_(needed)
        model.train(training)
