"""Codes of fewer than 8 bits, side by side without a gap: the last codec of a chain."""

from collections.abc import Mapping
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from bertpress.artifact.codecs.base import VALUES, Codec, TensorSpec
from bertpress.artifact.codecs.stored import Stored


def pack_bits(codes: Tensor, bits: int) -> Tensor:
    """Eight codes in ``bits`` bytes, the first code in the lowest bits.

    Args:
        codes: uint8, any shape, each below 2^bits.
        bits: 1 to 8.

    Returns:
        uint8 (ceil(n * bits / 8),).
    """
    flat = codes.flatten()
    count = -(-flat.numel() * bits // 8)
    flat = torch.cat([flat, flat.new_zeros(-flat.numel() % 8)]).reshape(-1, 8)
    words = flat.new_zeros(len(flat), dtype=torch.int64)
    for i in range(8):
        words |= flat[:, i].to(torch.int64) << (i * bits)
    return words.view(torch.uint8).reshape(-1, 8)[:, :bits].flatten()[:count].clone()


def unpack_bits(packed: Tensor, bits: int, count: int) -> Tensor:
    """The first ``count`` codes that :func:`pack_bits` was given, uint8 (count,)."""
    if 8 % bits == 0:
        shifts = torch.arange(0, 8, bits, dtype=torch.uint8)
        codes: Tensor = (packed[:, None] >> shifts) & (2**bits - 1)
        return codes.flatten()[:count]
    rows = -(-count // 8)
    padded = torch.cat([packed, packed.new_zeros(rows * bits - len(packed))]).reshape(rows, bits)
    words = packed.new_zeros(rows, 8)
    words[:, :bits] = padded
    shifted: Tensor = words.view(torch.int64) >> torch.arange(0, 8 * bits, bits)
    shifted &= 2**bits - 1
    return shifted.to(torch.uint8).flatten()[:count]


class Bits(Codec):
    """Packs uint8 codes; see :func:`pack_bits`."""

    kind: Literal["bits"] = "bits"
    bits: int = Field(ge=1, le=7, description="Of a code.")

    def layout(self, given: TensorSpec, counts: Mapping[str, int]) -> dict[str, TensorSpec]:
        """``bits`` bits a code, rounded up to whole bytes once."""
        if given.dtype != torch.uint8:
            raise ValueError(f"bits: packs uint8, got {given}")
        return {VALUES: TensorSpec(torch.uint8, (-(-given.elements * self.bits // 8),))}

    def encode(self, tensor: Tensor, fixed: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Pack."""
        if tensor.numel() and (top := int(tensor.max())) >= 2**self.bits:
            raise ValueError(f"bits: code {top} must be below {2**self.bits}")
        return {VALUES: pack_bits(tensor, self.bits)}

    def decode(self, parts: Mapping[str, Tensor], given: TensorSpec) -> Tensor:
        """Unpack."""
        return unpack_bits(parts[VALUES], self.bits, given.elements).reshape(given.shape)


def as_codes(codes: Tensor) -> Stored | None:
    """How integers take least room: as many bits each as the largest needs; None: all eight.

    Args:
        codes: uint8, any shape.
    """
    bits = max(1, int(codes.max()).bit_length()) if codes.numel() else 8
    return Stored((Bits(bits=bits),)) if bits < 8 else None
