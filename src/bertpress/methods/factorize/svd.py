"""Put products of two thinner matrices in place of the matrices of the layers.

Source: Noach & Goldberg 2020, "Compressing pre-trained language models by matrix decomposition", AACL, section 3: each
matrix of a fine-tuned model becomes ``(U sqrt(S)) (sqrt(S) Vᵀ)`` of one rank, the bias stays, and training goes on
with the factors (their distillation is ``distill/features``), which is what ``weighted: false`` does.
Departs from it: the error is that of what a matrix gives on real inputs, in place of that of its entries, as in SVD-LLM
(Wang et al. 2024, arXiv:2403.07378, section 3.1), by the Cholesky factor of the inputs' second moment, damped so that
directions in which no calibration text lies count a little; of the alternatives, FWSVD (arXiv:2207.00112) and ASVD
(arXiv:2312.05821) only approximate such an error by one factor for each row or channel.  A matrix whose factors would
not be smaller stays whole, and so do embeddings and the head; the rank may differ among matrices, by a share of each,
by energy or by a budget for all.

A matrix that has factors already is taken for their product.  At the rank that it has, or below it, it stays as it is,
zeros of pruned factors included; otherwise it is decomposed anew, and its new factors have no zeros.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from bertpress.encoder.factors import matrix
from bertpress.encoder.layers import EncoderLayer
from bertpress.encoder.surgery import factorize
from bertpress.errors import RecipeError
from bertpress.methods.activations import calibration
from bertpress.methods.base import Context, Method, Model, Need, Trait
from bertpress.methods.empty import carry_storage
from bertpress.methods.low_rank import (
    energies,
    input_root,
    largest_rank,
    nearest_product,
    rank_by_energy,
    ranks_by_budget,
    size_at,
)
from bertpress.methods.moments import input_moments
from bertpress.methods.selection import Size

Key = tuple[int, str]
"""A layer, and the name of a linear map in it."""


class Svd(Method):
    """Put the nearest products of two thinner matrices in place of those of attention and feed-forward networks."""

    cite: ClassVar[str] = "Noach & Goldberg, 2020"
    requires: ClassVar[frozenset[Need]] = frozenset({Need.CALIBRATION})
    provides: ClassVar[frozenset[Trait]] = frozenset({Trait.LOW_RANK})
    conflicts: ClassVar[frozenset[Trait]] = frozenset({Trait.INT8})

    rule: Literal["rank", "share", "energy", "budget"] = Field(
        "rank",
        description="One rank, the same share of each matrix, so much of its energy, or one budget for all of them.",
    )
    rank: Size = Field(0.32, description="rank: a number, or a share of the hidden size.")
    keep: float = Field(0.5, gt=0, le=1, description="share, budget: of the numbers in whole matrices, what stays.")
    energy: float = Field(0.9, gt=0, le=1, description="energy: share of the squared singular values that stays.")
    weighted: bool = Field(True, description="Minimise the error of the outputs on calibration text.")
    damping: float = Field(0.01, gt=0, le=1, description="weighted: added to the moment, as a share of its diagonal.")
    examples: int = Field(256, ge=1, le=100_000, description="weighted: training examples that the inputs are from.")

    def attach(self, model: Model, ctx: Context) -> Model:
        """Choose the ranks, and cut.

        Raises:
            RecipeError: there is nothing to factorize, the budget is too small, or activations are quantized.
        """
        maps = linear_maps(model)
        if not maps:
            raise RecipeError("factorize/svd: the model has neither heads nor feed-forward networks")
        try:
            roots = self._roots(model, ctx, maps) if self.weighted else {}
            with torch.no_grad():
                weights = {key: matrix(linear).detach() for key, linear in maps.items()}
            ranks = self.ranks(model, weights, roots)
            factors = {key: nearest_product(weights[key], rank, roots.get(key)) for key, rank in ranks.items()}
            cut = factorize(model, factors)
        except ValueError as fault:
            raise RecipeError(f"factorize/svd: {fault}") from None
        carry_storage(model, cut)
        left = sum(size_at(_shape(weight), self._rank(cut, key)) for key, weight in weights.items())
        whole = sum(not self._rank(cut, key) for key in maps)
        ctx.say(
            f"factorize/svd keeps {left:,} of {sum(weight.numel() for weight in weights.values()):,} weights, "
            f"{whole} of {len(maps)} matrices whole"
        )
        return cut

    def ranks(self, model: Model, weights: dict[Key, Tensor], roots: dict[Key, Tensor]) -> dict[Key, int]:
        """The rank of each matrix that gets new factors.

        Args:
            model: says which matrices have factors already.
            weights: multiplied out.
            roots: of their inputs' second moments; empty where these do not count.
        """
        now = {key: self._rank(model, key) for key in weights}
        shapes = {key: _shape(weight) for key, weight in weights.items()}
        if self.rule == "rank":
            size = self.rank if isinstance(self.rank, int) else max(1, round(self.rank * model.blueprint.hidden_size))
            wanted = dict.fromkeys(weights, size)
        elif self.rule == "share":
            wanted = {key: max(1, int(self.keep * m * n / (m + n))) for key, (m, n) in shapes.items() if self.keep < 1}
        else:
            found = {key: energies(weight, roots.get(key)) for key, weight in weights.items()}
            if self.rule == "energy":
                wanted = {key: rank_by_energy(energy, self.energy) for key, energy in found.items()}
            else:
                budget = round(self.keep * sum(weight.numel() for weight in weights.values()))
                chosen = ranks_by_budget(list(found.values()), list(shapes.values()), budget, list(now.values()))
                wanted = {key: rank for key, rank in zip(weights, chosen, strict=True) if rank}
        limits = {key: min(largest_rank(shapes[key]), now[key] - 1 if now[key] else shapes[key][0]) for key in weights}
        return {key: rank for key, rank in wanted.items() if rank <= limits[key]}

    def _roots(self, model: Model, ctx: Context, maps: dict[Key, nn.Module]) -> dict[Key, Tensor]:
        names = {f"encoder.layers.{layer}.{part}": (layer, part) for layer, part in maps}
        moments = input_moments(model, list(names), calibration(model, ctx, self.examples))
        return {names[name]: input_root(moment, self.damping) for name, moment in moments.items()}

    @staticmethod
    def _rank(model: Model, key: Key) -> int:
        return model.blueprint.layers[key[0]].rank(key[1])

    @classmethod
    def noop(cls) -> Svd:
        """All numbers of every matrix."""
        return cls(rule="budget", keep=1.0)


def linear_maps(model: Model) -> dict[Key, nn.Module]:
    """The linear maps of all layers that own theirs."""
    found: dict[Key, nn.Module] = {}
    for i, layer in enumerate(model.encoder.layers):
        assert isinstance(layer, EncoderLayer)
        found |= {(i, part): linear for part, linear in layer.maps()}
    return found


def _shape(weight: Tensor) -> tuple[int, int]:
    return weight.shape[0], weight.shape[1]
