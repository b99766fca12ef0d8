"""Fake quantizers for activations and weights: integers as training, the artifact and the exported graph see them.

One grid means the same everywhere: ``x̂ = scale * (clip(round(x / scale) + zero_point, low, high) - zero_point)``.
``torch.fake_quantize_*`` computes it in training and in the torch engine, OpenVINO converts those calls into
FakeQuantize nodes and runs integer kernels, and in ONNX mode the same modules emit QuantizeLinear / DequantizeLinear.
Both engines multiply integers of 8 bits alone: grids of fewer are exported as a cut to their range, and then a grid of
8 bits with the same step.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from bertpress.encoder.blueprint import Blueprint
from bertpress.encoder.grids import Grid, affine_range
from bertpress.encoder.mixers import Lstm
from bertpress.encoder.overwrite import traced
from bertpress.encoder.slots import Slot

ONNX_OPSET = 21
SCORES, MAPS = (".query_slot", ".key_slot"), (".map_slot", ".value_slot")
"""Slots of what two activations are multiplied by each other for: attention scores, and averages of values."""
_TINY = torch.finfo(torch.float32).tiny


class SlotQuantizer(nn.Module):
    """What a slot carries: once switched on it puts the activation on integers, until then values pass as they are.

    Attributes:
        onnx: emit ONNX nodes.
    """

    def __init__(self) -> None:
        super().__init__()
        self.onnx = False
        self._active: bool | None = None  # read from the buffers when first asked: loaders write them in many ways

    def switched_on(self) -> bool:
        """What the buffers say."""
        raise NotImplementedError

    @property
    def active(self) -> bool:
        """Whether values are put on a grid."""
        if self._active is None:
            self._active = self.switched_on()
        return self._active

    def emit_onnx(self) -> None:
        """Emit ONNX nodes from now on."""
        self.onnx, self._active = True, self.switched_on()  # the tracer cannot look into a buffer

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self._active = None


class ActivationQuantizer(SlotQuantizer):
    """Puts an activation on a grid of at most 256 steps, one scale for the whole tensor.

    Args:
        low: smallest integer; below 0 in a grid that has its zero in the middle.
        high: largest integer.

    Attributes:
        scale: float32 (), the step; 0 means that this activation stays float.
        zero_point: int32 (), the integer that stands for 0, in low..high.
    """

    scale: Tensor
    zero_point: Tensor

    def __init__(self, low: int = 0, high: int = 255) -> None:
        super().__init__()
        self.low, self.high = low, high
        self.register_buffer("scale", torch.zeros(()))
        self.register_buffer("zero_point", torch.zeros((), dtype=torch.int32))

    def set(self, scale: Tensor | float, zero_point: Tensor | int) -> None:
        """Fix the grid; scale 0 switches the quantizer off.

        Raises:
            ValueError: the scale is negative or not finite, or the zero-point lies outside low..high.
        """
        step, zero = float(scale), int(zero_point)
        if not 0 <= step < float("inf"):
            raise ValueError(f"scale={step} must be finite and at least 0")
        if not self.low <= zero <= self.high:
            raise ValueError(f"zero_point={zero} must be in {self.low}..{self.high}")
        self.scale.fill_(step)
        self.zero_point.fill_(zero)
        self._active = step > 0

    def switched_on(self) -> bool:
        """Whether there is a scale."""
        return float(self.scale) > 0

    def forward(self, x: Tensor) -> Tensor:
        """Same shape as ``x``."""
        if not self.active:
            return x
        low, high = self.low, self.high
        if traced():
            widest = bounds(8, signed=low < 0)
            if (low, high) != widest:
                x = x.clamp((low - self.zero_point) * self.scale, (high - self.zero_point) * self.scale)
            low, high = widest
        if self.onnx:
            return _there_and_back(x, self.scale, self.zero_point - low)
        return torch.fake_quantize_per_tensor_affine(x, self.scale, self.zero_point, low, high)

    def extra_repr(self) -> str:
        """Grid in a line."""
        return f"scale={float(self.scale):.4g}, zero_point={int(self.zero_point)}, {self.low}..{self.high}"


class DynamicQuantizer(SlotQuantizer):
    """Puts each token of an activation on a grid of its own: ``scale = max|x| / (2^(b-1) - 1)`` over its channels.

    A token's integers depend on that token alone, whatever stands beside it in a batch.  Exporters carry the scale
    behind the matrix product, which then reads integers of 8 bits.

    Args:
        bits: 2 to 8.

    Attributes:
        on: bool (), whether this activation is quantized.
    """

    on: Tensor

    def __init__(self, bits: int = 8) -> None:
        super().__init__()
        self.bits = bits
        self.register_buffer("on", torch.zeros((), dtype=torch.bool))

    def switched_on(self) -> bool:
        """What ``on`` says."""
        return bool(self.on)

    def forward(self, x: Tensor) -> Tensor:
        """Same shape as ``x``; gradients pass straight through."""
        if not self.active:
            return x
        high = bounds(self.bits, signed=True)[1]
        scale = (x.detach().abs().amax(-1, keepdim=True) / high).clamp(min=_TINY)  # a token of zeros stays one
        steps = x / scale
        if self.onnx:
            one = torch.ones(())
            return _there_and_back(steps, one, torch.full((), 128)) * scale
        # no step lies beyond ±high, so that the grid may be the one that engines multiply
        return torch.fake_quantize_per_tensor_affine(steps, 1.0, 0, *bounds(8, signed=True)) * scale

    def extra_repr(self) -> str:
        """Grid in a line."""
        return f"bits={self.bits}, on={bool(self.on)}"


def bounds(bits: int, *, signed: bool) -> tuple[int, int]:
    """The least and the largest integer of an activation's grid."""
    return (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)


