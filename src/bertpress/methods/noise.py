"""Weight transforms that quantize a random share of a weight in each step of training.

Source: Fan et al. 2021, arXiv:2004.07320, section 4.  A functional mask: the trained weight is never written to.
Departs from it: nowhere; the authors' code also scales what a zero proxy leaves by 1 / (1 - p), the paper does not.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from transformers import TrainerCallback

from bertpress.artifact.codecs import Stored, on_grid
from bertpress.artifact.codecs.product import lookup
from bertpress.encoder.grids import Grid, fake_quantize, spread, straight_through
from bertpress.methods.product import ProductCode
from bertpress.methods.transform import WeightTransform


def pick(count: int, p: float, device: torch.device) -> Tensor:
    """Bool (count,): each True with probability ``p``, to 2^-16, by torch's global generator of the device."""
    if (bound := round(p * 2**16)) == 2**16:
        return torch.ones(count, dtype=torch.bool, device=device)
    # four picks from each word: drawing takes longer than anything else that is done to a weight
    words = torch.randint(-(2**63), 2**63 - 1, (-(-count // 4),), device=device)
    return words.view(torch.int16)[:count] < bound - 2**15


def noised(weight: Tensor, value: Tensor, picked: Tensor, inside: Tensor | None = None) -> Tensor:
    """``value`` where picked, else the weight itself, whose gradient stays plain.

    Args:
        weight: what is trained.
        value: what it is quantized to, the same shape; overwritten.
        picked: bool, broadcasts against both.
        inside: bool, where the straight-through gradient of picked weights passes; None: everywhere.
    """
    mixed = torch.where(picked, value, weight.detach(), out=value)
    return straight_through(weight, mixed, None if inside is None else inside | ~picked)


def within(weight: Tensor, grid: Grid) -> Tensor | None:
    """Bool, where the range of the grid reaches; None: everywhere."""
    low = spread((grid.low - 0.5 - grid.zero_point) * grid.scale, grid.block, weight.shape)
    high = spread((grid.high + 0.5 - grid.zero_point) * grid.scale, grid.block, weight.shape)
    found = (weight.detach() >= low) & (weight.detach() <= high)
    return None if bool(found.all()) else found


class Noise(WeightTransform):
    """Quantizes a share ``p`` of a weight in each step of training, by a quantizer that follows it now and then.

    Attributes:
        stale: set it to have the quantizer follow the weight at the next step.
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p, self.stale = p, False


class IntNoise(Noise):
    """Single weights on an integer grid; all of them in evaluation.

    Args:
        weight: as it is now.
        p: share of the weights that is quantized in a step.
        grid_of: the grid for a weight.
    """

    scale: Tensor
    zero_point: Tensor

    def __init__(self, weight: Tensor, p: float, grid_of: Callable[[Tensor], Grid]) -> None:
        super().__init__(p)
        self.grid_of, grid = grid_of, grid_of(weight.detach())
        self.block, self.low, self.high = grid.block, grid.low, grid.high
        self.register_buffer("scale", grid.scale)
        self.register_buffer("zero_point", grid.zero_point)

    @property
    def grid(self) -> Grid:
        """The grid in use, a checkpoint's after it has been loaded."""
        return Grid(self.scale, self.zero_point, self.block, self.low, self.high)

    def forward(self, weight: Tensor) -> Tensor:
        """Same shape as ``weight``."""
        if not self.training:
            return fake_quantize(weight, self.grid)
        if self.stale:
            found = self.grid_of(weight.detach())
            self.scale.copy_(found.scale)
            self.zero_point.copy_(found.zero_point)
            self.stale = False
        picked = pick(weight.numel(), self.p, weight.device).reshape(weight.shape)
        return noised(weight, fake_quantize(weight.detach(), self.grid), picked, within(weight, self.grid))

    def stored(self, weight: Tensor, before: Stored | None) -> Stored:
        """On the grid that evaluation used."""
        return on_grid(self.grid)


class BlockNoise(Noise):
    """Subvectors of a row set to zero; none in evaluation.

    Args:
        dim: numbers in a subvector.
        p: share of the subvectors that is quantized in a step.
    """

    def __init__(self, dim: int, p: float) -> None:
        super().__init__(p)
        self.dim = dim

    def forward(self, weight: Tensor) -> Tensor:
        """Same shape as ``weight``."""
        if not self.training:
            return weight
        picked = pick(weight.numel() // self.dim, self.p, weight.device)
        blocks = weight.reshape(-1, self.dim)
        return noised(blocks, self.quantized(weight).reshape(-1, self.dim), picked[:, None]).reshape(weight.shape)

    def quantized(self, weight: Tensor) -> Tensor:
        """What the picked subvectors become, the shape of ``weight``."""
        return torch.zeros_like(weight)


class CentroidNoise(BlockNoise):
    """Subvectors set to their centroids; zeros of a mask stay zeros.

    Args:
        weight: as it is now.
        dim: numbers in a subvector.
        p: share of the subvectors that is quantized in a step.
        code_of: finds centroids.
    """

    centroids: Tensor
    codes: Tensor

    def __init__(self, weight: Tensor, dim: int, p: float, code_of: Callable[[Tensor], ProductCode]) -> None:
        super().__init__(dim, p)
        self.code_of = code_of
        found = code_of(weight.detach())
        self.register_buffer("centroids", found.centroids)
        self.register_buffer("codes", found.codes)

    def quantized(self, weight: Tensor) -> Tensor:
        """Centroids as they were when last looked for."""
        weight = weight.detach()
        if self.stale:
            found = self.code_of(weight)
            self.centroids.copy_(found.centroids)
            self.codes.copy_(found.codes)
            self.stale = False
        return lookup(self.centroids, self.codes, tuple(weight.shape), weight != 0)


class Refresh(TrainerCallback):  # type: ignore[misc]
    """Lets the quantizers follow the weights every few steps; they are fresh when training begins."""

    def __init__(self, steps: int) -> None:
        self.steps = steps

    def on_step_begin(self, args: Any, state: Any, control: Any, model: nn.Module | None = None, **_: Any) -> None:
        """Mark what is stale."""
        assert model is not None
        if state.global_step and state.global_step % self.steps == 0:
            for module in model.modules():
                if isinstance(module, Noise):
                    module.stale = True
