"""What enters the linear layers of a model while it reads text: real tokens alone, pads never count."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn


@contextmanager
def watching(model: nn.Module, observers: Mapping[str, Callable[[Tensor], None]]) -> Iterator[None]:
    """Let ``observers``, by a linear layer's name, see its inputs (tokens, features) just before it runs.

    Pads are those of the model's ``attention_mask``.  Layers behind a pooling have none.
    """
    mask: list[Tensor | None] = [None]

    def remember(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        mask[0] = kwargs.get("attention_mask", args[1] if len(args) > 1 else None)

    def seen_by(observer: Callable[[Tensor], None]) -> Callable[[nn.Module, tuple[Tensor]], None]:
        def see(_: nn.Module, args: tuple[Tensor]) -> None:
            x, kept = args[0].detach(), mask[0]
            if kept is not None and x.ndim == 3 and x.shape[:2] == kept.shape:
                x = x[kept.bool()]
            observer(x.reshape(-1, x.shape[-1]).float())

        return see

    hooks = [model.get_submodule(name).register_forward_pre_hook(seen_by(see)) for name, see in observers.items()]
    hooks.append(model.register_forward_pre_hook(remember, with_kwargs=True))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
