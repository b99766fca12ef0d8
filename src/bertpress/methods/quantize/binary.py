"""Weights of two values, or sums of two such weights that begin as a ternary weight split in two.

Source: BinaryBERT, Bai et al. 2021, arXiv:2012.15701, section 3: ``binary(W) = mean |W| sign(W)``, and
ternary weight splitting (section 3.1): latent weights ``w1 + w2 = w`` with
``binary(w1) + binary(w2) = ternary(w)``.  Each linear map of the paper's binary model adds up two binary matrices that
read the same input, ``binary(W1) x + binary(W2) x``; as a model of half the heads and neurons is split, it has as many
binary weights as the full one.
Departs from it: the two matrices of a map are one weight, the sum of two binary terms, trained as two latent weights
and stored as two bits and two scales; the arithmetic and the bytes are those of the paper, with one bias instead of
two halves.  The token table is ternary instead of split, which takes 1.6 bits and not 2.  8-bit activations take their
range from a moving average, frozen afterwards.  A block so lopsided that the equations have no solution of equal signs
starts from its ternary instead of its latent weights.

A binary weight has no zero, so it cannot follow pruning of single weights.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from bertpress.artifact.codecs import Stored
from bertpress.artifact.codecs.sign import of_signs
from bertpress.encoder.grids import Block, block_of, by_block, spread, straight_through
from bertpress.encoder.transforms import put, transforms
from bertpress.errors import RecipeError
from bertpress.methods.base import Model, Trait
from bertpress.methods.low_bits import LowBits, mean_size, survivors
from bertpress.methods.transform import WeightTransform


def binary(weight: Tensor, scale: Tensor, block: Block) -> Tensor:
    """``a sign(w)``, where 0 counts as positive."""
    sizes = spread(scale, block, weight.shape)
    return (weight >= 0).to(weight.dtype).mul_(2 * sizes).sub_(sizes)  # exact, and twice as fast as torch.where


def split(weight: Tensor, block: Block) -> tuple[Tensor, Tensor]:
    """Two latent weights whose sum is ``weight`` and whose binary weights sum to its ternary weight.

    With I where the ternary weight is not 0 and n weights a block: ``w1 = a w`` and ``w2 = (1 - a) w`` in I; elsewhere
    ``w1 = b + max(w, 0)`` and ``w2 = -b + min(w, 0)``.  The scales of both must be half of the ternary one, the mean
    magnitude in I, which fixes a and b.

    Args:
        weight: latent, float32.
        block: what shares a scale.

    Returns:
        Both in double precision.
    """
    kept = survivors(weight.abs(), block)

    def total(values: Tensor) -> Tensor:
        return spread(by_block(values, block, torch.sum), block, weight.shape)

    w, outside = weight.detach().double(), ~kept
    large, number = total(w.abs() * kept), total(kept.double())
    scale = large / number.clamp(min=1)
    solvable = total(w * outside).abs() < large  # otherwise a lies outside of (0, 1)
    w = torch.where(solvable, w, scale * w.sign() * kept)
    a = 0.5 - total(w * outside) / (2 * large).clamp(min=torch.finfo(torch.float64).tiny)
    b = total(scale - w.abs()) / (2 * total(outside.double())).clamp(min=1)
    first = torch.where(kept, a * w, b + w.clamp(min=0))
    second = torch.where(kept, (1 - a) * w, -b + w.clamp(max=0))
    return first, second


class Binarizer(WeightTransform):
    """Gives the binary weight, or the sum of two; gradients pass straight through.

    Args:
        block: what shares a scale.
        second: the other latent weight, trained with the one below.
    """

    def __init__(self, block: Block, second: Tensor | None = None) -> None:
        super().__init__()
        self.block = block
        self.second = None if second is None else nn.Parameter(second)
        self.scale: Tensor | None = None

    def forward(self, weight: Tensor) -> Tensor:
        """Same shape as ``weight``."""
        halves = [weight] if self.second is None else [weight, self.second]
        self.scale = torch.stack([mean_size(half.detach(), self.block) for half in halves])
        first, *rest = (
            straight_through(half, binary(half.detach(), scale, self.block))
            for half, scale in zip(halves, self.scale, strict=True)
        )
        return first + rest[0] if rest else first

    def stored(self, weight: Tensor, before: Stored | None) -> Stored:
        """Signs, and the scales of the last pass."""
        assert self.scale is not None
        return of_signs(self.scale, self.block)


class Binary(LowBits):
    """Train weights of two values, or pairs of them split from ternary weights, towards the full-precision model."""

    cite: ClassVar[str] = "Bai et al., 2021"
    conflicts: ClassVar[frozenset[Trait]] = LowBits.conflicts | {Trait.SPARSE}

    granularity: Literal["tensor", "channel"] = Field("tensor", description="Weights of a matrix that share a scale.")
    split: bool = Field(
        True, description="Begin as the ternary model, each matrix the sum of two binary ones; false: one, of the sign."
    )

    def attach_matrix(self, model: Model, name: str) -> None:
        """Binary from now on.

        Raises:
            RecipeError: a mask or the like lies on the weight.
        """
        if transforms(model, name):
            raise RecipeError(f"quantize/binary: {name} is masked in the same stage; a binary weight has no zero")
        weight = model.get_parameter(name)
        block = block_of(weight.shape, self.granularity)
        if not self.split:
            put(model, name, Binarizer(block))
            return
        first, second = split(weight.detach().clamp(-self.clip, self.clip), block)
        weight.data.copy_(first)
        put(model, name, Binarizer(block, second.float()))
