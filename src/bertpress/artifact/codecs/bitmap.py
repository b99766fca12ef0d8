"""Which values are not zero, one bit each, and these values: the codec of what pruning leaves.

It takes floats (the first codec of a chain) or the codes of a grid, where 0 stands for the value 0 (after
:class:`Uniform`); what is left may be packed further.  One bit may also stand for a block of values that are zero
together, such as the rows and columns that block-structured pruning removes.
"""

from collections.abc import Mapping
from math import prod
from typing import Annotated, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from bertpress.artifact.codecs.base import VALUES, Codec, TensorSpec
from bertpress.artifact.codecs.bits import pack_bits, unpack_bits
from bertpress.artifact.codecs.stored import Stored
from bertpress.artifact.codecs.uniform import Uniform
from bertpress.encoder.grids import Block, blocks, by_block, spread

LARGEST = 2**16  # values behind one bit: a header cannot ask for more memory than so many times its file
MATRIX = 2  # dimensions; smaller tensors are not worth a bitmap


class Bitmap(Codec):
    """Parts: ``bitmap`` (uint8, a bit a block, the first in the lowest bit) and the values of the blocks that are left.

    Values are in the order of the flattened tensor.
    """

    kind: Literal["bitmap"] = "bitmap"
    block: tuple[Annotated[int, Field(ge=1, le=LARGEST)], ...] = Field(description="Values that one bit stands for.")

    @model_validator(mode="after")
    def _bounded(self) -> "Bitmap":
        if prod(self.block) > LARGEST:
            raise ValueError(f"block={self.block} must hold at most {LARGEST} values")
        return self

    def layout(self, given: TensorSpec, counts: Mapping[str, int]) -> dict[str, TensorSpec]:
        """A bit a block, and what is left."""
        try:
            bits = prod(blocks(given.shape, self.block))
        except ValueError as error:
            raise ValueError(f"bitmap: {error}") from None
        if (kept := counts.get("kept", 0)) > given.elements:
            raise ValueError(f"bitmap: {kept} values must be at most {given.elements}")
        return {
            "bitmap": TensorSpec(torch.uint8, (-(-bits // 8),)),
            VALUES: TensorSpec(given.dtype, (kept,)),
        }

    def encode(self, tensor: Tensor, fixed: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Drop the blocks that are all zero."""
        left = nonzero_blocks(tensor, self.block)
        return {"bitmap": pack_bits(left.to(torch.uint8), 1), VALUES: tensor[self._mask(left, tensor.shape)]}

    def decode(self, parts: Mapping[str, Tensor], given: TensorSpec) -> Tensor:
        """Zeros, and the values where the bits say."""
        shape = blocks(given.shape, self.block)
        left = unpack_bits(parts["bitmap"], 1, prod(shape)).reshape(shape).bool()
        mask, values = self._mask(left, given.shape), parts[VALUES]
        if (wanted := int(mask.sum())) != len(values):
            raise ValueError(f"bitmap: {len(values)} values for {wanted} bits that are set")
        return torch.zeros(given.shape, dtype=given.dtype).masked_scatter_(mask, values)

    def counts(self, parts: Mapping[str, Tensor]) -> dict[str, int]:
        """Number of values that are left."""
        return {"kept": len(parts[VALUES])}

    def foretell(self, tensor: Tensor, fixed: Mapping[str, Tensor]) -> tuple[dict[str, int], Tensor]:
        """What the blocks that are left hold."""
        values = tensor[self._mask(nonzero_blocks(tensor, self.block), tensor.shape)]
        return {"kept": len(values)}, values

    def _mask(self, left: Tensor, shape: tuple[int, ...]) -> Tensor:
        return spread(left, self.block, shape).expand(shape)


def nonzero_blocks(tensor: Tensor, block: Block) -> Tensor:
    """Bool, one a block: whether any of its values is not 0."""
    found = tensor != 0
    return found if prod(block) == 1 else by_block(found.float(), block, torch.amax).bool()


def thinned(weight: Tensor, stored: Stored | None, block: Block | None = None) -> Stored | None:
    """How ``weight`` takes least room: ``stored``, with a bitmap of its zeros where that pays.

    Args:
        weight: as it will be stored, on its grid if it has one.
        stored: how, so far; None: as it is.  A bitmap that is in it already is looked at anew.
        block: zeros that lie together; None: those of the bitmap that is there or single ones, whichever takes less.
    """
    if weight.ndim < MATRIX or weight.dtype != torch.float32 or not weight.numel():
        return stored
    codecs, parts = (stored.codecs, stored.parts) if stored is not None else ((), {})
    before = block_of_zeros(stored)
    codecs = tuple(codec for codec in codecs if not isinstance(codec, Bitmap))
    if codecs and not (isinstance(codecs[0], Uniform) or codecs[0].elementwise):
        return stored
    place = next((i + 1 for i, codec in enumerate(codecs) if isinstance(codec, Uniform)), 0)
    single = (1,) * weight.ndim
    sizes = [block] if block else [single] if before is None else [before, single]
    plain = Stored(codecs, parts) if codecs else None
    zeros = weight.numel() - int((weight != 0).sum())
    if 8 * weight.itemsize * zeros <= min(prod(blocks(weight.shape, size)) for size in sizes):
        return plain  # not even single floats would pay for the bits
    thin = [Stored((*codecs[:place], Bitmap(block=size), *codecs[place:]), parts) for size in sizes]
    return min([plain, *thin], key=lambda choice: weight.nbytes if choice is None else choice.bytes(weight))


def block_of_zeros(stored: Stored | None) -> Block | None:
    """The block of the bitmap in a chain; None: there is no bitmap."""
    codecs = stored.codecs if stored is not None else ()
    return next((codec.block for codec in codecs if isinstance(codec, Bitmap)), None)
