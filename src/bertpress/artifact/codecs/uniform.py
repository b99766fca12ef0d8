"""Integers on a uniform grid of 2 to 8 bits: value = (q - zero_point) * scale, a scale for each block.

Decoding does the float32 operations of :mod:`bertpress.encoder.grids`, which are also those of torch's
``fake_quantize_per_tensor_affine`` and ``_per_channel_affine``: an artifact holds bit for bit what was simulated.
"""

from collections.abc import Mapping
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from bertpress.artifact.codecs.base import VALUES, Codec, TensorSpec
from bertpress.artifact.codecs.bits import Bits
from bertpress.artifact.codecs.stored import Stored
from bertpress.encoder.grids import Grid, blocks, spread, to_integers


class Uniform(Codec):
    """Fixed parts: ``scale`` (float32, positive) and, unless symmetric, ``zero_point`` (any integer dtype).

    Both hold one number a block.  Codes are uint8 and count steps from the zero-point upwards, those below it wrapped
    around to the top: 0 always stands for the value 0, whatever the zero-point, so that a bitmap can follow.
    """

    kind: Literal["uniform"] = "uniform"
    bits: int = Field(8, ge=2, le=8, description="Of a code; 2^bits - 1 values if symmetric, 2^bits otherwise.")
    block: tuple[Annotated[int, Field(ge=0)], ...] = Field(description="What shares a scale; 0: the whole dimension.")
    symmetric: bool = Field(True, description="Integers evenly around 0, without zero-point.")

    @property
    def low(self) -> int:
        """Smallest integer."""
        return -self.high if self.symmetric else 0

    @property
    def high(self) -> int:
        """Largest integer."""
        return int(2 ** (self.bits - 1) - 1 if self.symmetric else 2**self.bits - 1)

    @property
    def levels(self) -> int:
        """Number of integers."""
        return self.high - self.low + 1

    def fixed(self) -> tuple[str, ...]:
        """``scale``, and ``zero_point`` where there is one."""
        return ("scale",) if self.symmetric else ("scale", "zero_point")

    def layout(self, given: TensorSpec, counts: Mapping[str, int]) -> dict[str, TensorSpec]:
        """A byte a value, four a scale, one a zero-point."""
        try:
            shape = blocks(given.shape, self.block)
        except ValueError as error:
            raise ValueError(f"uniform: {error}") from None
        parts = {VALUES: TensorSpec(torch.uint8, given.shape), "scale": TensorSpec(torch.float32, shape)}
        if not self.symmetric:
            parts["zero_point"] = TensorSpec(torch.uint8, shape)
        return parts

    def encode(self, tensor: Tensor, fixed: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The nearest codes."""
        scale = fixed["scale"]
        if not bool((scale > 0).all() and scale.isfinite().all()):
            raise ValueError("uniform: scale must be positive and finite")
        grid = self.grid(fixed)
        if not bool(((grid.zero_point >= self.low) & (grid.zero_point <= self.high)).all()):
            raise ValueError(f"uniform: zero_point must be in {self.low}..{self.high}")
        steps = to_integers(tensor, grid) - spread(grid.zero_point, grid.block, tensor.shape)
        parts = {VALUES: steps.remainder_(self.levels).to(torch.uint8), "scale": scale}
        return parts if self.symmetric else parts | {"zero_point": fixed["zero_point"].to(torch.uint8)}

    def decode(self, parts: Mapping[str, Tensor], given: TensorSpec) -> Tensor:
        """(q - zero_point) * scale; the difference of integers is exact in float32."""
        steps = parts[VALUES].to(torch.float32)
        grid = self.grid(parts)
        top = self.high - spread(grid.zero_point, grid.block, steps.shape)
        steps -= (steps > top) * float(self.levels)
        return steps.mul_(spread(grid.scale, grid.block, steps.shape))

    def grid(self, parts: Mapping[str, Tensor]) -> Grid:
        """The grid on which decoded values lie."""
        scale = parts["scale"]
        zeros = torch.zeros_like(scale, dtype=torch.int32)
        zero_point = zeros if self.symmetric else parts["zero_point"].to(torch.int32)
        return Grid(scale, zero_point, self.block, self.low, self.high)


def on_grid(grid: Grid) -> Stored:
    """How a weight on an integer grid is stored: its codes, packed where they have fewer than 8 bits."""
    bits = max(grid.high - grid.low, 1).bit_length()
    codec = Uniform(bits=bits, block=grid.block, symmetric=grid.symmetric)
    parts = {"scale": grid.scale.cpu()} | ({} if grid.symmetric else {"zero_point": grid.zero_point.cpu()})
    return Stored((codec,) if bits == 8 else (codec, Bits(bits=bits)), parts)
