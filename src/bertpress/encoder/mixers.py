"""What mixes tokens in place of attention: convolutions, LSTMs and cells; and what shortens the sequence.

Pads lie on the right and change nothing for a real token: convolutions read zeros there, and the backward direction of
an LSTM begins at the last real token.  Masks are those of attention, (batch, 1, 1, tokens), added to scores: 0 for
tokens; None where there are no pads.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bertpress.encoder.blueprint import Activation, Blueprint, LayerSpec
from bertpress.encoder.mixer_specs import (
    CONVOLUTIONS,
    CellSpec,
    ConvolutionSpec,
    LstmSpec,
    MixerSpec,
    Operation,
    ShorteningSpec,
)
from bertpress.encoder.overwrite import activate
from bertpress.encoder.slots import Slot, make_norm


def neighbours(x: Tensor, kernel: int, *, dilation: int = 1, stride: int = 1, left: int = 0) -> Tensor:
    """Tokens side by side, so that a convolution is a linear map.

    Args:
        x: (batch, tokens, width).
        kernel: how many to put side by side.
        dilation: their distance.
        stride: distance of the first of them for neighbouring outputs.
        left: how many tokens the first lies before its output.

    Returns:
        (batch, ceil(tokens / stride), kernel * width); beyond both ends are zeros.
    """
    beyond = (kernel - 1) * dilation
    padded = F.pad(x, (0, 0, left, beyond - left))
    ends = (at - beyond or None for at in range(0, beyond + 1, dilation))
    return torch.cat([padded[:, i * dilation : end : stride] for i, end in enumerate(ends)], dim=-1)


def convolved(x: Tensor, dense: nn.Linear, activation: Activation, *, kernel: int, dilation: int) -> Tensor:
    """A centred convolution, as many tokens out as in, and an activation.

    Args:
        x: (batch, tokens, inputs), zeros for pads.
        dense: from ``kernel`` tokens side by side to one.
        activation: that follows.
        kernel: odd.
        dilation: distance of the tokens.
    """
    x = neighbours(x, kernel, dilation=dilation, left=kernel // 2 * dilation)
    return activate(activation, dense(x), dense)


def without_pads(x: Tensor, mask: Tensor | None) -> Tensor:
    """(batch, tokens, width) with zeros for pads."""
    return x if mask is None else x * (mask[:, 0, 0, :, None] == 0).to(x.dtype)


def last_tokens(mask: Tensor) -> Tensor:
    """(batch, tokens), true for tokens, to (batch, 1): where the last one lies; 0 where there is none."""
    return (mask.to(torch.int64).sum(1, keepdim=True) - 1).clamp(min=0)


def turned(x: Tensor, mask: Tensor | None) -> Tensor:
    """(batch, tokens, width) with the real tokens in reverse order, pads where they are."""
    if mask is None:
        return x.flip(1)
    places = torch.arange(x.shape[1], device=x.device)
    last = last_tokens(mask[:, 0, 0] == 0)
    source = torch.where(places <= last, last - places, places)
    return x.gather(1, source.unsqueeze(-1).expand(-1, -1, x.shape[2]))


class Mixer(nn.Module):
    """The sub-unit of a layer: :meth:`mix`, dropout, residual and norm."""

    def __init__(self, spec: MixerSpec, blueprint: Blueprint) -> None:
        super().__init__()
        self.residual, self.dropout = spec.residual, blueprint.dropout
        self.norm = make_norm(spec.norm, blueprint.hidden_size, blueprint.norm_epsilon)

    def mix(self, x: Tensor, mask: Tensor | None, before: Tensor) -> Tensor:
        """(batch, tokens, hidden) to the same shape."""
        raise NotImplementedError

    def forward(self, x: Tensor, mask: Tensor | None, before: Tensor | None = None) -> Tensor:
        """(batch, tokens, hidden) to the same shape; ``before`` is what entered the layer before, None: ``x``."""
        y = F.dropout(self.mix(x, mask, x if before is None else before), self.dropout, self.training)
        return self.norm(x + y if self.residual else y)  # type: ignore[no-any-return]


class Convolution(Mixer):
    """A convolution as a linear map of neighbouring tokens, and an activation."""

    def __init__(self, spec: ConvolutionSpec, blueprint: Blueprint, activation: Activation) -> None:
        super().__init__(spec, blueprint)
        self.spec, self.activation = spec, activation
        self.slot = Slot()
        self.dense = nn.Linear(spec.kernel * blueprint.hidden_size, blueprint.hidden_size)

    def mix(self, x: Tensor, mask: Tensor | None, before: Tensor) -> Tensor:
        """(batch, tokens, hidden) to the same shape."""
        x, spec = self.slot(without_pads(x, mask)), self.spec
        return convolved(x, self.dense, self.activation, kernel=spec.kernel, dilation=spec.dilation)


class Edge(nn.Module):
    """One operation of a cell; a convolution has weights, and the layer's activation follows it."""

    def __init__(self, operation: Operation, hidden: int, activation: Activation) -> None:
        super().__init__()
        self.operation: Operation = operation
        self.activation = activation
        if operation in CONVOLUTIONS:
            self.slot = Slot()
            self.dense = nn.Linear(CONVOLUTIONS[operation][0] * hidden, hidden)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, tokens, hidden), zeros for pads, to the same shape; beyond both ends are zeros, for pools too."""
        if self.operation == "skip":
            return x
        if self.operation in CONVOLUTIONS:
            kernel, dilation = CONVOLUTIONS[self.operation]
            return convolved(self.slot(x), self.dense, self.activation, kernel=kernel, dilation=dilation)
        three = neighbours(x, 3, left=1).unflatten(-1, (3, -1))
        pooled: Tensor = three.amax(-2) if self.operation == "maximum3" else three.mean(-2)
        return pooled


class Cell(Mixer):
    """A graph of operations on the outputs of the last two layers."""

    def __init__(self, spec: CellSpec, blueprint: Blueprint, activation: Activation) -> None:
        super().__init__(spec, blueprint)
        self.nodes = len(spec.edges)
        self.shares = nn.Parameter(torch.zeros(self.nodes))
        self.edges = nn.ModuleDict({
            f"{node}_{state}": Edge(operation, blueprint.hidden_size, activation)
            for node, operations in enumerate(spec.edges)
            for state, operation in enumerate(operations)
            if operation != "zero"
        })  # fmt: skip

    def along(self, node: int, state: int, x: Tensor) -> Tensor | None:
        """What a node gets of a state, (batch, tokens, hidden); None where there is no edge."""
        name = f"{node}_{state}"
        return self.edges[name](x) if name in self.edges else None

    def mix(self, x: Tensor, mask: Tensor | None, before: Tensor) -> Tensor:
        """(batch, tokens, hidden) to the same shape."""
        states = [without_pads(before, mask), without_pads(x, mask)]
        for node in range(self.nodes):
            found = [self.along(node, i, state) for i, state in enumerate(states)]
            total = sum((each for each in found if each is not None), start=torch.zeros_like(x))
            states.append(without_pads(total, mask))
        shares = self.shares.softmax(0)
        return sum((share * state for share, state in zip(shares, states[2:], strict=True)), start=torch.zeros_like(x))


class Lstm(nn.Module):
    """One direction of an LSTM, as ``torch.nn.LSTM`` computes it; of its two biases, which are added, one.

    Its gates lie in PyTorch's order: input, forget, cell, output.
    """

    def __init__(self, inputs: int, units: int) -> None:
        super().__init__()
        self.units, self.onnx = units, False
        self.input = nn.Linear(inputs, 4 * units)
        self.recurrent = nn.Linear(units, 4 * units, bias=False)

    def initialize(self) -> None:
        """Uniform weights, as PyTorch begins with."""
        for weight in self.parameters():
            nn.init.uniform_(weight, -1 / math.sqrt(self.units), 1 / math.sqrt(self.units))

    def emit_onnx(self) -> None:
        """Emit ONNX nodes from now on: its exporter would unroll the steps."""
        self.onnx = True

    def forward(self, x: Tensor) -> Tensor:
        """(batch, tokens, inputs) to (batch, tokens, units), from states of zero."""
        if self.onnx:
            return self._onnx(x)
        start = x.new_zeros(1, x.shape[0], self.units)
        weights = [self.input.weight, self.recurrent.weight, self.input.bias, torch.zeros_like(self.input.bias)]
        states: Tensor = torch.lstm(x, (start, start), weights, True, 1, 0.0, self.training, False, True)[0]
        return states

    def _onnx(self, x: Tensor) -> Tensor:
        def gates(weight: Tensor) -> Tensor:  # in ONNX: input, output, forget, cell; a dimension for the directions
            ordered: Tensor = weight.unflatten(0, (4, -1))[[0, 3, 1, 2]].flatten(0, 1)
            return ordered.unsqueeze(0)

        bias = gates(self.input.bias)
        inputs = (x.transpose(0, 1), *map(gates, (self.input.weight, self.recurrent.weight)))
        states = torch.onnx.ops.symbolic(
            "LSTM",
            (*inputs, torch.cat([bias, torch.zeros_like(bias)], dim=1)),
            {"hidden_size": self.units},
            dtype=x.dtype,
            shape=(x.shape[1], 1, x.shape[0], self.units),
        )
        return states.squeeze(1).transpose(0, 1)


class BiLstm(Mixer):
    """Two LSTMs, one from each end of the text; their states side by side."""

    def __init__(self, spec: LstmSpec, blueprint: Blueprint) -> None:
        super().__init__(spec, blueprint)
        hidden = blueprint.hidden_size
        self.ahead, self.back = Lstm(hidden, hidden // 2), Lstm(hidden, hidden // 2)

    def mix(self, x: Tensor, mask: Tensor | None, before: Tensor) -> Tensor:
        """(batch, tokens, hidden) to the same shape."""
        return torch.cat([self.ahead(x), turned(self.back(turned(x, mask)), mask)], dim=-1)


def make_mixer(layer: LayerSpec, blueprint: Blueprint) -> Mixer:
    """What mixes the tokens of a layer that has no attention."""
    assert layer.mixer is not None
    if isinstance(layer.mixer, ConvolutionSpec):
        return Convolution(layer.mixer, blueprint, layer.activation)
    if isinstance(layer.mixer, CellSpec):
        return Cell(layer.mixer, blueprint, layer.activation)
    return BiLstm(layer.mixer, blueprint)


class Shortening(nn.Module):
    """Groups of neighbouring tokens become one state each, and states become tokens again."""

    def __init__(self, spec: ShorteningSpec, blueprint: Blueprint) -> None:
        super().__init__()
        self.stride, hidden = spec.stride, blueprint.hidden_size
        self.down_slot, self.up_slot = Slot(), Slot()
        self.down = nn.Linear(spec.stride * hidden, hidden)
        self.up = nn.Linear(hidden, spec.stride * hidden)
        self.norm = make_norm("layer", hidden, blueprint.norm_epsilon)

    def shorten(self, x: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """(batch, n, hidden) and its mask to (batch, ceil(n / stride), hidden) and the mask of groups of pads alone."""
        groups = neighbours(self.down_slot(without_pads(x, mask)), self.stride, stride=self.stride)
        return self.down(groups), None if mask is None else mask[..., :: self.stride]

    def restore(self, short: Tensor, x: Tensor) -> Tensor:
        """(batch, ceil(n / stride), hidden) to (batch, n, hidden), added to what entered."""
        tokens = self.up(self.up_slot(short)).unflatten(-1, (self.stride, -1)).flatten(1, 2)
        # by index: of a slice the exporter would have to prove that it is as long as x
        return self.norm(x + tokens.index_select(1, torch.arange(x.shape[1], device=x.device)))  # type: ignore[no-any-return]
