"""Affine 8-bit integers: value = (q - zero_point) * scale, for a whole tensor or along an axis.

Decoding does the very float32 operations of ``torch.fake_quantize_per_tensor_affine`` and
``_per_channel_affine``, so an artifact holds bit for bit what training and calibration simulated.
"""

from collections.abc import Mapping
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from bertpress.artifact.codecs.base import VALUES, Codec, Grid, TensorSpec


def along(vector: Tensor, axis: int | None, dimensions: int) -> Tensor:
    """``vector`` (n,) shaped to broadcast along ``axis`` of a tensor; a scalar stays as it is."""
    return vector if axis is None else vector.reshape([-1 if i == axis else 1 for i in range(dimensions)])


class Int8(Codec):
    """Fixed parts: ``scale`` (float32, positive) and, unless symmetric, ``zero_point`` (any integer dtype, 0..255).

    Both have shape (n,) along ``axis`` or () for the whole tensor.  Symmetric codes are int8 in -127..127 around 0,
    the others uint8 in 0..255.
    """

    kind: Literal["int8"] = "int8"
    axis: int | None = Field(None, ge=0, description="Dimension that has a scale for each index; None: one scale.")
    symmetric: bool = Field(True, description="-127..127 without zero-point; otherwise 0..255 with one.")

    @property
    def low(self) -> int:
        """Smallest code."""
        return -127 if self.symmetric else 0

    @property
    def high(self) -> int:
        """Largest code."""
        return 127 if self.symmetric else 255

    def fixed(self) -> tuple[str, ...]:
        """``scale``, and ``zero_point`` where there is one."""
        return ("scale",) if self.symmetric else ("scale", "zero_point")

    def layout(self, given: TensorSpec, counts: Mapping[str, int]) -> dict[str, TensorSpec]:
        """A byte a value, four a scale, one a zero-point."""
        if self.axis is not None and self.axis >= len(given.shape):
            raise ValueError(f"int8: axis={self.axis} must be below {len(given.shape)}, the dimensions of {given}")
        shape = () if self.axis is None else (given.shape[self.axis],)
        codes = torch.int8 if self.symmetric else torch.uint8
        parts = {VALUES: TensorSpec(codes, given.shape), "scale": TensorSpec(torch.float32, shape)}
        if not self.symmetric:
            parts["zero_point"] = TensorSpec(torch.uint8, shape)
        return parts

    def encode(self, tensor: Tensor, fixed: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The nearest codes."""
        scale = fixed["scale"]
        if not bool((scale > 0).all() and scale.isfinite().all()):
            raise ValueError("int8: scale must be positive and finite")
        codes = torch.round(tensor / along(scale, self.axis, tensor.ndim))
        if self.symmetric:
            return {VALUES: codes.clamp_(self.low, self.high).to(torch.int8), "scale": scale}
        zero_point = fixed["zero_point"]
        if not bool(((zero_point >= self.low) & (zero_point <= self.high)).all()):
            raise ValueError(f"int8: zero_point must be in {self.low}..{self.high}")
        codes = codes + along(zero_point, self.axis, tensor.ndim)
        return {
            VALUES: codes.clamp_(self.low, self.high).to(torch.uint8),
            "scale": scale,
            "zero_point": zero_point.to(torch.uint8),
        }

    def decode(self, parts: Mapping[str, Tensor], given: TensorSpec) -> Tensor:
        """(q - zero_point) * scale; the difference of integers is exact in float32."""
        values = parts[VALUES].to(torch.float32)
        if not self.symmetric:
            values -= along(parts["zero_point"], self.axis, values.ndim).to(torch.float32)
        return values.mul_(along(parts["scale"], self.axis, values.ndim))

    def grid(self, parts: Mapping[str, Tensor]) -> Grid:
        """Scale and zero-point as torch's fake quantizers take them."""
        scale = parts["scale"]
        zeros = torch.zeros(scale.shape, dtype=torch.int32)
        zero_point = zeros if self.symmetric else parts["zero_point"].to(torch.int32)
        return Grid(scale=scale, zero_point=zero_point, axis=self.axis, low=self.low, high=self.high)
