"""Parametrizations of weights by the weight's name: put them on, find them."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor, nn
from torch.nn.utils import parametrize


def put(model: nn.Module, name: str, transform: nn.Module) -> None:
    """Put ``transform`` on the weight called ``name``, above those that are there.

    Raises:
        ValueError: the model has no such weight.
    """
    owner, _, attribute = name.rpartition(".")
    module = model.get_submodule(owner)
    if not isinstance(getattr(module, attribute, None), Tensor):
        raise ValueError(f"{name}: no such weight")
    # unsafe skips three trial runs, which take seconds on large tables; shape and dtype stay by construction
    parametrize.register_parametrization(module, attribute, transform, unsafe=True)


def transforms(model: nn.Module, name: str) -> list[nn.Module]:
    """The transforms on the weight called ``name``, the lowest first."""
    owner, _, attribute = name.rpartition(".")
    module = model.get_submodule(owner)
    return list(module.parametrizations[attribute]) if parametrize.is_parametrized(module, attribute) else []  # type: ignore[index]


def transformed(model: nn.Module) -> Iterator[str]:
    """Names of the weights that have transforms."""
    for path, module in list(model.named_modules()):
        if parametrize.is_parametrized(module):
            for attribute in list(module.parametrizations):
                yield f"{path}.{attribute}" if path else attribute
