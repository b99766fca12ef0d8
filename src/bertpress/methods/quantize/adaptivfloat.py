"""Weights as floating-point numbers of 4 to 8 bits whose range follows the largest weight of their matrix.

Source: AdaptivFloat, Tambe et al. 2020, DAC, arXiv:1909.13271, section III, algorithm 1, and for ``range: released``
the authors' code.  Straight-through gradients pass where a weight lies within the range.
Departs from it: activations stay float; exponents below those of float32 do not exist, so a matrix whose weights are
all smaller than about 1e-36 loses accuracy.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from bertpress.artifact.codecs import Stored
from bertpress.artifact.codecs.float_k import LOWEST, in_float
from bertpress.encoder.grids import straight_through
from bertpress.encoder.surgery import rebuild
from bertpress.encoder.transforms import put
from bertpress.methods.base import Context, Model
from bertpress.methods.quantization import FLOAT, Quantizer
from bertpress.methods.transform import WeightTransform, bake
from bertpress.methods.weights import TABLES

Range = Literal["paper", "released"]
_EXPONENT = 0x7F800000  # the bits of a float32 that hold its exponent


def exponent_bias(weight: Tensor, exponent_bits: int) -> int:
    """The lowest exponent: that of the largest magnitude less ``2^exponent_bits - 1``."""
    peak = float(weight.detach().abs().max()) if weight.numel() else 0.0
    top = math.frexp(peak)[1] - 1 if peak else 0  # frexp's mantissa lies in [0.5, 1)
    return max(top - int(2**exponent_bits) + 1, LOWEST)


def limits(mantissa_bits: int, exponent_bits: int, bias: int, range: Range) -> tuple[float, float, float]:
    """The ends of the format: below which magnitude is 0, the smallest and the largest magnitude.

    The paper's format gives the code of its lowest value to 0 and rounds what is smaller to the nearer of the two.  The
    released code uses two exponents less, as IEEE 754 does, and flushes all that is smaller to 0.
    """
    ulp = 2.0**-mantissa_bits
    top = math.ldexp(2 - ulp, bias + 2**exponent_bits - 1)
    if range == "paper":
        smallest = math.ldexp(1 + ulp, bias)
        return smallest / 2, smallest, top
    smallest = math.ldexp(1.0, bias + 2)
    return smallest, smallest, top


def adaptivfloat(weight: Tensor, bits: int, exponent_bits: int, bias: int, range: Range = "paper") -> Tensor:
    """The nearest numbers of the format, ties to the even mantissa; larger ones to the largest.

    Args:
        weight: float32.
        bits: of a number: a sign, ``exponent_bits``, and a mantissa.
        exponent_bits: fewer than ``bits``.
        bias: see :func:`exponent_bias`.
        range: see :func:`limits`.
    """
    weight = weight.detach()
    steps = float(2 ** (bits - 1 - exponent_bits))
    zero, smallest, largest = limits(bits - 1 - exponent_bits, exponent_bits, bias, range)
    # without its mantissa a float32 is the power of two below it
    power = (weight.view(torch.int32) & _EXPONENT).view(torch.float32).clamp_(min=2.0**bias)
    rounded = (weight / power).mul_(steps).round_().div_(steps).mul_(power).clamp_(-largest, largest)
    magnitude = weight.abs()
    rounded = torch.where(magnitude < smallest, torch.tensor(smallest).copysign(weight), rounded)
    return rounded.masked_fill_(magnitude < zero, 0)


class FloatQuantizer(WeightTransform):
    """Puts a weight on the numbers of a format that follows it at each step; gradients pass within its range."""

    def __init__(self, bits: int, exponent_bits: int, range: Range) -> None:
        super().__init__()
        self.bits, self.exponent_bits, self.range = bits, exponent_bits, range
        self.bias = 0

    def forward(self, weight: Tensor) -> Tensor:
        """Same shape as ``weight``."""
        self.bias = exponent_bias(weight, self.exponent_bits)
        _, _, largest = limits(self.bits - 1 - self.exponent_bits, self.exponent_bits, self.bias, self.range)
        value = adaptivfloat(weight, self.bits, self.exponent_bits, self.bias, self.range)
        return straight_through(weight, value, weight.detach().abs() <= largest)

    def stored(self, weight: Tensor, before: Stored | None) -> Stored:
        """In the format of the last pass, which is the one that was baked."""
        return in_float(self.bits, self.exponent_bits, self.bias)


class Adaptivfloat(Quantizer):
    """Give each matrix a floating-point format of few bits, with the exponents that its weights need."""

    cite: ClassVar[str] = "Tambe et al., 2020"

    bits: Annotated[int, Field(ge=4, le=8)] | Literal[32] = Field(
        8, description="Of the linear layers; 32 leaves them float."
    )
    exponent_bits: int = Field(3, ge=2, le=7, description="Of a number; sign and mantissa have the others.")
    range: Range = Field("paper", description="Format: the paper's, or that of the code that its authors released.")
    qat: bool = Field(False, description="Round while training, in a stage that trains; false: once, afterwards.")

    @model_validator(mode="after")
    def _fits(self) -> Adaptivfloat:
        for bits in (self.bits, *(self.table_bits(table) for table in TABLES)):
            if bits <= self.exponent_bits:
                raise ValueError(f"exponent_bits={self.exponent_bits} must be below all bits, of which one is {bits}")
        return self

    def widths(self, model: Model) -> dict[str, int]:
        """The bits of every weight that is rounded, by its name."""
        matrices = {} if self.bits == FLOAT else dict.fromkeys(self.matrices(model), self.bits)
        return matrices | dict(self.tables(model))

    def attach(self, model: Model, ctx: Context) -> Model:
        """Formats on the weights, where they shall be trained."""
        if self.qat:
            for name, bits in self.widths(model).items():
                put(model, name, FloatQuantizer(bits, self.exponent_bits, self.range))
        return model

    def finish(self, model: Model, ctx: Context) -> Model:
        """Round, unless training did, and say how the weights are stored."""
        if self.qat:
            bake(model)  # a stage that does not train has not
            return model
        state = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
        storage = dict(model.storage)
        for name, bits in self.widths(model).items():
            bias = exponent_bias(state[name], self.exponent_bits)
            state[name] = adaptivfloat(state[name], bits, self.exponent_bits, bias, self.range)
            storage[name] = in_float(bits, self.exponent_bits, bias)
        return rebuild(model, model.blueprint, state, storage)

    @classmethod
    def noop(cls) -> Any:
        """All bits."""
        return cls(bits=FLOAT, embedding_bits=FLOAT)
