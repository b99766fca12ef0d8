"""Move the outlier channels of activations into the weights, so that one scale fits all channels.

Source: SmoothQuant, Xiao et al. 2023, arXiv:2211.10438, section 4, equations 3 and 4: with
``s_j = max|X_j|^alpha / max|W_j|^(1 - alpha)``, ``(X / s) (s W)`` is the same product.
Departs from it: BERT normalises after the residual, so 1 / s cannot go into a norm's gain without changing the
residual; it becomes an explicit factor at the slot.  Only the context of the heads needs none: the value matrix takes
it in.  Factors are scaled to a geometric mean of 1, which changes no product.  A step before ``quantize/int8`` or
``quantize/qat``; alone it changes nothing but the last bits.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from bertpress.encoder.factors import reader, writer
from bertpress.encoder.layers import EncoderLayer
from bertpress.encoder.observers import observing
from bertpress.encoder.quantizers import slots
from bertpress.encoder.slots import Slot
from bertpress.encoder.surgery import rebuild
from bertpress.methods.activations import calibration
from bertpress.methods.base import Context, Method, Model, Need, Trait

SMALLEST = 1e-5


def smoothing(activations: Tensor, weights: Sequence[Tensor], alpha: float) -> Tensor:
    """``s_j = max|X_j|^alpha / max|W_j|^(1 - alpha)``, scaled to a geometric mean of 1.

    Args:
        activations: (channels,) largest magnitudes.
        weights: matrices (outputs, channels) that read them.
        alpha: share of the difficulty that moves to the weights.

    Returns:
        (channels,), positive and finite; 1 for channels that never carry anything.
    """
    peaks = activations.clamp(min=SMALLEST)
    columns = torch.stack([weight.detach().abs().amax(0) for weight in weights]).amax(0).clamp(min=SMALLEST)
    factors = peaks**alpha / columns ** (1 - alpha)
    factors = torch.where(activations > 0, factors, torch.ones_like(factors))
    return (factors / factors.log().mean().exp()).clamp(min=SMALLEST)


class Peaks:
    """The largest magnitude that each channel of an activation takes."""

    def __init__(self) -> None:
        self.values = torch.zeros(())

    def __call__(self, x: Tensor) -> None:
        """Take in (tokens, channels)."""
        self.values = torch.maximum(self.values, x.detach().abs().amax(0).float())


class Smooth(Method):
    """Divide outlier channels of activations by a factor and multiply the weights behind them, before quantization."""

    cite: ClassVar[str] = "Xiao et al., 2023"
    requires: ClassVar[frozenset[Need]] = frozenset({Need.CALIBRATION})
    conflicts: ClassVar[frozenset[Trait]] = frozenset({Trait.INT8})

    alpha: float = Field(0.5, ge=0, le=1, description="Share of the difficulty that moves to the weights.")
    examples: int = Field(256, ge=1, le=100_000, description="Training examples that the peaks are taken from.")

    def attach(self, model: Model, ctx: Context) -> Model:
        """Measure the peaks, set the factors, scale the weights; before any quantizer of the stage looks."""
        smoothed = rebuild(model, model.blueprint.replace(smoothed=True), self._with_ones(model), model.storage)
        peaks = {name: Peaks() for name in slots(smoothed)}
        with torch.no_grad(), observing(smoothed, peaks):
            for batch in calibration(smoothed, ctx, self.examples):
                smoothed(**batch)
        seen = {slot: peaks[name].values for name, slot in slots(smoothed).items()}
        with torch.no_grad():
            for layer in smoothed.encoder.layers:
                assert isinstance(layer, EncoderLayer)
                self._scale(layer, seen)
        return smoothed

    def _with_ones(self, model: Model) -> dict[str, Tensor]:
        state = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
        if not model.blueprint.smoothed:
            names = {id(slot): name for name, slot in slots(model).items()}
            for layer in model.encoder.layers:
                assert isinstance(layer, EncoderLayer)
                for slot, readers in layer.readers():
                    state[f"{names[id(slot)]}.factor"] = torch.ones(readers[0].in_features)
        return state

    def _scale(self, layer: EncoderLayer, seen: dict[Slot, Tensor]) -> None:
        for slot, readers in layer.readers():
            factors = smoothing(seen[slot], [linear.weight for linear in readers], self.alpha)
            assert slot.factor is not None
            slot.factor.div_(factors)
            for linear in readers:
                linear.weight.mul_(factors)
        if layer.spec.attention_from is None and layer.spec.attention.heads:
            output, value = reader(layer.attention.output), writer(layer.attention.value)
            factors = smoothing(seen[layer.attention.context_slot], [output.weight], self.alpha)
            output.weight.mul_(factors)
            value.weight.div_(factors[:, None])
            value.bias.div_(factors)
