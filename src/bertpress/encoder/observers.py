"""Observers: watch activations, then propose the range that an integer grid should cover."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn

from bertpress.encoder.slots import Slot

RangeRule = Literal["minmax", "percentile", "mse"]


class Histogram:
    """Counts of values in equal bins over [-limit, limit]; ``limit`` doubles as larger values come.

    Doubling merges pairs of bins, so counts are exact and do not depend on the order of the batches but for the bin
    that a value falls into.  Also keeps the true minimum and maximum.
    """

    def __init__(self, bins: int = 8192) -> None:
        if bins < 4 or bins % 4:
            raise ValueError(f"bins={bins} must be a positive multiple of 4")
        self.bins = bins
        self.limit = 2.0**-10
        self.counts = torch.zeros(bins, dtype=torch.float64)
        self.low = self.high = 0.0
        self.seen = 0

    def __call__(self, x: Tensor) -> None:
        """Count the values of ``x``, any shape.

        Raises:
            ValueError: a value is not finite.
        """
        if not x.numel():
            return
        x = x.detach().float().flatten().cpu()
        low, high = float(x.min()), float(x.max())
        peak = max(-low, high)
        if not peak < float("inf"):
            raise ValueError("an activation is not finite: the model cannot be calibrated")
        while peak > self.limit:
            self._double()
        self.counts += torch.histc(x, self.bins, -self.limit, self.limit).double()
        self.low, self.high = min(self.low, low), max(self.high, high)
        self.seen += x.numel()

    def _double(self) -> None:
        quarter = self.bins // 4
        merged = self.counts.reshape(-1, 2).sum(1)
        self.counts = torch.zeros_like(self.counts)
        self.counts[quarter : 3 * quarter] = merged
        self.limit *= 2

    def range(self, rule: RangeRule, percentile: float = 99.99, steps: int = 255) -> tuple[float, float]:
        """The range to cover, 0 always inside.

        Args:
            rule: ``minmax``: all values; ``percentile``: cut (100 - percentile) / 2 percent on each side; ``mse``:
                the cut that minimises the mean squared error of rounding and clipping together.
            percentile: of the values to be covered, (50, 100].
            steps: steps of the grid.
        """
        if rule == "minmax" or not self.seen:
            return self.low, self.high
        if rule == "percentile":
            return self._between(percentile)
        cuts = [self._between(100 - 10**-e) for e in (0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 4.0)]
        return min([*cuts, (self.low, self.high)], key=lambda cut: self._error(cut[0], cut[1], steps))

    def _between(self, percentile: float) -> tuple[float, float]:
        share = self.counts.cumsum(0) / self.seen
        tail = (100 - percentile) / 200
        edges = torch.linspace(-self.limit, self.limit, self.bins + 1, dtype=torch.float64)
        low = float(edges[int(torch.searchsorted(share, tail, right=True))])
        high = float(edges[min(int(torch.searchsorted(share, 1 - tail)) + 1, self.bins)])
        return max(min(low, 0.0), self.low), min(max(high, 0.0), self.high)

    def _error(self, low: float, high: float, steps: int) -> float:
        """Mean squared error of the grid over [low, high], bin by bin."""
        width = 2 * self.limit / self.bins
        centers = -self.limit + width * (torch.arange(self.bins, dtype=torch.float64) + 0.5)
        clipped = (centers - centers.clamp(low, high)).square()
        inside = (centers >= low) & (centers <= high)
        rounding = ((high - low) / steps) ** 2 / 12
        return float((self.counts * (clipped + inside * rounding)).sum() / self.seen)


@contextmanager
def observing(model: nn.Module, observers: Mapping[str, Callable[[Tensor], None]]) -> Iterator[None]:
    """Let ``observers``, by the name of a slot or a linear layer, see what it is about to compute with.

    Of a slot that is what it hands on, before any quantizer there.  An observer gets real tokens alone, float32
    (tokens, width): pads, as the model's ``attention_mask`` tells them, never count.  Behind the pooling are none.
    """
    mask: list[Tensor | None] = [None]

    def remember(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        mask[0] = kwargs.get("attention_mask", args[1] if len(args) > 1 else None)

    def seen_by(observer: Callable[[Tensor], None]) -> Callable[[nn.Module, tuple[Tensor]], None]:
        def see(module: nn.Module, args: tuple[Tensor]) -> None:
            x, kept = args[0].detach(), mask[0]
            if isinstance(module, Slot):
                x = module.scaled(x)
            if kept is not None and x.ndim == 3 and x.shape[:2] == kept.shape:
                x = x[kept.bool()]
            observer(x.reshape(-1, x.shape[-1]).float())

        return see

    hooks = [model.get_submodule(name).register_forward_pre_hook(seen_by(see)) for name, see in observers.items()]
    hooks.append(model.register_forward_pre_hook(remember, with_kwargs=True))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
