"""Linear maps whose matrix is a product of two thinner ones, and what whole and factored maps have in common."""

from __future__ import annotations

from torch import Tensor, nn

from bertpress.encoder.slots import Slot


class Factored(nn.Module):
    """``y = up (down x) + bias``: two maps that are never multiplied out, with a slot between them."""

    def __init__(self, inputs: int, outputs: int, rank: int) -> None:
        super().__init__()
        self.down = nn.Linear(inputs, rank, bias=False)
        self.slot = Slot()
        self.up = nn.Linear(rank, outputs)

    @property
    def bias(self) -> Tensor:
        """As a whole map has it, (outputs,)."""
        return self.up.bias

    def forward(self, x: Tensor) -> Tensor:
        """(..., inputs) to (..., outputs)."""
        return self.up(self.slot(self.down(x)))  # type: ignore[no-any-return]


def make_linear(inputs: int, outputs: int, rank: int = 0) -> nn.Module:
    """A linear map with bias; of rank 0 it has a whole matrix."""
    return Factored(inputs, outputs, rank) if rank else nn.Linear(inputs, outputs)


def reader(linear: nn.Module) -> nn.Linear:
    """What the input of a map meets: the map, or its first factor."""
    part = linear.down if isinstance(linear, Factored) else linear
    assert isinstance(part, nn.Linear)
    return part


def writer(linear: nn.Module) -> nn.Linear:
    """What gives the output of a map, and has its bias: the map, or its second factor."""
    part = linear.up if isinstance(linear, Factored) else linear
    assert isinstance(part, nn.Linear)
    return part


def matrix(linear: nn.Module) -> Tensor:
    """The matrix of a map, (outputs, inputs), multiplied out where it has factors."""
    if isinstance(linear, Factored):
        return linear.up.weight @ linear.down.weight
    return writer(linear).weight
