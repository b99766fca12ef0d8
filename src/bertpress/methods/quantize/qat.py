"""Train on with weights and activations rounded to 8 bits, so that the integer model has nothing left to lose.

Source: Q8BERT, Zafrir et al. 2019, arXiv:1910.06188, section 2; straight-through gradients: Bengio et al. 2013,
arXiv:1308.3432.  Weights: symmetric, the range is the largest magnitude at each step.  Activations: a moving average
of the extremes, frozen in evaluation mode.
Departs from it: by default a scale for each output channel and affine activations, which the same kernels run
(``granularity: tensor`` and ``symmetric: true`` are the paper's); the moving averages begin with the ranges of
calibration text, since a decay of 0.9999 needs thousands of steps; biases stay float32, not int32.
"""

from __future__ import annotations

from functools import partial
from typing import ClassVar, Literal

from pydantic import Field

from bertpress.encoder.grids import block_of, symmetric_grid
from bertpress.encoder.transforms import put
from bertpress.methods.base import Context, Model, Need, Trait
from bertpress.methods.quantization import (
    ROWS,
    Quantizer,
    activation_ranges,
    attach_activations,
    calibration,
    quantized_slots,
    settle_activations,
)
from bertpress.methods.transform import FakeQuantizer


class Qat(Quantizer):
    """Simulate 8-bit integers while training, and carry their scales into the integer model."""

    cite: ClassVar[str] = "Zafrir et al., 2019"
    requires: ClassVar[frozenset[Need]] = frozenset({Need.CALIBRATION, Need.TRAINING})
    provides: ClassVar[frozenset[Trait]] = frozenset({Trait.INT8})
    conflicts: ClassVar[frozenset[Trait]] = frozenset({Trait.INT8})

    bits: int = Field(8, ge=2, le=8, description="Of the linear layers' weights.")
    granularity: Literal["tensor", "channel"] = Field("channel", description="Weights that share a scale.")
    activations: bool = Field(True, description="False: activations stay float, for size without speed.")
    symmetric: bool = Field(False, description="Ranges of activations evenly around 0.")
    scores: bool = Field(True, description="Multiply queries by keys in integers too.")
    decay: float = Field(0.9999, ge=0, lt=1, description="Share of an activation's old range that stays at a step.")
    examples: int = Field(256, ge=1, le=100_000, description="Training examples that the first ranges come from.")

    def attach(self, model: Model, ctx: Context) -> Model:
        """Fake quantizers on weights, and on activations."""
        if self.activations:
            chosen = quantized_slots(model, classifier=self.classifier, scores=self.scores)
            start = activation_ranges(model, calibration(model, ctx, self.examples), chosen, "minmax", 100.0)
            model = attach_activations(model, chosen, decay=self.decay, symmetric=self.symmetric, start=start)
        for name in self.matrices(model):
            block = block_of(model.get_parameter(name).shape, self.granularity)
            put(model, name, FakeQuantizer(partial(symmetric_grid, bits=self.bits, block=block)))
        for name, bits in self.tables(model):
            put(model, name, FakeQuantizer(partial(symmetric_grid, bits=bits, block=ROWS)))
        return model

    def finish(self, model: Model, ctx: Context) -> Model:
        """Keep the ranges."""
        return settle_activations(model) if self.activations else model
