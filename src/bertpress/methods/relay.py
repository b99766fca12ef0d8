"""Passes over calibration text that begin at a layer and end once the rest is of no use: for layer-wise solvers."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from itertools import islice

import torch
from torch import Tensor, nn

from bertpress.encoder.model import all_layers
from bertpress.methods.base import Model


class Enough(Exception):
    """Raised inside of a forward pass once its rest is of no use."""


class Relay:
    """Forward passes over all calibration batches that begin at a layer, as what enters it is kept.

    Args:
        model: weights before the layer may not change any more.
        batches: what the model reads.
    """

    def __init__(self, model: Model, batches: Sequence[dict[str, Tensor]]) -> None:
        self.model, self.batches = model, batches
        self.layer = 0
        self.entering: list[Tensor | None] = [None] * len(batches)

    def advance(self, layer: int) -> None:
        """Let the passes begin at a later layer, where what enters it could be the embeddings' output, and is all."""
        blueprint = self.model.blueprint
        if blueprint.shortening is not None or any(spec.reads_two for spec in blueprint.layers):
            return
        entered: list[Tensor | None] = []

        def take(_: nn.Module, args: tuple[Tensor, ...]) -> None:
            entered.append(args[0])
            raise Enough

        hook = self.model.encoder.layers[layer].register_forward_pre_hook(take)
        self.run()
        hook.remove()
        self.layer, self.entering = layer, entered

    def run(self) -> None:
        """Run every batch until it ends or a hook raises ``Enough``."""
        encoder = self.model.encoder
        encoder.plan = lambda encoder: islice(all_layers(encoder), self.layer, None)
        for batch, hidden in zip(self.batches, self.entering, strict=True):
            hook = encoder.embeddings.register_forward_hook(lambda *_, hidden=hidden: hidden)
            with torch.no_grad(), suppress(Enough):
                self.model(**batch)
            hook.remove()
        encoder.plan = all_layers
