"""Signs times scales: -a or +a by one bit a value, or a sum of such terms, a bit each.

A term is a binary matrix with a scale for each block; two of them, -a1 or +a1 plus -a2 or +a2, are what a split
ternary weight becomes (BinaryBERT, Bai et al. 2021).
"""

from collections.abc import Mapping
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from bertpress.artifact.codecs.base import VALUES, Codec, TensorSpec
from bertpress.artifact.codecs.bits import Bits
from bertpress.artifact.codecs.stored import Stored
from bertpress.encoder.grids import Block, Grid, blocks, spread


class Sign(Codec):
    """Fixed part: ``scale`` (float32, not negative), (terms, one number a block).

    Codes are uint8; bit i is the sign of term i, 1 for +.
    """

    kind: Literal["sign"] = "sign"
    block: tuple[Annotated[int, Field(ge=0)], ...] = Field(description="What shares a scale; 0: the whole dimension.")
    terms: int = Field(1, ge=1, le=4, description="Binary matrices whose sum the weight is.")

    def fixed(self) -> tuple[str, ...]:
        """``scale``."""
        return ("scale",)

    def layout(self, given: TensorSpec, counts: Mapping[str, int]) -> dict[str, TensorSpec]:
        """A byte a value, four a scale."""
        try:
            shape = blocks(given.shape, self.block)
        except ValueError as error:
            raise ValueError(f"sign: {error}") from None
        return {
            VALUES: TensorSpec(torch.uint8, given.shape),
            "scale": TensorSpec(torch.float32, (self.terms, *shape)),
        }

    def encode(self, tensor: Tensor, fixed: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The codes of the nearest sums; of equal ones the lowest code."""
        scale = fixed["scale"]
        if not bool((scale >= 0).all() and scale.isfinite().all()):
            raise ValueError("sign: scale must be finite and at least 0")
        codes = torch.zeros(tensor.shape, dtype=torch.uint8)
        least = torch.full(tensor.shape, torch.inf)
        for code in range(2**self.terms):
            value = sum(a if code >> i & 1 else -a for i, a in enumerate(scale))
            assert isinstance(value, Tensor)
            gap = (tensor - spread(value, self.block, tensor.shape)).abs_()
            codes.masked_fill_(gap < least, code)
            least = torch.minimum(least, gap, out=least)
        return {VALUES: codes, "scale": scale}

    def decode(self, parts: Mapping[str, Tensor], given: TensorSpec) -> Tensor:
        """The sum of the terms, the first one first.

        Raises:
            ValueError: a code has more bits than there are terms.
        """
        codes, scale = parts[VALUES], parts["scale"]
        if codes.numel() and (top := int(codes.max())) >= 2**self.terms:
            raise ValueError(f"sign: code {top} must be below {2**self.terms}")
        total: Tensor | None = None
        for i, a in enumerate(scale):
            term = (codes >> i & 1).to(torch.float32).mul_(2).sub_(1).mul_(spread(a, self.block, codes.shape))
            total = term if total is None else total.add_(term)
        assert total is not None
        return total

    def grid(self, parts: Mapping[str, Tensor]) -> Grid | None:
        """-1 and 1 times the scale, for a single term; a sum of terms lies on no even grid."""
        if self.terms > 1:
            return None
        scale = parts["scale"][0]
        scale = torch.where(scale > 0, scale, torch.ones_like(scale))  # zeros are 0 times anything
        return Grid(scale, torch.zeros_like(scale, dtype=torch.int32), self.block, -1, 1)


def of_signs(scale: Tensor, block: Block) -> Stored:
    """How a sum of binary matrices is stored.

    Args:
        scale: (terms, one number a block), float32.
        block: what shares a scale.
    """
    terms = len(scale)
    return Stored((Sign(block=block, terms=terms), Bits(bits=terms)), {"scale": scale.cpu()})
