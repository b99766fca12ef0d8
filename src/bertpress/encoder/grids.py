"""The mathematics of integer grids: pure functions that training, codecs and exporters share.

A value on a grid is ``(q - zero_point) * scale`` with an integer ``low <= q <= high``.  Values that share a scale form
a *block*: the whole tensor, a row (an output channel, a token of a table), some rows, or some consecutive inputs of a
row.  All functions work on tensors of any dimension and do the same float32 operations in the same order, so what
training simulates is what a file decodes to, bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

Granularity = Literal["tensor", "channel", "group"]
Block = tuple[int, ...]
"""Size of a block along each dimension; 0: the whole dimension."""

_TINY = torch.finfo(torch.float32).tiny


@dataclass(frozen=True)
class Grid:
    """An integer grid for a tensor, a scale for each of its blocks.

    Attributes:
        scale: float32, positive; one number a block, with the tensor's number of dimensions.
        zero_point: int32, the integer that stands for 0; the shape of ``scale``.
        block: see :data:`Block`.
        low: smallest integer.
        high: largest integer.
    """

    scale: Tensor
    zero_point: Tensor
    block: Block
    low: int
    high: int

    @property
    def symmetric(self) -> bool:
        """Whether the integers lie evenly around 0, which then needs no zero-point."""
        return self.low == -self.high

    @property
    def axis(self) -> int | None:
        """The one dimension with a scale for each index; None: one scale for all.

        Raises:
            ValueError: the blocks are of another form.
        """
        fine = [i for i, size in enumerate(self.block) if size]
        if not fine or self.scale.numel() == 1:
            return None
        if len(fine) > 1 or self.block[fine[0]] != 1:
            raise ValueError(f"blocks of {self.block} do not lie along one dimension")
        return fine[0]

    @property
    def runs_as_integers(self) -> bool:
        """Whether engines have kernels for it: one scale, or one a channel."""
        fine = [size for size in self.block if size]
        return not fine or fine == [1]


def block_of(shape: Sequence[int], granularity: Granularity, group: int = 128) -> Block:
    """The blocks of a matrix (outputs, inputs) by their usual names.

    Args:
        shape: of the matrix.
        granularity: ``tensor``: one scale; ``channel``: one for each row; ``group``: one for each ``group``
            consecutive inputs of a row.
        group: inputs in a group; more than there are is the whole row.
    """
    if granularity == "tensor":
        return (0,) * len(shape)
    inputs = group if granularity == "group" and group < shape[-1] else 0
    return (1, *(0 for _ in shape[1:-1]), inputs) if len(shape) > 1 else (1,)


def blocks(shape: Sequence[int], block: Block) -> tuple[int, ...]:
    """How many blocks there are along each dimension; the last of each may be smaller.

    Raises:
        ValueError: another number of dimensions, or a negative size.
    """
    if len(block) != len(shape) or min(block, default=0) < 0:
        raise ValueError(f"block={block} must have a size of at least 0 for each dimension of {tuple(shape)}")
    return tuple(-(-n // size) if size else min(n, 1) for n, size in zip(shape, block, strict=True))


def spread(values: Tensor, block: Block, shape: Sequence[int]) -> Tensor:
    """One value a block to a tensor that broadcasts against ``shape``."""
    for axis, (n, size) in enumerate(zip(shape, block, strict=True)):
        if size > 1:
            values = values.repeat_interleave(size, dim=axis).narrow(axis, 0, n)
    return values


def by_block(x: Tensor, block: Block, reduce: Callable[..., Tensor]) -> Tensor:
    """``reduce`` (``torch.amax``, ``torch.amin``, ``torch.sum``) within each block; one value a block."""
    for axis, size in enumerate(block):
        n = x.shape[axis]
        if size == 1 or not n:
            continue
        size = size or n
        if fill := -n % size:  # zeros would change a minimum, the last value a sum
            last = x.narrow(axis, n - 1, 1).expand(*x.shape[:axis], fill, *x.shape[axis + 1 :])
            x = torch.cat([x, last * 0 if reduce is torch.sum else last], axis)
        x = reduce(x.unflatten(axis, (-1, size)), dim=axis + 1)
    return x


def symmetric_grid(x: Tensor, bits: int, block: Block) -> Grid:
    """``s = max|x| / (2^(b-1) - 1)``, integers ±(2^(b-1) - 1); s = 1 for a block of zeros.

    Args:
        x: float.
        bits: 2 to 8.
        block: what shares a scale.
    """
    high = 2 ** (bits - 1) - 1
    peak = by_block(x.detach().abs(), block, torch.amax)
    return symmetric_around(peak / high, block, high)


def symmetric_around(scale: Tensor, block: Block, high: int) -> Grid:
    """A grid without zero-point from its scales; 1 replaces those that are zero or too small for float32 steps."""
    scale = scale.detach().float()
    scale = torch.where(scale < _TINY, torch.ones_like(scale), scale)
    return Grid(scale, torch.zeros_like(scale, dtype=torch.int32), block, -high, high)


def affine_grid(x: Tensor, bits: int, block: Block) -> Grid:
    """``s = (max - min) / (2^b - 1)``, ``z = round(-min / s)``, ranges widened to hold 0; integers 0..2^b - 1."""
    high = 2**bits - 1
    top = by_block(x.detach(), block, torch.amax).float().clamp(min=0)
    bottom = by_block(x.detach(), block, torch.amin).float().clamp(max=0)
    scale = (top - bottom) / high
    scale = torch.where(scale < _TINY, torch.ones_like(scale), scale)
    return Grid(scale, torch.round(-bottom / scale).clamp(0, high).to(torch.int32), block, 0, high)


def affine_range(low: float, high: float, bits: int = 8) -> tuple[float, int]:
    """The affine grid of one range: scale, positive (1 for an empty range), and zero-point in [0, 2^b - 1].

    Raises:
        ValueError: an end is not finite.
    """
    low, high = min(low, 0.0), max(high, 0.0)
    if not (float("-inf") < low and high < float("inf")):
        raise ValueError(f"range [{low}, {high}] must be finite")
    top = 2**bits - 1
    scale = (high - low) / top
    if scale < _TINY:
        return 1.0, 0
    return scale, min(max(round(-low / scale), 0), top)


def fitted_grid(x: Tensor, bits: int, block: Block, *, steps: int = 40, smallest: float = 0.2) -> Grid:
    """The symmetric grid whose scale minimises the squared error of its block; never worse than the full range.

    Tries ``steps`` equally spaced shares of the full range, from ``smallest`` to 1.
    """
    full = symmetric_grid(x, bits, block)
    best, least = full.scale, _squared_error(x, full)
    for share in torch.linspace(1, smallest, steps)[1:].tolist():
        tried = symmetric_around(full.scale * share, block, full.high)
        error = _squared_error(x, tried)
        best, least = torch.where(error < least, tried.scale, best), torch.minimum(error, least)
    return symmetric_around(best, block, full.high)


def _squared_error(x: Tensor, grid: Grid) -> Tensor:
    """(blocks), float32."""
    return by_block((quantize(x, grid) - x.detach()).square(), grid.block, torch.sum)


def to_integers(x: Tensor, grid: Grid) -> Tensor:
    """``q = clip(round(x / s) + z, low, high)``, int32, the shape of ``x``."""
    scale, zero = spread(grid.scale, grid.block, x.shape), spread(grid.zero_point, grid.block, x.shape)
    # clipped as float: a value far outside of the range overflows an int32
    return (torch.round(x / scale) + zero).clamp_(grid.low, grid.high).to(torch.int32)


def from_integers(q: Tensor, grid: Grid) -> Tensor:
    """``x̂ = s (q - z)``, float32."""
    zero = spread(grid.zero_point, grid.block, q.shape)
    return (q - zero).to(torch.float32).mul_(spread(grid.scale, grid.block, q.shape))


def quantize(x: Tensor, grid: Grid) -> Tensor:
    """The nearest values on the grid, float32."""
    return from_integers(to_integers(x.detach(), grid), grid)


class _StraightThrough(torch.autograd.Function):
    """``value`` forward; backward the gradient of ``x``, where ``passes``."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, value: Tensor, passes: Tensor | None) -> Tensor:
        ctx.save_for_backward(passes)
        return value.clone() if value is x else value

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (passes,) = ctx.saved_tensors
        return gradients[0] if passes is None else gradients[0] * passes, None, None


