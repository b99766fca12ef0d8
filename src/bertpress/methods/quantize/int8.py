"""Integers of 8 bits for weights and activations, scales chosen after training from calibration text.

Source: sheet Q0, the textbook scheme (Jacob et al. 2018, arXiv:1712.05877, section 2.1); percentile ranges as in
Wu et al. 2020, arXiv:2004.09602, section 4.  Weights: symmetric, one scale for each output channel, one for each row
of an embedding table (sheet Q7).  Activations: affine, one scale for the tensor, static.  Departs from them: nowhere.

LayerNorm, softmax, GELU, biases, the residual stream, attention maps times values and the classifier stay float.
Queries and keys are symmetric: kernels multiply them without zero-points.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from bertpress.artifact.codecs import Int8 as Int8Codec
from bertpress.artifact.codecs import Stored
from bertpress.encoder.observers import Histogram, RangeRule
from bertpress.encoder.quantizers import is_symmetric, observing, slots
from bertpress.encoder.surgery import rebuild
from bertpress.methods.base import Context, Method, Model, Need, Trait
from bertpress.training.teacher import model_inputs


def symmetric_scale(weight: Tensor, axis: int | None = 0, bits: int = 8) -> Tensor:
    """``s = max|w| / (2^(b-1) - 1)``.

    Args:
        weight: any shape, float.
        axis: dimension that gets a scale for each index; None: one scale.
        bits: 2 to 8.

    Returns:
        (n,) along ``axis``, or (); float32 and positive: 1 where all values are 0 (or too small for float32 steps).
    """
    peak = weight.detach().abs().amax([i for i in range(weight.ndim) if i != axis]) if weight.ndim else weight.abs()
    scale = peak.float() / (2 ** (bits - 1) - 1)
    return torch.where(scale < torch.finfo(torch.float32).tiny, torch.ones_like(scale), scale)


def affine_grid(low: float, high: float, bits: int = 8) -> tuple[float, int]:
    """``s = (max - min) / (2^b - 1)``, ``z = round(-min / s)``, the range widened to hold 0.

    Returns:
        Scale, positive (1 for an empty range), and zero-point in [0, 2^b - 1].

    Raises:
        ValueError: if an end is not finite or ``low > high``.
    """
    low, high = min(low, 0.0), max(high, 0.0)
    if not (float("-inf") < low and high < float("inf")):
        raise ValueError(f"range [{low}, {high}] must be finite")
    top = 2**bits - 1
    scale = (high - low) / top
    if scale < torch.finfo(torch.float32).tiny:
        return 1.0, 0
    return scale, min(max(round(-low / scale), 0), top)


def to_integers(x: Tensor, scale: Tensor, zero_point: Tensor, low: int, high: int) -> Tensor:
    """``q = clip(round(x / s) + z, low, high)``, int32; scale and zero-point broadcast against ``x``."""
    return (torch.round(x / scale).to(torch.int32) + zero_point).clamp(low, high)


def from_integers(q: Tensor, scale: Tensor, zero_point: Tensor) -> Tensor:
    """``x̂ = s (q - z)``, float32."""
    return (q - zero_point).to(torch.float32) * scale


def activation_ranges(
    model: Model,
    batches: Sequence[dict[str, Tensor]],
    chosen: Callable[[str], bool],
    rule: RangeRule,
    percentile: float,
) -> dict[str, tuple[float, float]]:
    """The range of every chosen slot that calibration text reaches; pads never count.

    Args:
        model: float; its mode and weights stay as they are.
        batches: padded, on the model's device.
        chosen: says of a slot's name whether it is observed.
        rule: see :meth:`Histogram.range`.
        percentile: for that rule.
    """
    observers = {name: Histogram() for name in slots(model) if chosen(name)}
    training = model.training
    model.eval()
    try:
        with torch.no_grad(), observing(model, observers):
            for batch in batches:
                model(**model_inputs(batch))
    finally:
        model.train(training)
    return {name: seen.range(rule, percentile) for name, seen in observers.items() if seen.seen}


def quantized_weights(model: Model, tables: bool, classifier: bool) -> list[str]:
    """Names of the weights that become integers: every matrix, and the embedding tables where wanted."""
    names = []
    for name, weight in model.unique_weights():
        owner = model.get_submodule(name.rpartition(".")[0])
        wanted = isinstance(owner, nn.Linear) and (classifier or name != "head.classifier.weight")
        wanted |= tables and type(owner) is nn.Embedding
        if wanted and weight.ndim == 2 and weight.numel():
            names.append(name)
    return names


class Int8(Method):
    """Store weights as 8-bit integers and multiply them by 8-bit activations, without training."""

    cite: ClassVar[str] = "Jacob et al., 2018"
    requires: ClassVar[frozenset[Need]] = frozenset({Need.CALIBRATION})
    provides: ClassVar[frozenset[Trait]] = frozenset({Trait.INT8})
    conflicts: ClassVar[frozenset[Trait]] = frozenset({Trait.INT8})

    ranges: RangeRule = Field("percentile", description="How an activation's range follows from what was seen.")
    percentile: float = Field(99.99, gt=50, le=100, description="Share of the values that the range covers.")
    examples: int = Field(256, ge=1, le=100_000, description="Training examples that the ranges are taken from.")
    embedding_bits: Literal[8, 32] = Field(8, description="Of the word, position and segment tables; 32: left float.")
    activations: bool = Field(True, description="False: integers in the file alone, for size without speed.")
    scores: bool = Field(True, description="Multiply queries by keys in integers too.")
    classifier: bool = Field(False, description="Quantize the last linear layer too.")

    def finish(self, model: Model, ctx: Context) -> Model:
        """Calibrate, put the weights on their grids, and say how they are stored."""
        state = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
        blueprint, storage = model.blueprint, dict(model.storage)
        if self.activations:
            state |= self._grids(model, ctx)
            blueprint = blueprint.replace(activation_bits=8)
        for name in quantized_weights(model, self.embedding_bits == 8, self.classifier):
            scale = symmetric_scale(state[name])
            zeros = torch.zeros_like(scale, dtype=torch.int32)
            state[name] = torch.fake_quantize_per_channel_affine(state[name].float(), scale, zeros, 0, -127, 127)
            storage[name] = Stored((Int8Codec(axis=0),), {"scale": scale.cpu()})
        new = rebuild(model, blueprint, state)
        new.storage = storage
        ctx.say(f"quantize/int8 keeps {len(storage)} weights as integers")
        return new

    def _grids(self, model: Model, ctx: Context) -> Mapping[str, Tensor]:
        """Buffers of all slots' quantizers; scale 0 where an activation stays float."""
        device = next(model.parameters()).device
        batches = [
            {name: tensor.to(device) for name, tensor in model_inputs(batch).items()}
            for batch in ctx.batches(self.examples)
        ]
        classified = getattr(model.head, "classifier", None) is not None

        def chosen(slot: str) -> bool:
            float_classifier = slot == "head.slot" and classified and not self.classifier
            return not float_classifier and (self.scores or not is_symmetric(slot))

        ranges = activation_ranges(model, batches, chosen, self.ranges, self.percentile)
        buffers: dict[str, Tensor] = {}
        for name in slots(model):
            scale, zero = 0.0, 0
            if name in ranges:
                low, high = ranges[name]
                scale, zero = (max(-low, high, 0.0) / 127 or 1.0, 0) if is_symmetric(name) else affine_grid(low, high)
            buffers[f"{name}.quantizer.scale"] = torch.tensor(scale)
            buffers[f"{name}.quantizer.zero_point"] = torch.tensor(zero, dtype=torch.int32)
        return buffers
