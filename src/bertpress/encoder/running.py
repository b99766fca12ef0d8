"""Activation quantizers whose ranges are learnt while training."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from bertpress.encoder.quantizers import ActivationQuantizer, activation_grid


class RunningQuantizer(ActivationQuantizer):
    """Follows the range of an activation while training and quantizes by it; frozen in evaluation mode.

    The range is an exponential moving average of each batch's extremes, 0 always inside; the first batch starts it.
    Pads, as ``shown`` tells them, never count.  Gradients pass where a value lies inside of the range.

    Args:
        like: the quantizer that the slot has; its integers stay the same.
        shown: what the running model is looking at.
        decay: share of the old range that stays at each step.
        symmetric: a range evenly around 0.
    """

    ends: Tensor

    def __init__(self, like: ActivationQuantizer, shown: Shown, *, decay: float, symmetric: bool) -> None:
        super().__init__(like.low, like.high)
        self.decay, self.symmetric, self.shown = decay, symmetric, shown
        self.register_buffer("ends", torch.zeros(2))

    def forward(self, x: Tensor) -> Tensor:
        """Same shape as ``x``."""
        if self.training:
            self.follow(x.detach())
        return super().forward(x)

    def follow(self, x: Tensor) -> None:
        """Take in the extremes of a batch and set the grid by the average."""
        mask = self.shown.mask
        if mask is not None and x.ndim == 3 and x.shape[:2] == mask.shape:
            x = x * mask[..., None].to(x.dtype)  # pads become 0, which every range holds
        low, high = torch.aminmax(x.float())
        found = torch.stack([low.clamp(max=0), high.clamp(min=0)])
        started = self.active or bool(self.ends.any())
        self.cover(*(torch.lerp(found, self.ends, self.decay) if started else found).tolist())

    def cover(self, bottom: float, top: float) -> None:
        """Make this the range."""
        self.ends.copy_(torch.tensor([bottom, top]))
        self.set(*activation_grid(bottom, top, self.low, self.high, symmetric=self.symmetric))


class Shown:
    """Which tokens of the batch that a model is running on are real: (batch, tokens), 1 and 0; None: all."""

    mask: Tensor | None = None

    def watch(self, model: nn.Module) -> None:
        """Look at every batch that ``model`` is handed from now on."""
        model.register_forward_pre_hook(self._look, with_kwargs=True)

    def _look(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.mask = kwargs.get("attention_mask", args[1] if len(args) > 1 else None)
