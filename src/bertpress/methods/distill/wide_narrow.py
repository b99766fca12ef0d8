"""Imitate a wider teacher layer by layer, through linear maps that are merged into the student afterwards.

Source: "Go wide, then narrow", Zhou et al. 2020, arXiv:2007.00811, figure 1: between adjacent layers of
the thin network stands a pair of linear maps, up to the width of the wide one and down again; what lies between the two
imitates the wide network's layer, from bottom to top; then adjacent linear maps are merged and the thin network is
fine-tuned.
A reconstruction of what that means in a Transformer: queries, keys and values read a layer's input through the pair,
and take it in afterwards; the residual goes around it, as LayerNorm follows, into which nothing can be merged.
Departs from it: the wide network is the teacher, whatever its depth; layers are evenly spaced ones.  Each pair begins
as the identity (orthogonal up, its transpose down).  The last layer has a map up alone, which is dropped.
``layerwise: false`` trains all layers at once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.utils import skip_init

from bertpress.encoder.layers import EncoderLayer
from bertpress.encoder.slots import Slot
from bertpress.encoder.surgery import rebuild
from bertpress.errors import RecipeError
from bertpress.methods.base import Context, Method, Model, Need, Trait
from bertpress.methods.distances import hidden_state_mse
from bertpress.methods.layer_maps import layer_pairs
from bertpress.methods.layerwise import Layerwise, Parts, last_layer, parts_by_stage
from bertpress.methods.matching import Pairs, matched, pairs_in
from bertpress.training.objectives import Objective

if TYPE_CHECKING:
    from transformers import TrainerCallback

NAME, STATE = "distill/wide_narrow", "wide_narrow"
READERS = ("query", "key", "value")

Affine = tuple[Tensor, Tensor]
"""Weight (outputs, inputs) and bias (outputs,) of a linear map."""


def merged(outer: Affine, inner: Affine) -> Affine:
    """The one map that is ``outer`` after ``inner``: ``W2 W1`` and ``W2 b1 + b2``, computed in double precision."""
    (weight, bias), (first, shift) = outer, inner
    product = weight.double() @ first.double()
    return product.to(weight.dtype), (weight.double() @ shift.double() + bias.double()).to(bias.dtype)


class Detour(Slot):
    """In place of the slot in front of some linear maps: up to another width and down again, at first the identity.

    Args:
        thin: width of what comes in and goes out.
        wide: at least that.
        generator: of the first maps.
    """

    def __init__(self, thin: int, wide: int, generator: torch.Generator) -> None:
        super().__init__()
        self.up: nn.Linear = skip_init(nn.Linear, thin, wide)
        self.down: nn.Linear = skip_init(nn.Linear, wide, thin)
        nn.init.orthogonal_(self.up.weight, generator=generator)
        self.down.weight.data.copy_(self.up.weight.t())
        for linear in (self.up, self.down):
            nn.init.zeros_(linear.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(..., thin) to the same shape."""
        return super().forward(self.down(self.up(x)))

    def pair(self) -> Affine:
        """The two maps as one."""
        return merged(*((linear.weight.detach(), linear.bias.detach()) for linear in (self.down, self.up)))


def merge(model: Model) -> Model:
    """The thin network: each :class:`Detour` taken in by the queries, keys and values that read it."""
    state = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
    for path, module in model.named_modules():
        if isinstance(module, Detour):
            unit = path.rpartition(".")[0]
            for reader in (f"{unit}.{name}" for name in READERS):
                weight, bias = f"{reader}.weight", f"{reader}.bias"
                state[weight], state[bias] = merged((state[weight], state[bias]), module.pair())
            for name in module.state_dict():
                del state[f"{path}.{name}"]
    return rebuild(model, model.blueprint, state)


class WideNarrow(Method):
    """Distil each layer at the teacher's width, through linear maps that are merged into the student afterwards."""

    cite: ClassVar[str] = "Zhou et al., 2020"
    requires: ClassVar[frozenset[Need]] = frozenset({Need.TEACHER, Need.TRAINING})
    conflicts: ClassVar[frozenset[Trait]] = frozenset({Trait.INT8, Trait.SPARSE, Trait.LOW_RANK, Trait.SHARED})
    unsupervised: ClassVar[bool] = True

    layerwise: bool = Field(True, description="One layer after the other, those below it frozen; false: all at once.")
    weight: float = Field(1.0, gt=0, le=1000, description="Of the squared error of the hidden states.")

    def attach(self, model: Model, ctx: Context) -> Model:
        """Insert the pairs.

        Raises:
            RecipeError: the student is the wider one, or has layers that cannot take in what stands before them.
        """
        assert ctx.teacher is not None
        thin, wide = (each.blueprint.hidden_size for each in (model, ctx.teacher))
        if thin > wide:
            raise RecipeError(f"{NAME}: the student's hidden_size={thin} must be at most the teacher's {wide}")
        for number, spec in enumerate(model.blueprint.layers, start=1):
            shared = spec.attention_from is not None or spec.ffn_from is not None
            if spec.bottleneck or shared or not spec.attention.heads:
                raise RecipeError(f"{NAME}: layer {number} must have heads and weights of its own, and no bottleneck")
            if any(spec.rank(f"attention.{name}") for name in READERS):
                raise RecipeError(f"{NAME}: layer {number} must have whole matrices, not products of two")
        places = [(0, 0), *layer_pairs(NAME, "uniform", model, ctx)]
        generator = ctx.generator()
        detours = [Detour(thin, wide, generator) for _ in places]
        for layer, detour in zip(model.encoder.layers, detours, strict=False):
            assert isinstance(layer, EncoderLayer)
            layer.attention.input_slot = detour
        ctx.state[STATE] = Pairs(places, [detour.up for detour in detours])
        return model

    def objectives(self, ctx: Context) -> list[Objective]:
        """The distance of the wide states: of the layer that learns, or of all."""
        terms = last_layer if self.layerwise else matched
        return terms("hidden", "hidden_states", hidden_state_mse, pairs_in(ctx, STATE), self.weight)

    def callbacks(self, ctx: Context) -> list[TrainerCallback]:
        """One layer at a time, where asked: each with the map up behind it and the map down before it."""
        ups = pairs_in(ctx, STATE).projections
        mine = {id(weight) for weight in ups.parameters()}

        def parts(model: Model) -> Parts:
            inner = ([weight for weight in part if id(weight) not in mine] for part in parts_by_stage(model))
            return [[*part, *up.parameters()] for part, up in zip(inner, ups, strict=True)]

        return [Layerwise(parts)] if self.layerwise else []

    def finish(self, model: Model, ctx: Context) -> Model:
        """Merge."""
        return merge(model)
