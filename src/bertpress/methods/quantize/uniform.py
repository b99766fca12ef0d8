"""Weights of 2 to 8 bits on evenly spaced values, rounded to the nearest once, without data or training.

Source: the textbook scheme (Jacob et al. 2018, arXiv:1712.05877, section 2.1; Krishnamoorthi 2018,
arXiv:1806.08342, section 2).  Embedding tables have a scale for each row.  Departs from it: ``fit: mse``
shrinks the range of a block where that lowers the squared error, which naive rounding does not.
"""

from __future__ import annotations

from typing import ClassVar

from bertpress.encoder.grids import Block, block_of
from bertpress.methods.base import Context, Model
from bertpress.methods.quantization import FLOAT, ROWS, GridQuantizer, on_grids


class Uniform(GridQuantizer):
    """Round every weight to one of a few evenly spaced values, as many as its bits can tell apart."""

    cite: ClassVar[str] = "Jacob et al., 2018"

    def finish(self, model: Model, ctx: Context) -> Model:
        """Put the weights on their grids and say how they are stored."""
        weights = {name: weight.detach() for name, weight in model.unique_weights()}
        blocks: dict[str, tuple[int, Block]] = {name: (bits, ROWS) for name, bits in self.tables(model)}
        if self.bits != FLOAT:
            for name in self.matrices(model):
                blocks[name] = (self.bits, block_of(weights[name].shape, self.granularity, self.group))
        return on_grids(model, {name: self.grid(weights[name], *block) for name, block in blocks.items()})
