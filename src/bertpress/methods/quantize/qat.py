"""Train on with weights and activations rounded to 8 bits, so that the integer model has nothing left to lose.

Source: Q8BERT, Zafrir et al. 2019, arXiv:1910.06188, section 2; straight-through gradients: Bengio et al. 2013,
arXiv:1308.3432.  Weights: symmetric, the range is the largest magnitude at each step.  Activations: a moving average
of the extremes, frozen in evaluation mode; or, where the paper takes a batch's maximum, that of each token
(``activation_scales: dynamic``, which then runs as ``quantize/int8`` says).
Departs from it: by default a scale for each output channel and affine activations, which the same kernels run
(``granularity: tensor`` and ``symmetric: true`` are the paper's); the moving averages begin with the ranges of
calibration text, under rounded weights, since a decay of 0.9999 needs thousands of steps; biases stay float32, not
int32.
"""

from __future__ import annotations

from functools import partial
from typing import ClassVar, Literal

from pydantic import Field

from bertpress.encoder.blueprint import Scales
from bertpress.encoder.grids import block_of, symmetric_grid
from bertpress.encoder.transforms import put
from bertpress.methods.base import Context, Model, Need, Trait
from bertpress.methods.quantization import ROWS, TrainedQuantizer
from bertpress.methods.transform import FakeQuantizer


class Qat(TrainedQuantizer):
    """Simulate 8-bit integers while training, and carry their scales into the integer model."""

    cite: ClassVar[str] = "Zafrir et al., 2019"
    requires: ClassVar[frozenset[Need]] = frozenset({Need.CALIBRATION, Need.TRAINING})
    provides: ClassVar[frozenset[Trait]] = frozenset({Trait.INT8})
    conflicts: ClassVar[frozenset[Trait]] = frozenset({Trait.INT8})

    bits: int = Field(8, ge=2, le=8, description="Of the linear layers' weights.")
    granularity: Literal["tensor", "channel"] = Field("channel", description="Weights that share a scale.")
    activation_scales: Scales = Field(
        "static", description="Learnt while training; dynamic: of each token at run time."
    )
    symmetric: bool = Field(False, description="Ranges of activations evenly around 0; dynamic ones always are.")
    scores: bool = Field(True, description="Multiply queries by keys in integers too; with static scales alone.")
    decay: float = Field(0.9999, ge=0, lt=1, description="Share of an activation's old range that stays at a step.")

    def attach(self, model: Model, ctx: Context) -> Model:
        """Fake quantizers on activations and weights."""
        return self.simulate(
            model,
            ctx,
            self.put_weights,
            scores=self.scores,
            scales=self.activation_scales,
            decay=self.decay,
            symmetric=self.symmetric,
        )

    def put_weights(self, model: Model) -> None:
        """Fake quantizers on matrices and tables."""
        for name in self.matrices(model):
            block = block_of(model.get_parameter(name).shape, self.granularity)
            put(model, name, FakeQuantizer(partial(symmetric_grid, bits=self.bits, block=block)))
        for name, bits in self.tables(model):
            put(model, name, FakeQuantizer(partial(symmetric_grid, bits=bits, block=ROWS)))
