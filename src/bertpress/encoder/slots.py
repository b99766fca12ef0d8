"""The encoder's small seams: named activations that can be quantized, the capture tape, a bias alone, norms."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from bertpress.encoder.blueprint import Norm


class Slot(nn.Module):
    """A named activation: the identity, unless a factor for each channel or a quantizer has been put in.

    Attributes:
        factor: (width,), what each channel is multiplied by; the matrix behind is divided by it.
        quantizer: sees what comes out of that.
    """

    factor: Tensor | None

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("factor", None)
        self.quantizer: nn.Module | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Same shape as ``x``."""
        x = self.scaled(x)
        return x if self.quantizer is None else self.quantizer(x)

    def scaled(self, x: Tensor) -> Tensor:
        """``x`` before any quantizer."""
        return x if self.factor is None else x * self.factor


class Bias(nn.Module):
    """What is left of an output map whose inputs are all gone: its bias."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(size))

    def forward(self, x: Tensor) -> Tensor:
        """The bias, for any ``x`` it is broadcast against."""
        return self.bias


class Affine(nn.Module):
    """MobileBERT's NoNorm: gamma * x + beta."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.bias = nn.Parameter(torch.zeros(size))

    def forward(self, x: Tensor) -> Tensor:
        """(..., size) to the same shape."""
        return x * self.weight + self.bias


def make_norm(kind: Norm | Literal["none"], size: int, epsilon: float) -> nn.Module:
    """The norm that closes a unit."""
    if kind == "none":
        return nn.Identity()
    return nn.LayerNorm(size, eps=epsilon) if kind == "layer" else Affine(size)


class Tape:
    """Records intermediate tensors by name, in the order of the layers; records nothing that was not asked for.

    Names: ``hidden_states`` (the embeddings' output first); of each attention with heads ``queries``, ``keys``,
    ``values``, ``scores``, ``attentions``, ``contexts`` (what each head gathers) and ``attention_outputs``; of each
    feed-forward network with neurons ``ffn_inner`` and ``ffn_outer``.  The last three are what a matrix gives, before
    activation, residual and norm.  Where a pattern leaves keys out, ``scores`` are those of all keys, ``attentions``
    what came of it; patterns that form no map of tokens by tokens have neither.  ``exits``: the logits of each layer's
    exit.
    """

    TOKEN_AXES: ClassVar[Mapping[str, tuple[int, ...]]] = {
        "hidden_states": (1,),
        "queries": (2,),
        "keys": (2,),
        "values": (2,),
        "scores": (2, 3),
        "attentions": (2, 3),
        "contexts": (2,),
        "attention_outputs": (1,),
        "ffn_inner": (1,),
        "ffn_outer": (1,),
        "exits": (),
    }
    NAMES = frozenset(TOKEN_AXES)
    MAPS = frozenset({"scores", "attentions"})

    def __init__(self, wanted: frozenset[str] = frozenset()) -> None:
        if unknown := wanted - self.NAMES:
            raise ValueError(f"capture={sorted(unknown)} must be among {sorted(self.NAMES)}")
        self.wanted = wanted
        self.taken: dict[str, list[Tensor]] = {name: [] for name in sorted(wanted)}

    def wants(self, *names: str) -> bool:
        """Whether any of ``names`` was asked for."""
        return any(name in self.wanted for name in names)

    def put(self, name: str, tensor: Tensor) -> None:
        """Record ``tensor`` if ``name`` was asked for."""
        if name in self.wanted:
            self.taken[name].append(tensor)

    def put_fresh(self, name: str, tensor: Tensor) -> None:
        """Record, if asked for, what comes next may overwrite (:mod:`bertpress.encoder.overwrite`)."""
        if name in self.wanted:
            self.taken[name].append(tensor if torch.is_grad_enabled() else tensor.clone())

    def reading(self, name: str) -> Tape:
        """A tape that records what this one does, there, and ``name`` besides."""
        other = Tape(self.wanted | {name})
        other.taken |= self.taken
        return other

    def captured(self) -> dict[str, tuple[Tensor, ...]]:
        """Everything recorded."""
        return {name: tuple(tensors) for name, tensors in self.taken.items()}
