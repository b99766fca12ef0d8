"""Weights of 2 to 8 bits on evenly spaced values, rounded to the nearest once, without data or training.

Source: sheet Q0, the textbook scheme (Jacob et al. 2018, arXiv:1712.05877, section 2.1; Krishnamoorthi 2018,
arXiv:1806.08342, section 2).  Embedding tables have a scale for each row (sheet Q7).  Departs from it: ``fit: mse``
shrinks the range of a block where that lowers the squared error, which naive rounding does not.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator
from torch import Tensor

from bertpress.artifact.codecs import on_grid
from bertpress.encoder.grids import (
    Block,
    Granularity,
    Grid,
    affine_grid,
    block_of,
    fitted_grid,
    quantize,
    symmetric_grid,
)
from bertpress.encoder.surgery import rebuild
from bertpress.methods.base import Context, Model
from bertpress.methods.quantization import FLOAT, ROWS, Bits, Quantizer


class Uniform(Quantizer):
    """Round every weight to one of a few evenly spaced values, as many as its bits can tell apart."""

    cite: ClassVar[str] = "Jacob et al., 2018"

    bits: Bits = Field(8, description="Of the linear layers; 32 leaves them float.")
    granularity: Granularity = Field("channel", description="Weights that share a scale: matrix, output, or group.")
    group: int = Field(128, ge=8, le=4096, description="Consecutive inputs of an output in a group.")
    symmetric: bool = Field(True, description="Steps evenly around 0; false: from minimum to maximum, zero-point.")
    fit: Literal["max", "mse"] = Field("max", description="Range: all values, or least squared error (symmetric).")

    @model_validator(mode="after")
    def _fits(self) -> Uniform:
        if self.fit == "mse" and not self.symmetric:
            raise ValueError("fit=mse must go with symmetric=true")
        return self

    def finish(self, model: Model, ctx: Context) -> Model:
        """Put the weights on their grids and say how they are stored."""
        state = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
        storage = dict(model.storage)
        blocks: dict[str, tuple[int, Block]] = {name: (bits, ROWS) for name, bits in self.tables(model)}
        if self.bits != FLOAT:
            for name in self.matrices(model):
                blocks[name] = (self.bits, block_of(state[name].shape, self.granularity, self.group))
        for name, (bits, block) in blocks.items():
            grid = self.grid(state[name], bits, block)
            state[name] = quantize(state[name], grid)
            storage[name] = on_grid(grid)
        new = rebuild(model, model.blueprint, state)
        new.storage = storage
        return new

    def grid(self, weight: Tensor, bits: int, block: Block) -> Grid:
        """The grid of one weight."""
        if not self.symmetric:
            return affine_grid(weight, bits, block)
        return fitted_grid(weight, bits, block) if self.fit == "mse" else symmetric_grid(weight, bits, block)

    @classmethod
    def noop(cls) -> Any:
        """All bits."""
        return cls(bits=FLOAT, embedding_bits=FLOAT)
