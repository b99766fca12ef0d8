"""Codes of three values, five to a byte: the last codec of a chain, 1.6 bits a code.

Five ternary digits have 3^5 = 243 states and a byte has 256, so a code takes 0.9 % more than log2(3) bits.
"""

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from bertpress.artifact.codecs.base import VALUES, Codec, TensorSpec
from bertpress.artifact.codecs.stored import Stored
from bertpress.artifact.codecs.uniform import Uniform
from bertpress.encoder.grids import Grid

DIGITS = 5
STATES = 3**DIGITS


def pack_trits(codes: Tensor) -> Tensor:
    """Five codes to a byte, the first code as the lowest digit.

    Args:
        codes: uint8, any shape, each 0, 1 or 2.

    Returns:
        uint8 (ceil(n / 5),).
    """
    flat = codes.flatten()
    digits = torch.cat([flat, flat.new_zeros(-flat.numel() % DIGITS)]).reshape(-1, DIGITS)
    packed = digits[:, -1].clone()
    for i in reversed(range(DIGITS - 1)):
        packed *= 3
        packed += digits[:, i]
    return packed


def unpack_trits(packed: Tensor, count: int) -> Tensor:
    """The first ``count`` codes that :func:`pack_trits` was given, uint8 (count,).

    Raises:
        ValueError: a byte stands for no five codes.
    """
    if packed.numel() and (top := int(packed.max())) >= STATES:
        raise ValueError(f"trits: byte {top} must be below {STATES}")
    digits = torch.arange(STATES)[:, None] // 3 ** torch.arange(DIGITS) % 3
    table = digits.to(torch.uint8)
    return table.index_select(0, packed.to(torch.int32)).flatten()[:count]


class Trits(Codec):
    """Packs uint8 codes 0, 1, 2; see :func:`pack_trits`."""

    kind: Literal["trits"] = "trits"

    def layout(self, given: TensorSpec, counts: Mapping[str, int]) -> dict[str, TensorSpec]:
        """A byte for five codes, rounded up once."""
        if given.dtype != torch.uint8:
            raise ValueError(f"trits: packs uint8, got {given}")
        return {VALUES: TensorSpec(torch.uint8, (-(-given.elements // DIGITS),))}

    def encode(self, tensor: Tensor, fixed: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Pack."""
        if tensor.numel() and (top := int(tensor.max())) > 2:
            raise ValueError(f"trits: code {top} must be below 3")
        return {VALUES: pack_trits(tensor)}

    def decode(self, parts: Mapping[str, Tensor], given: TensorSpec) -> Tensor:
        """Unpack."""
        return unpack_trits(parts[VALUES], given.elements).reshape(given.shape)


def in_trits(grid: Grid) -> Stored:
    """How a weight on the grid -scale, 0, scale is stored.

    Raises:
        ValueError: the grid has other integers than -1, 0 and 1.
    """
    if (grid.low, grid.high) != (-1, 1):
        raise ValueError(f"trits: integers {grid.low}..{grid.high} must be -1..1")
    return Stored((Uniform(bits=2, block=grid.block), Trits()), {"scale": grid.scale.cpu()})
