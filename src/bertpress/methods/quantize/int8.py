"""Integers of 8 bits for weights and activations, scales chosen after training from calibration text.

Source: the textbook scheme (Jacob et al. 2018, arXiv:1712.05877, section 2.1); percentile ranges as in
Wu et al. 2020, arXiv:2004.09602, section 4.  Weights: symmetric, one scale for each output channel, one for each row
of an embedding table.  Activations: affine, one scale for the tensor, static.  Departs from them: nowhere.

LayerNorm, softmax, GELU, biases, the residual stream, attention maps times values and the classifier stay float.
Queries and keys are symmetric: kernels multiply them without zero-points.

``activation_scales: dynamic`` takes ``max|x| / 127`` of each token at run time instead (token-wise quantization of
ZeroQuant, Yao et al. 2022, arXiv:2206.01861, section 4.1) and looks at no text.  One scale for a whole tensor would
make an answer depend on pads and on the other texts of a batch.  The inputs of linear maps are quantized so; queries
and keys stay float.  What runs as integers: in OpenVINO every linear map; in ONNX Runtime every one but those behind
the pooling, which compute in float on the same values; PyTorch simulates all of it.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field
from torch import Tensor

from bertpress.encoder.blueprint import Scales
from bertpress.encoder.grids import block_of, symmetric_grid
from bertpress.encoder.observers import RangeRule
from bertpress.methods.activations import (
    activation_ranges,
    calibration,
    dynamic_buffers,
    quantized_slots,
    static_buffers,
)
from bertpress.methods.base import Context, Model, Need, Trait
from bertpress.methods.quantization import ROWS, Quantizer, on_grids


class Int8(Quantizer):
    """Store weights as 8-bit integers and multiply them by 8-bit activations, without training."""

    cite: ClassVar[str] = "Jacob et al., 2018"
    requires: ClassVar[frozenset[Need]] = frozenset({Need.CALIBRATION})
    provides: ClassVar[frozenset[Trait]] = frozenset({Trait.INT8})
    conflicts: ClassVar[frozenset[Trait]] = frozenset({Trait.INT8})

    granularity: Literal["tensor", "channel"] = Field("channel", description="Weights that share a scale.")
    ranges: RangeRule = Field("percentile", description="How an activation's range follows from what was seen.")
    percentile: float = Field(99.999, gt=50, le=100, description="Share of the values that the range covers.")
    examples: int = Field(256, ge=1, le=100_000, description="Training examples that the ranges are taken from.")
    activations: bool = Field(True, description="False: integers in the file alone, for size without speed.")
    activation_scales: Scales = Field(
        "static", description="From calibration text; dynamic: of each token at run time, without any text."
    )
    scores: bool = Field(True, description="Multiply queries by keys in integers too; with static scales alone.")

    def finish(self, model: Model, ctx: Context) -> Model:
        """Calibrate, put the weights on their grids, and say how they are stored."""
        blueprint, buffers = model.blueprint, dict[str, Tensor]()
        if self.activations:
            buffers = self._buffers(model, ctx)
            blueprint = blueprint.replace(activation_bits=8, activation_scales=self.activation_scales)
        weights = {name: weight.detach() for name, weight in model.unique_weights()}
        grids = {
            name: symmetric_grid(weights[name], 8, block_of(weights[name].shape, self.granularity))
            for name in self.matrices(model)
        }
        grids |= {name: symmetric_grid(weights[name], bits, ROWS) for name, bits in self.tables(model)}
        made = on_grids(model, grids, blueprint=blueprint, buffers=buffers)
        ctx.say(f"quantize/int8 keeps {len(made.storage)} weights as integers")
        return made

    def _buffers(self, model: Model, ctx: Context) -> dict[str, Tensor]:
        """Buffers of all slots' quantizers."""
        chosen = quantized_slots(model, classifier=self.classifier, scores=self.scores)
        if self.activation_scales == "dynamic":
            return dynamic_buffers(model, chosen)
        batches = calibration(model, ctx, self.examples)
        return static_buffers(model, activation_ranges(model, batches, chosen, self.ranges, self.percentile))