def activation_grid(bottom: float, top: float, low: int, high: int, *, symmetric: bool) -> tuple[float, int]:
    """Scale and zero-point that cover a range by the integers ``low`` to ``high``.

    A symmetric grid has the middle as its zero-point: 0 of -128..127, 128 of 0..255.
    """
    if symmetric:
        middle = (low + high + 1) // 2
        return max(-bottom, top) / (high - middle) or 1.0, middle
    scale, zero = affine_range(bottom, top, (high - low).bit_length())
    return scale, zero + low


class WeightQuantizer(nn.Module):
    """A parametrization that puts a weight on its grid; gradients pass straight through inside the range.

    Args:
        grid: one scale, or one for each index of a dimension (output channels, rows of a table).
    """

    scale: Tensor
    zero_point: Tensor
    integers: Tensor | None

    def __init__(self, grid: Grid) -> None:
        super().__init__()
        self.axis, self.low, self.high = grid.axis, grid.low, grid.high
        shape = () if self.axis is None else (-1,)
        self.register_buffer("scale", grid.scale.detach().reshape(shape))
        self.register_buffer("zero_point", grid.zero_point.reshape(shape))
        self.register_buffer("integers", None, persistent=False)

    def forward(self, weight: Tensor) -> Tensor:
        """Same shape as ``weight``; in ONNX mode the stored integers, to be multiplied when the file runs."""
        if self.integers is not None:
            zeros = self.zero_point.to(self.integers.dtype)
            return _dequantize(self.integers, self.scale, zeros, self.axis)
        if self.axis is None:
            return torch.fake_quantize_per_tensor_affine(weight, self.scale, self.zero_point, self.low, self.high)
        return torch.fake_quantize_per_channel_affine(
            weight, self.scale, self.zero_point, self.axis, self.low, self.high
        )

    def freeze(self, weight: Tensor) -> None:
        """Keep the integers of ``weight`` and emit them from now on instead of quantizing (ONNX mode)."""
        shape = [1] * weight.ndim
        if self.axis is not None:
            shape[self.axis] = -1
        codes = torch.round(weight.detach() / self.scale.reshape(shape)) + self.zero_point.reshape(shape)
        self.integers = codes.clamp(self.low, self.high).to(torch.uint8 if self.low >= 0 else torch.int8)


def _there_and_back(x: Tensor, scale: Tensor, zero_point: Tensor) -> Tensor:
    """ONNX nodes QuantizeLinear and DequantizeLinear, with integers of 0..255; their eager value means nothing.

    Throughout in 0..255, as ONNX Runtime's own turn from int8 to uint8 breaks the graph.
    """
    zero = zero_point.to(torch.uint8)
    q = torch.onnx.ops.symbolic("QuantizeLinear", (x, scale, zero), dtype=zero.dtype, shape=x.shape, version=ONNX_OPSET)
    return _dequantize(q, scale, zero, None)


def _dequantize(q: Tensor, scale: Tensor, zero_point: Tensor, axis: int | None) -> Tensor:
    """An ONNX DequantizeLinear node; its eager value means nothing."""
    attributes: dict[str, Any] = {} if axis is None else {"axis": axis}
    inputs = (q, scale, zero_point)
    return torch.onnx.ops.symbolic(
        "DequantizeLinear", inputs, attributes, dtype=torch.float32, shape=q.shape, version=ONNX_OPSET
    )


def slots(model: nn.Module) -> dict[str, Slot]:
    """Every named activation of a model, by its name; a shared unit's slots appear once."""
    return {name: module for name, module in model.named_modules() if isinstance(module, Slot)}


def quantizers(model: nn.Module) -> dict[str, SlotQuantizer]:
    """What the slots of a model carry, switched on or off, by their names."""
    return {name: slot.quantizer for name, slot in slots(model).items() if isinstance(slot.quantizer, SlotQuantizer)}


def is_symmetric(slot: str) -> bool:
    """Queries meet keys, maps meet values: kernels want both without zero-point (maps need none, being positive)."""
    return slot.endswith((*SCORES, ".value_slot"))


def fill_slots(model: nn.Module, blueprint: Blueprint) -> None:
    """Give slots the quantizers of the blueprint, switched off; a loaded state dict or a calibration sets their grids.

    Dynamic ones lie where a linear map reads the activation; maps and values have one only where they are quantized.
    """
    bits = blueprint.activation_bits
    assert bits is not None
    for name, slot in slots(model).items():
        slot.quantizer = None
        if blueprint.activation_scales == "dynamic":
            if not name.endswith(SCORES + MAPS):
                slot.quantizer = DynamicQuantizer(bits)
        elif blueprint.quantized_maps or not name.endswith(MAPS):
            slot.quantizer = ActivationQuantizer(*bounds(bits, signed=is_symmetric(name)))


def onnx_mode(model: nn.Module) -> None:
    """From now on quantizers and LSTMs emit ONNX nodes; for a copy made to be exported."""
    for module in model.modules():
        if isinstance(module, SlotQuantizer | Lstm):
            module.emit_onnx()
        elif isinstance(module, parametrize.ParametrizationList):
            for transform in module:
                if isinstance(transform, WeightQuantizer):
                    transform.freeze(module.original)
