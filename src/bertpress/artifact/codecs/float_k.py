"""Floating-point numbers of 2 to 8 bits whose exponents begin where the tensor needs it.

A code is a sign bit, exponent bits f and mantissa bits k, and stands for ``±2^(bias + f) (1 + k / 2^mantissa_bits)``;
there are no infinities and no denormal numbers.  The code in which f and k are 0 stands for 0, so the value
``2^bias`` itself does not exist.
"""

import math
from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from bertpress.artifact.codecs.base import VALUES, Codec, TensorSpec
from bertpress.artifact.codecs.bits import Bits
from bertpress.artifact.codecs.codebook import lookup
from bertpress.artifact.codecs.stored import Stored

LOWEST = -126
"""Exponent of the smallest normal float32."""


class FloatK(Codec):
    """Fixed part: ``bias`` (int8, one number), the lowest exponent.  Codes are uint8, and 0 stands for the value 0."""

    elementwise: ClassVar[bool] = True
    kind: Literal["float_k"] = "float_k"
    bits: int = Field(ge=2, le=8, description="Of a number, its sign included.")
    exponent_bits: int = Field(ge=1, le=7, description="Bits of the exponent; the mantissa has what is left.")

    @model_validator(mode="after")
    def _fits(self) -> "FloatK":
        if self.exponent_bits >= self.bits:
            raise ValueError(f"exponent_bits={self.exponent_bits} must be below bits={self.bits}")
        return self

    @property
    def mantissa_bits(self) -> int:
        """Bits of the mantissa, without the leading one."""
        return self.bits - 1 - self.exponent_bits

    @property
    def exponents(self) -> int:
        """Number of exponents."""
        return int(2**self.exponent_bits)

    def fixed(self) -> tuple[str, ...]:
        """``bias``."""
        return ("bias",)

    def layout(self, given: TensorSpec, counts: Mapping[str, int]) -> dict[str, TensorSpec]:
        """A byte a value, and one for the tensor."""
        if given.dtype != torch.float32:
            raise ValueError(f"float_k: packs float32, got {given}")
        return {VALUES: TensorSpec(torch.uint8, given.shape), "bias": TensorSpec(torch.int8, (1,))}

    def encode(self, tensor: Tensor, fixed: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The codes of values that have one."""
        magnitudes = self.magnitudes(fixed["bias"])
        codes = torch.bucketize(tensor.abs(), magnitudes, out_int32=True).clamp_(max=len(magnitudes) - 1)
        return {VALUES: (codes + (tensor < 0) * len(magnitudes)).to(torch.uint8), "bias": fixed["bias"]}

    def decode(self, parts: Mapping[str, Tensor], given: TensorSpec) -> Tensor:
        """Look every code up."""
        magnitudes = self.magnitudes(parts["bias"])
        try:
            return lookup(torch.cat([magnitudes, -magnitudes]), parts[VALUES])
        except ValueError as error:
            raise ValueError(f"float_k: {error}") from None

    def magnitudes(self, bias: Tensor) -> Tensor:
        """The values of the codes without sign, ascending: (2^(bits - 1),), float32.

        Raises:
            ValueError: some would be no normal float32.
        """
        if bias.shape != (1,) or not LOWEST <= int(bias) <= 128 - self.exponents:
            raise ValueError(f"float_k: bias={bias.tolist()} must be one number in {LOWEST}..{128 - self.exponents}")
        steps, first = 2**self.mantissa_bits, int(bias)
        codes = range(1, 2 ** (self.bits - 1))
        return torch.tensor([0.0, *(math.ldexp(1 + code % steps / steps, first + code // steps) for code in codes)])


def in_float(bits: int, exponent_bits: int, bias: int) -> Stored:
    """How a weight in a small float format is stored."""
    codec = FloatK(bits=bits, exponent_bits=exponent_bits)
    parts = {"bias": torch.tensor([bias], dtype=torch.int8)}
    return Stored((codec,) if bits == 8 else (codec, Bits(bits=bits)), parts)