def straight_through(x: Tensor, value: Tensor, passes: Tensor | None = None) -> Tensor:
    """The straight-through estimator: ``value`` bit for bit, with the gradient of ``x``.

    Args:
        x: what is trained.
        value: what computes, the shape of ``x``; gets no gradient.
        passes: bool, where the gradient goes on; None: everywhere.
    """
    made: Tensor = _StraightThrough.apply(x, value.detach(), passes)  # type: ignore[no-untyped-call]
    return made


def fake_quantize(x: Tensor, grid: Grid) -> Tensor:
    """:func:`quantize` with straight-through gradients for values inside of the range, none outside."""
    scale, zero = spread(grid.scale, grid.block, x.shape), spread(grid.zero_point, grid.block, x.shape)
    # whole numbers are exact in float32; in place, and no mask where nothing is clipped: memory is what takes the time
    q = torch.div(x.detach(), scale).round_()
    if not grid.symmetric:
        q.add_(zero)
    low, high = torch.aminmax(q) if q.numel() else (q.new_zeros(()), q.new_zeros(()))
    inside = None
    if low < grid.low or high > grid.high:
        inside = (q >= grid.low) & (q <= grid.high)
        q.clamp_(grid.low, grid.high)
    if not grid.symmetric:
        q.sub_(zero)
    return straight_through(x, q.mul_(scale), inside)
