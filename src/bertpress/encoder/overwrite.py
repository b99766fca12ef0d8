"""In inference a fresh result may take in what follows, instead of one more large tensor.

At some thousand tokens a layer's temporaries outgrow what the allocator keeps at hand, and the page faults of new ones
take about a tenth of the time.  Overwritten is only what a module has just made, where nobody can miss it: no gradient
is wanted, no tracer writes the graph down, no hook may have kept it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bertpress.encoder.blueprint import Activation

_gelu_: Any = torch.ops.aten.gelu_
ACTIVATIONS: dict[Activation, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu_new": lambda x: F.gelu(x, approximate="tanh"),
    "gelu_pytorch_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "relu": F.relu,
    "silu": F.silu,
    "tanh": torch.tanh,
    "none": lambda x: x,
}
IN_PLACE: dict[Activation, Callable[[Tensor], Tensor]] = {
    "gelu": _gelu_,
    "gelu_new": lambda x: _gelu_(x, approximate="tanh"),
    "gelu_pytorch_tanh": lambda x: _gelu_(x, approximate="tanh"),
    "relu": torch.relu_,
    "silu": lambda x: F.silu(x, inplace=True),
    "tanh": torch.tanh_,
    "none": lambda x: x,
}


def traced() -> bool:
    """Whether an exporter or compiler is writing down what runs."""
    return torch._C._get_tracing_state() is not None or torch.compiler.is_compiling()


def nobody_misses(maker: nn.Module) -> bool:
    """Whether what ``maker`` has just returned may be overwritten."""
    hooked = any(module._forward_hooks for module in maker.modules())  # a factor gives what the map gives
    return not torch.is_grad_enabled() and not hooked and not traced()


def activate(name: Activation, fresh: Tensor, maker: nn.Module) -> Tensor:
    """The activation of what ``maker`` has just returned."""
    return (IN_PLACE if nobody_misses(maker) else ACTIVATIONS)[name](fresh)


def close(fresh: Tensor, residual: Tensor, maker: nn.Module) -> Tensor:
    """``fresh + residual``, which ends a residual branch.

    Args:
        fresh: what ``maker`` has just returned; may be a vector that broadcasts.
        residual: (batch, tokens, size); never overwritten.
        maker: the last module of the branch.
    """
    like = fresh.shape == residual.shape and fresh.dtype == residual.dtype
    return fresh.add_(residual) if like and nobody_misses(maker) else fresh + residual
