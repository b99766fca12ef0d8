"""Shrink weights towards zero beside the optimizer, small ones more, until some are exactly zero.

Source: Guo et al. 2019, "Reweighted proximal pruning for large-scale language representation", arXiv:1909.12486,
section 3: minimise ``f(w) + gamma sum(alpha |w|)`` with ``alpha = 1 / (|w| + epsilon)`` renewed now and then; each step
is one of AdamW on f alone, then the proximal step ``w <- sign(w) max(|w| - rate gamma alpha, 0)``.
Departs from it: it works while fine-tuning, not in pretraining.  With ``keep``, gamma is raised as far as it must be
for the share of zeros to follow a cubic schedule: a weight of size q is gone after the steps until alpha is renewed if
``gamma rate steps >= q (q + epsilon)``.  After training the smallest weights beyond ``keep`` go too, which are few.
The zeros stay where they are in later stages, which is the paper's fine-tuning with the mask.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from transformers import TrainerCallback

from bertpress.methods.base import Context, Model, Need
from bertpress.methods.masks import with_weights
from bertpress.methods.sparsity import Gradual, cut, largest_weights, told

STATE = "rpp"


def soft_threshold(weight: Tensor, threshold: Tensor) -> Tensor:
    """The proximal step: ``sign(w) max(|w| - threshold, 0)``, exactly ``w`` where the threshold is 0.

    Args:
        weight: any shape.
        threshold: the same shape, at least 0.
    """
    return weight - weight.clamp(-threshold, threshold)


def importance(weight: Tensor, epsilon: float) -> Tensor:
    """What a unit of each weight's size costs, ``alpha = 1 / (|w| + epsilon)``."""
    return 1 / (weight.abs() + epsilon)


def sufficient(sizes: Tensor, keep: float, *, epsilon: float, length: float) -> float:
    """The least gamma that takes all but a share of the weights to zero, if the loss does not hold them.

    Args:
        sizes: (n,), magnitudes.
        keep: the share.
        epsilon: as in :func:`importance`.
        length: sum of the learning rates of the steps that there are for it.
    """
    gone = sizes.numel() - round(keep * sizes.numel())
    if not gone or not length:
        return 0.0
    size = float(sizes.kthvalue(gone).values)
    return size * (size + epsilon) / length


class Reweighting(nn.Module):
    """What the proximal steps need beside the weights.

    Args:
        weights: that are pruned, by name.
        gamma: at the start.
    """

    gamma: Tensor

    def __init__(self, weights: Mapping[str, Tensor], gamma: float) -> None:
        super().__init__()
        self.names = list(weights)
        self.register_buffer("gamma", torch.tensor(gamma, dtype=torch.float64))
        for i, weight in enumerate(weights.values()):
            self.register_buffer(f"alpha_{i}", torch.zeros_like(weight))

    def alphas(self) -> list[Tensor]:
        """In the order of the names."""
        return [self.get_buffer(f"alpha_{i}") for i in range(len(self.names))]


class Proximal(TrainerCallback):  # type: ignore[misc]
    """A proximal step after each step of the optimizer."""

    def __init__(self, method: Rpp, state: Reweighting) -> None:
        self.method, self.state = method, state

    def on_optimizer_step(
        self, args: Any, state: Any, control: Any, model: Model | None = None, optimizer: Any = None, **_: Any
    ) -> None:
        """Renew what is to be renewed, and shrink."""
        assert model is not None
        weights = [model.get_parameter(name) for name in self.state.names]
        rates = {id(weight): group["lr"] for group in optimizer.param_groups for weight in group["params"]}
        with torch.no_grad():
            if state.global_step % self.method.every == 0:
                self._renew(weights, rates[id(weights[0])], state)
            for weight, alpha in zip(weights, self.state.alphas(), strict=True):
                step = rates[id(weight)] * float(self.state.gamma)
                if step:
                    weight.copy_(soft_threshold(weight, alpha * step))

    def _renew(self, weights: Sequence[Tensor], rate: float, state: Any) -> None:
        method = self.method
        for weight, alpha in zip(weights, self.state.alphas(), strict=True):
            alpha.copy_(importance(weight, method.epsilon))
        if method.keep is not None:
            share = method.at(state.global_step + method.every, state.max_steps, initial=1.0, final=method.keep)
            sizes = torch.cat([weight.abs().flatten() for weight in weights])
            least = sufficient(sizes, share, epsilon=method.epsilon, length=rate * method.every)
            self.state.gamma.fill_(max(method.gamma, least))


class Rpp(Gradual):
    """Shrink weights by reweighted proximal steps beside AdamW until enough of them are exactly zero."""

    cite: ClassVar[str] = "Guo et al., 2019"
    requires: ClassVar[frozenset[Need]] = frozenset({Need.TRAINING})

    keep: float | None = Field(0.6, gt=0, le=1, description="Share of the weights that stays; null: gamma decides.")
    gamma: float = Field(0.0, ge=0, le=1000, description="Weight of the penalty; with keep, the least.")
    epsilon: float = Field(1e-3, gt=0, le=1, description="Added to a size before its inverse weighs it.")
    every: int = Field(20, ge=1, le=1_000_000, description="Steps after which alpha is renewed.")

    def attach(self, model: Model, ctx: Context) -> Model:
        """Room for alpha."""
        weights = {name: model.get_parameter(name).detach() for name in self.weights(model)}
        ctx.state[STATE] = Reweighting(weights, self.gamma)
        return model

    def callbacks(self, ctx: Context) -> list[TrainerCallback]:
        """The proximal steps."""
        state = ctx.state[STATE]
        assert isinstance(state, Reweighting)
        return [Proximal(self, state)]

    def finish(self, model: Model, ctx: Context) -> Model:
        """Remove what is left beyond the share, and say how much there is."""
        kept = largest_weights(model, self.weights(model), 1.0 if self.keep is None else self.keep)
        ctx.say(f"prune/rpp keeps {told(kept.values())}")
        return with_weights(model, cut(model, kept))
