"""Learn the shape of every layer: heads, key and value widths, neurons, and the hidden size that all layers share.

Source: schuBERT, Khetan & Karnin 2020, arXiv:2005.06628, section 4: a factor alpha, at first 1, on every unit of every
dimension; ``loss + gamma * sum_e beta_e ||alpha_e||_1`` with ``beta_e`` proportional to the parameters that a unit of
e frees; after training the units of smallest magnitude go, the factors are folded into the weights, and training goes
on.  Queries and keys share one factor a dimension; scores keep the scale of the original width.
Departs from it: trained on the task, not on its pre-training loss; all heads of a layer lose equally many key (value)
dimensions, each its own weakest, and such a unit counts by the mean of its heads' magnitudes; the units that go are as
many as the target share of parameters needs, not a fixed number.  Several stages: ``repeat`` in the recipe.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from bertpress.encoder.blueprint import Blueprint
from bertpress.encoder.transforms import put
from bertpress.methods.base import Context, Method, Model, Need, Trait
from bertpress.methods.dimensions import (
    Scaled,
    check_hidden,
    freed,
    resized,
    rounded_count,
    shrink,
    sites,
    sizes,
    told,
    unit_notes,
)
from bertpress.training.objectives import Objective, Penalty
from bertpress.training.optimizer import Optimization


def magnitudes(alpha: Tensor) -> Tensor:
    """(units,) what counts in the ranking, the largest first; for (heads, width): the mean over heads, by rank."""
    ranked = alpha.detach().abs().sort(-1, descending=True).values
    return ranked if alpha.ndim == 1 else ranked.mean(0)


def choose(blueprint: Blueprint, alphas: Mapping[str, Tensor], keep: float, multiple: int) -> dict[str, int]:
    """How many units of each dimension stay: as many as possible by magnitude within ``keep`` of the parameters.

    Args:
        blueprint: before.
        alphas: by dimension.
        keep: share of all parameters.
        multiple: hidden size and neurons are rounded to it.
    """
    scores = {name: magnitudes(alpha) for name, alpha in alphas.items()}
    flat = torch.cat(list(scores.values()))
    order = torch.cat([torch.full((len(value),), i) for i, value in enumerate(scores.values())])[
        flat.argsort(stable=True)
    ]

    def counts(gone: int) -> dict[str, int]:
        lost = torch.bincount(order[:gone], minlength=len(scores)).tolist()
        return {
            name: rounded_count(name, len(value) - less, len(value), multiple)
            for (name, value), less in zip(scores.items(), lost, strict=True)
        }

    low, high = 0, len(flat)
    while low < high:
        middle = (low + high) // 2
        fits = resized(blueprint, counts(middle)).total_parameters <= keep * blueprint.total_parameters
        low, high = (low, middle) if fits else (middle + 1, high)
    return counts(low)


class Factors(nn.Module):
    """The factors of all dimensions, and their penalty.

    Args:
        blueprint: of the model.
        learning_rate: of the factors.
    """

    def __init__(self, blueprint: Blueprint, learning_rate: float) -> None:
        super().__init__()
        self.alphas = nn.ParameterDict(
            {name: nn.Parameter(torch.ones(shape)) for name, shape in sizes(blueprint).items()}
        )
        self.optimization = Optimization(learning_rate=learning_rate, weight_decay=0.0)
        costs = {name: cost / (self.alphas[name].numel() / self.alphas[name].shape[-1])
                 for name, cost in freed(blueprint).items()}  # fmt: skip
        total = sum(cost * self.alphas[name].numel() for name, cost in costs.items())
        self.beta = {name: cost / total for name, cost in costs.items()}

    def factor(self, dimension: str) -> Tensor:
        """Those of a dimension."""
        alpha: Tensor = self.alphas[dimension]
        return alpha

    def forward(self) -> Tensor:
        """``sum_e beta_e ||alpha_e||_1``: 1 where all factors are 1."""
        return torch.stack([beta * self.alphas[name].abs().sum() for name, beta in self.beta.items()]).sum()


class Schubert(Method):
    """Learn factors on all dimensions of all layers, and cut those that come out smallest."""

    cite: ClassVar[str] = "Khetan & Karnin, 2020"
    requires: ClassVar[frozenset[Need]] = frozenset({Need.LABELS, Need.TRAINING})
    provides: ClassVar[frozenset[Trait]] = frozenset({Trait.NARROW})

    keep: float = Field(0.6, gt=0, le=1, description="Share of the parameters, embeddings included, that stays.")
    gamma: float = Field(1.0, ge=0, le=100_000, description="Weight of the penalty in the loss.")
    learning_rate: float = Field(1e-2, gt=0, le=10, description="Peak learning rate of the factors.")
    multiple_of: int = Field(8, ge=1, le=1024, description="Hidden size and neurons are rounded to this.")

    def attach(self, model: Model, ctx: Context) -> Model:
        """Factors of 1 on every dimension.

        Raises:
            RecipeError: hidden dimensions of such a model cannot be cut.
        """
        check_hidden("prune/schubert", model.blueprint)
        factors = Factors(model.blueprint, self.learning_rate)
        for site in sites(model.blueprint):
            put(model, site.weight, Scaled(partial(factors.factor, site.dimension), site))
        ctx.state["schubert"] = factors
        return model

    def objectives(self, ctx: Context) -> list[Objective]:
        """The penalty."""
        return [Penalty("alphas", self._factors(ctx), weight=self.gamma)]

    def finish(self, model: Model, ctx: Context) -> Model:
        """Cut; the factors are in the weights already."""
        alphas = {name: alpha.detach().abs().cpu() for name, alpha in self._factors(ctx).alphas.items()}
        counts = choose(model.blueprint, alphas, self.keep, self.multiple_of)
        kept = {name: alpha.topk(counts[name], dim=-1).indices for name, alpha in alphas.items()}
        cut = shrink(model, kept)
        ctx.notes |= unit_notes(alphas, kept)
        ctx.say(f"prune/schubert: {told(cut.blueprint)}")
        return cut

    def _factors(self, ctx: Context) -> Factors:
        factors = ctx.state["schubert"]
        assert isinstance(factors, Factors)
        return factors
